"""Which unit of one client is which of another: matching by assignment, many runs at once.

Every layer has W places for units, of which some may be empty; a client has units in some of its own W rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fmlab.data import Tree
from fmlab.layers import Chain, Layer

REFINED = 5  # how often every client is matched anew at most, as in the authors' code; less where nothing moves
FAR = 1e100


def assign(reward: Tensor) -> Tensor:
    """The one-to-one assignment of largest total reward (..., W, W): the column of each row, int64 (..., W).

    -inf forbids a pair. NaN, of a run that has diverged, counts as 0.
    """
    from scipy.optimize import linear_sum_assignment  # here, since it takes longer to import than all of fmlab's own

    rewards = reward.detach().to("cpu", torch.float64).nan_to_num(0.0, FAR, -FAR).clamp(-FAR, FAR)
    found = [torch.from_numpy(linear_sum_assignment(r, maximize=True)[1]) for r in rewards.flatten(0, -3).numpy()]
    return torch.stack(found).view(reward.shape[:-1]).to(reward.device)


def match(rows: Tensor, real: Tensor, sigma0: float | Tensor, sigma: float | Tensor, gamma: float | Tensor) -> Tensor:
    """The place of every client's every unit, int64 (R, C, W): BBP-MAP of Yurochkin et al. 2019 (1905.12022).

    rows (R, C, W, D): the units' weights; real (R, C, W): where a client has one. Clients come one after another, the
    one with the largest weights first, so their order does not matter; then each again while that raises the reward.
    Hyperparameters are numbers or (R, 1, 1). A unit w at a place where m others with sum T are, of J clients, is worth

        (|w + T|^2 / (p + m + 1) - |T|^2 / (p + m)) / sigma^2 + 2 log(m / (J - m)),  p = (sigma / sigma0)^2,

    where at the i-th empty place the logarithms are 2 log(gamma / J) - 2 log i. (Twice the log posterior of the units
    as draws, with variance sigma^2, from global ones, which are N(0, sigma0^2) and an Indian buffet process of mass
    gamma.)
    """
    rows, there = torch.where(real[..., None], rows, 0.0), real.to(rows.dtype)
    runs, width = torch.arange(len(rows), device=rows.device), rows.shape[2]
    clients = there.amax(-1).sum(1)[:, None, None].clamp(min=1)
    size = torch.where(real.any(-1), rows.square().sum((-1, -2)), -1.0)
    prior, order = (sigma / sigma0) ** 2, size.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(width, device=rows.device).expand(real.shape).clone()
    total, count = torch.zeros_like(rows[:, 0]), rows.new_zeros(len(rows), 1, width)
    for turn in range(1 + REFINED):
        before = places.clone()
        for c in range(rows.shape[1]):
            who = order[:, c]
            own, mine, place = rows[runs, who], there[runs, who], places[runs, who]
            if turn > 0:
                total, count = total - put(own, place), count - put(mine, place)[:, None]
            if turn > 0 or c > 0:
                square = total.square().sum(-1)[:, None]
                both = own.square().sum(-1)[..., None] + 2 * own @ total.mT + square
                empty = count == 0
                new = 2 * (gamma / clients / empty.cumsum(-1).clamp(min=1)).log()
                old = 2 * (count / (clients - count).clamp(min=1)).log()
                value = (both / (prior + count + 1) - square / (prior + count)) / sigma**2
                value = torch.where(mine[..., None] > 0, value + torch.where(empty, new, old), 0.0)
                best = assign(value)
                if turn > 0:
                    now, then = (value.gather(-1, at[..., None]).sum((-1, -2)) for at in (best, place))
                    best = torch.where((now > then + 1e-9 * (1 + then.abs()))[:, None], best, place)
                places[runs, who] = place = best
            total, count = total + put(own, place), count + put(mine, place)[:, None]
        if turn > 0 and torch.equal(places, before):
            break
    return places


def matched_mean(
    layer: Layer,
    part: Tensor,
    held: Tensor,
    weight: Tensor | None,
    sigma0: float | Tensor,
    sigma: float | Tensor,
    gamma: float | Tensor,
) -> Tensor:
    """A layer (R, 1, S) of the weighted means of the units that ``match`` puts at each place, 0 where it puts none.

    part (R, C, S): the clients'; held (R, 1, S): the one they all started from, whose places are empty where it is 0.
    weight (R, C, 1): 0 for a client without a say; None: all the same.
    """
    rows, share = layer.units(part), part.new_ones(*part.shape[:2], 1) if weight is None else weight
    real = layer.units(held).ne(0).any(-1) & (share > 0)
    places = match(rows, real, sigma0, sigma, gamma)
    share = put(share * real, places)[..., None]
    mass = share.sum(1, keepdim=True)
    return layer.flat((put(rows, places) * share).sum(1, keepdim=True) / torch.where(mass > 0, mass, 1.0))


def put(rows: Tensor, places: Tensor) -> Tensor:
    """Rows (..., W, D), or one number each (..., W), at their places (..., W)."""
    order = places.argsort(-1)
    if rows.ndim == places.ndim:
        return rows.gather(-1, order)
    return rows.gather(-2, order[..., None].expand_as(rows))


def nearest(own: Tensor, held: Tensor) -> Tensor:
    """The places (..., W) that a client's units ``own`` have among the matched ones ``held``, both (..., W, D): the
    assignment of least total squared distance. Rows of zeros are empty."""
    mine, taken = own.ne(0).any(-1)[..., None], held.ne(0).any(-1)[..., None, :]
    value = 2 * own @ held.mT - held.square().sum(-1)[..., None, :]
    return assign(torch.where(mine, torch.where(taken, value, -torch.inf), 0.0))


def carried(chain: Chain, n: int, own: Tensor, held: Tree) -> Tensor:
    """The models (..., P) that clients train when layers below n are matched. n = 0: those held. Else their own, with
    layer n - 1 as held and the inputs of layer n where its units went."""
    if n == 0:
        return chain.join(held)
    parts, (below, here) = chain.split(own), chain.names[n - 1 : n + 1]
    units = chain.layers[n - 1].units
    places = nearest(units(parts[below]), units(held[below]))
    parts[below], parts[here] = held[below], chain.layers[n].rewire(parts[here], places.argsort(-1))
    return chain.join(parts)
