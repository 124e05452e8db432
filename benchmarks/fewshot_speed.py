"""One few-shot round beside learn2learn's loop, for the MLP and the convolutional network, in one run.

    python -m benchmarks.fewshot_speed            writes benchmarks/results/fewshot_speed.md

The round: C clients, 5 ways, 1 support and 5 query images a class, 28 x 28; for the first two MLPs, the
models of Digits and Glyphs, of their size; exact MAML or first order, 1 inner step.
learn2learn runs its documented loop, clone, adapt, backward, a client after the other, on the very same module. Two
hand-stacked convolutions stand beside the lifted one: one grouped convolution for all clients, and patches with a
batched product. Every contestant's result is compared with fmlab's before it is timed. Times are of the processor
(one thread; on an idle machine the same as on the wall), medians of calls that take turns, so that a neighbour on the
machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, pad

import fmlab as fm
from benchmarks.peers import flat, network
from benchmarks.timing import medians
from fmlab.data import Examples, examples
from fmlab.gradients import meta_grad
from fmlab.losses import CrossEntropy
from fmlab.models import conv
from fmlab.models.lift import Lifted
from fmlab.objective import Empirical

RESULT = Path(__file__).parent / "results" / "fewshot_speed.md"
WAYS, SIZE, LR = 5, 28, 0.1


class Stacked:
    """The strided network of ``fmlab.models.conv`` with one-group normalisation, all clients in each call by hand."""

    def __init__(self, lifted: Lifted) -> None:
        self.shapes = list(lifted.shapes.values())

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        runs, clients, n = x.shape[:3]
        groups = runs * clients
        flat = w.expand(runs, clients, -1).reshape(groups, -1)
        parts = [
            p.view(groups, *s)
            for p, s in zip(flat.split([s.numel() for s in self.shapes], 1), self.shapes, strict=True)
        ]
        h = x.reshape(groups, n, 1, SIZE, SIZE)
        for weight, bias, scale, shift in (parts[k : k + 4] for k in range(0, 16, 4)):
            z = self.convolve(h, weight, bias)
            var, mean = torch.var_mean(z, (2, 3, 4), correction=0, keepdim=True)
            z = (z - mean) * (var + 1e-5).rsqrt()
            h = (z * scale[:, None, :, None, None] + shift[:, None, :, None, None]).relu()
        return torch.baddbmm(parts[17][:, None], h.flatten(2), parts[16].mT).view(runs, clients, n, -1)

    def convolve(self, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """h (G, n, c, s, s), weight (G, o, c, 3, 3) -> (G, n, o, s', s')."""
        raise NotImplementedError


class Grouped(Stacked):
    def convolve(self, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        groups = len(h)
        z = conv2d(h.transpose(0, 1).flatten(1, 2), weight.flatten(0, 1), bias.flatten(), 2, 1, groups=groups)
        return z.unflatten(1, (groups, -1)).transpose(0, 1)


class Patches(Stacked):
    def convolve(self, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        groups, n, _, side, _ = h.shape
        half, h = (side + 1) // 2, pad(h, (1, 1, 1, 1))
        views = [h[..., i : i + 2 * half - 1 : 2, j : j + 2 * half - 1 : 2] for i in range(3) for j in range(3)]
        patches = torch.stack(views, 3).permute(0, 1, 4, 5, 2, 3).reshape(groups, n * half * half, -1)
        z = torch.baddbmm(bias[:, None], patches, weight.flatten(2).mT)
        return z.view(groups, n, half, half, -1).permute(0, 1, 4, 2, 3)


def ours(model: Any, w: Tensor, support: Examples, query: Examples, first_order: bool) -> Tensor:
    """fmlab's round: every client's meta-gradient, their mean (P,)."""
    with torch.no_grad():
        clients = w.expand(1, support.x.shape[1], -1)
        return meta_grad(Empirical(model, CrossEntropy()), clients, support, query, LR, 1, first_order).mean((0, 1))


def theirs(module: nn.Module, support: Examples, query: Examples, first_order: bool) -> list[Tensor]:
    """learn2learn's loop on the same module: the gradient of each parameter."""
    from lab.install.l2l import load

    maml = load().algorithms.MAML(copy.deepcopy(module), lr=LR, first_order=first_order)
    clients = support.x.shape[1]
    for c in range(clients):
        learner = maml.clone()
        learner.adapt(cross_entropy(learner(support.x[0, c]), support.y[0, c]))
        (cross_entropy(learner(query.x[0, c]), query.y[0, c]) / clients).backward()
    return [p.grad for p in maml.parameters()]


def tasks(clients: int, shots: int, side: int, seed: int) -> Examples:
    x = torch.rand(1, clients, WAYS * shots, side, side, generator=torch.Generator().manual_seed(seed))
    e = examples(x, torch.arange(WAYS).repeat(shots).expand(1, clients, -1))
    return e._replace(weight=e.weight.float())


def contest(
    name: str,
    models: dict[str, Any],
    w: Tensor,
    module: nn.Module,
    join: Callable[[list[Tensor]], Tensor],
    clients: int,
    s: float,
    side: int = SIZE,
) -> list[list[str]]:
    """Rows of one network: exact and first order; ``join`` makes learn2learn's gradients one of fmlab's."""
    support, query = tasks(clients, 1, side, 1), tasks(clients, 5, side, 2)
    rows = []
    for first_order in (False, True):
        calls: list[Callable[[], Any]] = [partial(ours, m, w, support, query, first_order) for m in models.values()]
        loop = partial(theirs, module, support, query, first_order)
        result, *others = [call() for call in calls]
        for other in [*others, join(loop())]:
            torch.testing.assert_close(other, result, rtol=1e-3, atol=1e-5)
        times = medians([*calls, loop], s / (len(calls) + 1), time.process_time)
        what = "first order" if first_order else "exact"
        hand = [f"{t:.1f}" for t in times[1:-1]] or ["", ""]
        rows.append(
            [name, what, str(clients), f"{times[0]:.1f}", f"{times[-1]:.1f}", f"{times[-1] / times[0]:.1f}", *hand]
        )
        print("  ".join(rows[-1]), flush=True)
    return rows


def mlp(sizes: tuple[int, ...], clients: int, seconds: float) -> list[list[str]]:
    model = fm.MLP(sizes)
    w = model.init(torch.Generator().manual_seed(0)).float()
    module = nn.Sequential(nn.Flatten(), *network(w, sizes))
    name = f"MLP {'-'.join(map(str, sizes))}"
    return contest(name, {"fmlab": model}, w, module, flat, clients, seconds, isqrt(sizes[0]))


def convolution(width: int, clients: int, seconds: float) -> list[list[str]]:
    model = conv(WAYS, width=width, size=SIZE, norm="group")
    w = model.init(torch.Generator().manual_seed(0))
    w = (w + 0.05 * torch.rand(w.shape, generator=torch.Generator().manual_seed(1))).float()
    module = copy.deepcopy(model.module)
    nn.utils.vector_to_parameters(w, module.parameters())
    models = {"fmlab": model, "grouped": Grouped(model), "patches": Patches(model)}
    return contest(
        f"4 convolutions of {width}", models, w, module, lambda g: torch.cat([t.flatten() for t in g]), clients, seconds
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row")
    parser.add_argument("--clients", type=int, default=25)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64], help="of the convolutional networks")
    a = parser.parse_args()
    torch.set_num_threads(1)
    head = "network|MAML|clients|fmlab, ms|learn2learn, ms|ratio|grouped by hand, ms|patches by hand, ms"
    rows = [head.split("|"), ["---"] * 8]
    hidden = [k().model().sizes[:-1] for k in (fm.Digits, fm.Glyphs)] + [(SIZE**2, 64), (SIZE**2, 256, 128, 64, 64)]
    contests = [partial(mlp, (*sizes, WAYS)) for sizes in hidden] + [partial(convolution, width) for width in a.widths]
    for run in contests:
        rows += run(a.clients, a.seconds)
        write(rows)
    print(RESULT.read_text(encoding="utf-8"))


def write(rows: list[list[str]]) -> None:
    """The table so far, under what it measures."""
    head = ["# A few-shot round beside learn2learn", "", "Written by `python -m benchmarks.fewshot_speed`.", ""]
    about = (__doc__ or "").split("\n\n")[2]
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join([*head, about, "", *(f"| {' | '.join(r)} |" for r in rows)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
