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
from bitloop.errors import DataError, SearchError
from bitloop.frontend.torch_export import import_program
from bitloop.graph.execute import execute
from bitloop.hw.config import preset
from bitloop.programs import export_module
from bitloop.quantize import layer_names, quantize
from bitloop.search.budget import Budget
from bitloop.search.loop import Settings, search
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


class Memo:
    """Keeps results for all tests of this file: quantizing takes most of their time."""

    def __init__(self):
        self.contents = {}

    def result(self, key):
        return self.contents.get(key)

    def keep(self, key, kind, content):
        self.contents[key] = content


MEMO = Memo()


def run(program_and_data, device=None, **options):
    program, data = program_and_data
    options = {"memo": MEMO, **options}
    return search(program, data, config=CONFIG, device=device or TimedDevice(), **options)


def without_times(result):
    found = result.as_dict()
    assert all(value >= 0 for value in found.pop("seconds").values())
    return found


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
    assert without_times(cycles) == without_times(ratio)


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


def test_labels_beyond_the_classes_are_refused_by_image(program_and_data):
    program, data = program_and_data
    y = data.y.copy()
    y[:] = 4
    with pytest.raises(DataError, match="label 4 of image 0: the network has 4 classes"):
        run((program, data), evaluation=Dataset(data.x, y), budget_ratio=0.5)


def test_images_to_score_of_another_shape_are_refused_before_any_work(program_and_data):
    device = TimedDevice()
    with pytest.raises(DataError, match="shape"):
        run(
            program_and_data,
            device,
            evaluation=Dataset(np.zeros((3, 1, 7, 6), np.float32)),
            budget_ratio=0.5,
            progress=pytest.fail,
        )
    assert device.measured == []


def test_milliseconds_are_cycles_at_the_clock(program_and_data):
    cycles = run(program_and_data, budget_ratio=0.6)
    limit = cycles.limits["cycles"]
    timed = run(program_and_data, budget=Budget(milliseconds=limit / 50e3), megahertz=50)
    assert timed.limits == {"cycles": limit} and timed.weight_bits == cycles.weight_bits
    assert timed.milliseconds == timed.cycles / 50e3
    device = TimedDevice()
    device.megahertz = 50
    assert run(program_and_data, device, budget=Budget(milliseconds=limit / 50e3)).limits == {
        "cycles": limit
    }
    with pytest.raises(SearchError, match="clock"):
        run(program_and_data, budget=Budget(milliseconds=1.0), progress=pytest.fail)


def test_weight_bytes_are_a_budget_of_their_own_and_beside_cycles(program_and_data):
    whole = run(program_and_data, budget_ratio=1.0)
    stored = run(program_and_data, budget=Budget(weight_bytes=whole.weight_bytes // 2))
    assert stored.weight_bytes <= whole.weight_bytes // 2
    both = run(program_and_data, budget=Budget(ratio=0.5, weight_bytes=whole.weight_bytes // 3))
    assert both.weight_bytes <= whole.weight_bytes // 3
    assert both.cycles <= whole.cycles // 2
    with pytest.raises(SearchError, match="weight bytes is out of reach.* take"):
        run(program_and_data, budget=Budget(weight_bytes=10))


def test_a_front_is_measured_whole_and_no_point_beats_another(program_and_data):
    device = TimedDevice(lambda bits: 37 * len(set(bits)))
    result = run(program_and_data, device, budget_ratio=0.5, settings=Settings(pareto=6))
    assert 4 <= len(result.front) <= 6
    cycles = [point.cycles for point in result.front]
    losses = [point.loss for point in result.front]
    assert cycles == sorted(set(cycles)) and losses == sorted(set(losses), reverse=True)
    assert losses[-1] == 0 and cycles[-1] == result.cycles_uniform8
    for point in result.front:
        assert (tuple(point.choice.values()), point.cycles) in device.measured
        assert point.accuracy is not None and point.divergence is not None
    assert result.evaluations == len(set(device.measured)) == len(device.measured)


def test_rivals_are_measured_and_none_of_them_loses_less_on_the_same_measure(program_and_data):
    result = run(program_and_data, budget_ratio=0.5, settings=Settings(rivals=True))
    rivals = {point.label: point for point in result.rivals}
    assert {"uniform widths", "greedy", "evolutionary", "integer program, BitOps"} <= set(rivals)
    chosen = sum(result.evidence.losses[name][bits] for name, bits in result.weight_bits.items())
    for label, point in rivals.items():
        if point.cycles <= result.limits["cycles"]:
            assert point.loss >= chosen, label
        else:
            assert "misses" in point.note


def test_a_second_run_measures_nothing_and_finds_the_same(program_and_data):
    memo = Memo()
    first = run(program_and_data, budget_ratio=0.5, memo=memo)
    kept = len(memo.contents)
    again = run(program_and_data, budget_ratio=0.5, memo=memo)
    assert len(memo.contents) == kept
    assert without_times(first) == without_times(again)


class Interrupted:
    """A device whose user presses Ctrl-C in the measurement of this number."""

    def __init__(self, number):
        self.device, self.number, self.name = TimedDevice(), number, "timed"

    def load(self, binary):
        self.device.load(binary)

    def run(self, inputs):
        if len(self.device.measured) == self.number:
            raise KeyboardInterrupt
        return self.device.run(inputs)


def test_an_interrupted_search_keeps_the_best_within_the_budget(program_and_data):
    whole = run(program_and_data, budget_ratio=0.5, settings=Settings(pareto=6))
    part = run(program_and_data, Interrupted(5), budget_ratio=0.5, settings=Settings(pareto=6))
    assert whole.complete and not part.complete
    assert part.cycles <= part.limits["cycles"] and part.accuracy is None
    with pytest.raises(KeyboardInterrupt):
        run(program_and_data, Interrupted(1), budget_ratio=0.5)


def test_a_device_that_counts_otherwise_is_told(program_and_data):
    assert run(program_and_data, budget_ratio=0.5, verify=TimedDevice()).verified == "timed"
    with pytest.raises(SearchError, match="one of them is wrong"):
        run(program_and_data, budget_ratio=0.5, verify=TimedDevice(lambda bits: 1))


def test_tied_layers_have_one_width(program_and_data):
    program, _ = program_and_data
    first, second, last = layer_names(program)
    result = run(program_and_data, budget_ratio=0.5, settings=Settings(ties=((first, last),)))
    assert result.weight_bits[first] == result.weight_bits[last]
    assert result.cycles <= result.limits["cycles"]


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
        "accuracy_uniform8", "accuracy", "evaluations", "weight_bytes", "limits", "measured",
        "milliseconds", "device", "verified", "complete", "uniform", "pareto",
        "proxies", "rivals", "seconds",
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
