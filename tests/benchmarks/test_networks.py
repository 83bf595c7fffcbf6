# SPDX-License-Identifier: Apache-2.0
"""Whole networks: what compiles, how fast, for how many cycles, and that the integers are right.

`pytest -m benchmark -s tests/benchmarks/test_networks.py -k resnet18` prints one network's rows: a
front end and preset each. Cycles are those of the cycle model, checked against the RTL where that
takes less than about two minutes; outputs come from the RTL or, beyond, from the instruction-level
interpreter, and equal the golden model's. Its own mismatches with PyTorch are printed before.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from network_catalogue import WHOLE
from network_files import save
from network_measure import Row, alone, measure

from bitloop.hw.config import PRESETS

MOST_RTL_CYCLES = 25_000_000
"""About two minutes at 210,000 cycles/s."""
MOST_INTERPRETED = 100_000_000
"""Cycles of the core that the interpreter takes a few minutes for."""

ONNX = ("resnet8", "resnet20", "ds-cnn", "autoencoder", "keywords-1d", "mobilenet-v1-0.25",
        "mobilenet-v2-96", "unet")  # fmt: skip
"""Networks that also go through torch.onnx.export."""
TFLITE = ("mlperf_tiny/pretrainedResnet_quant.tflite", "mlperf_tiny/kws_ref_model.tflite")

CORES = tuple(reversed(PRESETS))

REFUSED: set[tuple[str, str]] = set()
"""What the compiler refuses, by network and preset."""
MOST_SECONDS = {"mobilenet-v1-0.25": 3.0, "vgg16": 60.0}
"""To compile, of a processor."""
MOST_MEGABYTES = 4096

HEADER = (
    f"{'network':18s} {'front end':9s} {'core':6s} {'MACs':>14s} {'cycles':>13s} {'MAC/cycle':>9s} "
    f"{'read':>12s} {'written':>12s} {'import s':>8s} {'compile s':>9s} {'CPU s':>6s} {'MB':>5s} "
    f"{'compared':>11s} {'wrong':>5s} {'s':>6s}"
)


def show(name: str, front: str, core: str, row: Row) -> None:
    if row.refusal:
        print(f"{name:18s} {front:9s} {core:6s} refused: {row.refusal}")
        return
    print(
        f"{name:18s} {front:9s} {core:6s} {row.macs:14,d} {row.cycles:13,d} "
        f"{row.macs / row.cycles:9.1f} {row.read:12,d} {row.written:12,d} "
        f"{row.import_seconds:8.1f} {row.compile_seconds:9.1f} {row.compile_cpu_seconds:6.1f} "
        f"{row.megabytes:5d} {row.device:>11s} {row.mismatches:5d} {row.seconds:6.1f}",
        flush=True,
    )


def check(name: str, front: str, path: Path, core: str) -> None:
    row = alone(measure, path, core, MOST_RTL_CYCLES, MOST_INTERPRETED)
    show(name, front, core, row)
    assert bool(row.refusal) == ((name, core) in REFUSED)
    assert row.mismatches == 0
    assert row.rtl_cycles in (None, row.cycles)
    assert row.megabytes <= MOST_MEGABYTES
    assert row.compile_cpu_seconds <= MOST_SECONDS.get(name, 60.0)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the saved networks: a new one, or `$BITLOOP_NETWORKS`, kept between runs."""
    kept = os.environ.get("BITLOOP_NETWORKS")
    return Path(kept) if kept else tmp_path_factory.mktemp("networks")


@pytest.mark.benchmark
@pytest.mark.parametrize("name", WHOLE)
def test_quantization(name: str, models: Path) -> None:
    """Makes the model files that the following tests compile."""
    print()
    for line in alone(save, name, models / f"{name}.pt2", name in ONNX):
        print(line)


@pytest.mark.benchmark
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", WHOLE)
def test_network(name: str, core: str, models: Path) -> None:
    path = models / f"{name}.pt2"
    if not path.exists():
        alone(save, name, path, name in ONNX)
    print("\n" + HEADER)
    check(name, "pt2", path, core)
    if name in ONNX:
        check(name, "ONNX", path.with_suffix(".onnx"), core)


@pytest.mark.benchmark
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("file", TFLITE)
def test_tensorflow_lite(file: str, core: str) -> None:
    data = os.environ.get("BITLOOP_DATA")
    if data is None:
        pytest.skip("BITLOOP_DATA does not name the folder of the networks")
    print("\n" + HEADER)
    check(Path(file).stem.removesuffix("_quant"), "TFLite", Path(data) / file, core)
