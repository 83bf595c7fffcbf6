# SPDX-License-Identifier: Apache-2.0
"""`python -m bitloop.demo`: train, quantize, compile, run on the RTL, report latency, search."""

from __future__ import annotations

import sys
import time

import numpy as np
import typer
from numpy.typing import NDArray
from torch.export import ExportedProgram

from bitloop.hw.config import CoreConfig, preset

from ..cli.common import FAILURE, USER_ERRORS, hush_libraries, print_table, progress
from ..cli.search_tables import result_report
from ..codes import encode
from ..compile import compile_graph
from ..dataset import Dataset
from ..devices.interface import Device
from ..frontend.torch_export import import_program
from ..programs import export_module, run_program
from ..quantize import quantize
from ..search.loop import RANKING_IMAGES, search
from ..search.sensitivity import outputs
from ..session import Session, open_device
from .digits import load_digits, train

PRESET = "n4"
RTL_IMAGES = 50
BUDGET_RATIO = 0.5


def main() -> int:
    """Runs the whole loop and prints its figures; 1 if the RTL differs from the golden model."""
    hush_libraries()
    start = time.monotonic()
    config = preset(PRESET)
    training, test = load_digits()
    with progress(f"training on {len(training)} of scikit-learn's digits") as say:
        program = export_module(train(training, progress=say), training.x)
    print(f"trained on {len(training)} images in {time.monotonic() - start:.1f} s", flush=True)

    with progress(f"preparing the RTL of {PRESET}") as say:
        device = open_device("verilator", config, progress=say)
    equal = run_uniform(program, training, test, config, device)
    search_widths(program, training, test, config, device)
    print(f"everything in {time.monotonic() - start:.0f} s")
    return 0 if equal else 1


def run_uniform(
    program: ExportedProgram, training: Dataset, test: Dataset, config: CoreConfig, device: Device
) -> bool:
    """The 8-bit network: accuracies and latency; True if RTL and golden model are equal."""
    with progress("quantizing to 8 bits") as say:
        quantized = quantize(program, training.x[:RANKING_IMAGES])
        graph = import_program(quantized, "digits", config.multiplier_bits)
        say(f"compiling for {config.name}")
        binary = compile_graph(graph, config)
        say(f"building and loading the RTL of {config.name}")
        session = Session(binary, device)
        say(f"running {RTL_IMAGES} test images on the RTL")
        rtl = session.run(test.x[:RTL_IMAGES])
        report = session.measure()
    spec = graph.tensors[graph.inputs[0]]
    integer = outputs(graph, {spec.name: encode(spec, test.x)})
    floats = run_program(program, test.x)

    def accuracy(scores: NDArray[np.float32]) -> str:
        assert test.y is not None
        return f"{(scores.argmax(axis=1) == test.y[: len(scores)]).mean():.2%}"

    print(
        f"accuracy on {len(test)} test images: float {accuracy(floats)}, "
        f"integer {accuracy(integer)}"
    )
    print(
        f"accuracy on the first {RTL_IMAGES}: float {accuracy(floats[:RTL_IMAGES])}, "
        f"integer {accuracy(integer[:RTL_IMAGES])}, RTL {accuracy(np.asarray(rtl))}"
    )
    different = np.count_nonzero(np.asarray(rtl) != integer[:RTL_IMAGES])
    verdict = "bit for bit equal" if different == 0 else f"DIFFERENT in {different} codes"
    print(f"RTL and golden model on these: {verdict}", flush=True)
    print_table(report.as_table())
    return different == 0


def search_widths(
    program: ExportedProgram, training: Dataset, test: Dataset, config: CoreConfig, device: Device
) -> None:
    """Bit-widths for a share of the 8-bit network's cycles, scored on the test images."""
    with progress(f"searching bit-widths for {BUDGET_RATIO:.0%} of the 8-bit cycles") as say:
        result = search(
            program,
            training,
            config=config,
            device=device,
            budget_ratio=BUDGET_RATIO,
            evaluation=test,
            progress=say,
        )
    print_table(result_report(result))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except USER_ERRORS as error:
        typer.echo(f"bitloop: {error}", err=True)
        sys.exit(FAILURE)
    except KeyboardInterrupt:
        sys.exit(130)
