# SPDX-License-Identifier: Apache-2.0
"""Front ends: model files to integer graphs."""
