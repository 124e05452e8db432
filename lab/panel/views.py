"""What is looked at in a study, and the pictures of a panel that show it; looking needs no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import fmlab as fm
from lab import plots
from lab.panel.advantage import AdvantageMap
from lab.panel.canvas import Canvas, Draw
from lab.panel.session import one_thread
from lab.panel.setting import Setting
from lab.plots.style import Look, Theme
from lab.plots.words import sentence

CELLS = {"client": 2, "adaptation": 1, "learning": 1, "helps": 1, "map": 1}  # columns that a view spans
WIDE, TALL = 1512, 370  # on a projector: three plots a row have room for their titles, two fill the screen
FIRST = ("client", "learning")  # the first of these that a panel has is drawn before the others


@dataclass(frozen=True)
class Viewpoint:
    """From where a study is looked at."""

    k: int | None = None  # adaptation steps; None: all
    client: int = 0
    x: str = "rounds"
    quantity: str | None = None  # None: accuracy where there is one
    clients: str = "unseen"  # or "participating": whose scores "adaptation" and "helps" show

    def measure(self, study: fm.Study) -> str:
        """The quantity, or the loss where the study has no accuracy."""
        return self.quantity or "accuracy" if study.accuracy else "loss"

    def steps(self, study: fm.Study) -> int:
        return study.steps if self.k is None else self.k

    def whose(self, ended: bool) -> str:
        """The clients whose scores are shown: participating ones are scored when a run has ended."""
        return self.clients if ended else "unseen"

    def sentence(self, study: fm.Study, ended: bool = True) -> str:
        whose = self.whose(ended)
        said = sentence(study, self.steps(study), self.measure(study), whose)
        return said if whose == self.clients else f"{said} Participating clients are scored when the run has ended."


class Views:
    """The views ``names``, of ``CELLS``, in which every method has its look of ``looks``."""

    def __init__(self, names: Sequence[str], looks: Mapping[str, Look]) -> None:
        self.names, self._looks = tuple(names), looks
        self.map = AdvantageMap()
        self._map_drawn: object = None
        self._client: tuple[fm.Study, int, plots.View] | None = None

    @property
    def first(self) -> list[str]:
        return [v for v in FIRST if v in self.names][:1]

    @property
    def others(self) -> list[str]:
        return [v for v in self.names if v not in self.first]

    def canvas(self, theme: Theme, size: str) -> Canvas:
        """Room for all of them in a grid."""
        columns = min(len(self.names), 3)
        cells = [(v, min(CELLS[v], columns) if len(self.names) > 2 else 1) for v in self.names]
        if size != "projector":
            return Canvas(cells, columns, theme)
        return Canvas(cells, columns, theme, width=WIDE) if columns > 2 else Canvas(cells, columns, theme, row=TALL)

    def draws(
        self,
        study: fm.Study,
        setting: Setting,
        viewpoint: Viewpoint,
        base: Mapping[str, float],
        wanted: Sequence[str] | None = None,
        ended: bool = True,
    ) -> dict[str, Draw]:
        """How to draw the ``wanted`` ones (None: all); without the map where it would look as it does. ``ended``:
        whether participating clients may be scored."""
        quantity, k, looks = viewpoint.measure(study), viewpoint.steps(study), self._looks
        whose = viewpoint.whose(ended)
        levels = base if whose == "unseen" else {}  # baselines are those of unseen clients
        later = "" if whose == viewpoint.clients else "Unseen clients; participating at the end"
        learning = "" if viewpoint.clients == "unseen" else f"Unseen clients, {plots.steps_in_words(k)}"
        draws: dict[str, Draw] = {
            "client": lambda m: plots.client(m, self._look_at(study, viewpoint.client), k, looks=looks),
            "adaptation": lambda m: plots.adaptation(m, study, quantity, k, levels, later, looks, whose),
            "learning": lambda m: plots.learning(m, study, viewpoint.x, quantity, k, learning, setting.rounds, looks),
            "helps": lambda m: plots.whom(m, study, k, quantity, title=later, looks=looks, clients=whose),
            "map": lambda m: self.map.draw(m, setting, looks),
        }
        state = self.map.state(setting)
        same = {"map"} if state == self._map_drawn else set()
        chosen = [v for v in self.names if v not in same and (wanted is None or v in wanted)]
        self._map_drawn = state if "map" in chosen else self._map_drawn
        return {v: draws[v] for v in chosen}

    def _look_at(self, study: fm.Study, number: int) -> plots.View:
        """One client's predictions; kept, since a slider for k asks for them again and again."""
        number %= study.unseen.number
        if self._client is None or self._client[0] is not study or self._client[1] != number:
            with one_thread():
                self._client = study, number, plots.look_at(study, number)
        return self._client[2]
