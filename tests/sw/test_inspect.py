# SPDX-License-Identifier: Apache-2.0
from bitloop.compile import compile_graph
from bitloop.hw.config import preset
from bitloop.inspect import disassembly, external_memory, layers, memory_map, render
from bitloop.sim.random_graphs import random_graph


def test_text_names_what_is_in_the_binary():
    binary = compile_graph(random_graph(3, 8, "network", 4), preset("n8"))
    text = render(binary)
    for layer in binary.layers:
        assert layer.name in layers(binary)
        assert f"{layer.macs:,}" in layers(binary)
    for place in binary.placements:
        assert f"{place.base} - {place.base + place.words - 1}" in memory_map(binary)
    assert f"program {binary.program_bytes:,}, input {binary.input_bytes:,}" in text
    for port in (*binary.inputs, *binary.outputs):
        assert port.spec.name in text


def test_disassembly_lists_every_instruction_and_step():
    binary = compile_graph(random_graph(3, 8, "network", 4), preset("n8"))
    setup, inference = disassembly(binary, "setup"), disassembly(binary, "inference")
    program = binary.program(binary.inference)
    assert len(inference.splitlines()) == len(program)
    for (opcode, _), line in zip(program, inference.splitlines(), strict=True):
        assert opcode.name in line
    loaded = [f["count"] for op, f in binary.program(binary.setup) if op.name == "LOAD_STEPS"]
    assert sum("  step " in line for line in setup.splitlines()) == sum(loaded) > 0


def test_external_memory_and_entries_of_passes_are_named():
    config = preset("n4").replace(weight_rows=40, activation_words=100)
    binary = compile_graph(random_graph(1, 4, "large", 8), config)
    assert f"scratch {binary.scratch_bytes:,})" in external_memory(binary)
    setup = disassembly(binary, "setup")
    assert " seed" in setup and " emit" in setup
