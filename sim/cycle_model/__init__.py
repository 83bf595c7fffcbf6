# SPDX-License-Identifier: Apache-2.0
"""The core's control and timing as a hand-written C++ model: every counter of the RTL, exactly.

One header a component, named as its module in `hw`; data paths are left out.
"""
