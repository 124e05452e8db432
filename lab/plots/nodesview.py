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
    """What a run has told so far, by client and round. ``simulated``: losses after 0, 1, ... rounds, as far as the run
    is."""

    rounds: int
    clients: int
    simulated: list[float] = field(default_factory=list)
    loss: dict[int, float] = field(default_factory=dict)  # after a round
    answered: dict[int, list[int]] = field(default_factory=dict)  # rounds in which a client did
    missed: dict[int, list[int]] = field(default_factory=dict)  # and was asked in vain
    up: int = 0  # bytes
    down: int = 0

    @property
    def done(self) -> int:
        return max(self.loss, default=0)

    @property
    def absent(self) -> int:
        """Answers that a round with every client would have had beside those that came."""
        return len(self.loss) * self.clients - sum(map(len, self.answered.values()))

    def round(self, event: Mapping[str, Any]) -> None:
        """As the server says it when a round is over."""
        t = event["round"]
        self.loss[t] = event["loss"]
        self.up, self.down = self.up + event["up"], self.down + event["down"]
        for c in event["who"]:
            self.answered.setdefault(c, []).append(t)

    def miss(self, clients: Sequence[int]) -> int:
        """The round in which these have not answered."""
        t = self.done + 1
        for c in clients:
            self.missed.setdefault(c, []).append(t)
        return t


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
        m.frame(title="Loss of unseen clients", x="round", xlim=(0, told.rounds), ylim=(0, top), legend=legend)
    return m


def who_answered(ax: Axes | Marks, told: Told) -> Marks:
    """A row a client: a dot for every round in which it answered, a cross where it was asked in vain."""
    m = Marks.on(ax)
    size = m.theme.scale
    dot: dict[str, Any] = {"color": m.theme.ink, "marker": "o", "markersize": 5 * size}
    cross = dot | {"marker": "x", "markersize": 8 * size, "markeredgewidth": 2 * size}
    with m:
        for name, look, rounds in (("answered", dot, told.answered), ("missed", cross, told.missed)):
            at = [(t, c) for c, ts in sorted(rounds.items()) for t in ts]
            m.points(name, [t for t, _ in at], [c for _, c in at], **look)
        alone = {"linestyle": "none"}
        legend = [("answered", dot | alone), ("asked in vain", cross | alone)]
        across, up = (0, told.rounds + 0.5), (-0.7, told.clients - 0.3)
        m.frame(title="Who answered", x="round", y="client", xlim=across, ylim=up, legend=legend)
        if (ticks := [*range(0, told.clients, 1 + told.clients // 10)]) != list(m.ax.get_yticks()):
            m.ax.set_yticks(ticks)  # there are no other clients, nor halves of one
    return m
