"""Invented characters in many hands, drawn by the code itself: no download, and as many scripts as there are numbers.

A script has 16 alphabets of 6 characters. A character is two or three strokes: splines through three of the nine
points of a 3 x 3 grid, near ones rather than far, each stroke starting on the one before; an alphabet has its number
of strokes and how round they are. Eight writers differ in slant, rotation, width, roundness and thickness of the pen.
Each drawing moves every point a little, and the whole character: to a side, larger or smaller, turned. A pen of radius
r leaves tanh(1.5 exp(-d^2 / 2 r^2)) grey at distance d from a straight path. The photograph of each drawing has a
shade of its own, as paper under a lamp: the sum of the six slowest cosine waves, which change pixels more than the ink
does and say nothing of the character. So comparing pixels goes so far and no further, and what a network learns from
other clients, to see strokes, is worth something.

What heterogeneity h moves is in ``fewshot``: at h = 0 all clients tell the same characters apart, in the hand of writer
0 (upright, medium pen); with h each client gets characters and a writer of its own. Ten alphabets and writers 0-3 are
for training clients; validation and unseen clients have three alphabets and two writers each that nobody else has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fmlab.declare import hyper
from fmlab.models import MLP, Model
from fmlab.populations.fewshot import Bank, FewShot, Pool
from fmlab.randomness import normal, shuffled, uniform

ALPHABETS, CHARACTERS, WRITERS, DRAWINGS = 16, 6, 8, 12  # drawings: for training clients, and as many for the others
POINTS = 16  # on a stroke
SHADE = 0.35  # of the paper's light, where ink is at most 1
DTYPE = torch.float32  # of the images, whatever torch's default is
CLASSES = {"training": (0, 60), "validation": (60, 78), "unseen": (78, 96)}
HANDS = {"training": (0, 4), "validation": (4, 6), "unseen": (6, 8)}


@dataclass(frozen=True)
class Glyphs(FewShot):
    shots: int = hyper(1, symbol="K", low=1, high=11, whole=True, text="examples of a character a client adapts on")
    ways: int = hyper(
        5, symbol="N", low=2, high=18, whole=True, sweepable=False, text="characters a client tells apart"
    )
    skew: float = hyper(1.0, symbol="s", low=0.0, high=1.0, text="how far label shares move with h; 0: K-shot exactly")
    script: int = hyper(0, symbol="z", low=0, high=10**6, whole=True, sweepable=False, text="which script is invented")
    pixels: int = hyper(
        14, symbol="px", low=8, high=32, whole=True, sweepable=False, text="width and height of an image"
    )

    def bank(self) -> Bank:
        return _bank(self.script, self.pixels)

    def each(self) -> tuple[int, int]:
        return DRAWINGS, DRAWINGS  # known before they are drawn

    def pool(self, split: str, seed: int) -> Pool:
        first, last = CLASSES[split]
        order = shuffled(last - first, "order of characters", seed, split)
        return Pool(first + order, torch.arange(*HANDS[split]))

    def model(self) -> Model:
        """A ReLU network with one hidden layer of 32."""
        return MLP((self.pixels**2, 32, self.ways))


@lru_cache(maxsize=4)
def _bank(script: int, pixels: int) -> Bank:
    strokes, drawn, roundness = characters(script)
    shape = (WRITERS, ALPHABETS * CHARACTERS, 2 * DRAWINGS)
    ink = [render(*pen(strokes, roundness, w, script), drawn, pixels) for w in range(WRITERS)]
    images = torch.cat([i + shade(len(i), w, script, pixels) for w, i in enumerate(ink)]).clamp(0, 1)
    rows = torch.arange(len(images)).view(shape)
    return Bank(images, rows[..., :DRAWINGS], rows[..., DRAWINGS:])


def characters(script: int) -> tuple[Tensor, Tensor, Tensor]:
    """Grid points of every stroke (classes, 3, 3, 2) in [-1, 1], which strokes are drawn (classes, 3), and each
    class's roundness (classes,)."""
    number = ALPHABETS * CHARACTERS
    side = torch.linspace(-1, 1, 3, dtype=DTYPE)
    grid = torch.cartesian_prod(side, side)
    far = (torch.cdist(grid, grid) - 1) / 2
    keys = uniform((number, 9, 9), 0.0, 1.0, "strokes", script)
    places, here = torch.zeros(number, 9, dtype=torch.int64), (9 * keys[:, 0, 0]).long()
    used = torch.zeros(number, 9, dtype=DTYPE)
    for k in range(9):
        if k in (3, 6):  # the next stroke starts inside the one before
            here = places[:, k - 2]
        elif k > 0:
            here = (keys[:, k] + far[here] + 2 * used).argmin(1)
        places[:, k] = here
        used[torch.arange(number), here] += 1
    u = uniform((ALPHABETS, 2), 0.0, 1.0, "alphabets", script).repeat_interleave(CHARACTERS, 0)
    third = (u[:, 0] < 0.5).to(DTYPE)
    drawn = torch.stack([torch.ones_like(third), torch.ones_like(third), third], 1)
    return grid[places].unflatten(1, (3, 3)), drawn, u[:, 1].to(DTYPE)


def pen(strokes: Tensor, roundness: Tensor, writer: int, script: int) -> tuple[Tensor, float]:
    """The path of the pen in every drawing (classes * drawings, 3, POINTS, 2), in a unit square, and its radius."""
    habit = uniform((WRITERS, 5), -1.0, 1.0, "writers", script)[writer] * (writer > 0)
    slant, turn, width, curl, weight = habit.tolist()
    shake = normal((len(strokes), 2 * DRAWINGS, 3, 3, 2), f"drawings of writer {writer}", script).to(DTYPE)
    move = normal((len(strokes), 2 * DRAWINGS, 1, 1, 2), f"places of writer {writer}", script).to(DTYPE)
    spin, size = normal((2, len(strokes), 2 * DRAWINGS), f"turns of writer {writer}", script).to(DTYPE)
    points = strokes[:, None] + 0.12 * shake
    straight, spline = _weights()
    smooth = straight + (roundness + 0.4 * curl).clamp(0, 1)[:, None, None] * (spline - straight)
    path = torch.einsum("cpk,cdskx->cdspx", smooth, points)
    lean = torch.tensor([[1 + 0.2 * width, 0.0], [0.4 * slant, 1.0]], dtype=DTYPE)
    hand = lean @ _turned(torch.tensor(0.35 * turn, dtype=DTYPE))
    own = torch.exp(0.08 * size)[..., None, None] * _turned(0.1 * spin)
    placed = path @ hand @ own[:, :, None] + 0.12 * move
    return 0.5 + 0.3 * placed.flatten(0, 1), 0.04 + 0.012 * weight


def shade(number: int, writer: int, script: int, pixels: int) -> Tensor:
    """The light on the paper of every drawing (number, pixels, pixels), with mean 0 and standard deviation SHADE."""
    waves = [(i, j) for i in range(3) for j in range(3 - i)]
    strength = normal((number, len(waves)), f"paper of writer {writer}", script).to(DTYPE)
    t = math.pi * (torch.arange(pixels, dtype=DTYPE) + 0.5) / pixels
    flat = torch.stack([torch.outer(torch.cos(i * t), torch.cos(j * t)) for i, j in waves])
    flat = flat / flat.square().mean((1, 2), keepdim=True).sqrt()
    return SHADE / math.sqrt(len(waves)) * torch.einsum("nw,wyx->nyx", strength, flat)


def _turned(angle: Tensor) -> Tensor:
    """Rotations (..., 2, 2) of points in rows."""
    c, s = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([c, s], -1), torch.stack([-s, c], -1)], -2)


def render(path: Tensor, radius: float, drawn: Tensor, pixels: int) -> Tensor:
    """Grey images (n, pixels, pixels) of paths (n, strokes, points, 2). A Gaussian is a product over the two axes, so
    the sum along the pen's path is one matrix product an image."""
    ink = (path - path.roll(1, 2)).norm(dim=-1) * drawn.repeat_interleave(len(path) // len(drawn), 0)[..., None]
    ink[..., 0] = 0
    centres = (torch.arange(pixels, dtype=DTYPE) + 0.5) / pixels
    x, y = (torch.exp(-0.5 * ((path[..., k].flatten(1)[..., None] - centres) / radius) ** 2) for k in (0, 1))
    return torch.tanh((y.mT * (1.5 / (radius * math.sqrt(2 * math.pi)) * ink).flatten(1)[:, None]) @ x)


def _weights() -> tuple[Tensor, Tensor]:
    """How much each of three points weighs on the path, (POINTS, 3): straight lines, and the natural cubic spline."""
    t = torch.linspace(0, 2, POINTS, dtype=DTYPE)[:, None]
    straight = (1 - (t - torch.arange(3)).abs()).clamp(min=0)
    bend = (straight[:, 1:2] ** 3 - straight[:, 1:2]) / 4
    return straight, straight + bend * torch.tensor([1.0, -2.0, 1.0], dtype=DTYPE)
