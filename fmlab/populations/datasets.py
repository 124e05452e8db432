"""A list of torch Datasets, one a client, as they are: each gives pairs (x, y).

x is a tensor of any shape, the same for all; y a whole number (a class, as it is), or numbers. With
``model=fm.lift(module)`` any module trains on them; x of whole numbers (tokens) stays so. What becomes of the clients
is in ``collection``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from fmlab.populations.collection import Collection, DataError, Rows, gathered


@dataclass(frozen=True)
class Datasets(Collection):
    """``source``: a list of datasets with a length, or a dict that names them. They are read once, as they are then.

    Raises DataError (a ValueError) for what is no such list, and for examples that do not fit together.
    """

    def read(self) -> tuple[Rows, list[str]]:
        return _read(self.source)


def _read(source: Any) -> tuple[Rows, list[str]]:
    if isinstance(source, Mapping):
        named = {str(name): d for name, d in source.items()}
        if len(named) < len(source):
            raise DataError("fm.Datasets: two clients have the same name")
    elif isinstance(source, (list, tuple)):
        named = {str(i): d for i, d in enumerate(source)}
    else:
        raise DataError(
            f"fm.Datasets: source = {type(source).__name__} is no list of torch Datasets, nor a dict of them"
        )
    clients = [(name, *_tensors(f"fm.Datasets: client {name!r}", d)) for name, d in named.items()]
    return gathered("fm.Datasets", clients, ())


def _tensors(where: str, dataset: Any) -> tuple[Tensor, Tensor]:
    """x (n, ...) and y (n,) or (n, o)."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(f"{where} is {type(dataset).__name__}, no Dataset with a length; give one that knows it")
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        x, y = dataset.tensors
        return x.detach().cpu(), _target(y.detach().cpu())
    xs, ys = [], []
    for i in range(len(dataset)):
        try:
            one_x, one_y = dataset[i]
            xs.append(_tensor(one_x))
            ys.append(_tensor(one_y))
        except (TypeError, ValueError, RuntimeError) as problem:
            raise DataError(f"{where}, example {i} is no pair (x, y) of numbers: {problem}") from problem
    for name, ts in (("x", xs), ("y", ys)):
        if kinds := {(tuple(t.shape), t.dtype) for t in ts[1:]} - {(tuple(t.shape), t.dtype) for t in ts[:1]}:
            odd = next(i for i, t in enumerate(ts) if (tuple(t.shape), t.dtype) in kinds)
            raise DataError(
                f"{where}, example {odd} has {name} of shape {tuple(ts[odd].shape)} and {ts[odd].dtype}, the first "
                f"{tuple(ts[0].shape)} and {ts[0].dtype}; give all the same"
            )
    if not xs:
        return torch.zeros(0), torch.zeros(0, 1)
    return torch.stack(xs), _target(torch.stack(ys))


def _tensor(value: Any) -> Tensor:
    if isinstance(value, (bool, int, float)):
        return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)
    return torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value.detach().cpu())


def _target(y: Tensor) -> Tensor:
    if not y.dtype.is_floating_point:
        return y.long().flatten() if y[:1].numel() <= 1 else y.double().flatten(1)
    return y.double().reshape(len(y), -1)
