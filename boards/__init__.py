# SPDX-License-Identifier: Apache-2.0
"""Boards: targets, what surrounds the core on them, the link to a host, builds and virtual boards;
synthesis, placement and routing of the core alone."""
