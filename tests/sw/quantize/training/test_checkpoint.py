# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: whole or refused, whatever a file holds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.export import ExportedProgram

from bitloop.dataset import Dataset
from bitloop.errors import DataError
from bitloop.quantize.training import TrainingOptions, checkpoint
from bitloop.quantize.training.checkpoint import (
    KEY,
    Identity,
    Progress,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
)
from bitloop.quantize.training.trainer import train

OPTIONS = TrainingOptions(epochs=1, batch=16, threads=1)
IDENTITY = Identity("a" * 64, "b" * 64, {"fc": 4}, OPTIONS.as_dict())
TENSORS = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.ones(3, dtype=torch.int64)}
PROGRESS = Progress(5, 1.5, (2.0, 1.0), 0.25, False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "c", IDENTITY, PROGRESS, TENSORS)
    return tmp_path / "c"


def test_round_trip(path: Path) -> None:
    progress, tensors = load_checkpoint(path, IDENTITY, TENSORS)
    assert progress == PROGRESS
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert [p.name for p in path.parent.iterdir()] == ["c"]  # no temporary file is left


def test_a_failed_write_leaves_the_one_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, IDENTITY, dataclasses.replace(PROGRESS, step=6), TENSORS)
    assert load_checkpoint(path, IDENTITY, TENSORS)[0] == PROGRESS
    assert [p.name for p in path.parent.iterdir()] == ["c"]


@given(draws=st.data())
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_is_refused_or_harmless(draws: st.DataObject, path: Path) -> None:
    """Bytes changed, cut off or added: a `DataError`, or a value that is one of a training."""
    good = path.read_bytes()
    kind = draws.draw(st.sampled_from(["flip", "cut", "add", "noise"]))
    if kind == "flip":
        where = draws.draw(st.integers(0, len(good) - 1))
        bad = bytearray(good)
        bad[where] ^= draws.draw(st.integers(1, 255))
    elif kind == "cut":
        bad = bytearray(good[: draws.draw(st.integers(0, len(good) - 1))])
    elif kind == "add":
        bad = bytearray(good + draws.draw(st.binary(min_size=1, max_size=9)))
    else:
        bad = bytearray(draws.draw(st.binary(max_size=200)))
    other = path.with_name("damaged")
    other.write_bytes(bad)
    try:
        progress, tensors = load_checkpoint(other, IDENTITY, TENSORS)
    except DataError as error:
        assert str(other) in str(error)
        return
    assert progress.step >= 0 and np.isfinite([progress.seconds, *progress.losses]).all()
    for name, tensor in TENSORS.items():
        assert tensors[name].shape == tensor.shape and tensors[name].dtype == tensor.dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "makes no sense"),
        ({"step": True}, "makes no sense"),
        ({"step": "5"}, "makes no sense"),
        ({"seconds": float("inf")}, "makes no sense"),
        ({"losses": [1, None]}, "makes no sense"),
        ({"losses": 3}, "makes no sense"),
        ({"frozen": 1}, "makes no sense"),
        ({"format": 2}, "another format"),
        ({"program": "c" * 64}, "of other network"),
        ({"data": "c" * 64}, "of other data"),
        ({"bits": {"fc": 2}}, "of other weight bits"),
        ({"options": None}, "no options"),
    ],
)
def test_header(path: Path, change: dict[str, object], message: str) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[KEY])
    save_file(load_file(path), path, metadata={KEY: json.dumps(header | change)})
    with pytest.raises(DataError, match=message):
        load_checkpoint(path, IDENTITY, TENSORS)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"w": TENSORS["w"]}, "tensor 'n' is missing or unknown"),
        (TENSORS | {"x": torch.ones(1)}, "tensor 'x' is missing or unknown"),
        (TENSORS | {"w": torch.ones(3, 2)}, "tensor 'w' is torch.float32"),
        (TENSORS | {"n": torch.ones(3)}, "tensor 'n' is torch.float32"),
        (TENSORS | {"w": TENSORS["w"] / 0}, "tensor 'w' holds values that are not finite"),
    ],
)
def test_tensors(path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    save_checkpoint(path, IDENTITY, PROGRESS, tensors)
    with pytest.raises(DataError, match=message):
        load_checkpoint(path, IDENTITY, TENSORS)


def test_options_must_be_the_same(path: Path) -> None:
    for name, value in (("rate", 0.5), ("seed", 3), ("method", "lsq")):
        changed = dataclasses.replace(OPTIONS, **{name: value})  # type: ignore[arg-type]
        other = dataclasses.replace(IDENTITY, options=changed.as_dict())
        with pytest.raises(DataError, match=f"trained with {name}"):
            load_checkpoint(path, other, TENSORS)
    longer = dataclasses.replace(OPTIONS, minutes=9.0)
    load_checkpoint(path, dataclasses.replace(IDENTITY, options=longer.as_dict()), TENSORS)


def test_fingerprints_tell_networks_and_data_apart(program: ExportedProgram, data: Dataset) -> None:
    network, images = fingerprint(program, data)
    assert fingerprint(program, data) == (network, images)
    x = data.x.copy()
    x[3, 0, 0, 0] += 1
    assert fingerprint(program, Dataset(x, data.y))[1] != images
    assert fingerprint(program, Dataset(data.x))[1] != images
    weight = program.state_dict["fc.weight"]
    kept = float(weight.data[0, 0])
    weight.data[0, 0] += 1
    assert fingerprint(program, data)[0] != network
    weight.data[0, 0] = kept


def test_a_checkpoint_of_another_training_is_refused(
    program: ExportedProgram, data: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "c"
    train(program, data, 4, OPTIONS, checkpoint=path)
    with pytest.raises(DataError, match="other weight bits"):
        train(program, data, 2, OPTIONS, checkpoint=path, resume=True)
    with pytest.raises(DataError, match="other data"):
        train(program, data.take(slice(32)), 4, OPTIONS, checkpoint=path, resume=True)
    path.unlink()
    fresh = train(program, data, 4, OPTIONS, checkpoint=path, resume=True)
    assert fresh.finished and path.is_file()
