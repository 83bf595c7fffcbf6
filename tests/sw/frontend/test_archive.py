# SPDX-License-Identifier: Apache-2.0
"""Hostile and damaged .pt2 files: refused with one message, and nothing of them is run."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitloop.errors import FrontendError
from bitloop.frontend.torch_export import load_program

SHAPE = (1, 6, 6)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "net.pt2"
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (torch.randn(2, *SHAPE),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


Members = dict[str, bytes]


def rewrite(source: Path, target: Path, change: Callable[[Members], None]) -> Path:
    """A copy of an archive with its members changed; names lack the root folder."""
    with zipfile.ZipFile(source) as archive:
        members = {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"net/{name}", content)
    return target


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.trace),))


def test_loading_keeps_the_program(good: Path, tmp_path: Path) -> None:
    program = load_program(good)
    x = torch.randn(5, *SHAPE)
    with torch.no_grad():
        expected = torch.export.load(good).module()(x)
        assert torch.equal(program.module()(x), expected)
        torch.export.save(program, tmp_path / "again.pt2")
        assert torch.equal(load_program(tmp_path / "again.pt2").module()(x), expected)


def test_pickled_sample_inputs_are_never_read(good: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    torch.save(Payload(trace), tmp_path / "payload")

    def change(members: Members) -> None:
        members["data/sample_inputs/model.pt"] = (tmp_path / "payload").read_bytes()

    load_program(rewrite(good, tmp_path / "net.pt2", change))
    assert not trace.exists()
    with pytest.raises(Exception):  # noqa: B017  the attack works on PyTorch's own loader
        torch.export.load(tmp_path / "net.pt2")
    assert trace.exists()


def edit(member: str, change: Callable[[Any], None]) -> Callable[[Members, Path], None]:
    def apply(members: Members, trace: Path) -> None:
        content = json.loads(members[member])
        change(content)
        members[member] = json.dumps(content).encode()

    return apply


def pickled_weight(members: Members, trace: Path) -> None:
    members["data/weights/weight_0"] = pickle.dumps(Payload(trace))

    def change(config: Any) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    edit("data/weights/model_weights_config.json", change)(members, trace)


def opaque_constant(members: Members, trace: Path) -> None:
    members["data/constants/tensor_0"] = pickle.dumps(Payload(trace))
    payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False}
    config = {"config": {"c": {**payload, "tensor_meta": None}}}
    members["data/constants/model_constants_config.json"] = json.dumps(config).encode()


def member(name: str) -> Callable[[Members, Path], None]:
    def apply(members: Members, trace: Path) -> None:
        members[name] = pickle.dumps(Payload(trace))

    return apply


def nodes(change: Callable[[Any], None]) -> Callable[[Members, Path], None]:
    return edit("models/model.json", lambda m: change(m["graph_module"]["graph"]))


def set_target(target: str) -> Callable[[Members, Path], None]:
    return nodes(lambda graph: graph["nodes"][0].update(target=target))


def rename_output(graph: Any) -> None:
    graph["nodes"][0]["outputs"][0]["as_tensor"]["name"] = "a = __import__('os').abort()"


def expression(text: str) -> Callable[[Members, Path], None]:
    def change(graph: Any) -> None:
        size = graph["tensor_values"]["input"]["sizes"][0]["as_expr"]
        size["expr_str"] = text

    return nodes(change)


def tree_type(model: Any) -> None:
    signature = model["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = signature["in_spec"].replace("builtins.tuple", "collections.deque")


def argument_name(model: Any) -> None:
    signature = model["graph_module"]["module_call_graph"][0]["signature"]
    signature["forward_arg_names"] = ["x, y=print('run')"]


HOSTILE = {
    "pickled weight": (pickled_weight, "is pickled"),
    "opaque constant": (opaque_constant, "is kept in"),
    "legacy weights": (member("data/weights/model.pt"), "no part of a plain program"),
    "legacy constants": (member("data/constants/model.pt"), "no part of a plain program"),
    "shared library": (member("data/aotinductor/model/a.so"), "no part of a plain program"),
    "function": (set_target("torch.os.system"), "core operators"),
    "host operator": (set_target("_operator.methodcaller"), "core operators"),
    "file operator": (set_target("torch.ops.aten.from_file.default"), "reaches files"),
    "extension": (set_target("#extension:x"), "core operators"),
    "code as name": (nodes(rename_output), "no identifier"),
    "code as size": (expression("__import__('os').abort()"), "shape expression"),
    "code as symbol": (expression("Symbol('s0').__class__"), "shape expression"),
    "endless size": (expression("9**9**9**9"), "shape expression"),
    "tree type": (edit("models/model.json", tree_type), "in_spec of type"),
    "argument": (edit("models/model.json", argument_name), "no identifier"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file(case: str, good: Path, tmp_path: Path) -> None:
    change, message = HOSTILE[case]
    trace = tmp_path / "ran"
    path = rewrite(good, tmp_path / "bad.pt2", lambda members: change(members, trace))
    with pytest.raises(FrontendError, match=message) as caught:
        load_program(path)
    assert "refused" in str(caught.value) and str(path) in str(caught.value)
    assert not trace.exists()


def test_guards_are_not_run(good: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"

    def change(model: Any) -> None:
        model["guards_code"] = [f"__import__('os').mkdir({str(trace)!r}) is None"]

    path = rewrite(good, tmp_path / "g.pt2", lambda m: edit("models/model.json", change)(m, trace))
    load_program(path).module()(torch.randn(2, *SHAPE))
    assert not trace.exists()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FrontendError, match="no such file"):
        load_program(tmp_path / "none.pt2")
    with pytest.raises(FrontendError, match="cannot be read"):
        load_program(tmp_path)


def test_compressed_archive(good: Path, tmp_path: Path) -> None:
    """Members are stored as they are, so that a small file cannot fill the memory."""
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/models/model.json", b" " * 10**6)
    with pytest.raises(FrontendError, match="is compressed"):
        load_program(path)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_file(good: Path, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Truncated anywhere, or with a byte changed: an error of ours, or the same weights."""
    content = bytearray(good.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("damaged") / "net.pt2"
    path.write_bytes(content)
    try:
        program = load_program(path)
    except FrontendError as error:
        assert len(str(error).splitlines()) == 1
    else:
        expected = torch.export.load(good)
        for name, tensor in expected.state_dict.items():
            assert torch.equal(program.state_dict[name], tensor)
