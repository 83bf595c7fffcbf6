# SPDX-License-Identifier: Apache-2.0
"""Networks larger than the core on the RTL: tensors in external memory, tiles, passes, copies."""

from __future__ import annotations

from collections import Counter

import pytest

from bitloop.compile import compile_graph
from bitloop.errors import CompileError
from bitloop.hw.config import CoreConfig, preset
from bitloop.hw.isa import Opcode
from bitloop.sim.random_graphs import WEIGHT_BITS, random_graph
from bitloop.sim.random_layers import check_graph

KINDS = ("network", "large", "tables", "mixed", "conv", "fused-add")
SMALL = (
    preset("n4").replace(activation_words=128, weight_rows=40, step_entries=64),
    preset("n4").replace(
        lanes=8, activation_words=160, weight_rows=72, parameter_words=64, step_entries=64
    ),
)


@pytest.mark.parametrize("config", SMALL, ids=lambda config: f"{config.lanes}x{config.columns}")
def test_small_cores_give_the_golden_bytes(config: CoreConfig) -> None:
    seen: Counter[str] = Counter()
    for seed, kind in enumerate(KINDS * 4):
        graph = random_graph(seed + 300, config.lanes, kind, WEIGHT_BITS[seed % 3])
        try:
            binary = compile_graph(graph, config)
        except CompileError:
            seen["refused"] += 1
            continue
        check_graph(graph, binary, seed)
        program = binary.program(binary.inference)
        computes = [fields for opcode, fields in program if opcode is Opcode.COMPUTE]
        seen["scratch"] += binary.scratch_bytes > 0
        seen["tiles"] += any(f["origin_x"] > 0 for f in computes)
        seen["passes"] += any(f["seeded"] for f in computes)
        seen["tables"] += any(opcode is Opcode.LOAD_TABLE for opcode, _ in program)
    assert seen["refused"] <= 3
    assert all(seen[name] for name in ("scratch", "tiles", "passes", "tables")), seen
