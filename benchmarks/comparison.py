"""The contract's example in JAX: FedAvg and MAML, 300 rounds, 3 seeds, 25 clients a round, evaluated 11 times."""

from __future__ import annotations

import time
from typing import Any

import torch

import fmlab as fm
from benchmarks import peers
from fmlab.engine import participants
from fmlab.setup import prepare

ROUNDS, SEEDS, STEPS = 300, 3, 5


def jax_comparison() -> tuple[float, float]:
    """Seconds of compiling and of running."""
    import jax
    import jax.numpy as jnp

    setup = prepare([fm.FedAvg(lr=0.02, adapt_lr=0.01)], fm.Sines(), rounds=ROUNDS, seeds=SEEDS, dtype=torch.float32)
    start = jnp.asarray(setup.start.numpy())
    support, query = setup.training.support, setup.training.query
    x, y = (jnp.asarray(torch.cat([a, b], 2).numpy()) for a, b in ((support.x, query.x), (support.y, query.y)))
    unseen = [jnp.asarray(t.numpy()) for e in setup.unseen.everyone() for t in (e.x, e.y)]

    def evaluate(w: Any, data: list[Any]) -> Any:
        def client(w: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
            losses = []
            for k in range(STEPS + 1):
                losses.append(peers.jax_loss(w, xq, yq))
                w = w - 0.01 * jax.grad(peers.jax_loss)(w, xs, ys) if k < STEPS else w
            return jnp.stack(losses)

        return jax.vmap(jax.vmap(client, (None, 0, 0, 0, 0)))(w, *data)

    def round_of(meta: bool) -> Any:
        one = peers.jax_round(1 if meta else 5, 0.02, meta)

        def step(w: Any, m: Any, v: Any, t: Any, ids: Any) -> Any:
            rows = jnp.arange(SEEDS)[:, None]
            g = jax.vmap(one)(w, x[rows, ids], y[rows, ids])
            if not meta:
                return w - g, m, v
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            return w - 0.005 * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8), m, v

        return jax.jit(step)

    calls = {meta: round_of(meta) for meta in (False, True)}
    score = jax.jit(evaluate)
    ids = [jnp.asarray(participants((0, 1, 2), 1000, 25, t).numpy()) for t in range(ROUNDS)]

    def run(rounds: int) -> float:
        began = time.perf_counter()
        for call in calls.values():
            w, m, v = start, jnp.zeros_like(start), jnp.zeros_like(start)
            for t in range(rounds):
                w, m, v = call(w, m, v, t + 1.0, ids[t])
                if t % (ROUNDS // 10) == 0:
                    score(w, unseen).block_until_ready()
        return time.perf_counter() - began

    return run(1), run(ROUNDS)
