"""Solutions to lesson 5. A function whose parameters all have defaults returns the answer; any other is the answer."""


def gradient_evaluations(inner_steps, first_order):
    forwards = inner_steps + 1  # one a step, and the query gradient
    return forwards if first_order else forwards + 2 * inner_steps


def first_order_rest(a, m, alpha):
    weight = a * (1 - alpha * a)
    return (weight * m).sum() / weight.sum()


def largest_step(a):
    """|1 - alpha a| < 1 holds for every client as long as it holds for the largest curvature."""
    return 2 / a.max()
