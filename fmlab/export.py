"""A study as text, as a data frame, and as files without pickle."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fmlab.algorithms import ALGORITHMS
from fmlab.declare import Sweep, sweep_length, sweeps
from fmlab.models import MLP
from fmlab.populations import POPULATIONS
from fmlab.servers import SERVERS
from fmlab.setup import prepare
from fmlab.study import Study

if TYPE_CHECKING:
    import pandas

KINDS: tuple[type[Any], ...] = (*ALGORITHMS, *POPULATIONS, *SERVERS, MLP)
CLASSES = {kind.__name__: kind for kind in KINDS}
TENSORS = [f.name for f in fields(Study) if f.type == "ByMethod"]


def table(study: Study) -> str:
    accuracy = bool(study.accuracy)
    scores, scale, digits = (study.accuracy, 100, 1) if accuracy else (study.adaptation, 1, 2)
    steps = sorted({0, 1, study.steps})
    what = "accuracy in %" if accuracy else "query loss"
    n_seeds = len(study.setup.config["seeds"])
    rows = [
        ["method", *(f"after {k} step{'s' * (k != 1)}" for k in steps), "hurt", "MB", "gradients"],
    ]
    for _, label, score, loss, diverged, up, spent in _lanes(study, scores):
        per_seed = score.mean(-2) * scale  # (seeds, steps + 1)
        well = diverged < 0
        cells = [_spread(per_seed[well, k], digits) if well.any() else "-" for k in steps]
        if not well.all():
            first = int(diverged[~well].min())
            label += f" [diverged: {int((~well).sum())} of {n_seeds} seeds, first in round {first}]"
        hurt = (loss[well][..., -1] > loss[well][..., 0]).to(torch.float64).mean() * 100
        rows.append([label, *cells, f"{hurt:.0f} %" if well.any() else "-", f"{2 * up / 1e6:.1f}", f"{spent:.0f}"])
    for name, value in (study.baseline_accuracy if accuracy else study.baselines).items():
        rows.append([name, *([""] * (len(steps) - 1)), _spread(value.mean(-1) * scale, digits), "", "", ""])
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    head = (
        f"{what} on {study.population.n_unseen} unseen clients, mean ± standard deviation over {n_seeds} seeds, "
        f"round {int(study.rounds[-1])}"
    )
    return "\n".join([head, *lines])


def _spread(per_seed: Tensor, digits: int) -> str:
    spread = f" ± {per_seed.std():.{digits}f}" if len(per_seed) > 1 else ""
    return f"{per_seed.mean():.{digits}f}{spread}"


def _lanes(study: Study, scores: dict[str, Tensor]) -> list[tuple[Any, ...]]:
    """One entry a method and swept value: name, label, scores and losses (seeds, clients, steps + 1), ..."""
    lanes = []
    for name in study.names:
        algorithm = study.setup.algorithms[name]
        values, swept = sweep_length(algorithm), sweeps(algorithm)
        for v in range(values):
            one = values == 1
            settings = ", ".join(f"{field}={x[v]:g}" for field, x in swept.items())
            spent = study.gradient_evaluations[name]
            lanes.append(
                (
                    name,
                    f"{name} ({settings})" if settings else name,
                    scores[name] if one else scores[name][v],
                    study.adaptation[name] if one else study.adaptation[name][v],
                    study.diverged[name] if one else study.diverged[name][v],
                    float(study.bytes_up[name][-1]),
                    float(spent[v, -1] if spent.ndim > 1 else spent[-1]),
                )
            )
    return lanes


def to_dataframe(study: Study) -> pandas.DataFrame:
    import pandas as pd

    frames = []
    for name, label, _, loss, *_ in _lanes(study, study.adaptation):
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
        hits = [score.cpu().numpy().ravel() for _, _, score, *_ in _lanes(study, study.accuracy)]
        whole["accuracy"] = np.concatenate(hits)
    return whole


def save(study: Study, folder: str | Path) -> None:
    folder = Path(folder)
    config = json.dumps(_encode(study.config), indent=2)  # raises before anything is written
    arrays = {f"{kind}/{name}": t.cpu().numpy() for kind in TENSORS for name, t in getattr(study, kind).items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")
    np.savez_compressed(folder / "tensors.npz", rounds=study.rounds.numpy(), seconds=study.seconds, **arrays)


def load(folder: str | Path) -> Study:
    """A study written by ``save``. Raises FileNotFoundError naming the missing file."""
    folder = Path(folder)
    for name in ("config.json", "tensors.npz"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; study.save(folder) writes it")
    config = _decode(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    with np.load(folder / "tensors.npz", allow_pickle=False) as stored:
        tensors = {key: torch.from_numpy(stored[key]) for key in stored.files if "/" in key}
        rounds, seconds = torch.from_numpy(stored["rounds"]), float(stored["seconds"])
    names = list(config["algorithms"])
    by_kind: dict[str, Any] = {
        kind: {n: tensors[f"{kind}/{n}"] for n in names if f"{kind}/{n}" in tensors} for kind in TENSORS
    }
    return Study(setup=prepare(**config), rounds=rounds, seconds=seconds, **by_kind)


def _encode(value: Any) -> Any:
    if isinstance(value, Sweep):
        return {"sweep": list(value.values)}
    if is_dataclass(value) and type(value).__name__ in CLASSES:
        return {"class": type(value).__name__} | {f.name: _encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {k: _encode(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encode(v) for v in value]
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"{value!r} cannot be written as JSON; save studies of fmlab's own classes, without lifted modules"
    )


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(v) for v in value)
    if not isinstance(value, dict):
        return value
    if "sweep" in value:
        return Sweep(tuple(value["sweep"]))
    if "dtype" in value and len(value) == 1:
        return getattr(torch, value["dtype"])
    parts = {k: _decode(v) for k, v in value.items() if k != "class"}
    return CLASSES[value["class"]](**parts) if "class" in value else parts
