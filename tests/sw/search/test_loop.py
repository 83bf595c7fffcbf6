# SPDX-License-Identifier: Apache-2.0
"""The search on a small network, on a device whose cycles follow from the binary's layers."""

import numpy as np
import pytest
import torch
from torch import nn

from bitloop.codes import encode
from bitloop.dataset import Dataset
from bitloop.devices.interface import Profile
from bitloop.devices.reference import ReferenceDevice
from bitloop.errors import SearchError
from bitloop.frontend.torch_export import import_program
from bitloop.graph.execute import execute
from bitloop.hw.config import preset
from bitloop.programs import export_module
from bitloop.quantize import layer_names, quantize
from bitloop.search.loop import search
from bitloop.search.sensitivity import mix

CONFIG = preset("n4")
HEAD, TAIL = 7, 5


class TimedDevice:
    """The reference device with a clock: a layer takes its MACs times its bits; `extra(bits)`
    cycles come on top for the network as a whole, as overlapping loads may cost."""

    name = "timed"

    def __init__(self, extra=lambda bits: 0):
        self.device, self.extra, self.measured = ReferenceDevice(), extra, []

    def load(self, binary):
        self.binary = binary
        self.device.load(binary)

    def run(self, inputs):
        layers = self.binary.layers
        bits = tuple(layer.weight_bits for layer in layers if layer.macs and layer.op != "avgpool")
        cycles = [layer.macs * layer.weight_bits // 8 for layer in layers]
        tail = TAIL + self.extra(bits)
        total = HEAD + sum(cycles) + tail
        self.measured.append((bits, total))
        outputs, _ = self.device.run(inputs)
        causes = {"compute": total, "weight_wait": 0, "memory_wait": 0, "drain": 0}
        return outputs, Profile(total, causes, HEAD, tuple(cycles), tail)


@pytest.fixture(scope="module")
def program_and_data():
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 4 * 4, 4),
    )  # fmt: skip
    generator = np.random.default_rng(0)
    x = generator.normal(0, 1, (40, 1, 6, 6)).astype(np.float32)
    return export_module(network, x), Dataset(x, generator.integers(0, 4, 40))


def run(program_and_data, device=None, **budget):
    program, data = program_and_data
    return search(program, data, config=CONFIG, device=device or TimedDevice(), **budget)


def test_uniform_8_bits_is_the_answer_where_it_meets_the_budget(program_and_data):
    result = run(program_and_data, budget_ratio=1.0)
    assert set(result.weight_bits.values()) == {8}
    assert result.cycles == result.cycles_uniform8 == result.cycles_sum_of_layers
    assert result.accuracy == result.accuracy_uniform8
    assert result.evaluations == 3


def test_the_budget_is_met_and_the_parts_sum_up(program_and_data):
    device = TimedDevice()
    result = run(program_and_data, device, budget_ratio=0.5)
    assert 0 < result.cycles <= 0.5 * result.cycles_uniform8
    assert result.cycles == result.cycles_sum_of_layers
    layers = sum(layer.cycles for layer in result.layers)
    assert HEAD + layers + TAIL == result.cycles_sum_of_layers
    assert result.evaluations == len(device.measured)
    assert (tuple(result.weight_bits.values()), result.cycles) in device.measured


def test_a_budget_in_cycles_and_in_ratio_are_the_same_search(program_and_data):
    ratio = run(program_and_data, budget_ratio=0.6)
    cycles = run(program_and_data, budget_cycles=int(0.6 * ratio.cycles_uniform8))
    assert cycles.as_dict() == ratio.as_dict()


def test_a_whole_above_its_parts_is_fed_back(program_and_data):
    def mixed_costs_more(bits):
        return 900 if len(set(bits)) > 1 else 0

    plain = run(program_and_data, budget_ratio=0.5)
    device = TimedDevice(mixed_costs_more)
    result = run(program_and_data, device, budget_ratio=0.5)
    assert result.cycles <= 0.5 * result.cycles_uniform8
    assert result.cycles - result.cycles_sum_of_layers in (0, 900)
    assert result.evaluations > plain.evaluations
    assert result.weight_bits != plain.weight_bits


def test_room_that_the_whole_leaves_is_used(program_and_data):
    def mixed_costs_less(bits):
        return -900 if len(set(bits)) > 1 else 0

    plain = run(program_and_data, budget_ratio=0.5)
    result = run(program_and_data, TimedDevice(mixed_costs_less), budget_ratio=0.5)
    assert result.cycles <= 0.5 * result.cycles_uniform8
    assert sum(result.weight_bits.values()) > sum(plain.weight_bits.values())


def test_an_impossible_budget_names_the_least_cycles(program_and_data):
    device = TimedDevice()
    with pytest.raises(SearchError, match="out of reach") as error:
        run(program_and_data, device, budget_cycles=100)
    assert str(min(cycles for _, cycles in device.measured)) in str(error.value)


@pytest.mark.parametrize(
    "budget",
    [{}, {"budget_cycles": 5, "budget_ratio": 0.5}, {"budget_cycles": 0}, {"budget_ratio": 0.0},
     {"budget_ratio": 1.01}, {"budget_ratio": float("nan")}],
)  # fmt: skip
def test_budgets_without_sense_are_refused_at_once(program_and_data, budget):
    device = TimedDevice()
    with pytest.raises(SearchError, match="budget"):
        run(program_and_data, device, **budget)
    assert device.measured == []


def test_without_labels_accuracies_are_null(program_and_data):
    program, data = program_and_data
    result = run((program, Dataset(data.x)), budget_ratio=0.7)
    found = result.as_dict()
    assert found["accuracy"] is found["accuracy_float"] is found["accuracy_uniform8"] is None


def test_a_device_without_time_is_refused(program_and_data):
    with pytest.raises(SearchError, match="no notion of time"):
        run(program_and_data, ReferenceDevice(), budget_ratio=0.5)


def test_json_keys_are_the_contract(program_and_data):
    found = run(program_and_data, budget_ratio=0.7).as_dict()
    assert list(found) == [
        "layers", "cycles", "cycles_sum_of_layers", "cycles_uniform8", "accuracy_float",
        "accuracy_uniform8", "accuracy", "evaluations",
    ]  # fmt: skip
    assert all(list(layer) == ["name", "weight_bits", "cycles"] for layer in found["layers"])


def test_mixing_uniform_graphs_is_quantizing_the_mix(program_and_data):
    program, data = program_and_data
    names = layer_names(program)
    widths = dict(zip(names, (8, 2, 4), strict=True))
    uniform = {w: import_program(quantize(program, data.x, w), "n") for w in (8, 4, 2)}
    mixed = mix(uniform, widths)
    whole = import_program(quantize(program, data.x, widths), "n")
    spec = whole.tensors[whole.inputs[0]]
    codes = {spec.name: encode(spec, data.x)}
    assert mixed.tensors == whole.tensors
    assert [node.bits for node in mixed.nodes] == [node.bits for node in whole.nodes]
    found, expected = (execute(graph, codes, keep=True) for graph in (mixed, whole))
    assert all((found[name] == expected[name]).all() for name in expected)
