# SPDX-License-Identifier: Apache-2.0
"""The compiler: integer graph to accelerator binary, in small passes.

lower -> prove -> plan and place -> pack -> schedule -> encode
"""

from .encode import compile_graph

__all__ = ["compile_graph"]
