"""What a client reaches without the federation, to set beside the methods: the predictor that learns nothing, and
training alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fmlab.data import Clients
from fmlab.setup import Setup
from fmlab.tuning import GRID, Step, best_of, rank

LOCAL_STEPS = 100


@torch.no_grad()
def baselines(setup: Setup, between: Callable[[], object] = lambda: None) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Loss and accuracy (S, N) on unseen clients of the trivial predictor, where there is one, and of local-only
    training: LOCAL_STEPS gradient steps from a fresh model on the support set, by the step size of the methods' own
    grid that is best on validation clients.

    Local-only training is computed in float64 whatever the study's dtype: so many steps on few examples multiply
    rounding errors until these choose the step size where validation clients find two equally good.

    ``between()`` is called every ten steps; what it raises ends it.
    """
    found = {} if setup.trivial is None else {"trivial": setup.trivial}
    dtype = setup.config["dtype"]
    setup = setup if dtype == torch.float64 else Setup(setup.config | {"dtype": torch.float64})
    f = setup.objective

    def local(clients: Clients, lr: float) -> tuple[Tensor, Tensor | None]:
        support, query = clients.everyone()
        w = setup.start[:, None].expand(-1, clients.number, -1)
        for _ in range(LOCAL_STEPS // 10):
            between()
            w = f.descend(w, support, lr, 10)
        return next(f.scores([w], query))

    losses = torch.stack([local(setup.validation, lr)[0] for lr in GRID])
    scores: list[Step[float]] = list(zip(rank(losses, setup.useless).tolist(), range(len(GRID)), GRID, strict=True))
    lr, _ = best_of(scores, setup.useless)
    loss, hits = local(setup.unseen, lr)
    found["local only"] = loss.to(dtype), None if hits is None else hits.to(dtype)
    setup.forget()
    return found
