"""The result of a comparison: tensors by method, a table, and everything needed to run it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fmlab.data import Clients
from fmlab.declare import pick, spread, sweep_length
from fmlab.evaluation import Scores, evaluate
from fmlab.gradients import descend
from fmlab.populations import Population
from fmlab.setup import Setup

if TYPE_CHECKING:
    import pandas

# Step sizes of local-only training. 0.05 and 0.1 are left out: on sines they stand at the edge of divergence, where the
# end depends on the last digit of every number.
LOCAL_STEPS, LOCAL_GRID = 100, (0.005, 0.02, 0.5)
ByMethod = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Study:
    """Tensors by method. Where an algorithm is swept, an axis of its values stands in front of the seeds'.

    adaptation:            (seeds, unseen clients, steps + 1) query loss after 0..steps adaptation steps
    accuracy:              the same for classification; empty for regression
    learning:              (seeds, evaluations, steps + 1) mean loss of the unseen clients, at ``rounds``
    personal:              (seeds, N) query loss of the models that clients keep, for methods that keep one
    bytes_up, gradient_evaluations: ([values, 1,] evaluations) so far in one run, all clients together
    diverged:              (seeds,) the round at which the server's or a kept model stopped being finite, -1: never
    servers:               (seeds, 1, Q) the server's models
    """

    setup: Setup = field(repr=False)
    rounds: Tensor
    adaptation: ByMethod
    accuracy: ByMethod
    learning: ByMethod
    learning_accuracy: ByMethod
    personal: ByMethod
    bytes_up: ByMethod
    gradient_evaluations: ByMethod
    diverged: ByMethod
    servers: ByMethod
    seconds: float

    def __repr__(self) -> str:
        return f"Study({', '.join(self.names)}; {self.population}; {int(self.rounds[-1])} rounds)"

    @property
    def config(self) -> dict[str, Any]:
        """Every argument, step sizes resolved: ``fm.compare(**study.config)`` gives the same tensors."""
        return dict(self.setup.config)

    @property
    def names(self) -> list[str]:
        return list(self.adaptation)

    @property
    def population(self) -> Population:
        return self.setup.population

    @property
    def unseen(self) -> Clients:
        """The unseen clients' support and query sets (seeds, clients, n, ...)."""
        return self.setup.unseen

    @property
    def history(self) -> ByMethod:
        """(seeds, evaluations) mean query loss of unseen clients after all adaptation steps."""
        return {name: t[..., -1] for name, t in self.learning.items()}

    @property
    def bytes(self) -> ByMethod:
        """Bytes up and down; the server sends as much as it receives."""
        return {name: 2 * up for name, up in self.bytes_up.items()}

    @cached_property
    def _participating(self) -> dict[str, Scores]:
        scores = {}
        for name, algorithm in self.setup.algorithms.items():
            n_seeds = len(self.setup.config["seeds"])
            wide = spread(algorithm, n_seeds, self.setup.start.dtype, self.setup.start.device)
            server = self.servers[name].flatten(0, -3)
            scores[name] = evaluate(wide, self.setup.objective, server, self.setup.participating, self.steps)
        return scores

    @property
    def participating(self) -> ByMethod:
        """As ``adaptation``, on all participating clients, scored on fresh query examples; computed when first read."""
        return {n: s.loss.unflatten(0, self.servers[n].shape[:-2]) for n, s in self._participating.items()}

    @property
    def steps(self) -> int:
        return int(self.setup.config["steps"])

    @cached_property
    def _baselines(self) -> dict[str, tuple[Tensor, Tensor | None]]:
        return baselines(self.setup)

    @cached_property
    def trivial_loss(self) -> float | None:
        """Mean over unseen clients and seeds; without the local-only training that ``baselines`` takes time for."""
        found = trivial(self.setup)
        return float(found["trivial"][0].mean()) if found else None

    def find_baselines(self, between: Callable[[], object]) -> None:
        """Compute ``baselines`` now; ``between()`` is called every ten steps, and what it raises ends it."""
        if "_baselines" not in self.__dict__:
            self.__dict__["_baselines"] = baselines(self.setup, between)

    @property
    def baselines(self) -> ByMethod:
        """(seeds, unseen clients) query loss of the "trivial" predictor and of training "local only"."""
        return {name: loss for name, (loss, _) in self._baselines.items()}

    @property
    def baseline_accuracy(self) -> ByMethod:
        return {name: hits for name, (_, hits) in self._baselines.items() if hits is not None}

    @torch.no_grad()
    def adapted(self, name: str, seed: int = 0, client: int = 0, value: int = 0) -> Tensor:
        """(steps + 1, P) models of one unseen client after 0..steps adaptation steps.

        ``seed`` and ``value`` count from 0 in the order given to ``compare`` and ``sweep``.
        """
        algorithm = self.setup.algorithms[name]
        server = self.servers[name]
        w = (server[value, seed] if sweep_length(algorithm) > 1 else server[seed])[None]
        ids = torch.tensor([[client]] * len(self.setup.config["seeds"]), device=w.device)
        support = self.unseen.take(ids)[0].map(lambda t: t[seed : seed + 1])
        models = pick(algorithm, value).adapt(self.setup.objective, w, support, self.steps)
        return torch.stack([m[0, 0] for m in models])

    @torch.no_grad()
    def predict(self, name: str, x: Tensor, seed: int = 0, client: int = 0, value: int = 0) -> Tensor:
        """x (n, d...) -> predictions (steps + 1, n, outputs) of one unseen client's models after 0..steps steps."""
        w = self.adapted(name, seed, client, value)[None]
        p: Tensor = self.setup.model(w, x.to(w)[None, None].expand(1, w.shape[1], *x.shape))
        return p[0]

    def table(self) -> str:
        """One row a method: loss or accuracy before and after adaptation on unseen clients, mean +- spread over
        seeds; share of clients that adaptation hurts; megabytes and gradient evaluations of one run."""
        from fmlab.export import table

        return table(self)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row a method, swept value, seed, unseen client and adaptation step."""
        from fmlab.export import to_dataframe

        return to_dataframe(self)

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``tensors.npz`` (no pickle) into ``folder``; ``fm.load`` reads them."""
        from fmlab.export import save

        save(self, folder)


@torch.no_grad()
def trivial(setup: Setup) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Loss and accuracy on unseen clients of the predictor that learns nothing, where the objective has one."""
    f = setup.objective
    return {"trivial": f.trivial(*setup.unseen.everyone())} if hasattr(f, "trivial") else {}


@torch.no_grad()
def baselines(setup: Setup, between: Callable[[], object] = lambda: None) -> dict[str, tuple[Tensor, Tensor | None]]:
    """``trivial``, and loss and accuracy on unseen clients of local-only training: LOCAL_STEPS gradient steps from a
    fresh model on the support set, the step size validated."""
    f = setup.objective
    found = trivial(setup)

    def local(clients: Clients, lr: float) -> tuple[Tensor, Tensor | None]:
        support, query = clients.everyone()
        w = setup.start[:, None].expand(-1, clients.number, -1)
        for _ in range(LOCAL_STEPS // 10):
            between()
            w = descend(f, w, support, lr, 10)
        return next(f.scores([w], query))

    losses = [local(setup.validation, lr)[0].mean().nan_to_num(float("inf")).item() for lr in LOCAL_GRID]
    found["local only"] = local(setup.unseen, LOCAL_GRID[losses.index(min(losses))])
    return found
