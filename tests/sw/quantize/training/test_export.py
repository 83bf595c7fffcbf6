# SPDX-License-Identifier: Apache-2.0
"""What is trained is what is exported: fake quantization, PyTorch's program, golden model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.export import ExportedProgram

from bitloop.dataset import Dataset
from bitloop.frontend.torch_export import import_program, layer_names
from bitloop.graph.execute import accumulate, run_node
from bitloop.graph.ir import Add, AvgPool, Conv, Graph, MaxPool, Node
from bitloop.programs import run_program
from bitloop.quantize import calibrate, write_program
from bitloop.quantize.training import METHODS, TrainingOptions
from bitloop.quantize.training.network import TrainingNetwork, float_network, training_network
from bitloop.quantize.training.trainer import Training, train

SHORT = TrainingOptions(epochs=2, batch=16, threads=1)


def trained_network(
    program: ExportedProgram, data: Dataset, bits: dict[str, int], options: TrainingOptions
) -> TrainingNetwork:
    training = Training(program, data, bits, options)
    training.run(None, False, lambda state: None)
    return training.network


def network_codes(network: TrainingNetwork, x: np.ndarray) -> dict[str, np.ndarray]:
    """Unsigned codes at every activation of the fake-quantized network, channels last."""
    found = {}
    distinct = {id(q): q for q in network.quantizers.values()}
    for quantizer in distinct.values():
        quantizer.keep = True
    shared = len(distinct) < len(network.quantizers)
    assert not shared, "one quantizer would keep the last of its activations only"
    with torch.no_grad():
        network.eval()(torch.from_numpy(x))
    for name, quantizer in network.quantizers.items():
        now, kept = quantizer.quantization(), quantizer.kept
        assert kept is not None
        codes = np.rint(kept.numpy() / np.float32(now.scale)) + now.zero_point
        codes = codes.transpose(0, 2, 3, 1) if codes.ndim == 4 else codes[:, None, None, :]
        found[name] = codes.astype(np.uint8)
    return found


def distance_from_a_tie(graph: Graph, node: Node, operands: list[np.ndarray]) -> np.ndarray:
    """How far the exact result, before its rounding, is from where codes change, in codes."""
    if isinstance(node, Add):
        total = operands[0].astype(np.int64) * node.multiplier_a
        total = total + operands[1].astype(np.int64) * node.multiplier_b + node.constant
        shift = np.int64(node.shift)
    else:
        assert isinstance(node, Conv | AvgPool)
        if isinstance(node, Conv):
            sums = accumulate(node, operands[0], graph.tensors[node.inputs[0]].zero_point)
        else:  # global here
            sums = operands[0].astype(np.int64).sum((1, 2), keepdims=True)
        total = sums * node.requant.multiplier + node.requant.constant
        shift = node.requant.shift
    rest = (total & ((np.int64(1) << shift) - 1)) / (np.int64(1) << shift)
    return np.minimum(rest, 1 - rest)


@pytest.mark.parametrize("method", ["lsq+", "pact", "sat"])
def test_golden_model_computes_what_was_trained(
    method: str, digits: tuple[ExportedProgram, Dataset, Dataset]
) -> None:
    """Layer by layer, fed with the trained network's codes: the integer graph's differ only where
    the exact value lies on a tie, as near as float32 sums and rounded multipliers can tell."""
    program, training, test = digits
    names = layer_names(program)
    bits = dict(zip(names, (8, 2, 4, 8, 4, 2, 8), strict=True))
    options = TrainingOptions(method=method, epochs=1, batch=64, threads=1)
    network = trained_network(program, training.take(slice(256)), bits, options)
    x = test.x[:128]
    expected = network_codes(network, x)
    exported = write_program(program, network.quantization())
    for multiplier_bits, tie, share in ((31, 2e-4, 2e-5), (16, 6e-3, 2e-3)):
        graph = import_program(exported, "digits", multiplier_bits)
        own = [n.output for n in graph.nodes if not isinstance(n, MaxPool)]
        values = dict(zip([graph.inputs[0], *own], expected.values(), strict=True))
        counted = differing = 0
        for node in graph.nodes:
            operands = [values[name] for name in node.inputs]
            codes = run_node(graph, node, operands)
            wanted = values.setdefault(node.output, codes)
            wrong = codes != wanted
            counted, differing = counted + wrong.size, differing + int(wrong.sum())
            if wrong.any():
                apart = np.abs(codes.astype(int) - wanted)
                distance = distance_from_a_tie(graph, node, operands)
                assert apart.max() == 1 and distance[wrong].max() < tie, node.name
        assert differing <= share * counted, (multiplier_bits, differing, counted)


@pytest.mark.parametrize("method", METHODS)
def test_program_computes_what_was_trained(
    method: str, program: ExportedProgram, data: Dataset
) -> None:
    """PyTorch's quantized program and the trained network give equal results, bit by bit."""
    bits = dict.fromkeys(layer_names(program), 4) | {"conv2": 2}
    options = TrainingOptions(method=method, epochs=1, batch=16, threads=1)
    network = trained_network(program, data, bits, options)
    logits = network.eval()(torch.from_numpy(data.x)).detach()
    result = run_program(write_program(program, network.quantization()), data.x)
    assert np.array_equal(result, torch.softmax(logits, 1).numpy())


def test_result_is_the_networks(program: ExportedProgram, data: Dataset) -> None:
    """`train` returns the program of its parameters, which import and name all layers."""
    result = train(program, data, {"fc": 4, "conv1": 2}, SHORT)
    assert result.finished and result.steps == 6 and len(result.losses) == 2
    assert result.parameters.bits == {
        "conv1": 2, "conv2": 8, "depthwise": 8, "up": 8, "fc": 4,
    }  # fmt: skip
    graph = import_program(result.program, "various")
    widths = {n.name: n.bits for n in graph.nodes if isinstance(n, Conv)}
    assert widths["conv1"] == 2 and widths["fc"] == 4
    fc = next(n for n in graph.nodes if n.name == "fc")
    assert isinstance(fc, Conv)
    assert np.array_equal(fc.weights[:, 0, 0], result.parameters.weight_codes["fc"])


def test_float_parts(program: ExportedProgram, data: Dataset) -> None:
    """The teacher is the float program without its softmax; at 8 bits the untrained network is
    near it, batch-norm with negative factors included."""
    x = torch.from_numpy(data.x)
    logits = float_network(program)(x)
    np.testing.assert_allclose(
        torch.softmax(logits, 1).numpy(), run_program(program, data.x), atol=1e-5
    )
    bits = dict.fromkeys(layer_names(program), 8)
    network = training_network(program, bits, METHODS["lsq+"], calibrate(program, data.x))
    error = (network.eval()(x) - logits).square().mean() / logits.square().mean()
    assert float(error.detach()) < 1e-3
    for layer in network.layers.values():
        assert layer.norm is None or (layer.norm.gamma > 0).all()


def test_narrow_activations_are_simulated(program: ExportedProgram, data: Dataset) -> None:
    options = TrainingOptions(epochs=1, batch=16, threads=1, activation_bits=3)
    result = train(program, data, 4, options)
    highs = {name: p.high for name, p in result.parameters.activations.items()}
    assert highs.pop("x") == 255 and highs.pop(list(highs)[-1]) == 255  # input and result
    assert set(highs.values()) == {7}
    assert np.isfinite(run_program(result.program, data.x)).all()
