"""A study as text and as a data frame."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fmlab.declare import sweep_length, sweeps

if TYPE_CHECKING:
    import pandas

    from fmlab.study import Study


FLOWN = 10  # times the fresh models' mean loss


def flown(study: Study, name: str, loss: Tensor | None = None) -> Tensor:
    """Where a loss (None: of ``study.adaptation[name]``) is not finite or beyond FLOWN times the fresh models' mean
    loss: that client flew away, and a mean over clients says little. As in ``fmlab.tuning``."""
    fresh = study.learning[name][..., 0, 0].mean()  # before training and adaptation
    return ~((study.adaptation[name] if loss is None else loss) <= FLOWN * fresh)


def hurt(loss: Tensor) -> Tensor:
    """Whom adaptation hurts, of losses (..., steps + 1): the last is above the first, or is not finite."""
    return ~(loss[..., -1] <= loss[..., 0]) | ~loss[..., -1].isfinite()


def worst_tenth(score: Tensor, accuracy: bool) -> Tensor:
    """The mean of the worst tenth of the clients, at least one: scores (seeds, clients) -> (seeds,). Losses are worst
    where they are large or not a number, accuracies where they are small."""
    n = max(1, score.shape[-1] // 10)
    if accuracy:
        return score.sort(-1).values[..., :n].mean(-1)
    return score.nan_to_num(nan=torch.inf, posinf=torch.inf).sort(-1, descending=True).values[..., :n].mean(-1)


def table(study: Study) -> str:
    accuracy = bool(study.accuracy)
    scores, scale, digits = (study.accuracy, 100, 1) if accuracy else (study.adaptation, 1, 2)
    steps = sorted({0, 1, study.steps})
    what = "accuracy in %" if accuracy else "query loss"
    n_seeds = len(study.setup.config["seeds"])
    rows = [
        [
            "method",
            *(f"after {k} step{'s' * (k != 1)}" for k in steps),
            "worst tenth",
            "hurt (by loss)" if accuracy else "hurt",
            "MB",
            "gradients",
        ],
    ]
    any_away = False
    for _, label, score, loss, away, diverged, sent, spent, _ in _rows(study, scores):
        well = diverged < 0
        lost = away[well][..., steps].flatten(0, 1)  # (clients of all seeds, columns)
        medians = lost.any(0) & (not accuracy)
        cells = [_spread(score[well][..., k] * scale, digits, bool(m)) for k, m in zip(steps, medians, strict=True)]
        if not well.all():
            first = int(diverged[~well].min())
            label += f" [diverged: {int((~well).sum())} of {n_seeds} seeds, first in round {first}]"
        if lost.any():
            any_away = True
            label += f" [flew away: {int(lost.any(1).sum())} of {len(lost)} clients]"
        share = f"{100 * hurt(loss[well]).to(torch.float64).mean():.0f} %" if well.any() else "-"
        tenth = _number(worst_tenth(score[well][..., -1], accuracy).mean() * scale, digits) if well.any() else "-"
        rows.append([label, *cells, tenth, share, f"{sent / 1e6:.1f}", f"{spent:.0f}"])
    for name, value in (study.baseline_accuracy if accuracy else study.baselines).items():
        median = not accuracy and not bool(value.isfinite().all())
        tenth = _number(worst_tenth(value, accuracy).mean() * scale, digits)
        called = f"{name} ({study.local_steps} steps)" if name == "local only" else name
        rows.append([called, *([""] * (len(steps) - 1)), _spread(value * scale, digits, median), tenth, "", "", ""])
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    head = (
        f"{what} on {study.population.n_unseen} unseen clients, mean ± standard deviation over {n_seeds} seeds, "
        f"round {int(study.rounds[-1])}"
    )
    note = f"flew away: a loss that is not finite, or above {FLOWN} times the fresh models' mean loss"
    return "\n".join([head, *lines, *([note] * any_away), *_own_models(study, what, scale, digits)])


def _own_models(study: Study, what: str, scale: int, digits: int) -> list[str]:
    """A block of its own, since it is about other clients: what their own models score, for methods that have them, on
    their own query sets and on other clients'."""
    if not study.personal:
        return []
    accuracy = bool(study.accuracy)
    away = study.off_distribution_accuracy if accuracy else study.off_distribution
    rows, seen = [("", "own client", "worst tenth", "other clients")], Counter[str]()
    for name, label, _, _, _, diverged, _, _, own in _rows(study, study.adaptation):
        if own is None:
            continue
        well, elsewhere = diverged < 0, away.get(name)
        if elsewhere is not None and elsewhere.ndim > own.ndim:  # swept
            elsewhere = elsewhere[seen[name]]
        seen[name] += 1
        tenth = _number(worst_tenth(own[well], accuracy).mean() * scale, digits) if well.any() else "-"
        others = "-" if elsewhere is None else _spread(elsewhere[well] * scale, digits, False)
        rows.append((label, _spread(own[well] * scale, digits, False), tenth, others))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join((r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:]))) for r in rows]
    head = f"{what} on the {study.population.n_clients} participating clients, each with its own model, no adaptation"
    return ["", head, *lines]


def _spread(each: Tensor, digits: int, median: bool) -> str:
    """Mean and standard deviation over seeds of each client's score (seeds, clients); beside it all clients' median."""
    if not len(each):
        return "-"
    per_seed = each.mean(-1)
    text = _number(per_seed.mean(), digits)
    if len(per_seed) > 1 and per_seed.isfinite().all():
        text += f" ± {_number(per_seed.std(), digits)}"
    if median:  # what is not a number stands behind infinity
        text += f", median {_number(each.nan_to_num(nan=torch.inf, posinf=torch.inf).median(), digits)}"
    return text


def _number(value: Tensor, digits: int) -> str:
    return f"{value:.{digits}f}" if abs(value) < 1e5 or not value.isfinite() else f"{value:.1e}"


def _rows(study: Study, scores: dict[str, Tensor]) -> list[tuple[Any, ...]]:
    """One entry a method and swept value: name, label; scores, losses and who flew away (seeds, clients, steps + 1);
    diverged, bytes, gradient evaluations; and the scores (seeds, N) of participating clients' own models, or None."""
    rows, personal = [], study.personal_accuracy if study.accuracy else study.personal
    for name in study.names:
        algorithm = study.setup.algorithms[name]
        values, swept = sweep_length(algorithm), sweeps(algorithm)
        for v in range(values):
            one = values == 1
            settings = ", ".join(f"{field}={x[v]:g}" for field, x in swept.items())
            sent, spent = (t[name][..., -1].flatten() for t in (study.bytes, study.gradient_evaluations))
            rows.append(
                (
                    name,
                    f"{name} ({settings})" if settings else name,
                    scores[name] if one else scores[name][v],
                    study.adaptation[name] if one else study.adaptation[name][v],
                    flown(study, name) if one else flown(study, name)[v],
                    study.diverged[name] if one else study.diverged[name][v],
                    float(sent[v % len(sent)]),
                    float(spent[v % len(spent)]),
                    None if name not in personal else personal[name] if one else personal[name][v],
                )
            )
    return rows


def to_dataframe(study: Study) -> pandas.DataFrame:
    import pandas as pd

    frames = []
    for name, label, _, loss, *_ in _rows(study, study.adaptation):
        s, c, k = loss.shape
        index = np.indices((s, c, k)).reshape(3, -1)
        columns = {
            "method": name,
            "setting": label,
            "seed": np.array(study.setup.config["seeds"])[index[0]],
            "client": index[1],
            "step": index[2],
            "loss": loss.cpu().numpy().ravel(),
        }
        frames.append(pd.DataFrame(columns))
    whole = pd.concat(frames, ignore_index=True)
    if study.accuracy:
        hits = [score.cpu().numpy().ravel() for _, _, score, *_ in _rows(study, study.accuracy)]
        whole["accuracy"] = np.concatenate(hits)
    return whole
