"""Solutions to lesson 2. A function whose parameters all have defaults returns the answer; any other is the answer."""

import torch

import fmlab as fm


def maml_on_a_quadratic():
    """(I - alpha A) A (I - alpha A) (w - m), coordinate by coordinate."""
    a, m, w, alpha = torch.tensor([3.0, 0.5]), torch.tensor([1.0, -1.0]), torch.zeros(2), 0.2
    return (1 - alpha * a) * a * (1 - alpha * a) * (w - m)


def two_inner_steps(f, w, S, Q, alpha):
    def after_two_steps(v):
        u = v - alpha * fm.grad(f, v, S)
        u = u - alpha * fm.grad(f, u, S)
        return f(u, Q)

    return fm.grad(after_two_steps, w)


def first_order_turns():
    """(1 - alpha a) changes its sign at alpha = 1 / a."""
    return 1 / 2
