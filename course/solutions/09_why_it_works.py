"""Solutions to lesson 9. A function whose parameters all have defaults returns the answer; any other is the answer."""

import math

import torch


def per_fedavg_rest(a, m, alpha, beta, tau):
    left = (1 - beta * a * (1 - alpha * a) ** 2) ** tau  # of the distance to the client's own minimum
    return ((1 - left) * m).sum() / (1 - left).sum()


def rounds_enough(gap, beta, epsilon):
    return math.ceil(2 * gap / (beta * epsilon))


def first_order_bias(a, m):
    best = (a * m).sum() / a.sum()
    return (a**2 * (m - best)).sum() / a.sum()


def largest_angle(B, B_star):
    p, q = torch.linalg.qr(B)[0], torch.linalg.qr(B_star)[0]
    return torch.linalg.svdvals(q - p @ (p.mT @ q))[0]


def power(x, y):
    a, b = x.log() - x.log().mean(), y.log()
    return (a * b).sum() / (a * a).sum()
