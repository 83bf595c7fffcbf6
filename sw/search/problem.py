# SPDX-License-Identifier: Apache-2.0
"""The problem that solvers solve: one width a layer, least total loss, every budget met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import SearchError

Choice = dict[str, int]
"""Weight bits by layer name."""

Table = Mapping[str, Mapping[int, float]]
"""A number by layer and width."""

Losses = dict[str, dict[int, float]]
"""A sensitivity: what each layer loses at each width, in the method's own unit."""

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Problem:
    """A multiple-choice knapsack with tied layers and any number of budgets.

    Losses and costs add up over the layers. Raises `SearchError` where tables do not agree on
    layers and widths, a budget has no cost, or tied layers share no width.
    """

    losses: Table
    """By layer and width; its layers and widths are those to choose from."""
    costs: Mapping[str, Table]
    """By name, such as `cycles`, `weight_bytes` or `bit_operations`: a table with an entry for
    each of the losses'. What no choice changes is not in it: take it off the budget."""
    budgets: Mapping[str, float]
    """Largest sum of the cost of that name; costs without a budget do not matter."""
    ties: tuple[tuple[str, ...], ...] = ()
    """Groups of layers that are to have the same width."""
    excluded: tuple[Choice, ...] = ()
    """Choices that are no answer, whatever they cost."""

    def __post_init__(self) -> None:
        for layer, widths in self.losses.items():
            if not widths:
                raise SearchError(f"layer {layer!r} has no width to choose from")
        for name, table in self.costs.items():
            for layer, widths in self.losses.items():
                missing = set(widths) - set(table.get(layer, ()))
                if missing:
                    raise SearchError(f"cost {name!r}: none for layer {layer!r} at {min(missing)}")
        for name in self.budgets:
            if name not in self.costs:
                known = ", ".join(sorted(self.costs)) or "none"
                raise SearchError(f"budget {name!r}: no such cost; costs: {known}")
        tied = [layer for group in self.ties for layer in group]
        for layer in tied:
            if layer not in self.losses:
                raise SearchError(f"tied layer {layer!r}: no such layer")
            if tied.count(layer) > 1:
                raise SearchError(f"tied layer {layer!r}: it is in more than one group")
        for group in self.ties:
            if group and not set.intersection(*(set(self.losses[layer]) for layer in group)):
                raise SearchError(f"tied layers {', '.join(group)}: no width is common to them")

    def loss(self, choice: Mapping[str, int]) -> float:
        return sum(self.losses[layer][width] for layer, width in choice.items())

    def cost(self, name: str, choice: Mapping[str, int]) -> float:
        table = self.costs[name]
        return sum(table[layer][width] for layer, width in choice.items())

    def meets(self, choice: Mapping[str, int]) -> bool:
        """Whether `choice` is an answer: budgets met, ties kept, not excluded."""
        return (
            all(self.cost(name, choice) <= limit for name, limit in self.budgets.items())
            and all(len({choice[layer] for layer in group}) <= 1 for group in self.ties)
            and choice not in self.excluded
        )

    @property
    def widest(self) -> Choice:
        """Every layer at its largest width (tied ones at the largest they share)."""
        return {layer: max(widths) for layer, widths in self._common.items()}

    @property
    def units(self) -> tuple[tuple[tuple[str, ...], tuple[int, ...]], ...]:
        """What is decided at once: the layers, a tie or one alone, and their common widths, widest
        first; in the order of their first layers."""
        group = {layer: members for members in self.ties for layer in members}
        seen: set[str] = set()
        units = []
        for layer in self.losses:
            if layer not in seen:
                members = group.get(layer, (layer,))
                seen.update(members)
                units.append((members, tuple(sorted(self._common[layer], reverse=True))))
        return tuple(units)

    @property
    def _common(self) -> dict[str, set[int]]:
        """By layer, the widths that all layers tied to it have too."""
        common = {layer: set(widths) for layer, widths in self.losses.items()}
        for group in self.ties:
            shared = set.intersection(*(common[layer] for layer in group)) if group else set()
            common.update(dict.fromkeys(group, shared))
        return common
