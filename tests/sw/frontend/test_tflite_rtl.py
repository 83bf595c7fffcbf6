# SPDX-License-Identifier: Apache-2.0
"""Networks of MLPerf Tiny on the simulated core, with the multipliers that equal LiteRT.

`pytest -m benchmark -s tests/sw/frontend/test_tflite_rtl.py` prints cycles and seconds of the
larger core, whose build is what takes long.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from tflite_models import data_file, run

from bitloop.compile import compile_graph
from bitloop.frontend.tflite import import_tflite
from bitloop.hw.config import preset
from bitloop.session import Session, open_device


@pytest.mark.parametrize("name", ["pretrainedResnet_quant.tflite", "kws_ref_model.tflite"])
@pytest.mark.parametrize(
    ("core", "images"), [pytest.param("n16", 5, marks=pytest.mark.benchmark), ("n8", 2)]
)
def test_the_core_equals_the_golden_model(name: str, core: str, images: int) -> None:
    config = preset(core).replace(multiplier_bits=31)
    graph = import_tflite(data_file(name), 31)
    start = time.perf_counter()
    binary = compile_graph(graph, config)
    compiled = time.perf_counter()
    (source,) = (graph.tensors[tensor] for tensor in graph.inputs)
    x = np.random.default_rng(1).integers(-128, 128, (images, *source.source_shape), np.int8)
    session = Session(binary, open_device("verilator", config))
    built = time.perf_counter()
    found = session.run_raw(x)
    assert isinstance(found, np.ndarray) and session.profile is not None
    seconds = (compiled - start, built - compiled, time.perf_counter() - built)
    print(
        f"\n{name} on {core}: {session.profile.cycles:,} cycles; compiled in {seconds[0]:.1f} s, "
        f"core built in {seconds[1]:.0f} s, {images} images in {seconds[2]:.1f} s"
    )
    codes = found.view(np.uint8) ^ np.uint8(128)
    np.testing.assert_array_equal(codes.reshape(images, -1), run(graph, x).reshape(images, -1))
