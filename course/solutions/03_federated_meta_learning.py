"""Solutions to lesson 3. A function whose parameters all have defaults returns the answer; any other is the answer."""

import fmlab as fm


def share_ahead(first, second, k):
    return (first[..., k] < second[..., k]).double().mean()


def per_fedavg_first_order(f, w, S, Q, alpha, beta, tau):
    v = w
    for _ in range(tau):
        u = v - alpha * fm.grad(f, v, S)
        v = v - beta * fm.grad(f, u, Q)
    return v.mean(1, keepdim=True)


def reptile_is_fedavg():
    return 1.0
