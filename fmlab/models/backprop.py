"""Gradient steps, meta-gradients and Hessian-vector products of ``MLP`` in closed form, for all clients at once.

With h_0 = x, z_l = h_{l-1} W_l + b_l, h_l = relu(z_l), and the error e_l = d loss / d z_l:

    e_{l-1} = (e_l W_l^T) * (z_{l-1} > 0),    d loss / d W_l = h_{l-1}^T e_l,    d loss / d b_l = sum_n e_l

All is linear in the last error. So a step of size eta scales that one by -eta and adds the products h^T e to the
weights where they stand: the gradient itself is never written down. The Hessian-vector product differentiates the
lines above once more in a direction v (Pearlmutter 1994).

Where all clients still hold the same model (w expanded over clients, stride 0), products with W run as one for all.
Rows of a layer are then (G, rows, .) with G = R groups of C * n rows; otherwise G = B = R * C groups of n rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fmlab.data import Examples
from fmlab.gradients import Product
from fmlab.losses import Loss
from fmlab.models.mlp import MLP

Block = tuple[Tensor, Tensor]  # weights (G, d, o), bias (G, 1, o)
Steps = Iterable[tuple[Examples, Any]]  # what each gradient step descends, and its size: a number or (R, 1, 1)


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass over B = R * C clients, with all that a step and the second derivative need."""

    blocks: list[Block]
    hs: list[Tensor]  # inputs of every layer (G, rows, d)
    es: list[Tensor]  # errors of every layer (G, rows, o), times ``scale``
    p: Tensor  # predictions (G, rows, o)
    y: Tensor  # (G, rows, ...)
    scale: Tensor  # (G, rows, 1): the weight of each example, times -eta for a step
    clients: int

    def split(self, t: Tensor) -> Tensor:
        """(G, rows, o) -> (B, n, o)."""
        return t if len(t) == self.clients else t.view(self.clients, -1, t.shape[-1])

    def merge(self, t: Tensor) -> Tensor:
        """(B, n, o) -> (G, rows, o)."""
        return t if len(t) == len(self.p) else t.view(len(self.p), -1, t.shape[-1])


@dataclass(frozen=True)
class Backprop:
    model: MLP
    loss: Loss

    def gradient(self, w: Tensor, data: Examples) -> Tensor:
        """(R, C, P), equal to autograd's."""
        return self._flat(self._add(None, self._pass(self._blocks(w), data)), data)

    def predict(self, w: Tensor, x: Tensor) -> Tensor:
        """(R, C, n, o), equal to the model's own."""
        blocks = self._blocks(w)
        return self._forward(blocks, x.reshape(len(blocks[0][0]), -1, self.model.sizes[0]))[1].view(*x.shape[:3], -1)

    def linearize(self, w: Tensor, data: Examples) -> tuple[Tensor, Product]:
        """The gradient (R, C, P) and v (R, C, P) -> Hessian v (R, C, P)."""
        done = self._pass(self._blocks(w), data)

        def product(v: Tensor) -> Tensor:
            zero = [(w.new_zeros(done.clients, d, o), w.new_zeros(done.clients, 1, o)) for d, o in self.model.layers]
            return self._flat(self._add_hessian(zero, self._blocks(v.contiguous()), done), data)

        return self._flat(self._add(None, done), data), product

    def path(self, w: Tensor, steps: Steps) -> Iterator[Tensor]:
        """The models (R, C, P) after each step."""
        return (self._flat(blocks, data) for blocks, data in self._walk(w, steps))

    def descend(self, w: Tensor, steps: Steps, pull: Any = None, to: Tensor | None = None) -> Tensor:
        """The models (R, C, P) after all steps  v <- v - eta (grad f(v) + pull (v - to))."""
        last = None
        for last in self._walk(w, steps, pull, to):  # noqa: B007
            pass
        return w if last is None else self._flat(*last)

    def meta_gradient(self, w: Tensor, support: Examples, query: Examples, etas: Iterable[Any], exact: bool) -> Tensor:
        """d/dw L_query(u) (R, C, P) with u the end of steps of sizes ``etas`` on the support set.

        v_K = grad L_query(u_K), v_k = v_{k+1} - eta_k H(u_k) v_{k+1}; the last error already bears the -eta_k.
        """
        blocks, trail = self._blocks(w), []
        for eta in etas:
            trail.append(self._pass(blocks, support, eta))
            blocks = self._add(blocks, trail[-1])
        v = self._add(None, self._pass(blocks, query))
        for done in reversed(trail if exact else []):
            v = self._add_hessian(v, v, done)
        return self._flat(v, query)

    def _walk(
        self, w: Tensor, steps: Steps, pull: Any = None, to: Tensor | None = None
    ) -> Iterator[tuple[list[Block], Examples]]:
        """The blocks after every step, in memory that the next step uses again."""
        blocks, done = self._blocks(w), None
        goal = None if to is None else self._blocks(to)
        for data, eta in steps:
            first = done is None
            done = self._pass(blocks, data, eta, reuse=done)
            if goal is not None:
                blocks = _pulled(blocks, goal, pull * eta)
            blocks = self._add(blocks, done, in_place=not first)
            yield blocks, data

    def _blocks(self, w: Tensor) -> list[Block]:
        """Views of w (R, C, P), for G = R groups where all clients share one model."""
        flat = w[:, 0] if w.stride(1) == 0 else w.flatten(0, 1)
        parts = flat.split([size for d, o in self.model.layers for size in (d * o, o)], 1)
        shapes = zip(self.model.layers, parts[::2], parts[1::2], strict=True)
        return [(weights.view(-1, d, o), bias.view(-1, 1, o)) for (d, o), weights, bias in shapes]

    def _flat(self, blocks: list[Block], data: Examples) -> Tensor:
        """(R, C, P), a copy."""
        return torch.cat([t.flatten(1) for block in blocks for t in block], 1).view(*data.weight.shape[:2], -1)

    def _pass(self, blocks: list[Block], data: Examples, eta: Any = -1.0, reuse: Pass | None = None) -> Pass:
        """Forward, then backward with the last error times -eta. ``reuse``: write over an earlier pass's h and e."""
        groups = len(blocks[0][0])
        fits = reuse is not None and reuse.hs[0].numel() == data.x.numel()

        def room(old: str, layer: int, width: int) -> Tensor | None:
            return getattr(reuse, old)[layer].view(groups, -1, width) if fits else None

        old = [room("hs", layer, d) for layer, (d, _) in enumerate(self.model.layers)]
        hs, p = self._forward(blocks, data.x.reshape(groups, -1, self.model.sizes[0]), old)
        y = data.y.reshape(*p.shape[:2], *data.y.shape[3:])
        scale = (data.weight * -eta).reshape(groups, -1, 1)
        e = self.loss.slope(p, y).mul_(scale)
        es = [e]
        for layer in range(len(blocks) - 1, 0, -1):
            e = _mask(_back(e, blocks[layer][0], room("es", layer - 1, hs[layer].shape[2])), hs[layer])
            es.append(e)
        return Pass(blocks, hs, es[::-1], p, y, scale, data.weight.shape[:2].numel())

    def _forward(
        self, blocks: list[Block], x: Tensor, out: list[Tensor | None] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """The inputs of every layer (G, rows, d), written to ``out`` where given, and the predictions."""
        hs = [x]
        for layer, (weights, bias) in enumerate(blocks[:-1], 1):
            hs.append(_affine(hs[-1], weights, bias, out[layer] if out else None).relu_())
        return hs, _affine(hs[-1], *blocks[-1])

    def _add(self, blocks: list[Block] | None, done: Pass, in_place: bool = False) -> list[Block]:
        """The blocks (zero for None) plus the products h^T e and sums of e: for every client its own (B, ., o)."""
        out = []
        for layer, (h, e) in enumerate(zip(done.hs, done.es, strict=True)):
            h, e = done.split(h), done.split(e)
            if blocks is None:
                out.append((_outer(h, e), e.sum(1, keepdim=True)))
            else:
                weights, bias = blocks[layer] if in_place else (_wide(t, done.clients) for t in blocks[layer])
                ones = e.new_ones(1, 1, e.shape[1]).expand(done.clients, -1, -1)
                out.append((_plus_outer(weights, h, e, in_place), _plus(bias, ones, e, in_place)))
        return out

    def _add_hessian(self, into: list[Block], v: list[Block], done: Pass) -> list[Block]:
        """Adds ``scale`` times Hessian v to ``into``, which may be v itself: each layer of v is read before written."""
        dh: Tensor | None = None
        dhs: list[Tensor | None] = [None]
        for layer, block in enumerate(v):
            dz = _affine(done.split(done.hs[layer]), *block)
            if dh is not None:
                dz = done.split(_plus(done.merge(dz), done.merge(dh), done.blocks[layer][0], True))
            if layer < len(v) - 1:
                dh = _mask(dz, done.split(done.hs[layer + 1]))
                dhs.append(dh)
        de = self.loss.curve(done.p, done.y, done.merge(dz)).mul_(done.scale)
        for layer in range(len(v) - 1, -1, -1):
            e, de_b, dh = done.split(done.es[layer]), done.split(de), dhs[layer]
            if dh is not None:
                back = done.split(_back(de, done.blocks[layer][0]))
                _plus(back, e, v[layer][0].mT, True)
                de = done.merge(_mask(back, done.split(done.hs[layer])))
                _plus_outer(into[layer][0], dh, e, True)
            _plus_outer(into[layer][0], done.split(done.hs[layer]), de_b, True)
            into[layer][1].add_(de_b.sum(1, keepdim=True))
        return into


def _mask(e: Tensor, h: Tensor) -> Tensor:
    """e where h > 0, else 0; in place, since memory fetched anew costs more than the arithmetic."""
    out: Tensor = torch.ops.aten.threshold_backward.grad_input(e, h, 0, grad_input=e)
    return out


def _wide(t: Tensor, clients: int) -> Tensor:
    """(G, ., o) -> (B, ., o): a shared model for each client."""
    return t if len(t) == clients else t[:, None].expand(-1, clients // len(t), -1, -1).flatten(0, 1)


def _pulled(blocks: list[Block], goal: list[Block], share: Any) -> list[Block]:
    """blocks + share (goal - blocks), a copy; exact at share 0."""
    moved = []
    for pair in zip(blocks, goal, strict=True):
        clients = max(len(pair[0][0]), len(pair[1][0]))
        rate = _wide(share[:, None, :, 0], clients) if isinstance(share, Tensor) else share
        moved.append(tuple(torch.lerp(_wide(t, clients), _wide(g, clients), rate) for t, g in zip(*pair, strict=True)))
    return moved  # type: ignore[return-value]


# The products, each in the form that is fastest where a layer has one input or one output: there a batched matrix
# product takes up to five times as long as the elementwise one or the one of the transposed matrices.


def _affine(h: Tensor, weights: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    """h W + b: (G, rows, d), (G, d, o), (G, 1, o) -> (G, rows, o)."""
    if weights.shape[1] == 1:
        return torch.addcmul(bias, h, weights, out=out)
    if weights.shape[2] == 1:
        return torch.baddbmm(bias, weights.mT, h.mT).view(len(h), -1, 1)
    return torch.baddbmm(bias, h, weights, out=out)


def _back(e: Tensor, weights: Tensor, out: Tensor | None = None) -> Tensor:
    """e W^T: (G, rows, o) -> (G, rows, d)."""
    return torch.mul(e, weights.mT, out=out) if weights.shape[2] == 1 else torch.bmm(e, weights.mT, out=out)


def _plus(t: Tensor, a: Tensor, b: Tensor, in_place: bool) -> Tensor:
    """t + a b: (G, n, m) + (G, n, k) (G, k, m)."""
    if a.shape[2] == 1:
        return torch.addcmul(t, a, b, out=t if in_place else None)
    if b.shape[2] == 1 < a.shape[1]:
        return _plus(t.view(len(t), 1, -1), b.mT, a.mT, in_place).view(t.shape)
    return torch.baddbmm(t, a, b, out=t if in_place else None)


def _outer(h: Tensor, e: Tensor) -> Tensor:
    """h^T e: (B, n, d), (B, n, o) -> (B, d, o)."""
    return torch.bmm(e.mT, h).mT if e.shape[2] == 1 else torch.bmm(h.mT, e)


def _plus_outer(t: Tensor, h: Tensor, e: Tensor, in_place: bool) -> Tensor:
    """t + h^T e."""
    if e.shape[2] == 1:
        return torch.baddbmm(t.mT, e.mT, h, out=t.mT if in_place else None).mT
    return torch.baddbmm(t, h.mT, e, out=t if in_place else None)
