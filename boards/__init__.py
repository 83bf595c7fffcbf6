# SPDX-License-Identifier: Apache-2.0
"""Board targets; none yet."""
