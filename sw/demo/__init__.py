# SPDX-License-Identifier: Apache-2.0
"""The demonstration: a small network on real images through the whole loop (`make demo`)."""
