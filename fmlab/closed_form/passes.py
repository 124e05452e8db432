"""The passes through ``MLP`` and back, in closed form, for all clients at once, as calls on fixed memory.

With h_0 = x, z_l = (h_{l-1}, 1) W_l, h_l = relu(z_l), and the error e_l = d loss / d z_l:

    e_{l-1} = (e_l W_l^T) * (z_{l-1} > 0),    d loss / d W_l = (h_{l-1}, 1)^T e_l

The bias is the last row of W_l, so a column of ones beside h makes it part of every product. All is linear in the last
error. So a step of size eta scales that one by -eta and adds the products to the weights where they stand: the
gradient itself is never written down. The Hessian-vector product differentiates the lines above once more in a
direction v (Pearlmutter 1994).

With a few clients the time goes into calling torch, not into arithmetic. So each formula is a function that returns
*calls*, put together once for each shape of data and made again in every step of every round. B = R * C clients of n
examples; layer l has the block W (B, d + 1, o).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from fmlab.data import Examples
from fmlab.losses import Loss
from fmlab.models.mlp import MLP

Calls = list[Callable[[], object]]


def run(calls: Calls) -> None:
    for call in calls:
        call()


class Weights:
    """A number for each parameter of each client, (R, C, P), layer by layer in memory that stays.

    ``below``: the first blocks, where they are another's.
    """

    def __init__(self, model: MLP, clients: torch.Size, like: Tensor, below: Sequence[Tensor] = ()) -> None:
        self.sizes = [(d + 1) * o for d, o in model.layers]
        self.rows = [like.new_empty(*clients, size) for size in self.sizes]
        self.blocks = [row.view(-1, d + 1, o) for row, (d, o) in zip(self.rows, model.layers, strict=True)]
        self.blocks[: len(below)] = below

    def load(self, w: Tensor) -> None:
        """From (..., P)."""
        for row, part in zip(self.rows, w.split_with_sizes(self.sizes, -1), strict=True):
            row.copy_(part)

    def flat(self) -> Tensor:
        """(R, C, P), a copy."""
        return torch.cat(self.rows, -1)


def views(model: MLP, flat: Tensor) -> list[Tensor]:
    """The blocks inside flat models (B, P)."""
    parts = flat.split_with_sizes([(d + 1) * o for d, o in model.layers], 1)
    return [part.unflatten(1, (d + 1, o)) for part, (d, o) in zip(parts, model.layers, strict=True)]


class Inputs:
    """Examples as the passes take them: x beside ones, and the constants of the loss's slope."""

    def __init__(self, model: MLP, loss: Loss, w: Tensor, data: Examples) -> None:
        shape, outputs = data.x.shape[:3], model.sizes[-1]
        self.loss, self.factor = loss, loss.factor(outputs)
        ones = w.new_ones(*shape, model.sizes[0] + 1)
        self.h, self.x = ones.flatten(0, 1), ones[..., :-1].unflatten(-1, data.x.shape[3:])
        self.scale, self.shift = w.new_empty(*shape, 1), w.new_empty(*shape, outputs)
        self.weight = self.scale[..., 0]
        self.spare = [w.new_empty(*self.h.shape[:2], o) for o in model.sizes[1:]]  # for what is read at once

    def load(self, data: Examples, lr: float | Tensor = -1.0) -> None:
        """Errors are to count -lr times what they weigh; lr is a number or (R, 1, 1)."""
        self.x.copy_(data.x)
        torch.mul(data.weight, -lr * self.factor, out=self.weight)
        self.loss.shift(data.y, self.scale, self.shift)

    @cached_property
    def dhs(self) -> list[Tensor]:
        """Memory for the change of every h in one Hessian product after the other, beside zeros."""
        return [z.new_zeros(*z.shape[:2], z.shape[2] + 1) for z in self.spare[:-1]]


class Pass:
    """One way forward and back.

    ``first``: the lowest layer that moves. ``lasting``: what it leaves in memory stays, for a Hessian product there;
    e takes the place of z, as h > 0 tells what z > 0 did. ``like``: an earlier pass over the same inputs, to which
    belongs what lies below the first layer that moves.
    """

    def __init__(
        self, model: MLP, inputs: Inputs, first: int = 0, lasting: bool = False, like: Pass | None = None
    ) -> None:
        b, n, _ = inputs.h.shape
        self.inputs, self.first, self.last = inputs, first, len(model.layers) - 1
        self.hs = [inputs.h, *(inputs.h.new_ones(b, n, o + 1) for o in model.sizes[1:-1])]  # beside ones
        self.zs = [inputs.h.new_empty(b, n, o) for o in model.sizes[1:]]
        self.es = [*(self.zs if lasting else inputs.spare)[:-1], torch.empty_like(self.zs[-1])]
        if like is not None:
            self.hs[: first + 1] = like.hs[: first + 1]

    def forward(self, w: list[Tensor], layers: range) -> Calls:
        calls: Calls = []
        for layer in layers:
            calls += _times(self.hs[layer], w[layer], self.zs[layer])
            if layer < self.last:
                calls.append(partial(torch.clamp_min, self.zs[layer], 0, out=self.hs[layer + 1][..., :-1]))
        return calls

    def backward(self, w: list[Tensor]) -> Calls:
        loss, scale = self.inputs.loss, self.inputs.scale.flatten(0, 1)
        calls: Calls = [partial(loss.slope, self.zs[-1], scale, self.inputs.shift.flatten(0, 1), self.es[-1])]
        for layer in range(self.last, self.first, -1):
            e = self.inputs.spare[layer - 1]
            calls += _back(self.es[layer], w[layer], e) + _mask(e, self.zs[layer - 1], self.es[layer - 1])
        return calls

    def slopes(self, w: list[Tensor], start: int = 0) -> Calls:
        """Forward and back; ``start``: the lowest layer whose input or weights are new."""
        return self.forward(w, range(start, self.last + 1)) + self.backward(w)

    def outer(self, to: list[Tensor]) -> Calls:
        """to = h^T e in every layer that moves."""
        layers = range(self.first, self.last + 1)
        return [call for k in layers for call in _outer(self.hs[k], self.es[k], to[k])]

    def step(self, u: Weights, to: Weights, rates: Weights | None, g: Weights | None) -> Calls:
        """to = u + h^T e in every layer that moves; with rates to = u + rates * g, g = h^T e. ``to`` may be u."""
        layers = range(self.first, self.last + 1)
        if rates is None or g is None:
            return [c for k in layers for c in _plus_outer(u.blocks[k], self.hs[k], self.es[k], to.blocks[k])]
        steps = zip(u.blocks, rates.blocks, g.blocks, to.blocks, strict=True)
        return self.outer(g.blocks) + [partial(torch.addcmul, a, b, c, out=out) for a, b, c, out in steps][self.first :]

    def add_hessian(self, w: list[Tensor], v: list[Tensor], to: list[Tensor]) -> Calls:
        """to += the inputs' scale times Hessian(w) v, where v is 0 below the first layer that moves.

        ``to`` may be v: each layer of v is read before it is written.
        """
        first, last, dhs = self.first, self.last, self.inputs.dhs
        calls: Calls = []
        dzs = self.inputs.spare
        for k in range(first, last + 1):
            calls += _times(self.hs[k], v[k], dzs[k])
            if k > first:
                calls += _plus(dzs[k], dhs[k - 1], w[k])
            if k < last:
                calls += _mask(dzs[k], self.hs[k + 1][..., :-1], dhs[k][..., :-1])
        des = self.inputs.spare  # each dz has been read by now
        calls.append(partial(self.inputs.loss.curve, self.zs[-1], dzs[-1], self.inputs.scale.flatten(0, 1), des[-1]))
        for k in range(last, -1, -1):
            if k > 0:
                calls += _back(des[k], w[k], des[k - 1])
                if k >= first:
                    calls += _plus(des[k - 1], self.es[k], v[k][:, :-1].mT)
                calls += _mask(des[k - 1], self.hs[k][..., :-1], des[k - 1])
            if k > first:
                calls += _plus_outer(to[k], dhs[k - 1], self.es[k], to[k])
            calls += _plus_outer(to[k], self.hs[k], des[k], to[k])
        return calls


# The products, each in the form that is fastest where a layer has one input or one output: there a batched matrix
# product takes up to five times as long as the elementwise one or the one of the transposed matrices. A batched
# product is fast only where its result is contiguous, so the elementwise call after it writes beside the ones.


def _times(h: Tensor, w: Tensor, out: Tensor) -> Calls:
    """out = h W: (B, n, d + 1) (B, d + 1, o), where h ends with a one."""
    if h.shape[2] == 2:
        return [partial(torch.addcmul, w[:, 1:], h[..., :1], w[:, :1], out=out)]
    if w.shape[2] == 1:
        h, w, out = _turn(w), h.mT, _turn(out)
    return [partial(torch.bmm, h, w, out=out)]


def _back(e: Tensor, w: Tensor, out: Tensor) -> Calls:
    """out = e W^T without the bias: (B, n, o) (B, d, o)^T."""
    if w.shape[2] == 1:
        return [partial(torch.mul, e, _turn(w)[..., :-1], out=out)]
    return [partial(torch.bmm, e, w[:, :-1].mT, out=out)]


def _mask(e: Tensor, z: Tensor, out: Tensor) -> Calls:
    """out = e where z > 0, else 0."""
    return [partial(torch.ops.aten.threshold_backward.grad_input, e, z, 0, grad_input=out)]


def _plus(t: Tensor, a: Tensor, b: Tensor) -> Calls:
    """t += a b: (B, n, m), (B, n, k) (B, k, m)."""
    if a.shape[2] == 1:
        return [partial(t.addcmul_, a, b)]
    if b.shape[2] == 1:
        return [partial(_turn(t).baddbmm_, _turn(b), a.mT)]
    return [partial(t.baddbmm_, a, b)]


def _outer(h: Tensor, e: Tensor, out: Tensor) -> Calls:
    """out = h^T e: (B, n, d + 1)^T (B, n, o)."""
    if e.shape[2] == 1:
        return [partial(torch.bmm, _turn(e), h, out=_turn(out))]
    return [partial(torch.bmm, h.mT, e, out=out)]


def _plus_outer(t: Tensor, h: Tensor, e: Tensor, out: Tensor) -> Calls:
    """out = t + h^T e: (B, d + 1, o) + (B, n, d + 1)^T (B, n, o)."""
    if e.shape[2] == 1:
        return [partial(torch.baddbmm, _turn(t), _turn(e), h, out=_turn(out))]
    return [partial(torch.baddbmm, t, h.mT, e, out=out)]


def _turn(column: Tensor) -> Tensor:
    """(B, n, 1) -> (B, 1, n); unlike ``.mT`` its strides are a row's, which the matrix product takes without a copy."""
    return column.view(len(column), 1, -1)
