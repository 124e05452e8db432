"""Gradient steps, meta-gradients and Hessian-vector products of ``MLP`` in closed form: programs made of ``passes``.

A program is the memory for data of one shape and the calls that fill it. ``Backprop`` keeps one for each shape.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fmlab.data import Examples
from fmlab.gradients import Product
from fmlab.losses import Loss
from fmlab.models.mlp import MLP
from fmlab.models.passes import Calls, Memory, Weights, run, views

KEPT = 12  # programs; a comparison of two algorithms has five
Steps = Iterable[tuple[Examples, Any]]  # what each gradient step descends, and its size: a number or (R, 1, 1)


@dataclass(frozen=True)
class Backprop:
    """The programs used last are kept for each thread, so two threads may use one object, until ``forget``."""

    model: MLP
    loss: Loss
    _kept: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    def gradient(self, w: Tensor, data: Examples) -> Tensor:
        """(R, C, P), equal to autograd's."""
        program: Gradient = self._program(Gradient, w, data)
        return program.run(w, data)

    def linearize(self, w: Tensor, data: Examples) -> tuple[Tensor, Product]:
        """The gradient (R, C, P) and v (R, C, P) -> Hessian v (R, C, P)."""
        program = Gradient(self, w, data)  # memory of its own: the product may be taken any time later
        return program.run(w, data), program.hessian

    def path(self, w: Tensor, steps: Steps) -> Iterator[Tensor]:
        """The models (R, C, P) after each step. Between two of them anything else may be computed, also other paths."""
        last, mine = None, object()
        for data, eta in steps:
            program: Descent = self._program(Descent, w, data)
            if program is not last or program.walker is not mine:
                program.start(w, mine)
                last = program
            program.step(data, eta)
            w = program.w.flat(w.shape[:2])
            yield w

    def descend(self, w: Tensor, steps: Steps, pull: Any = None, to: Tensor | None = None) -> Tensor:
        """The models (R, C, P) after all steps  v <- v - eta (grad f(v) + pull (v - to))."""
        last: Descent | None = None
        for data, eta in steps:
            program: Descent = self._program(Descent, w, data)
            if program is not last:
                program.start(w if last is None else last.w.flat(w.shape[:2]))
                last = program
            program.step(data, eta, pull, to)
        return w if last is None else last.w.flat(w.shape[:2])

    def meta_gradient(self, w: Tensor, support: Examples, query: Examples, etas: list[Any], exact: bool) -> Tensor:
        """d/dw L_query(u) (R, C, P), u the end of steps of sizes ``etas`` on the support set; through them if exact."""
        program: Meta = self._program(Meta, w, support, query, len(etas), exact)
        return program.run(w, support, query, etas)

    def predictions(self, models: Iterable[Tensor], x: Tensor) -> Iterator[Tensor]:
        """What each of ``models`` (R, C, P) makes of x: (R, C, n, o), equal to the model's own."""
        last: Forward | None = None
        for w in models:
            program: Forward = self._program(Forward, w, Examples(x, x, x))
            yield program.run(w, x, fresh=program is not last)
            last = program

    def _program(self, kind: type, w: Tensor, *shape: Any) -> Any:
        """The calls and memory of one kind for data of this shape."""
        shapes = tuple(s.x.shape if isinstance(s, Examples) else s for s in shape)
        key = (kind, w.dtype, w.device, shapes)
        programs: dict[Any, Any] = self._kept.__dict__
        program = programs.pop(key, None) or kind(self, w, *shape)
        programs[key] = program  # the last one used stands last
        if len(programs) > KEPT:
            del programs[next(iter(programs))]
        return program

    def forget(self) -> None:
        """Give this thread's memory back; the next call makes what it needs anew."""
        self._kept.__dict__.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return Backprop, (self.model, self.loss)  # a copy has programs of its own


class Forward:
    """Predictions."""

    def __init__(self, owner: Backprop, w: Tensor, data: Examples) -> None:
        self.model, self.memory = owner.model, Memory(owner.model, owner.loss, w, data)
        self.x: Tensor | None = None

    def run(self, w: Tensor, x: Tensor, fresh: bool) -> Tensor:
        """``fresh``: x may hold other numbers than at the last call."""
        if fresh or x is not self.x:
            self.memory.look_at(x)
            self.x = x
        run(self.memory.forward(views(self.model, w.flatten(0, 1))))
        return self.memory.p.view(*x.shape[:3], -1).clone()


class Gradient:
    """The gradient at w, and products with the Hessian there."""

    def __init__(self, owner: Backprop, w: Tensor, data: Examples) -> None:
        clients = data.x.shape[:2].numel()
        self.w, self.g, self.v, self.hv = (Weights(owner.model, clients, w) for _ in range(4))
        self.memory = Memory(owner.model, owner.loss, w, data)
        self.calls = self.memory.forward(self.w.blocks) + self.memory.backward(self.w.blocks)
        self.add = self.memory.add(self.g.blocks, self.g.blocks)
        self.product = self.memory.add_hessian(self.w.blocks, self.v.blocks, self.hv.blocks)

    def run(self, w: Tensor, data: Examples) -> Tensor:
        self.w.load(w)
        self.memory.load(data)
        self.memory.weigh(data)
        for t in self.g.tensors:
            t.zero_()
        run(self.calls + self.add)
        return self.g.flat(w.shape[:2])

    def hessian(self, v: Tensor) -> Tensor:
        self.v.load(v)
        for t in self.hv.tensors:
            t.zero_()
        run(self.product)
        return self.hv.flat(v.shape[:2])


class Descent:
    """Gradient steps on models ``w`` that move in place."""

    def __init__(self, owner: Backprop, w: Tensor, data: Examples) -> None:
        clients = data.x.shape[:2].numel()
        self.w = Weights(owner.model, clients, w)
        self.memory = Memory(owner.model, owner.loss, w, data)
        self.slopes = self.memory.forward(self.w.blocks) + self.memory.backward(self.w.blocks)
        self.add = self.memory.add(self.w.blocks, self.w.blocks)

    def start(self, w: Tensor, walker: object = None) -> None:
        self.w.load(w)
        self.walker = walker  # whose path this is
        self.data: Examples | None = None  # what is loaded; from an earlier descent it may be stale
        self.eta: Any = None

    def step(self, data: Examples, eta: Any, pull: Any = None, to: Tensor | None = None) -> None:
        if data is not self.data:
            self.memory.load(data)
        if data is not self.data or eta is not self.eta:
            self.memory.weigh(data, eta)
        self.data, self.eta = data, eta
        run(self.slopes)
        if to is not None:
            for row, part in zip(self.w.rows, to.split_with_sizes(self.w.sizes, -1), strict=True):
                own = row.view(part.shape)
                own.lerp_(part, eta * pull)
        run(self.add)


class Meta:
    """Through ``steps`` gradient steps and back: v_K = grad L_query(u_K), v_k = v_{k+1} - H(u_k) (eta_k v_{k+1}).

    The errors of a step bear the factor -eta, so its Hessian product does too.
    """

    def __init__(self, owner: Backprop, w: Tensor, support: Examples, query: Examples, steps: int, exact: bool) -> None:
        clients = support.x.shape[:2].numel()
        self.memories = [Memory(owner.model, owner.loss, w, support) for _ in range(steps)]
        self.query = Memory(owner.model, owner.loss, w, query)
        self.us = [Weights(owner.model, clients, w) for _ in range(steps + 1)]
        self.v = Weights(owner.model, clients, w)
        self.calls: Calls = []
        for m, u, after in zip(self.memories, self.us, self.us[1:], strict=False):
            self.calls += m.forward(u.blocks) + m.backward(u.blocks) + m.add(u.blocks, after.blocks)
        u = self.us[-1]
        self.calls += self.query.forward(u.blocks) + self.query.backward(u.blocks)
        self.calls += [t.zero_ for t in self.v.tensors] + self.query.add(self.v.blocks, self.v.blocks)
        if exact:
            for m, u in reversed(list(zip(self.memories, self.us, strict=False))):
                self.calls += m.add_hessian(u.blocks, self.v.blocks, self.v.blocks)

    def run(self, w: Tensor, support: Examples, query: Examples, etas: list[Any]) -> Tensor:
        self.us[0].load(w)
        self.query.load(query)
        self.query.weigh(query)
        for m, eta in zip(self.memories, etas, strict=True):
            m.load(support)
            m.weigh(support, eta)
        run(self.calls)
        return self.v.flat(w.shape[:2])
