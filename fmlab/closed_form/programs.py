"""Gradients, steps, meta-gradients and Hessian products of an ``MLP`` as programs made of ``passes``.

A program is the memory for data of one shape and the calls that fill it. ``Programs`` remembers those used last.

Nobody differentiates through a program, so it is made and run in torch's inference mode, in which a call costs a tenth
less; what it returns is a copy made outside, a tensor like any other.

A step size that differs by parameter cannot be put into the errors: then a step writes h^T e down, with errors that
count -1, and adds it times the step sizes. Layers below the first one whose step sizes are not all 0 stay as they are,
so only the first step goes forward through them and none goes back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate, chain, groupby, repeat
from typing import Any

import torch
from torch import Tensor

from fmlab.closed_form.passes import Calls, Inputs, Pass, Weights, run, views
from fmlab.data import Examples
from fmlab.gradients import Product, StepSize
from fmlab.losses import Loss
from fmlab.models.mlp import MLP

CAPACITY = 12  # programs remembered; a comparison of two algorithms has five
BLOCK = 6 * 2**20  # bytes of one pass, about what a processor's cache holds; clients beyond it wait for the next block


@dataclass(frozen=True)
class Programs:
    """What the closed form of one model and loss can do. Each thread has programs of its own, so that two threads may
    use one object, and remembers the last ``CAPACITY`` until ``forget``."""

    model: MLP
    loss: Loss
    _local: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    def gradient(self, w: Tensor, data: Examples) -> Tensor:
        """(R, C, P), equal to autograd's."""
        program: Gradient = self._program(Gradient, w, data)
        return program.run(w, data)

    def linearize(self, w: Tensor, data: Examples) -> tuple[Tensor, Product]:
        """The gradient (R, C, P) and v (R, C, P) -> Hessian v (R, C, P)."""
        with torch.inference_mode():
            program = Gradient(self, w, data)  # memory of its own: the product may be taken any time later
        return program.run(w, data), program.hessian

    def path(self, w: Tensor, data: Examples, lr: StepSize, steps: int) -> Iterator[Tensor]:
        """The models (R, C, P) after each step. Between two of them anything else may be computed, also other paths."""
        walker = object()
        program: Descent = self._program(Descent, w, data, self._first(lr))
        for _ in range(steps):
            if program.walker is not walker:
                program.start(w, lr, walker=walker)
            program.go(data)
            w = program.w.flat()
            yield w

    def descend(
        self,
        w: Tensor,
        batches: Iterable[Examples],
        lr: StepSize,
        pull: StepSize = 0.0,
        to: Tensor | None = None,
    ) -> Tensor:
        """The models (R, C, P) after a step  v <- v - lr (grad f(v) + pull (v - to))  on each of ``batches``."""
        batches = iter(batches)
        if (batch := next(batches, None)) is None:
            return w
        batches = chain([batch], batches)
        if len(blocks := self._blocks(w, batch)) > 1:
            every = list(batches)
            parts = []
            for block in blocks:
                cuts = {id(data): _cut(data, block) for data in every}
                mine = [cuts[id(data)] for data in every]
                parts.append(self.descend(_cut(w, block), mine, *(_cut(t, block) for t in (lr, pull, to))))
            return torch.cat(parts, 1)
        first, last = self._first(lr), None
        for _, same in groupby(batches, id):
            data, *again = same
            program: Descent = self._program(Descent, w, data, first)
            if program is not last:
                program.start(w if last is None else last.w.flat(), lr, pull, to)
                last = program
            program.go(data, 1 + len(again))
        return w if last is None else last.w.flat()

    def meta_gradient(
        self, w: Tensor, support: Examples, query: Examples, lr: StepSize, steps: int, exact: bool
    ) -> Tensor:
        """d/dw L_query(u) (R, C, P), u the end of ``steps`` steps on the support set; through them if exact."""
        if len(blocks := self._blocks(w, support)) > 1:
            cuts = [(_cut(w, b), _cut(support, b), _cut(query, b), _cut(lr, b)) for b in blocks]
            return torch.cat([self.meta_gradient(*cut, steps, exact) for cut in cuts], 1)
        program: Meta = self._program(Meta, w, support, query, self._first(lr), steps, exact)
        return program.run(w, support, query, lr)

    def meta_gradients(
        self, w: Tensor, support: Examples, query: Examples, lr: Tensor, steps: int, exact: bool
    ) -> tuple[Tensor, Tensor]:
        """The same, and the gradient with respect to lr (..., P): two (R, C, P)."""
        if len(blocks := self._blocks(w, support)) > 1:
            cuts = [(_cut(w, b), _cut(support, b), _cut(query, b), _cut(lr, b)) for b in blocks]
            both = [self.meta_gradients(*cut, steps, exact) for cut in cuts]
            return torch.cat([dw for dw, _ in both], 1), torch.cat([dlr for _, dlr in both], 1)
        program: Meta = self._program(Meta, w, support, query, 0, steps, exact, True)
        return program.run(w, support, query, lr), program.dlr.flat()

    def predictions(self, models: Iterable[Tensor], x: Tensor) -> Iterator[Tensor]:
        """What each of ``models`` (R, C, P) makes of x: (R, C, n, o), equal to the model's own."""
        last: Forward | None = None
        for w in models:
            program: Forward = self._program(Forward, w, Examples(x, x, x))
            yield program.run(w, x, fresh=program is not last)
            last = program

    def _blocks(self, w: Tensor, data: Examples) -> list[slice]:
        """The clients in as few parts of equal size as the cache allows; a device without one takes all at once."""
        runs, clients, n = data.x.shape[:3]
        size = (self._parameters + n * self._activations) * w.element_size() * runs
        if clients * size <= BLOCK or w.device.type != "cpu":
            return [slice(0, clients)]
        width = -(-clients // -(-clients // max(1, BLOCK // size)))
        return [slice(at, at + width) for at in range(0, clients, width)]

    @cached_property
    def _parameters(self) -> int:
        """Of one client's model."""
        return self.model.size

    @cached_property
    def _activations(self) -> int:
        """Numbers that one example takes in a pass: h, z and e of every layer."""
        return 3 * sum(self.model.sizes)

    def _first(self, lr: StepSize) -> int | None:
        """The lowest layer whose parameters move; None where all have the same step size."""
        if not isinstance(lr, Tensor) or lr.shape[-1:] in ((), (1,)):
            return None
        moves = lr.reshape(-1, self.model.size).any(0).int().argmax()
        ends = accumulate((d + 1) * o for d, o in self.model.layers)
        return next(layer for layer, end in enumerate(ends) if moves < end)

    @property
    def remembered(self) -> dict[Any, Any]:
        """This thread's programs, the one used last at the end."""
        return self._local.__dict__

    def _program(self, kind: type, w: Tensor, *arguments: Any) -> Any:
        """The program of this kind for data of these shapes."""
        shapes = tuple(a.x.shape if isinstance(a, Examples) else a for a in arguments)
        key = (kind, w.dtype, w.device, shapes)
        programs = self.remembered
        if (program := programs.pop(key, None)) is None:
            with torch.inference_mode():
                program = kind(self, w, *arguments)
        programs[key] = program
        if len(programs) > CAPACITY:
            del programs[next(iter(programs))]
        return program

    def forget(self) -> None:
        """Give this thread's memory back; the next call makes what it needs anew."""
        self.remembered.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return Programs, (self.model, self.loss)  # a copy has programs of its own


def _cut(value: Any, block: slice) -> Any:
    """Of Examples or a tensor (..., C or 1, .) the clients of one block; what is the same for all stays."""
    if isinstance(value, Examples):
        return value.map(lambda t: t[:, block])
    whole = not isinstance(value, Tensor) or value.ndim < 2 or value.shape[-2] == 1
    return value if whole else value[..., block, :]


class Forward:
    """Predictions."""

    def __init__(self, owner: Programs, w: Tensor, data: Examples) -> None:
        self.model, self.inputs = owner.model, Inputs(owner.model, owner.loss, w, data)
        self.forth = Pass(owner.model, self.inputs)
        self.x: Tensor | None = None

    def run(self, w: Tensor, x: Tensor, fresh: bool) -> Tensor:
        """``fresh``: x may hold other numbers than at the last call."""
        with torch.inference_mode():
            if fresh or x is not self.x:
                self.inputs.x.copy_(x)
                self.x = x
            blocks = views(self.model, w.flatten(0, 1))
            run(self.forth.forward(blocks, range(len(blocks))))
        return self.forth.zs[-1].view(*x.shape[:3], -1).clone()


class Gradient:
    """The gradient at w, and products with the Hessian there."""

    def __init__(self, owner: Programs, w: Tensor, data: Examples) -> None:
        self.w, self.g, self.v, self.hv = (Weights(owner.model, data.x.shape[:2], w) for _ in range(4))
        self.inputs = Inputs(owner.model, owner.loss, w, data)
        here = Pass(owner.model, self.inputs, lasting=True)
        self.calls = here.slopes(self.w.blocks) + here.outer(self.g.blocks)
        self.product: Calls = [t.zero_ for t in self.hv.blocks]
        self.product += here.add_hessian(self.w.blocks, self.v.blocks, self.hv.blocks)

    def run(self, w: Tensor, data: Examples) -> Tensor:
        with torch.inference_mode():
            self.w.load(w)
            self.inputs.load(data, -1.0)
            run(self.calls)
        return self.g.flat()

    def hessian(self, v: Tensor) -> Tensor:
        with torch.inference_mode():
            self.v.load(v)
            run(self.product)
        return self.hv.flat()


class Descent:
    """Gradient steps on models ``w`` that move in place. ``first``: see ``Programs._first``."""

    def __init__(self, owner: Programs, w: Tensor, data: Examples, first: int | None) -> None:
        clients, low = data.x.shape[:2], first or 0
        self.w = Weights(owner.model, clients, w)
        self.rates = None if first is None else Weights(owner.model, clients, w)
        g = self.rates and Weights(owner.model, clients, w)
        self.inputs = Inputs(owner.model, owner.loss, w, data)
        walk = Pass(owner.model, self.inputs, low)
        self.body = walk.forward(self.w.blocks, range(low))
        self.slopes = walk.slopes(self.w.blocks, low)
        self.add = walk.step(self.w, self.w, self.rates, g)
        self.low, self.walker = low, object()

    def start(
        self, w: Tensor, lr: StepSize, pull: StepSize = 0.0, to: Tensor | None = None, walker: object = None
    ) -> None:
        """walker: whose path this is."""
        self.walker = walker
        self.data: Examples | None = None  # what is loaded; from an earlier descent it may be stale
        with torch.inference_mode():
            self.w.load(w)
            self.pulls = [] if to is None else self._pulls(lr * pull, to)
            self.lr = _errors(lr, self.rates)

    def _pulls(self, share: StepSize, to: Tensor) -> list[tuple[Tensor, Tensor, StepSize]]:
        """Which part of every layer that moves goes to what, by which share of the way."""
        sizes = self.w.sizes
        parts: Iterable[StepSize] = repeat(share)
        if self.rates is not None and isinstance(share, Tensor):
            parts = share.to(to).split_with_sizes(sizes, -1)
        return list(zip(self.w.rows, to.split_with_sizes(sizes, -1), parts, strict=False))[self.low :]

    def go(self, data: Examples, steps: int = 1) -> None:
        with torch.inference_mode():
            if data is not self.data:
                self.inputs.load(data, self.lr)
                run(self.body)
                self.data = data
            for _ in range(steps):
                run(self.slopes)
                for row, to, share in self.pulls:
                    row.lerp_(to, share)
                run(self.add)


class Meta:
    """Through ``steps`` gradient steps and back: v_K = grad L_query(u_K), v_k = v_{k+1} - H(u_k) (lr v_{k+1}).

    ``rated``: also d/d lr = - sum_k grad L_support(u_k) * v_{k+1}. The errors of a step bear the factor -lr, or -1
    where the step sizes differ by parameter, so its Hessian product does too.
    """

    def __init__(
        self, owner: Programs, w: Tensor, support: Examples, query: Examples,
        first: int | None, steps: int, exact: bool, rated: bool = False,
    ) -> None:  # fmt: skip
        model, clients, low = owner.model, support.x.shape[:2], first or 0

        def weights(below: Sequence[Tensor] = ()) -> Weights:
            return Weights(model, clients, w, below)

        self.support, self.query = (Inputs(model, owner.loss, w, data) for data in (support, query))
        self.u, self.v = weights(), weights()
        self.rates = None if first is None else weights()
        self.calls: Calls = []
        u, walk, g = self.u, Pass(model, self.support, low, exact), self.rates and weights()
        way = []
        for k in range(steps):
            if exact and k > 0:
                walk = Pass(model, self.support, low, exact, walk)
            after = weights(self.u.blocks[:low]) if exact else u
            g = weights() if rated else g
            self.calls += walk.slopes(u.blocks, low if k else 0) + walk.step(u, after, self.rates, g)
            way.append((u, walk, g))
            u = after
        end = Pass(model, self.query)
        self.calls += end.slopes(u.blocks) + end.outer(self.v.blocks)
        if rated:
            self.dlr = weights()
            self.calls += [row.zero_ for row in self.dlr.rows]
        ahead = weights() if self.rates else self.v
        for u, walk, g in reversed(way):
            if rated and g:
                pairs = zip(g.rows, self.v.rows, strict=True)
                self.calls += [partial(d.addcmul_, *pair) for d, pair in zip(self.dlr.rows, pairs, strict=True)]
            if exact and self.rates:
                pairs = zip(self.rates.rows, self.v.rows, strict=True)
                self.calls += [partial(torch.mul, *pair, out=t) for t, pair in zip(ahead.rows, pairs, strict=True)]
            if exact:
                self.calls += walk.add_hessian(u.blocks, ahead.blocks, self.v.blocks)

    def run(self, w: Tensor, support: Examples, query: Examples, lr: StepSize) -> Tensor:
        with torch.inference_mode():
            self.u.load(w)
            self.support.load(support, _errors(lr, self.rates))
            self.query.load(query, -1.0)
            run(self.calls)
        return self.v.flat()


def _errors(lr: StepSize, rates: Weights | None) -> StepSize:
    """What a step's errors count, with the sign turned: lr, or 1 where the step sizes go into ``rates``."""
    if rates is None:
        return lr
    rates.load(torch.as_tensor(lr))
    return 1.0
