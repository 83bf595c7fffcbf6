# SPDX-License-Identifier: Apache-2.0
"""`python -m bitloop` is the command line."""

from .cli import main

main()
