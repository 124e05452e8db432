"""A run on real nodes: its curve on that of the simulation, and which client answered in which round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes

from lab.plots import style
from lab.plots.marks import Marks


@dataclass
class Told:
    """What a run has told so far, by client and round. ``simulated``: losses after 0, 1, ..., all rounds."""

    simulated: list[float]
    loss: dict[int, float] = field(default_factory=dict)  # after a round
    answered: dict[int, list[int]] = field(default_factory=dict)  # rounds in which a client did
    missed: dict[int, list[int]] = field(default_factory=dict)  # and did not

    @property
    def rounds(self) -> int:
        return len(self.simulated) - 1


def on_the_simulation(ax: Axes | Marks, told: Told, method: str) -> Marks:
    """Mean loss of unseen clients: the simulation's as a line, the nodes' as points on it, or off it."""
    m = Marks.on(ax)
    color, size = style.looks([method])[method].color(m.theme), m.theme.scale
    line = {"color": m.theme.middle, "linewidth": 1.6 * size}
    points: dict[str, Any] = {"color": color, "marker": "o", "markersize": 5.5 * size}
    with m:
        m.line("simulation", range(len(told.simulated)), told.simulated, zorder=2, **line)
        m.points("nodes", list(told.loss), list(told.loss.values()), zorder=3, **points)
        top = style.nice(max([*told.simulated, *told.loss.values()]))
        alone = {"linestyle": "none"}
        legend = [("simulation", line), (f"{method} on the nodes", points | alone)]
        m.frame(title="Loss of unseen clients", x="round", xlim=(0, max(told.rounds, 1)), ylim=(0, top), legend=legend)
    return m


def who_answered(ax: Axes | Marks, told: Told, clients: Sequence[int]) -> Marks:
    """A row a client: a dot for every round in which it answered, a cross where it was asked in vain."""
    m = Marks.on(ax)
    size = m.theme.scale
    dot: dict[str, Any] = {"color": m.theme.ink, "marker": "o", "markersize": 5 * size}
    cross = dot | {"marker": "x", "markersize": 8 * size, "markeredgewidth": 2 * size}
    with m:
        for name, look, rounds in (("answered", dot, told.answered), ("missed", cross, told.missed)):
            at = _places(rounds, clients)
            m.points(name, [t for t, _ in at], [c for _, c in at], **look)
        edges = (min(clients) - 0.7, max(clients) + 0.7)
        alone = {"linestyle": "none"}
        legend = [("answered", dot | alone), ("asked in vain", cross | alone)]
        m.frame(
            title="Who answered", x="round", y="client", xlim=(0, max(told.rounds, 1) + 0.5), ylim=edges, legend=legend
        )
    return m


def _places(rounds: Mapping[int, Sequence[int]], clients: Sequence[int]) -> list[tuple[int, int]]:
    return [(t, c) for c in clients for t in rounds.get(c, ())]
