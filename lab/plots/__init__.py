"""What is drawn, and what is said of it; a panel and a lesson draw the same.

Every plot takes ``ax`` (an Axes, or the Marks of an earlier call, whose artists it then moves), draws all there is to
see and returns the Marks. No pyplot, no mathtext, no widgets.
"""

from lab.plots.clientview import View, client, look_at, steps_in_words, unseen_client
from lab.plots.curves import AXES, QUANTITIES, adaptation, advantage, baselines, flew, gains, learning, reference, whom
from lab.plots.driftplot import drift
from lab.plots.heatmap import advantage_map
from lab.plots.leakplot import leak
from lab.plots.liarsplot import liars
from lab.plots.marks import Marks
from lab.plots.whose import CLIENTS, after_steps

__all__ = ["AXES", "CLIENTS", "QUANTITIES", "Marks", "View", "adaptation", "advantage", "advantage_map"]
__all__ += [
    "after_steps",
    "baselines",
    "client",
    "drift",
    "flew",
    "gains",
    "leak",
    "learning",
    "liars",
    "look_at",
    "reference",
    "steps_in_words",
    "unseen_client",
    "whom",
]
