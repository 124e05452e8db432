"""A multilayer perceptron whose parameters carry leading axes (runs, clients).

Layer l holds one block of rows (d_l + 1, o_l) in w: the weights, then the bias as last row. Here stands the readable
forward pass, which autograd can take; ``fmlab.closed_form`` has the same derivatives in closed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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

    @property
    def head(self) -> Tensor:
        """bool (P,): the last layer's parameters. Raises ValueError where there is no layer before it."""
        if len(self.layers) < 2:
            raise ValueError(f"{self} has one layer, so nothing stands before its head; give it a hidden layer")
        d, o = self.layers[-1]
        return torch.arange(self.size) >= self.size - (d + 1) * o

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


def softmax(inputs: int, classes: int) -> MLP:
    """The linear model of softmax regression: (inputs + 1) * classes parameters."""
    return MLP((inputs, classes))
