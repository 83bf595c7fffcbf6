# SPDX-License-Identifier: Apache-2.0
"""The latency report as a page: what the table says, drawn."""

from .page import Conditions, latency_page, write_page

__all__ = ["Conditions", "latency_page", "write_page"]
