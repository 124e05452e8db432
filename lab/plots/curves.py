"""The curves of a study, each for one axes, and the numbers that they show.

A run that stopped being finite is named in the plot. ``looks``: of the methods (None: by their order in the study).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fmlab.report import flown
from lab.plots import style
from lab.plots.clientview import steps_in_words
from lab.plots.marks import Marks
from lab.plots.style import Look
from lab.plots.whose import after_steps, one_each, own_models

if TYPE_CHECKING:
    from fmlab.study import Study

AXES = {"rounds": "rounds", "bytes": "bytes sent up and down", "gradient evaluations": "gradient evaluations"}
QUANTITIES = ("loss", "accuracy")
DOTTED: dict[str, Any] = {"linestyle": (0, (1, 1.6))}
Array = NDArray[np.float64]


def baselines(study: Study, quantity: str = "loss") -> dict[str, float]:
    """Mean of "trivial" and "local only" on unseen clients. A panel keeps them: the study computes them on demand."""
    found = study.baselines if quantity == "loss" else study.baseline_accuracy
    return {name: float(t.mean()) for name, t in found.items()}


def learning(
    ax: Axes | Marks,
    study: Study,
    x: str = "rounds",
    quantity: str = "loss",
    k: int | None = None,
    title: str = "",
    up_to: int | None = None,
    looks: Mapping[str, Look] | None = None,
) -> Marks:
    """Mean over unseen clients after k adaptation steps (None: all) as training goes on: the seeds' mean, and a band
    from the lowest to the highest seed. ``x``: "rounds", "bytes" or "gradient evaluations" of one run. ``up_to``: the
    rounds that the horizontal axis spans (None: all that the study has planned)."""
    if x not in AXES:
        raise ValueError(f"x = {x!r} is not one of {tuple(AXES)}")
    _check(study, quantity)
    source = study.learning if quantity == "loss" else study.learning_accuracy
    k = study.steps if k is None else k
    curves = {name: _runs(t, 3, name)[..., k] for name, t in source.items()}
    rounds = np.asarray(study.rounds, dtype=np.float64)
    along = {
        "rounds": dict.fromkeys(curves, rounds),
        "bytes": {n: np.asarray(study.bytes[n]).reshape(-1)[-len(rounds) :] for n in curves},
        "gradient evaluations": {
            n: np.asarray(study.gradient_evaluations[n]).reshape(-1)[-len(rounds) :] for n in curves
        },
    }[x]
    m, looks = Marks.on(ax), looks or style.looks(study.names)
    share_done = rounds[-1] / (up_to or study.config["rounds"])
    end = max((float(v[-1]) for v in along.values()), default=0.0)
    with m:
        for name, curve in curves.items():
            mean = curve.mean(0)
            m.band((name, "band"), along[name], curve.min(0), curve.max(0), looks[name].color(m.theme))
            m.line(name, along[name], mean, zorder=3, **looks[name].marked(m.theme))
        _diverged(m, study)
        m.frame(
            title=title or f"Learning, {steps_in_words(k)}",
            x=AXES[x],
            y=_axis(quantity, "unseen"),
            xlim=(0.0, float(f"{end / share_done:.6g}") if end else 1.0),  # the same to the last digit in every frame
            ylim=_limits(quantity, curves.values()),
            legend=[(name, looks[name].marked(m.theme)) for name in curves],
        )
    return m


def adaptation(
    ax: Axes | Marks,
    study: Study,
    quantity: str = "loss",
    k: int | None = None,
    base: Mapping[str, float] | None = None,
    title: str = "",
    looks: Mapping[str, Look] | None = None,
    clients: str = "unseen",
) -> Marks:
    """Mean over clients after 0, 1, ..., steps adaptation steps, band over seeds; thin lines: ``base`` (None:
    `baselines` of the study, for unseen clients). ``k`` marks one number of steps. ``clients``: of ``CLIENTS``; of
    participating ones a dotted line, from marker to marker, is the mean of their own models, which do not adapt."""
    _check(study, quantity)
    source = after_steps(study, quantity, clients)
    curves = {name: _runs(t, 3, name).mean(1) for name, t in source.items()}
    own = {name: float(_runs(t, 2, name).mean()) for name, t in own_models(study, quantity, clients).items()}
    if base is None:
        base = baselines(study, quantity) if clients == "unseen" else {}
    m, looks, steps = Marks.on(ax), looks or style.looks(study.names), np.arange(study.steps + 1)
    levels = [[[np.nan, *own.values()]]] if own else []  # in a row, so that none of them counts as a start
    limits = m.settle(_limits(quantity, [*curves.values(), *([[list(base.values())]] if base else []), *levels]))
    dotted = {name: looks[name].marked(m.theme) | DOTTED for name in own}
    own_lines = [(f"{name}, own models", line) for name, line in dotted.items()]
    if len(own_lines) > 2:  # colour and marker say whose
        own_lines = [("own models", {"color": m.theme.ink, "linewidth": 2.2 * m.theme.scale, **DOTTED})]
    with m:
        for name, curve in curves.items():
            m.band((name, "band"), steps, curve.min(0), curve.max(0), looks[name].color(m.theme))
            m.line(name, steps, curve.mean(0), zorder=3, **looks[name].marked(m.theme))
        for name, level in own.items():
            m.line(("own", name), [0, study.steps], [level] * 2, zorder=2.5, **dotted[name])
        for i, (name, level) in enumerate(base.items()):
            above = min((other for other in base.values() if other > level), default=np.inf)
            m.line(("base", name), [0, study.steps], [level] * 2, color=m.theme.middle, linewidth=1.2 * m.theme.scale)
            words = {"trivial": "trivial predictor"}.get(name, name)
            low = min(limits[1], above) - level < 0.11 * limits[1] < level  # no room above it
            x, side = ((0.1, "left"), (0.98, "right"))[i % 2]  # neighbours stand apart, however near their lines are
            y = level + (-0.012 if low else 0.012) * limits[1]
            m.text(
                ("base text", name), x * study.steps, y, words, color=m.theme.middle, fontsize=9.5 * m.theme.scale,
                ha=side, va="top" if low else "bottom", clip_on=True,
            )  # fmt: skip
        if k is not None:
            m.line("k", [k, k], limits, color=m.theme.middle, linewidth=1.2 * m.theme.scale, linestyle=(0, (2, 2)))
        _diverged(m, study, adapting=True)
        m.frame(
            title=title or f"Adaptation on {clients} clients",
            x="adaptation steps",
            y=_axis(quantity, clients),
            xlim=(0.0, float(study.steps)),
            ylim=limits,
            legend=[
                *((name, looks[name].marked(m.theme)) for name in curves),
                *own_lines,
            ],
        )
    return m


def gains(
    study: Study,
    k: int | None = None,
    quantity: str = "loss",
    against: str | None = None,
    clients: str = "unseen",
) -> dict[str, Array]:
    """Each method's gain over ``against`` (None: "FedAvg" where it took part, else the first) on every client of every
    seed after k steps, or with its own model where it is a participating one and has one: how much lower its loss, or
    higher its accuracy. Minus infinity where its own loss is not finite, infinity where that of ``against`` is not, not
    a number where both are."""
    _check(study, quantity)
    k = study.steps if k is None else k
    against = against or reference(study)
    scores = {name: _runs(t, 2, name).reshape(-1) for name, t in one_each(study, k, quantity, clients).items()}
    found = {}
    for name in scores:
        if name == against:
            continue
        theirs, ours = (np.where(np.isfinite(scores[n]), scores[n], np.inf) for n in (against, name))
        with np.errstate(invalid="ignore"):  # inf - inf: both flew away
            found[name] = theirs - ours if quantity == "loss" else ours - theirs
    return found


def reference(study: Study) -> str:
    return next((name for name in study.names if name.startswith("FedAvg")), study.names[0])


def whom(
    ax: Axes | Marks,
    study: Study,
    k: int | None = None,
    quantity: str = "loss",
    against: str | None = None,
    title: str = "",
    looks: Mapping[str, Look] | None = None,
    clients: str = "unseen",
) -> Marks:
    """`gains`, from the largest to the smallest; the legend says for which share of all clients the gain is negative,
    those who flew away among them: they stand at the right end, where the curve has stopped.
    The table's "hurt" is another share: of clients who lose by adapting at all."""
    k, against = study.steps if k is None else k, against or reference(study)
    found = gains(study, k, quantity, against, clients)
    each = one_each(study, k, quantity, clients)
    lost = {name for name in found if not np.isfinite(np.asarray(each[name])).any()}
    own = own_models(study, quantity, clients)
    called = {name: f"{name} (own)" if name in own else name for name in study.names}
    compared = steps_in_words(k)
    if own:
        compared = "own models" if own.keys() == {*study.names} else f"own models / {k} step{'s' * (k != 1)}"
    m, looks = Marks.on(ax), looks or style.looks(study.names)
    unit, most = (1.0, 0.0) if quantity == "loss" else (100.0, 100.0)
    many, crowd, legend = len(found) > 3, len(found) > 6, []
    with m:
        m.line("zero", [0, 100], [0, 0], color=m.theme.ink, linewidth=1.2 * m.theme.scale)
        for name, gain in found.items():
            level = np.isnan(gain)  # as bad with the one as with the other: between those who gain and those who lose
            order = np.argsort(-np.where(level, 0.0, gain), kind="stable")
            ordered, line = unit * gain[order], looks[name].line(m.theme)
            worse = f"worse for {100 * (gain < 0).mean():.0f} %" if name not in lost else "diverged"
            m.line(name, 100 * (np.arange(len(gain)) + 0.5) / len(gain), ordered, zorder=3, **line)
            gain = gain[np.isfinite(gain)]
            if many:  # a legend would cover the curves; below zero there is room at the left
                row, column = len(legend) % 6, len(legend) // 6
                says = f"{called[name]}: {worse.removeprefix('worse for ') if crowd else worse}"
                m.text(("worse", name), 0.02 + 0.34 * column, (0.35 if crowd else 0.42) - 0.065 * row, says,
                       inside=True, va="bottom", color=line["color"], fontsize=(7.5 if crowd else 9) * m.theme.scale,
                       weight="normal" if crowd else "bold")  # fmt: skip
            legend.append((f"{called[name]}: {worse}", line))
            if quantity == "loss" and len(gain):  # one client of a hundred may lie outside, more if they are far away
                most = max(most, min(np.quantile(np.abs(gain), 0.99), 4 * np.quantile(np.abs(gain), 0.9)))
        if crowd:
            m.text("worse", 0.02, 0.42, "worse for", inside=True, va="bottom", fontsize=8 * m.theme.scale)
        if not many:  # else its line says so
            _diverged(m, study)
        top = style.nice(most)
        m.frame(
            title=title or f"Whom it helps, {compared}",
            x=f"{clients} clients, sorted (%)",
            y=f"gain over {against} ({'lower loss' if quantity == 'loss' else 'accuracy, points'})",
            xlim=(0.0, 100.0),
            ylim=m.settle((-top, top)),
            legend=() if many else legend,
            over=True,  # of curves that fall the upper right is free, and one may leave the plot at the left
        )
    return m


def advantage(
    study: Study, method: str, k: int | None = None, quantity: str = "loss", against: str | None = None
) -> float:
    """Gain of ``method`` in per cent of the trivial predictor's loss (of the larger of the two where there is none), or
    in points of accuracy; mean over clients and seeds, and where clients flew away (``flew``) over seeds of the median
    client, as in ``fm.judge``. Positive where ``method`` is better, within -100 .. 100, which also stand for a
    divergence of the one or the other; NaN where both diverged."""
    _check(study, quantity)
    source = after_steps(study, quantity)
    k, against = study.steps if k is None else k, against or reference(study)
    each = [_runs(source[n], 3, n)[..., k] for n in (method, against)]
    if quantity == "loss" and flew(study, method, k, against):
        each = [np.median(np.where(np.isfinite(e), e, np.inf), -1) for e in each]
    ours, theirs = (float(e.mean()) for e in each)
    if not (np.isfinite(ours) and np.isfinite(theirs)):
        return float("nan") if np.isfinite(ours) == np.isfinite(theirs) else 100.0 if np.isfinite(ours) else -100.0
    if quantity == "accuracy":
        return 100 * (ours - theirs)
    unit = study.trivial_loss or max(theirs, ours, 1e-300)
    return float(np.clip(100 * (theirs - ours) / unit, -100, 100))


def flew(study: Study, method: str, k: int | None = None, against: str | None = None) -> bool:
    """Whether a client of the one or the other flew away (``fmlab.report.flown``) while it took k steps (None: all)."""
    k, against = study.steps if k is None else k, against or reference(study)
    return any(bool(flown(study, name)[..., k].any()) for name in (method, against))


def _check(study: Study, quantity: str) -> None:
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity = {quantity!r} is not one of {QUANTITIES}")
    if quantity == "accuracy" and not study.accuracy:
        raise ValueError(
            f"{type(study.population).__name__} is no classification task: it has no accuracy; plot the loss"
        )


def _runs(tensor: Any, axes: int, name: str) -> Array:
    """A study's tensor as an array (seeds, ...)."""
    array = np.asarray(tensor, dtype=np.float64)
    if array.ndim > axes:
        raise ValueError(
            f"{name!r} is swept, which has a plot for each value; compare the values as methods with names"
        )
    return array


def _axis(quantity: str, clients: str) -> str:
    return f"loss of {clients} clients" if quantity == "loss" else f"accuracy on {clients} clients"


def _limits(quantity: str, curves: Any) -> tuple[float, float]:
    """From 0; a run that goes up without end may go up to twice the best start, so that the others stay readable."""
    if quantity == "accuracy":
        return 0.0, 1.02
    with_start = [np.atleast_2d(np.asarray(c, dtype=np.float64)) for c in curves]
    finite = [c[np.isfinite(c)] for c in with_start]
    starts = [c[:, 0].max() for c in with_start if np.isfinite(c[:, 0]).all()]
    starts = [s for s in starts if s <= 5 * np.median(starts)]  # one may start far above all the others
    highest = max((float(c.max()) for c in finite if c.size), default=1.0)
    return 0.0, style.nice(1.05 * min(highest, 2 * max(starts, default=highest)))


def _diverged(m: Marks, study: Study, adapting: bool = False) -> None:
    """Names every method with a run that stopped being finite, inside the plot; ``adapting``: and with clients who
    flew away while they adapted, without whom the curve would have another mean."""
    notes = []
    for name, rounds in study.diverged.items():
        rounds = np.asarray(rounds).reshape(-1)
        gone = rounds[rounds >= 0]
        if len(gone):
            who = "all" if len(gone) == len(rounds) else f"{len(gone)} of {len(rounds)}"
            notes.append(f"{name} diverged\n({who} seeds, from round {gone.min()})")
        elif adapting and (away := np.asarray(flown(study, name).any(-1))).any():
            notes.append(f"{name} flew away while adapting\n({away.sum()} of {away.size} clients)")
    if notes:
        m.text("diverged", 0.02, 0.03, "\n".join(notes), inside=True, va="bottom", weight="bold", zorder=6,
               bbox={"facecolor": m.theme.paper, "edgecolor": m.theme.ink, "alpha": 0.85})  # fmt: skip
