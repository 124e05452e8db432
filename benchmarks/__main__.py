"""fmlab beside its peers, in one run on one machine: ``make bench`` prints tables and writes benchmarks/results/.

Every figure is a median of repeats; ratios are against a peer timed in the same run. Each peer's result is
compared with fmlab's before it is timed. ``--quick`` leaves out 1,000 clients and more, and repeats less.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fmlab as fm
from benchmarks import peers
from benchmarks.comparison import jax_comparison
from benchmarks.timing import medians, turns

RESULTS = Path(__file__).with_name("results")
LR = 0.01


def tasks() -> dict[str, tuple[fm.Algorithm, dict[str, Any]]]:
    """The rounds that are timed: ours, and the arguments of the peers'."""

    def maml(steps: int, first_order: bool) -> fm.Algorithm:
        return fm.FedMAML(steps, inner_lr=LR, first_order=first_order, adapt_lr=LR)

    return {
        "FedAvg, 5 local steps": (fm.FedAvg(5, lr=LR, adapt_lr=LR), {"steps": 5, "meta": False}),
        "MAML, 1 step": (maml(1, False), {"steps": 1, "meta": True, "first_order": False}),
        "MAML, 5 steps": (maml(5, False), {"steps": 5, "meta": True, "first_order": False}),
        "FOMAML, 1 step": (maml(1, True), {"steps": 1, "meta": True, "first_order": True}),
        "FOMAML, 5 steps": (maml(5, True), {"steps": 5, "meta": True, "first_order": True}),
    }


def rounds(clients: list[int], seconds: float) -> list[list[str]]:
    """One round of every task, for every number of clients and 1 and 2 threads."""
    model = fm.MLP(peers.SIZES)
    w = model.init(torch.Generator().manual_seed(0)).to(torch.float32)
    rows = [
        [
            "round of",
            "clients",
            "threads",
            "fmlab ms",
            "peer",
            "peer ms",
            "ratio",
            "JAX ms",
            "fmlab / JAX",
            "JAX compile s",
        ]
    ]
    for c in clients:
        x = torch.rand(c, 20, 1, generator=torch.Generator().manual_seed(1)) * 10 - 5
        y = (x - torch.linspace(0, 3, c)[:, None, None]).sin()
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for name, (algorithm, setting) in tasks().items():
                mine = peers.ours(w, x, y, algorithm)
                peer, call = _peer(w, x, y, setting)
                _same(name, mine(), call())
                jax, compiled = _jax(name, w, x, y, setting, mine())
                ours, theirs, *rest = medians([mine, call, *([jax] if jax else [])], seconds, time.perf_counter)
                row = [name, c, threads, f"{ours:.2f}", peer, f"{theirs:.1f}", f"{theirs / ours:.0f}"]
                row += [f"{rest[0]:.2f}", f"{ours / rest[0]:.2f}", f"{compiled:.1f}"] if jax else ["none", "", ""]
                rows.append([*map(str, row)])
                print("  ".join(rows[-1]), flush=True)
    return rows


def _peer(w: Tensor, x: Tensor, y: Tensor, setting: dict[str, Any]) -> tuple[str, Callable[[], Tensor]]:
    if setting["meta"]:
        how = {"steps": setting["steps"], "first_order": setting["first_order"]}
        return "learn2learn", partial(peers.learn2learn_maml, w, x, y, lr=LR, **how)
    return "plain loop", partial(peers.plain_fedavg, w, x, y, setting["steps"], LR)


def _jax(
    name: str, w: Tensor, x: Tensor, y: Tensor, setting: dict[str, Any], mine: Tensor
) -> tuple[Callable[[], Any] | None, float]:
    """JAX's round, checked, and the seconds it took to compile; None where JAX is not installed."""
    if find_spec("jax") is None:
        return None, 0.0
    call = peers.jax_round(lr=LR, **setting)
    arrays = [t.numpy() for t in (w, x, y)]
    began = time.perf_counter()
    result = call(*arrays).block_until_ready()
    compiled = time.perf_counter() - began
    _same(name, mine, torch.tensor(result.tolist()))
    return lambda: call(*arrays).block_until_ready(), compiled


def _same(name: str, a: Tensor, b: Tensor) -> None:
    if not torch.allclose(a, b, rtol=1e-3, atol=1e-5):
        raise AssertionError(f"{name}: fmlab and its peer differ by {(a - b).abs().max():.2g}; nothing was timed")


def scaling(numbers: list[int], seconds: float) -> list[list[str]]:
    """Cost against clients, one thread, and the share of this machine's own limit for batched 40 x 40 products."""
    torch.set_num_threads(1)
    model = fm.MLP(peers.SIZES)
    w = model.init(torch.Generator().manual_seed(0)).to(torch.float32)
    head = ["clients", "FedAvg ms", "us a client", "MAML ms", "us a client", "GFLOP/s of FedAvg", "of the limit"]
    rows = [[*head, "peak memory of this benchmark so far, GiB"]]
    a, b = torch.rand(200, 20, 40), torch.rand(200, 40, 40)
    for c in numbers:
        x = torch.rand(c, 20, 1) * 10 - 5
        calls = [peers.ours(w, x, x.sin(), tasks()[k][0]) for k in ("FedAvg, 5 local steps", "MAML, 1 step")]
        *times, product = medians([*calls, lambda: torch.bmm(a, b)], seconds, time.perf_counter)
        limit = 200 * 2 * 20 * 40 * 40 / product / 1e6
        flops = c * 5 * 3 * 2 * 20 * (40 + 1600 + 40)  # forward, backward and weights, in each of 5 steps
        rate = flops / times[0] / 1e6
        cells = [str(c)]
        for t in times:
            cells += [f"{t:.1f}", f"{t / c * 1e3:.1f}"]
        rows.append([*cells, f"{rate:.1f}", f"{rate / limit:.0%}", peak()])
        print("  ".join(rows[-1]), flush=True)
    return rows


def comparison(seconds: float) -> list[list[str]]:
    """The contract's example: two algorithms, 300 rounds, 3 seeds, 25 clients a round, evaluation included."""
    rows = [["comparison", "threads", "seconds", "fastest to slowest", "of them evaluation"]]
    methods = [fm.FedAvg(), fm.FedMAML(inner_steps=1)]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.float64):
            call = partial(fm.compare, methods, fm.Sines(), dtype=dtype)
            taken, fewer = turns([call, partial(call, evaluations=1)], 20 * seconds, time.perf_counter)
            whole, once = statistics.median(taken) / 1e3, statistics.median(fewer) / 1e3
            share = 11 / 9 * (whole - once) / whole  # 11 evaluations against 2
            spread = f"{min(taken) / 1e3:.2f} to {max(taken) / 1e3:.2f} in {len(taken)} turns"
            name = f"fm.compare, {str(dtype).removeprefix('torch.')}"
            rows.append([name, str(threads), f"{whole:.2f}", spread, f"{share:.0%}"])
            print("  ".join(rows[-1]), flush=True)
    if find_spec("jax") is not None:
        compiled, ran = jax_comparison()
        rows.append(
            ["the same in JAX, float32, compile included", "", f"{compiled + ran:.2f}", f"compile {compiled:.2f}", ""]
        )
        print("  ".join(rows[-1]), flush=True)
    return rows


def peak() -> str:
    """The most memory this process has held so far, GiB."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == 'darwin' else 2**20):.2f}"


def markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    seconds = 0.3 if quick else 1.0
    parts = [
        ("One round", rounds([10, 200] if quick else [10, 50, 200, 1000], seconds)),
        ("A whole comparison", comparison(seconds)),
        ("Cost against clients, 1 thread", scaling([10, 100, 1000] if quick else [10, 100, 1000, 10000], seconds)),
    ]
    about = (
        f"torch {torch.__version__.split('+')[0]}, Python {platform.python_version()}, {platform.machine()}, float32, "
        "network 1-40-40-1, 20 examples a client."
    )
    text = "\n\n".join(
        ["# Benchmarks", f"Written by `make bench`. {about}", *(f"## {t}\n\n{markdown(r)}" for t, r in parts)]
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / ("quick.md" if quick else "rounds.md")).write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
