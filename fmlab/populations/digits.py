"""Handwritten digits, 8 x 8 grey (UCI optical digits of 43 writers, as bundled with scikit-learn: no download).

Every client tells ``ways`` digits apart; what h moves is in ``fewshot``. Ten digits make few tasks, so a class is a
digit in one of eight orientations (quarter turns and mirror images), as Omniglot's characters are turned in Santoro
et al. 2016 (1605.06065): at h = 0 all are upright, with h each label's digit gets an orientation of its own. A client
never has one digit twice. For each seed six digits are drawn for training clients. The other four appear as they are
and turned for unseen clients, mirrored for validation clients, which only choose step sizes.

Limits: six digits are few, and methods that learn to adapt become better at them than at the four they have not seen;
``participating`` beside ``unseen`` shows by how much. Who wrote which digit is not in the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch

from fmlab.declare import hyper
from fmlab.models import MLP, Model
from fmlab.populations.fewshot import Bank, FewShot, Pool
from fmlab.randomness import shuffled

TRAINED = 6  # of the ten digits
EACH = 87  # images of a digit that training clients draw on, and as many for the others


@dataclass(frozen=True)
class Digits(FewShot):
    style_by_label: ClassVar[bool] = True

    ways: int = hyper(3, symbol="N", low=2, high=4, whole=True, sweepable=False, text="digits a client tells apart")
    shots: int = hyper(1, symbol="K", low=1, high=86, whole=True, text="examples of a digit a client adapts on")
    test: int = hyper(10, symbol="n_T", low=1, high=86, whole=True, text="examples of a digit it is scored on, unseen")
    skew: float = hyper(1.0, symbol="s", low=0.0, high=1.0, text="how far label shares move with h; 0: K-shot exactly")

    def bank(self) -> Bank:
        return _bank()

    def each(self) -> tuple[int, int]:
        return EACH, EACH  # known before they are read

    def pool(self, split: str, seed: int) -> Pool:
        digits = shuffled(10, "digits of a split", seed)
        plain, mirrored = torch.arange(4), torch.arange(4, 8)
        if split == "training":
            return Pool(digits[:TRAINED], torch.cat([plain, mirrored]))
        return Pool(digits[TRAINED:], mirrored if split == "validation" else plain)

    def model(self) -> Model:
        """A ReLU network with one hidden layer of 64."""
        return MLP((64, 64, self.ways))


@cache
def _bank() -> Bank:
    from sklearn.datasets import load_digits

    data = load_digits()
    upright = torch.tensor(data.images, dtype=torch.float32) / 16
    turned = [torch.rot90(flipped, k, (1, 2)) for flipped in (upright, upright.flip(2)) for k in range(4)]
    of_digit = [torch.tensor(data.target == digit).nonzero()[:, 0] for digit in range(10)]
    rows = torch.stack([r[: 2 * EACH] for r in of_digit]) + len(upright) * torch.arange(8)[:, None, None]
    return Bank(torch.cat(turned), rows[..., 0::2], rows[..., 1::2])
