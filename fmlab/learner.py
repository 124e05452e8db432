"""Federated meta-learning as a ``torch.nn.Module`` in a loop of one's own: FedMAML's rounds, one call each.

    model = fm.FederatedMetaLearner(num_clients=5, inner_steps=1, inner_lr=0.01, outer_lr=0.001)
    for _ in range(100):
        loss = model.meta_update(client_datasets)
    personal = model.adapt(new_client, steps=5)

The mathematics is ``FedMAML``'s, by the same functions as in ``fm.compare``: ``work`` on the clients, ``serve`` at the
server, whose optimiser is Adam with ``outer_lr``. This file only carries parameters over and data in.

A client's data is a torch Dataset of pairs (x, y), a DataLoader (whose batches are taken together), a pair of tensors
(x, y), or a pair of any of these: its support and its query set. Four tensors are x, y of the one and x, y of the
other. From data in one piece the first half, the larger one where they differ, is the support set. x (n, ...), y (n, o)
or (n,) numbers, or (n,) classes as int64.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fmlab.algorithms.fedmaml import FedMAML
from fmlab.data import Batch, Examples, examples, padded
from fmlab.engine import serve, work
from fmlab.losses import CrossEntropy, Loss, SquaredError
from fmlab.models import lift
from fmlab.models.lift import flat
from fmlab.objective import Empirical
from fmlab.optimisers import Adam

Pair = tuple[Tensor, Tensor]


class FederatedMetaLearner(nn.Module):
    """Args:
        num_clients: how many clients there are, >= 1; a call of ``meta_update`` has at most so many.
        inner_steps, inner_lr: a client's gradient steps, and their size.
        outer_lr: the step size of the server's Adam.
        model: a module that ``fm.lift`` takes; None: ReLU, 10 inputs, 32 hidden units, 1 output. It becomes
            ``self.model`` and is trained in place.
        loss: nn.MSELoss() or nn.CrossEntropyLoss(); None: by the targets, cross entropy for classes.
        first_order: leave the Hessian out.

    ``state_dict`` holds the parameters and the optimiser's moments. Raises ValueError and TypeError, naming the
    argument.
    """

    model: nn.Module
    updates: Tensor

    def __init__(
        self,
        num_clients: int,
        inner_steps: int,
        inner_lr: float,
        outer_lr: float,
        model: nn.Module | None = None,
        loss: nn.Module | None = None,
        first_order: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(num_clients, int) or isinstance(num_clients, bool) or num_clients < 1:
            raise ValueError(f"num_clients = {num_clients!r} is not a whole number >= 1")
        for name, value in (("inner_lr", inner_lr), ("outer_lr", outer_lr)):
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= 1:
                raise ValueError(f"{name} = {value!r} is not a number in (0, 1]")
        self.num_clients, self.loss = num_clients, _loss(loss)
        self.algorithm = FedMAML(inner_steps, inner_lr, first_order, adapt_lr=inner_lr, server=Adam(outer_lr))
        self.model = model if model is not None else nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
        w = self._flat()
        for i, moment in enumerate(self.algorithm.server.init(w)):
            self.register_buffer(f"moment_{i}", moment)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """The meta-model's predictions, before any adaptation."""
        predicted: Tensor = self.model(x)
        return predicted

    @torch.no_grad()
    def meta_update(self, client_datasets: Sequence[Any]) -> float:
        """One round in which all these clients take part. Gives their mean query loss, adapted, before the update."""
        if isinstance(client_datasets, (str, bytes)) or not isinstance(client_datasets, Sequence):
            raise TypeError(f"client_datasets = {type(client_datasets).__name__} is no list with one data set a client")
        if not 1 <= len(client_datasets) <= self.num_clients:
            raise ValueError(
                f"{len(client_datasets)} client_datasets; give 1 to num_clients = {self.num_clients} of them"
            )
        w = self._flat()
        halves = [_halves(f"client_datasets[{i}]", d) for i, d in enumerate(client_datasets)]
        batch = Batch(_piled([h[0] for h in halves], w), _piled([h[1] for h in halves], w))
        f = self._objective(batch.support)
        sent, _ = work(self.algorithm, f, {"model": w}, {}, batch)
        *_, adapted = f.path(w.expand(-1, len(halves), -1), batch.support, self.algorithm.inner_lr, self._steps)
        loss = float(f(adapted, batch.query).mean())
        t, moments = int(self.updates) + 1, {"model": tuple(self.get_buffer(f"moment_{i}") for i in (0, 1))}
        share = len(halves) / self.num_clients
        held, moments = serve(self.algorithm, f, {"model": w}, moments, sent, None, share, t)
        self.updates.fill_(t)
        for i, moment in enumerate(moments["model"]):
            self.get_buffer(f"moment_{i}").copy_(moment)
        _put(self.model, held["model"])
        return loss

    @torch.no_grad()
    def adapt(self, dataset: Any, steps: int | None = None) -> nn.Module:
        """A client's own model: a copy of the meta-model after ``steps`` (None: ``inner_steps``) gradient steps on all
        of its data."""
        steps = self._steps if steps is None else steps
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise ValueError(f"steps = {steps!r} is not a whole number >= 0")
        w, personal = self._flat(), copy.deepcopy(self.model)
        support = _piled([_pair("dataset", dataset)], w)
        *_, adapted = self.algorithm.adapt(self._objective(support), {"model": w}, support, steps)
        _put(personal, adapted)
        return personal

    @property
    def _steps(self) -> int:
        return int(self.algorithm.inner_steps)

    def _flat(self) -> Tensor:
        """(1, 1, P) the trained parameters as they are now."""
        return flat(self.model, lift(self.model).shapes)[None, None].clone()

    def _objective(self, data: Examples) -> Empirical:
        """Of the module as it is now, whose frozen parameters may have been loaded."""
        model, first = lift(self.model), data.map(lambda t: t[:, :1])
        loss = self.loss or (SquaredError() if data.y.dtype.is_floating_point else CrossEntropy())
        try:
            problem = loss.misfit(model(self._flat(), first.x), first.y, data.y)
        except (RuntimeError, IndexError, TypeError, ValueError) as raised:
            raise ValueError(f"the model does not fit the clients' data: {raised}") from raised
        if problem:
            raise ValueError(f"the model does not fit the clients' data: {problem}")
        return Empirical(model, loss)


def _put(module: nn.Module, w: Tensor) -> None:
    """Write w (1, 1, P) into the module's trained parameters."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for p, part in zip(trained, w[0, 0].split([p.numel() for p in trained]), strict=True):
        p.copy_(part.view_as(p))


def _loss(loss: Any) -> Loss | None:
    plain = getattr(loss, "reduction", "mean") == "mean" and getattr(loss, "weight", None) is None
    if loss is None or isinstance(loss, (SquaredError, CrossEntropy)):
        return loss
    if isinstance(loss, nn.MSELoss) and plain:
        return SquaredError()
    if isinstance(loss, nn.CrossEntropyLoss) and plain and not loss.label_smoothing and loss.ignore_index == -100:
        return CrossEntropy()
    raise TypeError(f"loss = {loss!r} is neither nn.MSELoss() nor nn.CrossEntropyLoss(), as they are by default")


def _halves(where: str, data: Any) -> tuple[Pair, Pair]:
    """Support and query set of one client."""
    if isinstance(data, (tuple, list)) and len(data) == 2 and not all(isinstance(t, Tensor) for t in data):
        return _pair(f"the support set of {where}", data[0]), _pair(f"the query set of {where}", data[1])
    if isinstance(data, (tuple, list)) and len(data) == 4 and all(isinstance(t, Tensor) for t in data):
        return _pair(f"the support set of {where}", data[:2]), _pair(f"the query set of {where}", data[2:])
    x, y = _pair(where, data)
    if len(x) < 2:
        raise ValueError(f"{where} has {len(x)} example; a client needs two, one to adapt on and one to be scored on")
    half = (len(x) + 1) // 2
    return (x[:half], y[:half]), (x[half:], y[half:])


def _pair(where: str, data: Any) -> Pair:
    """x (n, ...) and y (n, o) or (n,) int64."""
    try:
        if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(t, Tensor) for t in data):
            x, y = data
        elif isinstance(data, DataLoader):
            batches = list(data)
            x, y = (torch.cat([torch.as_tensor(b[k]) for b in batches]) for k in (0, 1))
        else:
            pairs = [data[i] for i in range(len(data))]
            x, y = (torch.stack([torch.as_tensor(p[k]) for p in pairs]) for k in (0, 1))
    except (TypeError, IndexError, KeyError, RuntimeError, ValueError) as problem:
        raise TypeError(f"{where} is no Dataset, DataLoader or pair of tensors (x, y): {problem}") from problem
    if x.ndim < 1 or y.ndim < 1 or len(x) != len(y) or len(x) < 1:
        raise ValueError(f"{where} has x {tuple(x.shape)} and y {tuple(y.shape)}; both start with the examples")
    if y.dtype.is_floating_point:
        return x, y.reshape(len(y), -1)
    return x, y.reshape(len(y)).long()


def _piled(pairs: list[Pair], w: Tensor) -> Examples:
    """Of C clients (1, C, n, ...), padded to the longest, as w is."""
    shapes = {(x.shape[1:], y.shape[1:], y.dtype.is_floating_point) for x, y in pairs}
    if len(shapes) > 1:
        raise ValueError(f"clients have examples of different shapes: {sorted(map(str, shapes))}")
    n = max(len(x) for x, _ in pairs)
    real = torch.stack([torch.arange(n) < len(x) for x, _ in pairs])[None].to(w.device)

    def pile(ts: list[Tensor]) -> Tensor:
        together = torch.stack([padded(t, n, 0) for t in ts])[None]
        return together.to(w.device, w.dtype if ts[0].is_floating_point() else ts[0].dtype)

    return examples(pile([x for x, _ in pairs]), pile([y for _, y in pairs]), real).map(
        lambda t: t.to(w.dtype) if t.is_floating_point() else t
    )
