"""What the server reads in a client's message: the client's pictures, unless something hides them.

A client holds handwritten digits and sends what FedAvg or FedMAML send, by the library's own code, clipped. The server
knows the model that it sent, how many pictures there are and their labels. One picture comes back in closed form: every
gradient of the first layer is  dW = x d',  db = d  for some d, so  x = dW db / |db|^2  (the least squares of all hidden
units), after any number of local steps too, and clipped or not, since clipping scales both. For several, or a
meta-gradient, it looks for pictures whose message points the same way (Zhu et al. 2019, 1906.08935; by the cosine:
Geiping et al. 2020, 2003.14053). Of several clients it sees what fm.SecureSum shows: their sum.

A reading is judged by its signal to noise, beside that of what the labels alone tell, the mean of other digits of the
same label; by a nearest-neighbour classifier that was shown all other digits; and by whether it picks the client's own
picture out of all 1797. The second is easy where labels are known: only the last says whose picture it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import fmlab as fm
from fmlab.data import Batch, Tree, examples
from fmlab.declare import Declared, hyper
from fmlab.engine import work
from fmlab.losses import CrossEntropy
from fmlab.objective import Empirical
from fmlab.randomness import generator, shuffled
from lab import plots
from lab.lessons.sliding import Sliders, opened
from lab.panel.canvas import Draw

HIDDEN, SIDE, LR, CLIP, DELTA = 64, 8, 0.1, 0.1, 1e-5  # all messages are longer
MODEL = fm.MLP((SIDE * SIDE, HIDDEN, 10))
EXACT = 60.0  # decibels, above which no eye and no scanner sees a difference
SHOWN = 8


@dataclass(frozen=True)
class Setting(Declared):
    """What the sliders say."""

    examples: int = hyper(1, symbol="n", low=1, high=16, whole=True, text="digits that the client learns from")
    local_steps: int = hyper(1, symbol="K", low=1, high=10, whole=True, text="FedAvg's local steps; 1 is FedSGD")
    inner_steps: int = hyper(
        0, symbol="k", low=0, high=2, whole=True, text="FedMAML's inner steps, with as many digits to ask; 0: FedAvg"
    )
    noise: float = hyper(
        0.0, symbol="σ", low=0.0, high=10.0, text="noise on each number, by the client, in % of the clipped norm"
    )
    together: int = hyper(
        1, symbol="m", low=1, high=8, whole=True, text="clients in the sum that the server sees; 1: the message itself"
    )


@dataclass(frozen=True)
class Leak:
    """truth and reading (pictures, 8, 8), each reading beside the picture it is nearest to; quality (pictures,) in
    decibels of signal to noise; recognised (pictures,): the digit that the reading is taken for is the right one;
    picked (pictures,): of all digits that there are, the client's own is the nearest to the reading."""

    truth: np.ndarray[Any, Any]
    reading: np.ndarray[Any, Any]
    quality: np.ndarray[Any, Any]
    recognised: np.ndarray[Any, Any]
    picked: np.ndarray[Any, Any]
    closed_form: bool
    by_label: float  # decibels, in the mean, of the mean of other digits with the picture's label

    def amount(self) -> str:
        """How many were picked out, in words that are the same on every machine: a search ends a little elsewhere."""
        share = self.picked.mean()
        return "all" if share == 1 else "some" if share > 0.15 else "hardly any"


@cache
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images / 16.0, dtype=torch.float64).flatten(1), torch.tensor(data.target)


def held(setting: Setting, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Every client's pictures (1, m, n, 64) and labels; with FedMAML the second half of the n is the query set."""
    x, y = _digits()
    n = setting.examples * (2 if setting.inner_steps else 1)
    rows = shuffled(len(x), "leaked digits", seed)[: setting.together * n].view(1, setting.together, n)
    return x[rows], y[rows]


def model(seed: int = 0) -> Tensor:
    """The model (1, 1, P) that the server sent: a fresh one."""
    return MODEL.init(generator("leaking model", seed))[None, None]


def sent(setting: Setting, seed: int = 0) -> Tensor:
    """What the server sees (P,), by the library's own methods, Clip, Noise and SecureSum: a message, or the sum by the
    number of clients."""
    x, y = held(setting, seed)
    n = setting.examples
    support = examples(x[:, :, :n], y[:, :, :n])
    query = examples(x[:, :, n:], y[:, :, n:]) if setting.inner_steps else support
    batch = Batch(support, query, seeds=(seed,), joined=None if setting.inner_steps else support)
    f, server = Empirical(MODEL, CrossEntropy()), model(seed)
    method: Any = fm.FedAvg(setting.local_steps, lr=LR, adapt_lr=LR)
    if setting.inner_steps:
        method = fm.FedMAML(setting.inner_steps, inner_lr=LR, adapt_lr=LR)
    transforms = [fm.Clip(CLIP), fm.Noise(setting.noise / 100 * CLIP)]
    messages: Tree = work(method, f, {"model": server}, {}, batch, transforms)[0]
    if setting.together > 1:
        messages = fm.SecureSum()(messages, None, batch)
    return messages["model"][0, 0]


def message(setting: Setting, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The same message (1, m, P) before Clip and Noise, as a function of the pictures that can be differentiated."""
    f, n = Empirical(MODEL, CrossEntropy(), closed_form=False), setting.examples
    w = w.expand(1, x.shape[1], -1).detach().requires_grad_()

    def grad(of: Tensor, at: slice, by: Tensor) -> Tensor:
        return torch.autograd.grad(f(of, examples(x[:, :, at], y[:, :, at])).sum(), by, create_graph=True)[0]

    v = w
    for _ in range(setting.inner_steps or setting.local_steps):
        v = v - LR * grad(v, slice(0, n), v)
    return grad(v, slice(n, None), w) if setting.inner_steps else w - v


def first_layer(seen: Tensor) -> tuple[Tensor, Tensor]:
    """dW (inputs, hidden) and db (hidden,) of a message (P,)."""
    block = seen[: (SIDE * SIDE + 1) * HIDDEN].view(SIDE * SIDE + 1, HIDDEN)
    return block[:-1], block[-1]


def by_closed_form(seen: Tensor) -> Tensor:
    """One picture (1, 64)."""
    dw, db = first_layer(seen)
    return (dw @ db / db.square().sum())[None]


def by_search(setting: Setting, seen: Tensor, w: Tensor, y: Tensor, seed: int = 0, steps: int = 150) -> Tensor:
    """As many pictures as there are labels y (1, m, n), in their order (m * n, 64)."""
    start = torch.randn(*y.shape, SIDE * SIDE, generator=generator("reading", seed), dtype=torch.float64)
    free = (0.1 * start - 1.0).requires_grad_()  # pixels are its sigmoid, between 0 and 1
    search = torch.optim.LBFGS([free], max_iter=steps, history_size=30, line_search_fn="strong_wolfe")

    def unlike() -> Tensor:
        search.zero_grad()
        own = message(setting, w, free.sigmoid(), y)
        scale = (own.norm(dim=-1, keepdim=True) / CLIP).clamp(min=1.0)  # the clients clip before the sum
        loss = 1 - torch.cosine_similarity((own / scale).mean(1)[0], seen, dim=0)
        loss.backward()
        return loss

    with torch.enable_grad():
        search.step(unlike)
    return free.detach().sigmoid().flatten(0, 2)


def read(setting: Setting, seed: int = 0) -> Leak:
    """Send, and read what was sent."""
    x, y = held(setting, seed)
    seen, one = sent(setting, seed), y.numel() == 1
    found = by_closed_form(seen) if one else by_search(setting, seen, model(seed), y, seed)
    found, truth = found.nan_to_num(0.0).clamp(0, 1), x.flatten(0, 2)
    apart = torch.cdist(truth, found).square() / truth.shape[1]
    _, order = linear_sum_assignment(apart.numpy())  # which reading is of which picture
    error = apart[torch.arange(len(truth)), torch.as_tensor(order)]
    found = found[torch.as_tensor(order)]
    elsewhere, labels = _digits()
    others = (torch.cdist(elsewhere, truth) > 0).all(1)  # it was never shown what the clients hold
    labelled = torch.stack([elsewhere[others & (labels == digit)].mean(0) for digit in y.flatten()])
    usual = (truth - labelled).square().mean(1)
    nearest = torch.cdist(found, elsewhere[others]).argmin(1)
    return Leak(
        truth=truth.view(-1, SIDE, SIDE).numpy(),
        reading=found.view(-1, SIDE, SIDE).numpy(),
        quality=(-10 * error.clamp(min=1e-30).log10()).numpy(),
        recognised=(labels[others][nearest] == y.flatten()).numpy(),
        picked=(elsewhere[torch.cdist(found, elsewhere).argmin(1)] == truth).all(1).numpy(),
        closed_form=one,
        by_label=float(-10 * usual.log10().mean()),
    )


def epsilon(setting: Setting) -> float:
    """What one message, or the sum, spends at DELTA: one client replaced by another; infinite without noise."""
    return fm.privacy.spent(setting.noise / 100 * math.sqrt(setting.together) / 2, 1, DELTA)


def sentence(leak: Leak, setting: Setting) -> str:
    """What the picture says."""
    what = f"FedMAML's meta-gradient through {setting.inner_steps} step{'s' * (setting.inner_steps > 1)}"
    if not setting.inner_steps:
        k = setting.local_steps
        what = "one FedSGD gradient" if k == 1 else f"FedAvg's message after {k} local steps"
    if setting.together > 1:
        what = f"the sum of {setting.together} clients, each {what}"
    n = len(leak.quality)
    how = "in closed form" if leak.closed_form else "by search"
    mean = f"{leak.quality.mean():.0f} dB of signal to noise{' in the mean' * (n > 1)}"
    good = "exact" if leak.quality.min() > EXACT else mean
    spends = f", which spends epsilon = {epsilon(setting):.2g} at delta = {DELTA:g}" if setting.noise else ""
    return (
        f"From {what}{spends}: {n} picture{'s' * (n > 1)} read {how}, {good} (what the label alone tells: "
        f"{leak.by_label:.0f} dB); {int(leak.recognised.sum())} of {n} recognised by a classifier that never saw them, "
        f"{int(leak.picked.sum())} of {n} picked out of all {len(_digits()[0])} digits."
    )


class LeakPanel(Sliders):
    """Sliders for what a client sends and what hides it. ``result`` is the reading on show."""

    labels: ClassVar = {"examples": "digits", "together": "clients in sum", "noise": "noise in %"}
    height: ClassVar = 300

    def __init__(self, setting: Setting, **options: Any) -> None:
        super().__init__("what the server reads", setting, **options)

    def answer(self, setting: Setting) -> Leak:
        return read(setting)

    def draws(self, found: Leak, setting: Setting) -> dict[str, Draw]:
        n = min(len(found.truth), SHOWN)
        title = "What the server reads" + (f" (the first {n} of {len(found.truth)})" if len(found.truth) > n else "")
        return {"picture": lambda m: plots.leak(m, found.truth[:n], found.reading[:n], title)}

    def says(self, found: Leak, setting: Setting) -> str:
        return sentence(found, setting)


def leak(**options: Any) -> LeakPanel:
    """The server reads a client's message. Options: ``theme``, ``size``, ``synchronous``, and any field of the first
    setting: ``examples``, ``local_steps``, ``inner_steps``, ``noise``, ``together``."""
    panel: LeakPanel = opened(LeakPanel, Setting, options)
    return panel
