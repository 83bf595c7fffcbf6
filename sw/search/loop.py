# SPDX-License-Identifier: Apache-2.0
"""The search: measure, rank, solve, measure the answer whole, and correct.

1. The network is quantized uniformly at each width and run whole on the device: cycles of every
   layer in context.
2. A sensitivity for each layer and width; by default from the golden executor, without labels.
3. The exact optimum under the budget, compiled and measured whole. The whole may differ from the
   sum of its layers (loads that overlap differently), so the difference is fed back and the program
   solved again (`feedback`); for a Pareto front, for many budgets at once (`front`).
4. The networks found are scored by the golden executor on images of their own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.export import ExportedProgram

from bitloop.hw.config import CoreConfig

from ..dataset import Dataset
from ..devices.interface import Device
from ..errors import SearchError
from ..frontend.torch_export import is_quantized
from ..graph.serialize import to_bytes
from ..quantize.calibration import check_images
from .assemble import Findings, assembled, chosen_program, conditions, out_of_reach
from .bench import Bench
from .budget import Budget, check_clock
from .family import Family
from .feedback import Candidate, Explorer, meet
from .front import proxy_sweep, sweep
from .latency import LatencyTable, Measurement
from .memo import Forgetful, Memo, key, program_digest, sources
from .problem import Choice, Losses, Problem, Progress
from .progress import Tracker
from .result import Evidence, SearchResult
from .rivals import Rival, rivals
from .scoring import Scorer
from .sensitivity import DEFAULT, IMAGES, METHODS, Context
from .solvers import integer_program
from .tasks import DeviceRecipe
from .work import InProcess, Work

RANKING_IMAGES = 512
"""Images that calibrate, at most; of them, those that rank."""

ORDERS = {"HAWQ-V2 order": "hessian"}
"""Other sensitivities that rivals go by."""


@dataclass(frozen=True, eq=False)
class Settings:
    """How to search, apart from what for."""

    method: str = DEFAULT
    """A sensitivity, of `sensitivity.METHODS`."""
    pareto: int = 0
    """Points of a Pareto front to find; 0 for none."""
    rivals: bool = False
    """Whether to choose by other methods for the same budget too."""
    proxies: int = 0
    """Answers for budgets of BitOps instead of cycles to measure beside the front."""
    seed: int = 0
    ties: tuple[tuple[str, ...], ...] = ()
    """Groups of layers that are to have the same width."""
    quantization: Mapping[str, Any] = field(default_factory=dict)
    """Further keywords of `quantize`, such as `method`."""

    def check(self) -> None:
        """Raises `SearchError` for settings without sense."""
        if self.method not in METHODS:
            raise SearchError(f"sensitivity {self.method!r}: known are {', '.join(METHODS)}")
        if self.pareto < 0 or self.pareto == 1:
            raise SearchError(f"Pareto front of {self.pareto} points: must be 2 or more")


def search(
    program: ExportedProgram,
    data: Dataset,
    *,
    config: CoreConfig,
    device: Device,
    budget_cycles: int | None = None,
    budget_ratio: float | None = None,
    budget: Budget | None = None,
    evaluation: Dataset | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    megahertz: float | None = None,
    verify: Device | None = None,
    work: Work | None = None,
    recipe: DeviceRecipe | None = None,
    memo: Memo | None = None,
    progress: Progress = lambda message: None,
) -> SearchResult:
    """Widths for the weighted layers of a float `program`, with inputs `data.x`, on `config`.

    A budget must be given: `budget`, or one of its two most common forms. A half of `data`, drawn
    by the seed, calibrates and ranks and the other scores, unless `evaluation` is given: then all
    of `data` ranks. `megahertz`: the core's clock, where `device` does not know it. `verify`: a
    second device that must count the same cycles for all that is reported. `work` says where
    candidates are compiled, measured and scored (measured there only with a `recipe` of the same
    device), `memo` what is known from before; neither changes the result.

    Ctrl-C once a network within the budget is found returns it, with `complete` False. Raises
    `SearchError` when the budget is out of reach (with the least measured) or makes no sense.
    """
    settings = settings or Settings(seed=seed)
    budget = budget or Budget(cycles=budget_cycles, ratio=budget_ratio)
    budget.check()
    settings.check()
    if budget.milliseconds is not None:
        known = megahertz or getattr(device, "megahertz", None)
        check_clock(known, getattr(device, "clock_note", ""))
    if is_quantized(program):
        raise SearchError("the network is quantized already: the search needs the float network")
    ranking, scoring = data.halves(settings.seed) if evaluation is None else (data, evaluation)
    check_images(program, scoring.x[:1])
    bench = Bench(config, device, work or InProcess(), memo or Forgetful(), recipe)
    run = _Search(program, ranking.take(slice(RANKING_IMAGES)), scoring, bench, settings, progress)
    return run.result(budget, megahertz or bench.megahertz, verify)


class _Search:
    """One search, and what its steps hand on."""

    def __init__(
        self,
        program: ExportedProgram,
        ranking: Dataset,
        scoring: Dataset,
        bench: Bench,
        settings: Settings,
        progress: Progress,
    ) -> None:
        self.program, self.ranking, self.scoring = program, ranking, scoring
        self.bench, self.settings = bench, settings
        self.work, self.memo, self.config = bench.work, bench.memo, bench.config
        self.tracker = Tracker(progress)
        self._limits: Mapping[str, float] = {}

    def result(
        self, budget: Budget, megahertz: float | None, verify: Device | None
    ) -> SearchResult:
        tracker = self.tracker
        with tracker.phase("calibration"):
            self.family = Family.of(
                self.program, self.ranking.x, self.config.weight_widths,
                self.config.multiplier_bits, self.memo, tracker.say, self.settings.quantization,
            )  # fmt: skip
            self.scorer = Scorer(
                self.program, self.family.widest, self.scoring, self.work, self.memo
            )
        widths = tuple(sorted(self.family.graphs, reverse=True))
        runs = self._measure([self.family.uniform(width) for width in widths])
        self.table = LatencyTable(dict(zip(widths, runs, strict=True)), self.family.layers)
        uniform8 = self.table.runs[8].profile.cycles
        limits = budget.limits(uniform8, megahertz)

        self.losses = self._sensitivities(self.settings.method)
        problem = Problem(
            self.losses,
            {"cycles": self.table.cycles, "weight_bytes": self.family.weight_bytes},
            {},
            ties=self.settings.ties,
        )
        self.explorer = Explorer(problem, self.table, self._measure_candidates)
        start = self.explorer.measured([self.family.uniform(width) for width in widths])
        self._limits = limits
        found = Findings(limits, start)
        try:
            with self._solving():
                (chosen,) = meet([limits], self.explorer, integer_program, start=start)
            if chosen is None:
                raise SearchError(out_of_reach(limits, self.explorer.candidates, uniform8))
            if self.settings.pareto:
                with self._solving():
                    found.front = sweep(
                        self.explorer, integer_program, self.settings.pareto,
                        limits=limits, start=start,
                    )  # fmt: skip
            if self.settings.proxies:
                with self._solving():
                    found.proxies = proxy_sweep(
                        self.explorer, self.family.bit_operations, self.settings.proxies, limits
                    )
            if self.settings.rivals and "cycles" in limits:
                found.rivals = self._rivals(limits, start)
            # The front and the rivals may have come upon something better still.
            found.chosen = self.explorer.best(limits) or chosen
            self._score(found.candidates)
        except KeyboardInterrupt:
            found.chosen, found.complete = self.explorer.best(limits), False
            if found.chosen is None:
                raise
        if verify is not None and found.complete:
            self._verify(verify, [found.chosen, *found.front])
            found.verified = verify.name
        return self._report(found, megahertz)

    def _measure(self, choices: Sequence[Choice]) -> list[Measurement]:
        """Whole-network runs of these choices, together."""
        before = 0

        def done(count: int) -> None:
            nonlocal before
            self.tracker.done("measurement", count - before)
            before = count
            if count:
                self.tracker.say(f"measured {count} of {len(choices)} networks", often=True)

        self.tracker.expect("measurement", len(choices))
        self.tracker.say(f"measuring {len(choices)} networks whole", often=len(choices) == 1)
        with self.tracker.phase("measurement"):
            runs = self.bench.measure([self.family.mixed(choice) for choice in choices], done)
        return runs

    def _measure_candidates(self, choices: Sequence[Choice]) -> list[Measurement]:
        """The same for the explorer, whose best so far is then known."""
        self._say_best()
        return self._measure(choices)

    def _say_best(self) -> None:
        best = self.explorer.best(self._limits) if self._limits else None
        if best is not None:
            self.tracker.best = f"{best.cycles:,} cycles at a loss of {best.loss:.4g}"

    def _solving(self) -> Any:
        return _Solving(self.tracker)

    def _sensitivities(self, method: str) -> Losses:
        tracker, family = self.tracker, self.family
        images = self.ranking.take(slice(IMAGES))
        labels = b"" if images.y is None else images.y.tobytes()
        graphs = [to_bytes(family.graphs[width]) for width in sorted(family.graphs)]
        known = self.memo.result(
            k := key(
                "sensitivity", method, program_digest(self.program), images.x.tobytes(), labels,
                self.settings.seed, *graphs,
            )
        )  # fmt: skip
        if known is not None:
            return {
                name: {int(width): loss for width, loss in losses.items()}
                for name, losses in json.loads(known).items()
            }
        with tracker.phase("sensitivities"):
            tracker.expect("sensitivity", len(family.layers) if method == DEFAULT else 0)

            def say(message: str) -> None:
                if message.startswith("sensitivity of"):
                    tracker.done("sensitivity")
                tracker.say(message, often=True)

            tracker.say(f"sensitivities by {method}")
            losses = METHODS[method](
                Context.of(
                    self.program, family.graphs, images.x, images.y,
                    seed=self.settings.seed, progress=say,
                )
            )  # fmt: skip
            tracker.expect("sensitivity", 0)
        self.memo.keep(k, "sensitivity", json.dumps(losses).encode())
        return losses

    def _rivals(self, limits: Mapping[str, float], start: list[Candidate]) -> list[Rival]:
        orders = {
            name: self._sensitivities(method)
            for name, method in ORDERS.items()
            if method in METHODS and method != self.settings.method
        }
        with self._solving():
            return rivals(
                self.explorer,
                limits,
                start,
                proxies={"BitOps": self.family.bit_operations},
                orders=orders,
                seed=self.settings.seed,
            )

    def _score(self, candidates: list[Candidate]) -> None:
        graphs = {id(c): self.family.mixed(c.choice) for c in candidates}
        self._say_best()
        self.tracker.expect("scoring", len(graphs) * self.scorer.parts)
        with self.tracker.phase("verification"):
            for number, graph in enumerate(graphs.values(), 1):
                before = 0

                def done(count: int) -> None:
                    nonlocal before
                    self.tracker.done("scoring", count - before)
                    before = count

                self.tracker.say(f"scoring network {number} of {len(graphs)}", often=number > 1)
                self.scorer.score([graph], done)

    def _verify(self, device: Device, candidates: list[Candidate]) -> None:
        """Raises `SearchError` where `device` counts other cycles."""
        bench = Bench(self.config, device, InProcess(), self.memo)
        fresh = {id(c): c for c in candidates}.values()
        with self.tracker.phase("verification"):
            self.tracker.say(f"measuring {len(fresh)} networks on {device.name}")
            runs = bench.measure([self.family.mixed(c.choice) for c in fresh])
        for candidate, run in zip(fresh, runs, strict=True):
            if run.profile.cycles != candidate.cycles:
                raise SearchError(
                    f"{self.bench.device.name} says {candidate.cycles} cycles, {device.name} "
                    f"{run.profile.cycles}, for widths {candidate.choice}: one of them is wrong; "
                    "please report it"
                )

    def _report(self, found: Findings, megahertz: float | None) -> SearchResult:
        assert found.chosen is not None
        with self.tracker.phase("calibration"):
            self.tracker.say("writing the chosen network")
            program = chosen_program(self.family, found.chosen)
        return assembled(
            found,
            program,
            family=self.family,
            table=self.table,
            scorer=self.scorer,
            bench=self.bench,
            megahertz=megahertz,
            seconds=self.tracker.seconds,
            evidence=Evidence(
                method=self.settings.method,
                losses=self.losses,
                cycles=self.table.cycles,
                fixed_cycles=self.table.fixed,
                macs=self.family.macs,
                images=len(self.ranking),
                ranking_images=min(IMAGES, len(self.ranking)),
                scoring_images=len(self.scoring),
                seed=self.settings.seed,
                fingerprints={
                    "float program": program_digest(self.program),
                    "images": hashlib.sha256(
                        self.ranking.x.tobytes() + self.scoring.x.tobytes()
                    ).hexdigest(),
                    "software": sources(),
                    "core": self.config.fingerprint,
                },
                conditions=conditions(self.bench),
                configuration=dataclasses.asdict(self.config),
            ),
        )


class _Solving:
    """Takes the time of a block as solving, less what it measured meanwhile."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def __enter__(self) -> None:
        self._measured = self._tracker.seconds["measurement"]
        self._phase = self._tracker.phase("solving")
        self._phase.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._phase.__exit__(*error)
        measured = self._tracker.seconds["measurement"] - self._measured
        self._tracker.seconds["solving"] -= measured
