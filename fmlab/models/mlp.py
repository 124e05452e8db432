"""A multilayer perceptron whose parameters carry leading axes (runs, clients), with closed-form derivatives.

Layer l holds one block of rows (d_l + 1, o_l) in w: the weights, then the bias as last row. With h_0 = x,
z_l = h_{l-1} W_l + b_l, h_l = relu(z_l), and e_l = d loss / d z_l:

    e_{l-1} = (e_l W_l^T) * (z_{l-1} > 0),    d loss / d W_l = h_{l-1}^T e_l,    d loss / d b_l = sum_n e_l

The Hessian-vector product differentiates these lines once more in the direction v (Pearlmutter 1994). Where all
clients still hold the same model (w expanded over clients, stride 0), products with W run as one for all clients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fmlab.data import Examples
from fmlab.gradients import Product
from fmlab.losses import Loss


@dataclass(frozen=True)
class MLP:
    """ReLU network of ``sizes`` (inputs, hidden ..., outputs); two sizes make a linear (softmax) model.

    Inputs of any trailing shape are flattened. Raises ValueError for fewer than two sizes or one below 1.
    """

    sizes: tuple[int, ...] = (1, 40, 40, 1)

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"MLP.sizes = {self.sizes!r} needs two or more whole numbers >= 1: (inputs, ..., outputs)")

    @property
    def layers(self) -> list[tuple[int, int]]:
        return list(zip(self.sizes, self.sizes[1:], strict=False))

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return sum((d + 1) * o for d, o in self.layers)

    def init(self, generator: torch.Generator) -> Tensor:
        """float64 (P,): weights and biases uniform in +-1/sqrt(inputs), torch's default for nn.Linear."""
        blocks = [
            (2 * torch.rand((d + 1) * o, generator=generator, dtype=torch.float64) - 1) / math.sqrt(d)
            for d, o in self.layers
        ]
        return torch.cat(blocks)

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        """The readable forward pass, differentiable: w (R, C, P), x (R, C, n, d...) -> (R, C, n, o)."""
        h, at = x.flatten(3), 0
        for layer, (d, o) in enumerate(self.layers):
            block = w[..., at : at + (d + 1) * o].unflatten(-1, (d + 1, o))
            at += (d + 1) * o
            z = h @ block[..., :-1, :] + block[..., -1:, :]
            h = z.relu() if layer < len(self.layers) - 1 else z
        return h

    def gradient(self, loss: Loss, w: Tensor, data: Examples) -> Tensor:
        """(R, C, P), equal to autograd's."""
        return self._backward(loss, w, data)[0]

    def linearize(self, loss: Loss, w: Tensor, data: Examples) -> tuple[Tensor, Product]:
        """The gradient (R, C, P) and v (R, C, P) -> Hessian v (R, C, P)."""
        g, blocks, hs, es, p = self._backward(loss, w, data)
        y, weight = _rows(data.y, p), _rows(data.weight, p)[..., None]
        clients = w.shape[0] * data.x.shape[1]

        def product(v: Tensor) -> Tensor:
            v_blocks = self._blocks(v)
            dh, dhs = None, []
            for layer, (vw, vb) in enumerate(v_blocks):
                dz = _affine(_split(hs[layer], clients), vw, vb)
                if dh is not None:
                    dz = dz + _split(_times(dh, blocks[layer][0]), clients)
                if layer < len(v_blocks) - 1:
                    dh = _merge(_masked(dz, _split(hs[layer + 1], clients)), len(hs[0]))
                    dhs.append(dh)
            de = _merge(dz, len(hs[0]))
            de = loss.curve(p, y, de) * weight
            pieces: list[Tensor] = []
            for layer in range(len(v_blocks) - 1, -1, -1):
                e, de_c = _split(es[layer], clients), _split(de, clients)
                dw = _outer(_split(hs[layer], clients), de_c)
                if layer > 0:
                    dw = dw + _outer(_split(dhs[layer - 1], clients), e)
                    back = _split(_back(de, blocks[layer][0]), clients) + _back(e, v_blocks[layer][0])
                    de = _masked(_merge(back, len(hs[0])), hs[layer])
                pieces[:0] = [dw.flatten(1), de_c.sum(1)]
            return torch.cat(pieces, 1).view(v.shape)

        return g, product

    def _blocks(self, w: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(R, C, P) -> [weights (G, d, o), bias (G, 1, o)] a layer; G = R where all clients share one model."""
        flat = w[:, 0] if w.stride(1) == 0 else w.flatten(0, 1)
        parts = flat.split([size for d, o in self.layers for size in (d * o, o)], 1)
        shapes = zip(self.layers, parts[::2], parts[1::2], strict=True)
        return [(weights.view(-1, d, o), bias.view(-1, 1, o)) for (d, o), weights, bias in shapes]

    def _backward(
        self, loss: Loss, w: Tensor, data: Examples
    ) -> tuple[Tensor, Any, list[Tensor], list[Tensor], Tensor]:
        """Gradient, blocks, inputs h_l and errors e_l of every layer as (G, rows, .), predictions."""
        runs, clients = data.x.shape[:2]
        blocks = self._blocks(w)
        h = data.x.reshape(len(blocks[0][0]), -1, self.sizes[0])
        hs = [h]
        for weights, bias in blocks[:-1]:
            h = _affine(h, weights, bias).relu_()
            hs.append(h)
        p = _affine(h, *blocks[-1])
        e = loss.slope(p, _rows(data.y, p)) * _rows(data.weight, p)[..., None]
        es: list[Tensor] = [e]
        pieces: list[Tensor] = []
        for layer in range(len(blocks) - 1, -1, -1):
            e_c = _split(e, runs * clients)
            pieces[:0] = [_outer(_split(hs[layer], runs * clients), e_c).flatten(1), e_c.sum(1)]
            if layer > 0:
                e = _masked(_back(e, blocks[layer][0]), hs[layer])
                es.append(e)
        return torch.cat(pieces, 1).view(runs, clients, -1), blocks, hs, es[::-1], p


def softmax(inputs: int, classes: int) -> MLP:
    """The linear model of softmax regression: (inputs + 1) * classes parameters."""
    return MLP((inputs, classes))


def _masked(e: Tensor, h: Tensor) -> Tensor:
    """e where h > 0, else 0; in place, since memory fetched anew costs more than the arithmetic."""
    out: Tensor = torch.ops.aten.threshold_backward.grad_input(e, h, 0, grad_input=e)
    return out


# Four products, each with the form that is fastest where a layer has one input or one output: there a batched matrix
# product takes up to five times as long as the elementwise one.


def _affine(h: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """h W + b: (G, rows, d), (G, d, o), (G, 1, o) -> (G, rows, o)."""
    if weights.shape[1] == 1:
        return torch.addcmul(bias, h, weights)
    return _times(h, weights) + bias if weights.shape[2] == 1 else torch.baddbmm(bias, h, weights)


def _times(h: Tensor, weights: Tensor) -> Tensor:
    """h W."""
    return (h * weights.mT).sum(-1, keepdim=True) if weights.shape[2] == 1 else torch.bmm(h, weights)


def _back(e: Tensor, weights: Tensor) -> Tensor:
    """e W^T: (G, rows, o) -> (G, rows, d)."""
    return e * weights.mT if weights.shape[2] == 1 else torch.bmm(e, weights.mT)


def _outer(h: Tensor, e: Tensor) -> Tensor:
    """h^T e: (B, n, d), (B, n, o) -> (B, d, o)."""
    return torch.bmm(e.mT, h).mT if e.shape[2] == 1 else torch.bmm(h.mT, e)


def _split(t: Tensor, clients: int) -> Tensor:
    """(G, rows, o) -> (R * C, n, o)."""
    return t if len(t) == clients else t.view(clients, -1, t.shape[-1])


def _merge(t: Tensor, groups: int) -> Tensor:
    """(R * C, n, o) -> (G, rows, o)."""
    return t if len(t) == groups else t.view(groups, -1, t.shape[-1])


def _rows(t: Tensor, like: Tensor) -> Tensor:
    """(R, C, n, ...) -> (G, rows, ...), matching predictions ``like``."""
    return t.reshape(*like.shape[:2], *t.shape[3:])
