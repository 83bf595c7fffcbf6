# SPDX-License-Identifier: Apache-2.0
"""cocotb benches: each `bench_*` module names its device under test and holds its tests."""
