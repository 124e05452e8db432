"""FedMA, federated matched averaging (Wang et al. 2020, 2002.06440, Alg. 1, with communication). A round has one
exchange for every layer l = 0, 1, ...:

    on client i   v = w; for l > 0 only v_{l-1} = w_{l-1}, and inputs of v_l go where the units of v_{l-1} went
                  K times:  v <- v - eta grad f_i(v),  the layers below l frozen;  sends v_l
    server        w_l = mean of the units matched to each place, by BBP-MAP; last layer: the mean (paper: by class)

BBP-MAP decides places only: the mean is the plain weighted one, so permuted copies of a network average to it. Units
without a match are added up to ``growth`` times the width; empty places are zeros. A client finds its units in w_l
itself, at the nearest places, which may not be the server's where two are about as near. It starts a round from all of
w, the authors' from as many units as it had, and sends weights, no change: clipping spoils them. Unseen: fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm, weighted_mean
from fmlab.data import Batch, Examples, Tree
from fmlab.declare import hyper
from fmlab.layers import grown, shrunk
from fmlab.matching import carried, matched_mean
from fmlab.objective import Objective
from fmlab.optimisers import SGD, Optimiser


@dataclass(frozen=True)
class FedMA(Algorithm):
    local_steps: int = fields.local_steps()
    lr: float = fields.step_size("η", "client step size")
    adapt_lr: float = fields.adaptation("α", "fine-tuning step size on unseen clients")
    growth: float = hyper(1.25, symbol="G", low=1.0, high=4.0, sweepable=False, text="most hidden units, as a factor")
    sigma0: float = hyper(1.0, symbol="σ0", low=1e-3, high=1e3, log=True, text="spread of global units")
    sigma: float = hyper(1.0, symbol="σ", low=1e-3, high=1e3, log=True, text="spread of clients' units around them")
    gamma: float = hyper(1.0, symbol="γ", low=1e-6, high=1e6, log=True, text="mass of units not yet matched")
    batch_size: int | None = fields.batch_size()
    learned: ClassVar[tuple[str, ...]] = ()
    averages: ClassVar[bool] = False
    server: ClassVar[Optimiser] = SGD()  # no choice here: it is never asked to step

    def objective(self, f: Objective) -> Objective:
        return f.resized([grown(n, self.growth) for n in f.chain.hidden])

    def phases(self, f: Objective) -> int:
        return len(f.chain.layers)

    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        w = f.chain.place(f.resized([shrunk(n, self.growth) for n in f.chain.hidden]).chain, w)
        return f.chain.split(w), {"own": w}

    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        n, name = batch.phase, f.chain.names[batch.phase]
        v = carried(f.chain, n, kept["own"], held)
        lr = self.lr * f.chain.above(n, v)
        v = f.descend(v, lambda k: batch.minibatch(k, self.batch_size), lr, self.local_steps)
        return {name: f.chain.split(v)[name]}, {"own": v}

    def combine(self, f: Objective, held: Tree, sent: Tree, weight: Tensor | None) -> Tree:
        ((name, part),) = sent.items()
        if name == f.chain.names[-1]:
            return weighted_mean(sent, weight)
        layer, spread = f.chain.layers[f.chain.names.index(name)], (self.sigma0, self.sigma, self.gamma)
        return {name: matched_mean(layer, part, held[name], weight, *spread)}

    def absorb(self, held: Tree, mean: Tree, share: float | Tensor) -> Tree:
        return held | mean

    def received(self, held: Tree, sent: Tree, phase: int) -> list[str]:
        return list(held)[phase - 1 : phase] if phase else list(held)

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        return f.path(f.chain.join(held), support, self.adapt_lr, steps)

    def evaluations(self) -> int:
        return self.local_steps
