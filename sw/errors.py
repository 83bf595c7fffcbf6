# SPDX-License-Identifier: Apache-2.0
"""Errors a user can cause. The command line prints their message and exits with code 2."""


class BitloopError(Exception):
    """Base of all errors with a message for people: it names the file, layer or field, the rule,
    the value, and what to do about it."""


class GraphError(BitloopError):
    """An integer graph breaks a rule of `bitloop.graph`."""


class FrontendError(BitloopError):
    """A model file cannot be turned into an integer graph."""


class DataError(BitloopError):
    """An input array or data file has the wrong shape, type or content."""


class CompileError(BitloopError):
    """A graph does not fit the core, or its accumulators could overflow."""


class BinaryError(BitloopError):
    """An accelerator binary is damaged, truncated or made for another core."""


class DeviceError(BitloopError):
    """A device refused or failed: error code of the core, missing tool, failed build."""


class SearchError(BitloopError):
    """No bit-widths meet the budget, or the budget makes no sense."""


class StoreError(BitloopError):
    """The measurement store cannot be read or written, or what it holds is damaged."""
