"""Synthetic(alpha, beta): softmax models drawn client by client (Li et al. 2018, 1812.06127, section 5.1; here as in
pFedMe, 2006.08848: 100 clients, five times the examples). 60 features, 10 classes. At heterogeneity 1, client k:

    n_k = 5 (floor(LogNormal(4, 2)) + 50),   u_k ~ N(0, alpha),   B_k ~ N(0, beta),   v_k ~ N(B_k, 1) in R^60,
    W_k, b_k ~ N(u_k, 1),   x ~ N(v_k, diag(j^-1.2)),   y = argmax(W_k x + b_k)

N(mean, standard deviation): alpha and beta are STANDARD DEVIATIONS here, as in the public code; the papers write them
as variances. Note that alpha = beta = 0 still gives every client its own model. At heterogeneity h:

    u_k = h alpha a_k,   W_k = u_k + sqrt(1 - h^2) W_0 + h E_k   (b_k alike),
    B_k = h beta c_k,    v_k = B_k + sqrt(1 - h^2) v_0 + h e_k,  a, c, E, e, W_0, v_0 standard normal

so every entry keeps its variance around the client's mean, and h = 0 is one model and one distribution of x for all.
Sizes n_k differ at every h. They weigh the server's mean with weights="size"; of client k's n_k examples it holds a
random ``support`` + ``query`` (fewer where n_k is smaller: padded with weight 0). Sizes of training clients come from
NumPy's legacy stream, as published: seed 0 gives 205,795 examples. Unseen clients are drawn likewise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fmlab.data import Clients, Examples, examples
from fmlab.declare import hyper
from fmlab.losses import CrossEntropy
from fmlab.models import Model, softmax
from fmlab.objective import Empirical
from fmlab.populations.base import Population
from fmlab.randomness import generator, normal

FEATURES, CLASSES = 60, 10


@dataclass(frozen=True)
class Synthetic(Population):
    n_clients: int = hyper(100, symbol="N", low=1, high=10**5, whole=True, text="clients that may take part")
    alpha: float = hyper(0.5, symbol="α", low=0.0, high=10.0, text="standard deviation of the models' means")
    beta: float = hyper(0.5, symbol="β", low=0.0, high=10.0, text="standard deviation of the inputs' means")
    heterogeneity: float = hyper(1.0, symbol="h", low=0.0, high=1.0, text="0: one model, one input law; 1: published")
    support: int = hyper(20, symbol="n_S", low=1, high=1000, whole=True, text="examples a client adapts on, at most")
    query: int = hyper(20, symbol="n_Q", low=1, high=1000, whole=True, text="examples it is scored on in training")
    test: int = hyper(50, symbol="n_T", low=1, high=1000, whole=True, text="examples an unseen client is scored on")

    def sizes(self, split: str, seed: int) -> Tensor:
        """How many examples each client has (N,) int64, at least 250."""
        training = split in ("training", "participating")
        legacy = seed if training else generator("sizes", seed, split).initial_seed()
        drawn = np.random.RandomState(legacy % 2**32).lognormal(4, 2, self.count(split))
        return torch.from_numpy((drawn.astype(np.int64) + 50) * 5)

    def laws(self, split: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """W (N, 60, 10), b (N, 10) and the mean of x, v (N, 60), of every client."""
        who, n, h = "training" if split == "participating" else split, self.count(split), self.heterogeneity
        shared = (1 - h * h) ** 0.5
        means = h * normal((n, 2), "means", seed, who)
        own = normal((n, FEATURES + 1, CLASSES), "own models", seed, who)
        common = normal((FEATURES + 1, CLASSES), "common model", seed)
        model = self.alpha * means[:, :1, None] + shared * common + h * own
        own_v, common_v = normal((n, FEATURES), "own inputs", seed, who), normal((FEATURES,), "common inputs", seed)
        return model[:, :-1], model[:, -1], self.beta * means[:, 1:] + shared * common_v + h * own_v

    def draw(self, split: str, seed: int) -> Clients:
        w, b, v = self.laws(split, seed)
        sizes, who = self.sizes(split, seed), "training" if split == "participating" else split
        scale = torch.arange(1, FEATURES + 1, dtype=torch.float64) ** -0.6

        def sample(part: str, of: str, number: int, held: Tensor) -> Examples:
            x = v[:, None] + scale * normal((len(v), number, FEATURES), f"synthetic {part}", seed, of)
            y = (x @ w + b[:, None]).argmax(-1)
            return examples(x[None], y[None], (torch.arange(number) < held[:, None])[None])

        share = sizes * self.support // (self.support + self.query)
        support = sample("support", who, self.support, share.clamp(min=1))
        if split == "training":
            query = sample("query", who, self.query, (sizes - share).clamp(min=1))
        else:
            query = sample("test", split, self.test, sizes)
        return Clients(support, query, sizes.to(torch.float64)[None])

    def model(self) -> Model:
        """The papers' softmax regression, 610 parameters; ``fm.MLP((60, 20, 10))`` is their network."""
        return softmax(FEATURES, CLASSES)

    def objective(self, model: Model | None) -> Empirical:
        return Empirical(model or self.model(), CrossEntropy())
