"""The passes through ``MLP`` and back, in closed form, for all clients at once, as calls on fixed memory.

With h_0 = (x, 1), z_l = h_{l-1} W_l + b_l, h_l = relu(z_l), and the error e_l = d loss / d z_l:

    e_{l-1} = (e_l W_l^T) * (z_{l-1} > 0),    d loss / d W_l = h_{l-1}^T e_l,    d loss / d b_l = sum_n e_l

All is linear in the last error. So a step of size eta scales that one by -eta and adds the products h^T e to the
weights where they stand: the gradient itself is never written down. The Hessian-vector product differentiates the
lines above once more in a direction v (Pearlmutter 1994).

With a few clients the time goes into calling torch, not into arithmetic. So each formula is a function that returns
*calls*, put together once for each shape of data and made again in every step of every round. B = R * C clients of n
examples; layer l has weights (B, d, o) and a bias (B, 1, o), the first one its bias as last row of the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fmlab.data import Examples
from fmlab.losses import Loss
from fmlab.models.mlp import MLP

Block = tuple[Tensor, Tensor | None]
Calls = list[Callable[[], object]]


def run(calls: Calls) -> None:
    for call in calls:
        call()


class Weights:
    """Blocks of B clients' own, in memory that stays; ``tensors`` in the order of a flat model."""

    def __init__(self, model: MLP, clients: int, like: Tensor) -> None:
        self.blocks: list[Block] = []
        for layer, (d, o) in enumerate(model.layers):
            bias = like.new_empty(clients, 1, o) if layer else None
            self.blocks.append((like.new_empty(clients, d if layer else d + 1, o), bias))
        self.tensors = [t for block in self.blocks for t in block if t is not None]
        self.rows = [t.view(clients, -1) for t in self.tensors]
        self.sizes = [t.shape[1] for t in self.rows]

    def load(self, w: Tensor) -> None:
        """From (R, C, P)."""
        for row, part in zip(self.rows, w.detach().split_with_sizes(self.sizes, -1), strict=True):
            row.view(part.shape).copy_(part)

    def flat(self, shape: torch.Size) -> Tensor:
        """(R, C, P), a copy."""
        return torch.cat(self.rows, 1).view(*shape, -1)


def views(model: MLP, flat: Tensor) -> list[Block]:
    """The blocks inside flat models (B, P)."""
    blocks: list[Block] = []
    at = 0
    for layer, (d, o) in enumerate(model.layers):
        rows = flat[:, at : at + (d + 1) * o].unflatten(1, (d + 1, o))
        blocks.append((rows[:, :-1], rows[:, -1:]) if layer else (rows, None))
        at += (d + 1) * o
    return blocks


class Memory:
    """One forward and backward pass over B clients of n examples; ``hs[0]`` is x with a column of ones."""

    def __init__(self, model: MLP, loss: Loss, w: Tensor, data: Examples) -> None:
        self.loss, sizes = loss, model.sizes
        b, n = data.x.shape[:2].numel(), data.x.shape[2]
        self.hs = [w.new_ones(b, n, sizes[0] + 1), *(w.new_empty(b, n, o) for o in sizes[1:-1])]
        self.x = self.hs[0][..., :-1]
        self.es = [w.new_empty(b, n, o) for o in sizes[1:]]
        self.p, self.target = w.new_empty(b, n, sizes[-1]), w.new_empty(b, n, sizes[-1])
        self.scale = w.new_empty(b, n, 1)
        self.ones = w.new_ones(b, 1, n)

    def load(self, data: Examples) -> None:
        self.look_at(data.x)
        self.loss.target(data.y.reshape(*self.p.shape[:2], *data.y.shape[3:]), self.target)

    def look_at(self, x: Tensor) -> None:
        self.x.copy_(x.reshape(self.x.shape))

    def weigh(self, data: Examples, eta: Any = -1.0) -> None:
        """The scale of errors: the weight of each example times -eta, and the loss's constant factor."""
        torch.mul(data.weight, -eta * self.loss.factor(self.p.shape[-1]), out=self.scale.view(data.weight.shape))

    def forward(self, w: list[Block]) -> Calls:
        calls: Calls = []
        for layer, (weights, bias) in enumerate(w):
            last = layer == len(w) - 1
            out = self.p if last else self.hs[layer + 1]
            calls += _affine(self.hs[layer], weights, bias, out)
            calls += [] if last else [out.relu_]
        return calls

    def backward(self, w: list[Block]) -> Calls:
        calls: Calls = [partial(self.loss.slope, self.p, self.target, self.scale, self.es[-1])]
        for layer in range(len(w) - 1, 0, -1):
            calls += _back(self.es[layer], w[layer][0], self.es[layer - 1])
            calls += _mask(self.es[layer - 1], self.hs[layer])
        return calls

    def add(self, w: list[Block], to: list[Block]) -> Calls:
        """to = w + h^T e in every layer, bias and weights; ``to`` may be w."""
        calls: Calls = []
        for (weights, bias), (to_weights, to_bias), h, e in zip(w, to, self.hs, self.es, strict=True):
            calls += _plus_outer(weights, h, e, to_weights)
            if bias is not None and to_bias is not None:
                calls.append(partial(torch.baddbmm, bias, self.ones, e, out=to_bias))
        return calls

    def add_hessian(self, w: list[Block], v: list[Block], to: list[Block]) -> Calls:
        """to += ``scale`` times Hessian(w) v; ``to`` may be v: each layer of v is read before it is written."""
        dzs = [torch.empty_like(e) for e in self.es]
        des = [torch.empty_like(e) for e in self.es]
        calls: Calls = []
        for layer, (weights, bias) in enumerate(v):
            calls += _affine(self.hs[layer], weights, bias, dzs[layer])
            if layer > 0:
                calls += _plus(dzs[layer], dzs[layer - 1], w[layer][0])
            if layer < len(v) - 1:
                calls += _mask(dzs[layer], self.hs[layer + 1])
        calls.append(partial(self.loss.curve, self.p, self.target, dzs[-1], self.scale, des[-1]))
        for layer in range(len(v) - 1, -1, -1):
            weights, bias = to[layer]
            if layer > 0:
                calls += _back(des[layer], w[layer][0], des[layer - 1])
                calls += _plus(des[layer - 1], self.es[layer], v[layer][0].mT)
                calls += _mask(des[layer - 1], self.hs[layer])
                calls += _plus_outer(weights, dzs[layer - 1], self.es[layer], weights)
            calls += _plus_outer(weights, self.hs[layer], des[layer], weights)
            if bias is not None:
                calls.append(partial(torch.baddbmm, bias, self.ones, des[layer], out=bias))
        return calls


# The products, each in the form that is fastest where a layer has one input or one output: there a batched matrix
# product takes up to five times as long as the elementwise one or the one of the transposed matrices.


def _affine(h: Tensor, weights: Tensor, bias: Tensor | None, out: Tensor) -> Calls:
    """out = h W + b: (B, n, d) (B, d, o) + (B, 1, o); in the first layer, without b, h ends with a one."""
    if bias is None and h.shape[2] == 2:
        h, weights, bias = h[..., :1], weights[:, :1], weights[:, 1:]
    if bias is not None and h.shape[2] == 1:
        return [partial(torch.addcmul, bias, h, weights, out=out)]
    if weights.shape[2] == 1:
        h, weights, out = _turn(weights), h.mT, _turn(out)
    if bias is None:
        return [partial(torch.bmm, h, weights, out=out)]
    return [partial(torch.baddbmm, bias, h, weights, out=out)]


def _back(e: Tensor, weights: Tensor, out: Tensor) -> Calls:
    """out = e W^T: (B, n, o) (B, d, o)^T."""
    if weights.shape[2] == 1:
        return [partial(torch.mul, e, _turn(weights), out=out)]
    return [partial(torch.bmm, e, weights.mT, out=out)]


def _mask(e: Tensor, h: Tensor) -> Calls:
    """e = e where h > 0, else 0."""
    return [partial(torch.ops.aten.threshold_backward.grad_input, e, h, 0, grad_input=e)]


def _plus(t: Tensor, a: Tensor, b: Tensor) -> Calls:
    """t += a b: (B, n, m), (B, n, k) (B, k, m)."""
    if a.shape[2] == 1:
        return [partial(t.addcmul_, a, b)]
    if b.shape[2] == 1:
        return [partial(_turn(t).baddbmm_, _turn(b), a.mT)]
    return [partial(t.baddbmm_, a, b)]


def _plus_outer(t: Tensor, h: Tensor, e: Tensor, out: Tensor) -> Calls:
    """out = t + h^T e: (B, d, o) + (B, n, d)^T (B, n, o)."""
    if e.shape[2] == 1:
        return [partial(torch.baddbmm, _turn(t), _turn(e), h, out=_turn(out))]
    return [partial(torch.baddbmm, t, h.mT, e, out=out)]


def _turn(column: Tensor) -> Tensor:
    """(B, n, 1) -> (B, 1, n); unlike ``.mT`` its strides are a row's, which the matrix product takes without a copy."""
    return column.view(len(column), 1, -1)
