"""How much memory a comparison takes at least, and whether the machine has it: said before anything is drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmlab.algorithms import Algorithm
from fmlab.data import Clients, Tree
from fmlab.declare import pick, step_sizes, sweep_length
from fmlab.populations import Population
from fmlab.randomness import generator

FEW = 2  # clients drawn to know the bytes of one
SMALL = 2**28  # bytes that are not worth a look
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container, in bytes


def check_memory(config: dict[str, Any]) -> None:
    """Raises ValueError where the parts of a comparison that stay in memory are larger than the machine's."""
    seeds: Sequence[int] = config["seeds"]
    rough = len(seeds) * (config["clients"].n_clients + config["clients"].n_unseen)
    if rough < 20_000 and config["clients_per_round"] * len(seeds) < 20_000:  # spares drawing a few
        return
    parts, have = _parts(config, seeds), physical()
    total = sum(parts.values())
    if total > max(have, SMALL):
        most = sorted(parts, key=lambda part: -parts[part])[:3]
        listed = ", ".join(f"{part} {parts[part] / 1e9:.3g}" for part in most)
        raise ValueError(
            f"this comparison takes at least {total / 1e9:.3g} GB of memory, and the machine has {have / 1e9:.3g} "
            f"(in GB: {listed}); lower seeds = {_said(seeds)}, n_clients = {config['clients'].n_clients} or n_unseen = "
            f"{config['clients'].n_unseen} of the population, clients_per_round, or the number of methods"
        )


def physical() -> float:
    """Bytes of the machine's memory, or of its container's where that has less, or infinity where nothing says."""
    have = float("inf")
    with suppress(AttributeError, ValueError, OSError):
        have = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in LIMITS:
        with suppress(ValueError, OSError):  # not there, or "max"
            have = min(have, float(int(Path(path).read_text())))
    return have


def _said(seeds: Sequence[int]) -> str:
    return str(len(seeds)) if len(seeds) > 5 else repr(seeds)


def _parts(config: dict[str, Any], seeds: Sequence[int]) -> dict[str, float]:
    """Bytes by what they are for, each a lower bound."""
    population: Population = config["clients"]
    counts = {f.name: min(getattr(population, f.name), FEW) for f in fields(population) if f.name in _COUNTS}
    few, number = replace(population, **counts), torch.finfo(config["dtype"]).bits // 8
    each = {split: _bytes(few.draw(split, 0), config["dtype"]) / few.count(split) for split in ("training", "unseen")}
    n, unseen, s = population.n_clients, population.n_unseen, len(seeds)
    model = config["model"] or population.model()
    found: dict[str, float] = {
        "training clients": 2 * s * n * each["training"],  # once as drawn, once by rows
        "unseen clients": s * unseen * each["unseen"],
    }
    if model is None:
        return found
    start = model.init(generator("model", 0))[None, None].to(config["dtype"])
    f = population.objective(model)
    scores = kept = batch = 0.0
    for a in config["algorithms"].values():
        runs = s * sweep_length(a)
        scores += runs * unseen * (config["steps"] + 1) * number
        kept += runs * n * _numbers(_kept(a, f, start)) * number
        batch = max(batch, 2.0 * runs * config["clients_per_round"] * start.numel() * number)
    return found | {"scores": scores, "what clients keep": kept, "models of one round": batch}


_COUNTS = ("n_clients", "n_validation", "n_unseen")


def _kept(a: Algorithm, f: Any, start: Tensor) -> Tree:
    a = pick(a, 0)
    a = replace(a, **{name: 1e-3 for name in step_sizes(a) if getattr(a, name) is None})
    try:
        return a.start(a.objective(f), start)[1]
    except ValueError:  # refused later, with its name
        return {}


def _numbers(tree: Tree) -> int:
    return sum(t.numel() for t in tree.values())


def _bytes(clients: Clients, dtype: torch.dtype) -> int:
    moved = clients.to(dtype, torch.device("cpu"))
    return sum(t.numel() * t.element_size() for t in (*moved.support, *moved.query))
