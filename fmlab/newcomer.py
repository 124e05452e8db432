"""A client that no data set holds: his rows as they come, adapted to and predicted by what a study has trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fmlab.data import examples
from fmlab.declare import sweep_length
from fmlab.populations.table import Table

if TYPE_CHECKING:
    from fmlab.study import Study


def predict(study: Study, name: str, rows: Any, support: Any, seed: int, value: int) -> Tensor:
    """See ``Study.predict``. Inputs and targets are in units of the training clients of that seed, as in training."""
    table = study.population
    if not isinstance(table, Table):
        raise TypeError(
            f"x = {type(rows).__name__} is no tensor, and rows are those of an fm.Table; this study is on "
            f"{type(table).__name__}"
        )
    if name not in study.setup.algorithms:
        raise KeyError(f"{name!r} is not one of the methods {study.names}")
    seeds, algorithm = study.config["seeds"], study.setup.algorithms[name]
    for what, place, n in (("seed", seed, len(seeds)), ("value", value, sweep_length(algorithm))):
        if place not in range(n):
            raise IndexError(f"{what} = {place!r} is not a whole number from 0 to {n - 1}")
    held, method = study.server(name, seed, value), study.method(name, seed, value)
    f, like = method.objective(study.setup.objective), next(iter(held.values()))
    numbers = table.standardise and not table.rows.labels
    mean, spread = table.target_scale(seeds[seed]) if numbers else (torch.zeros(1), torch.ones(1))
    spread = torch.where(spread == 0, 1.0, spread)

    def given(these: Any, target: bool) -> tuple[Tensor, Tensor | None]:
        x, y = table.more(these, target)
        return table.standardised(x, seeds[seed]).to(like)[None, None], y

    x, _ = given(rows, False)
    steps, known = 0, (x[:, :, :1], torch.zeros(1, dtype=torch.int64) if table.rows.labels else mean[None])
    if support is not None:
        steps, known = study.steps, given(support, True)  # type: ignore[assignment]
    y = known[1] if table.rows.labels else ((known[1] - mean) / spread).to(like)
    shown = examples(known[0], y[None, None]).map(lambda t: t.to(like) if t.is_floating_point() else t.to(like.device))
    models = [w for w, _ in zip(method.adapt(f, held, shown, steps), range(steps + 1), strict=False)]
    predicted = torch.cat([f.predict(w, x)[0] for w in models])
    return predicted * spread.to(like) + mean.to(like) if numbers else predicted
