# SPDX-License-Identifier: Apache-2.0
"""Make a .pt2 file safe to load.

`torch.export.load` unpickles arbitrary objects (sample inputs, pickled weights, custom constants),
loads shared libraries (AOTInductor members), evaluates shape expressions and guards as Python, and
writes node names into generated code. Here the archive is read with plain zip and JSON, everything
of that kind is refused or dropped, and a new archive is built from what is left: only that reaches
PyTorch.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import FrontendError

_MODEL = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
_PAYLOAD = re.compile(r"data/(?:weights/weight_\d+|constants/tensor_\d+)")
_DROPPED = re.compile(r"archive_format|archive_version|byteorder|\.data/.*|extra/.*")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ATTRIBUTE = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")
_SYMBOL = re.compile(r"Symbol\('([suz][0-9]+)'((?:, (?:positive|integer|nonnegative)=True)*)\)")
_EXPRESSION = re.compile(r"[A-Za-z0-9_ +\-*/(),<>=]*")
_EXPRESSION_WORD = re.compile(
    r"[suz][0-9]+|[0-9]{1,18}|Integer|Add|Mul|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv"
)
_OPERATOR = re.compile(
    r"torch\.ops\.(?:aten|quantized_decomposed)\.[a-z_0-9]+(?:\.[A-Za-z_0-9]+)?"
    r"|_operator\.(?:getitem|add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge|and_|or_)"
)
_FORBIDDEN_OPERATOR = re.compile(r"torch\.ops\.aten\.(?:from_file|.*_file)\b.*")
_ARGUMENT_KINDS = {
    f"as_{kind}"
    for kind in (
        "none tensor tensors int ints float floats string strings bool bools sym_int sym_ints "
        "sym_bool sym_bools sym_float sym_floats scalar_type memory_format layout device name "
        "optional_tensor optional_tensors expr"
    ).split()
}
_NAME_KEYS = ("name", "graph_name", "class_fqn")
_ATTRIBUTE_KEYS = ("parameter_name", "buffer_name", "tensor_constant_name")


class _Unsafe(Exception):
    """What the file holds that may not be loaded."""


def safe_archive(path: Path) -> io.BytesIO:
    """The .pt2 file at `path`, rebuilt so that loading it executes nothing of the file.

    Raises `FrontendError` for a missing, damaged or foreign file and for one with contents that
    PyTorch would unpickle or evaluate.
    """
    try:
        members = _read(path)
        model = _checked_model(_parse(members, _MODEL))
        for config in (_WEIGHTS, _CONSTANTS):
            _check_payloads(_parse(members, config), config, members)
    except FileNotFoundError:
        raise FrontendError(f"{path}: no such file") from None
    except OSError as error:
        raise FrontendError(f"{path}: cannot be read: {error.strerror}") from None
    except _Unsafe as error:
        raise FrontendError(
            f"{path}: refused, loading it could run code: {error}; export the model with "
            "torch.export.export and save it with torch.export.save"
        ) from None
    except Exception as error:  # whatever a parser makes of a damaged file
        raise FrontendError(
            f"{path}: not a torch.export program, or damaged ({_first_line(error)}); write it with "
            "torch.export.save"
        ) from None
    return _rebuild(members, model)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read(path: Path) -> dict[str, bytes]:
    """Members without the archive's root folder; CRCs are checked on the way."""
    members: dict[str, bytes] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"member {info.filename!r} is compressed")
            name = info.filename.partition("/")[2]
            if name in members:
                raise ValueError(f"member {name!r} occurs twice")
            if _DROPPED.fullmatch(name):
                continue
            if name not in (_MODEL, _SAMPLES, _WEIGHTS, _CONSTANTS) and not _PAYLOAD.fullmatch(
                name
            ):
                raise _Unsafe(f"member {info.filename!r} is no part of a plain program")
            members[name] = b"" if name == _SAMPLES else archive.read(info)
    return members


def _parse(members: dict[str, bytes], name: str) -> dict[str, Any]:
    if name not in members:
        raise ValueError(f"member {name!r} is missing")
    parsed = json.loads(members[name])
    if not isinstance(parsed, dict):
        raise ValueError(f"member {name!r} is no JSON object")
    return parsed


def _check_payloads(config: dict[str, Any], name: str, members: dict[str, bytes]) -> None:
    """Tensors as raw bytes only, in members that exist."""
    folder = name.rpartition("/")[0]
    for key, payload in config["config"].items():
        if not isinstance(payload, dict) or payload.get("use_pickle") is not False:
            raise _Unsafe(f"tensor {key!r} is pickled")
        member = f"{folder}/{payload.get('path_name')}"
        if not _PAYLOAD.fullmatch(member):
            raise _Unsafe(f"tensor {key!r} is kept in {member!r}")
        if member not in members:
            raise ValueError(f"member {member!r} is missing")


def _checked_model(model: dict[str, Any]) -> dict[str, Any]:
    """The program without guards, sample code and tree types; raises `_Unsafe`."""
    module = model["graph_module"]
    for node in module["graph"]["nodes"]:
        target = node["target"]
        if not isinstance(target, str) or not _OPERATOR.fullmatch(target):
            raise _Unsafe(f"operator {target!r} is not one of PyTorch's core operators")
        if _FORBIDDEN_OPERATOR.fullmatch(target):
            raise _Unsafe(f"operator {target!r} reaches files")
        stack = node.get("metadata", {}).get("nn_module_stack")
        node["metadata"] = {"nn_module_stack": stack} if isinstance(stack, str) else {}
    if module["graph"].get("custom_obj_values"):
        raise _Unsafe("custom objects")
    module["metadata"] = {}
    module["treespec_namedtuple_fields"] = {}
    module["module_call_graph"] = [c for c in module["module_call_graph"] if c["fqn"] == ""]
    for call in module["module_call_graph"]:
        _check_signature(call.get("signature"))
    model["guards_code"] = []
    for key in model["range_constraints"]:
        _check_expression(key)
    for mapping in ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values"):
        for name in module["graph"].get(mapping, {}):
            _check_name(name)
    for key, value in _walk(model):
        if key.startswith("as_") and key not in _ARGUMENT_KINDS:
            raise _Unsafe(f"argument of kind {key[3:]!r}")
        if key == "as_name" or key in _NAME_KEYS:
            _check_name(value)
        elif key == "expr_str":
            _check_expression(value)
        elif key in _ATTRIBUTE_KEYS and not (
            isinstance(value, str) and _ATTRIBUTE.fullmatch(value)
        ):
            raise _Unsafe(f"attribute name {value!r}")
    return model


def _check_signature(signature: Any) -> None:
    """Tree specs of plain tuples, lists and dictionaries; argument names that are identifiers."""
    if signature is None:
        return
    for name in signature.get("forward_arg_names") or ():
        _check_name(name)
    for key in ("in_spec", "out_spec"):
        spec = json.loads(signature[key])
        for field, value in _walk(spec):
            if field == "type" and value not in (
                None, "builtins.tuple", "builtins.list", "builtins.dict",
            ):  # fmt: skip
                raise _Unsafe(f"{key} of type {value!r}")


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or (name and not _IDENTIFIER.fullmatch(name)):
        raise _Unsafe(f"name {name!r} is no identifier")


def _check_expression(text: Any) -> None:
    """Shape expressions are evaluated by sympy: symbols, integers and a few functions only."""
    plain = _SYMBOL.sub(r"\1", text) if isinstance(text, str) else "**"
    words = re.findall(r"[A-Za-z0-9_]+", plain)
    if (
        not _EXPRESSION.fullmatch(plain)
        or "**" in plain
        or len(plain) > 200
        or not all(_EXPRESSION_WORD.fullmatch(word) for word in words)
    ):
        raise _Unsafe(f"shape expression {text!r}")


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of every JSON object inside `value`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _rebuild(members: dict[str, bytes], model: dict[str, Any]) -> io.BytesIO:
    import torch

    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    for name, content in (
        ("archive_format", b"pt2"),
        ("archive_version", b"0"),
        *members.items(),
        (_MODEL, json.dumps(model).encode()),
    ):
        if name == _MODEL and content is members.get(_MODEL):
            continue
        writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    buffer.seek(0)
    return buffer
