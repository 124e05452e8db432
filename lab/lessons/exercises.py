"""The exercises of the lessons: one function each, named as in ``lab.check("name", answer)``.

To add one, write a function of the answer here: its docstring says what is wanted, and it yields (passed, hint)
pairs in the order in which a reader should put things right; the first that did not pass is shown. What the answer is
compared with is computed by fmlab when the check runs, and no hint contains it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

import fmlab as fm
from fmlab.data import Batch

Steps = Iterator[tuple[Any, str]]


def _near(answer: Any, truth: Any, within: float = 0.01) -> bool:
    """Same shape, and closer than ``within`` of the truth's size."""
    a, t = (torch.as_tensor(v, dtype=torch.float64) for v in (answer, truth))
    return a.shape == t.shape and bool((a - t).norm() <= within * t.norm())


def megabytes(answer: Any) -> Steps:
    """A number: the megabytes (10^6 bytes), both ways together, of 300 rounds of FedAvg with 25 clients a round."""
    study = fm.compare([fm.FedAvg(lr=0.01, adapt_lr=0.01)], fm.Sines(), rounds=1, seeds=1, evaluations=1, steps=1)
    truth = 300 * float(study.bytes["FedAvg"].flatten()[-1]) / 1e6
    yield torch.as_tensor(answer).numel() == 1, "One number is wanted."
    yield not _near(answer, truth / 2), "This is one way only: the server also sends its model to every client."
    yield not _near(answer, truth * 1e6), "These are bytes; a megabyte is a million of them."
    yield not _near(answer, truth / 25), "This is one client; there are 25 in a round."
    yield not _near(answer, truth / 4), "A number takes four bytes."
    yield _near(answer, truth), "Multiply: rounds, clients, parameters of the model, bytes of a number, two ways."


def where_fedavg_settles(answer: Any) -> Steps:
    """A number: the model at which FedAvg settles on the two clients, to three digits."""
    curvature, minimum = torch.tensor([1.0, 4.0]).double(), torch.tensor([0.0, 1.0]).double()
    left = (1 - 0.1 * curvature) ** 10  # what ten steps leave of the distance to the client's own minimum
    truth = ((1 - left) * minimum).sum() / (1 - left).sum()
    yield torch.as_tensor(answer).numel() == 1, "One number is wanted."
    best = (curvature * minimum).sum() / curvature.sum()
    yield not _near(answer, best, 1e-3), "This is the minimum of the mean loss; ten local steps do not settle there."
    yield _near(answer, truth, 2e-3), "At the fixed point a round changes nothing: w = mean of (m_i + c_i (w - m_i))."


def trivial_loss(answer: Any) -> Steps:
    """A number: the mean square error of predicting 0 for y = 2.55 sin(x - pi/2), over a full period."""
    x = torch.linspace(0, 2 * torch.pi, 1001, dtype=torch.float64)[:-1]
    amplitude, phase = fm.Sines(heterogeneity=0.0, n_unseen=1).curves("unseen", seed=0)
    truth = (amplitude * (x - phase).sin()).square().mean()
    yield torch.as_tensor(answer).numel() == 1, "One number is wanted."
    yield not _near(answer, amplitude.square()[0, 0]), "This is the square of the amplitude; the sine is seldom at 1."
    yield _near(answer, truth, 0.02), "Square the amplitude, and multiply by the mean of the squared sine."


def share_hurt(answer: Any) -> Steps:
    """A function (before, after) -> the share of clients whose loss rose, a number in [0, 1]."""
    yield callable(answer), "A function is wanted: pass its name, without calling it."
    study = fm.compare([fm.FedAvg(lr=0.02, adapt_lr=0.02)], fm.Sines(n_unseen=40), rounds=5, seeds=2, evaluations=1)
    before, after = study.adaptation["FedAvg"][..., 0], study.adaptation["FedAvg"][..., -1]
    yield torch.as_tensor(answer(before, after)).numel() == 1, "One number for all clients together is wanted."
    yield float(answer(before, before)) == 0, "A client whose loss stays the same is not hurt."
    yield _near(answer(before, after), (after > before).double().mean(), 1e-9), "Count the clients with after > before."
    lost = after.clone()
    lost[0, :5] = float("nan")
    truth = (~(lost <= before)).double().mean()
    yield _near(answer(before, lost), truth, 1e-9), "A loss of nan counts as hurt, and no comparison with nan is true."


def crossover(answer: Any) -> Steps:
    """A function (levels, ratio) -> the level at which the ratio first reaches 1, or None."""
    yield callable(answer), "A function is wanted: pass its name, without calling it."
    levels, ratio = [0.0, 0.2, 0.6, 1.0], [0.5, 0.8, 1.2, 3.0]
    found = answer(levels, ratio)
    yield found is not None, "The ratio 0.5, 0.8, 1.2, 3.0 does reach 1."
    yield float(found) not in levels, "Not one of the levels: a point between two of them, by a straight line."
    yield (
        _near(found, 0.2 + 0.4 * (1 - 0.8) / (1.2 - 0.8), 1e-6),
        "How far from 0.8 to 1.2 is 1? Go as far in the levels.",
    )
    yield answer(levels, [0.5, 0.6, 0.7, 0.9]) is None, "If the ratio stays below 1, the answer is None."
    starts = answer(levels, [1.5, 2.0, 0.5, 3.0])
    yield starts is not None and float(starts) == levels[0], "If the ratio starts at 1 or above, it is the first level."
    again = answer(levels, [0.5, 2.0, 0.5, 2.0])
    yield again is not None and _near(again, 0.2 / 3, 1e-6), "The first time that it reaches 1 is wanted."


def best_without_adapting(answer: Any) -> Steps:
    """A function (ways) -> the share of pictures that the best shared model labels correctly before it adapts."""
    yield callable(answer), "A function is wanted: pass its name, without calling it."
    for ways in (2, 3, 5):
        orders = list(itertools.permutations(range(ways)))  # label of class 0, 1, ... at a client
        best = sum(max(sum(o[c] == j for o in orders) for j in range(ways)) for c in range(ways)) / ways / len(orders)
        yield (
            _near(answer(ways), best, 1e-6),
            f"Write down all orders for 2 classes, and count; {ways} classes fail here.",
        )


def gradient_evaluations(answer: Any) -> Steps:
    """A function (inner_steps, first_order) -> gradient evaluations of one client in one round of FedMAML."""
    yield callable(answer), "A function is wanted: pass its name, without calling it."
    for first_order, hint in (
        (True, "First order: the inner steps, and the query gradient."),
        (False, "Exact: also walk back."),
    ):
        for steps in (1, 2, 5):
            truth = fm.FedMAML(inner_steps=steps, first_order=first_order).evaluations()
            yield _near(answer(steps, first_order), truth, 1e-9), hint


def first_order_rest(answer: Any) -> Steps:
    """A function (a, m, alpha) -> the w at which the mean first-order meta-gradient of one inner step vanishes."""
    yield callable(answer), "A function is wanted: pass its name, without calling it."
    a, m = torch.tensor([1.0, 2.0, 5.0]).double(), torch.tensor([0.0, 1.0, -2.0]).double()

    def f(w: torch.Tensor) -> torch.Tensor:
        return a / 2 * (w[..., 0] - m) ** 2

    def slope(w: torch.Tensor, alpha: float) -> torch.Tensor:
        w = w.to(torch.float64).expand(1, 3, 1)
        return fm.grad(f, w - alpha * fm.grad(f, w)).mean()

    plain = answer(a, m, 0.0)
    yield torch.as_tensor(plain).numel() == 1, "One number is wanted."
    yield slope(torch.as_tensor(plain), 0.0).abs() < 1e-9, "Without an inner step it is the minimum of the mean loss."
    w = torch.as_tensor(answer(a, m, 0.1))
    exact = ((a * (1 - 0.1 * a) ** 2) * m).sum() / (a * (1 - 0.1 * a) ** 2).sum()
    yield not _near(w, exact, 1e-6), "This is where the exact gradient vanishes; first order has the factor only once."
    yield slope(w, 0.1).abs() < 1e-9, "There the sum over clients of a (1 - alpha a) (w - m) must be zero."


def largest_step(answer: Any) -> Steps:
    """A function (a) -> the step size at and beyond which gradient descent stops converging for some client."""
    yield callable(answer), "A function is wanted: pass its name, without calling it."
    a = torch.tensor([0.5, 3.0, 4.0]).double()
    size = float(answer(a))

    def far(alpha: float) -> float:
        return float(((1 - alpha * a) ** 2000).abs().max())  # what 2,000 steps leave of the distance

    yield far(0.99 * size) < 1, "Some client already diverges below this step size."
    yield far(1.01 * size) > 1, "Every client still converges at this step size; a larger one can do."


def pictures(answer: Any) -> Steps:
    """A function (ways, shots, query) -> labelled pictures of a training client, support and query together."""
    yield callable(answer), "A function is wanted: pass its name, without calling it."
    for ways, shots, query in ((2, 1, 1), (3, 5, 4)):
        task = fm.Digits(ways=ways, shots=shots, query=query, n_clients=1, skew=0.0)
        support, asked = task.draw("training", 0).everyone()
        truth = support.y.shape[-1] + asked.y.shape[-1]
        yield _near(answer(ways, shots, query), truth, 1e-9), "Both numbers count the pictures of each class."


def nearest_mean(answer: Any) -> Steps:
    """A function (support_x, support_y, query_x) -> the label of the nearest class mean for each query picture."""
    yield callable(answer), "A function is wanted: pass its name, without calling it."
    support, query = fm.Digits(n_unseen=4).draw("unseen", 0).everyone()
    for client in range(4):
        sx, qx = (e.x[0, client].flatten(1).double() for e in (support, query))
        sy = support.y[0, client]
        means = torch.stack([sx[sy == j].mean(0) for j in range(int(sy.max()) + 1)])
        truth = (qx[:, None] - means).square().sum(-1).argmin(1)
        found = torch.as_tensor(answer(sx, sy, qx))
        yield found.shape == truth.shape, "One label for each query picture is wanted."
        yield bool((found == truth).all()), "Mean of the support pictures of each class, then the label of the nearest."


def interval(answer: Any) -> Steps:
    """A function (accuracies) -> 1.96 standard errors of their mean."""
    yield callable(answer), "A function is wanted: pass its name, without calling it."
    values = torch.linspace(0.1, 0.9, 17, dtype=torch.float64) ** 2
    truth = 1.96 * values.std() / len(values) ** 0.5
    found = answer(values)
    yield (
        not _near(found, 1.96 * values.std(), 1e-6),
        "This is the spread of the clients; the mean of many varies less.",
    )
    yield (
        not _near(found, 1.96 * values.std(correction=0) / len(values) ** 0.5, 1e-4),
        "Divide by n - 1 in the variance.",
    )
    yield _near(found, truth, 1e-6), "1.96 times the standard deviation, divided by the root of the number of clients."


def fedprox_round(answer: Any) -> Steps:
    """A tensor of the shape of start: the model after one round of FedProx with mu = 1, eta = 0.02, K = 5."""
    population = fm.Sines(n_clients=10)
    batch = Batch(*population.draw("training", seed=0).everyone())
    f = population.objective(population.model())
    w = population.model().init(torch.Generator().manual_seed(0))[None, None]

    def after_round(algorithm: Any) -> torch.Tensor:
        sent, _ = algorithm.local(f, {"model": w.expand(1, 10, -1)}, {}, batch)
        return w - sent["model"].mean(1, keepdim=True)

    yield (
        torch.as_tensor(answer).shape == w.shape,
        f"A model of the shape {tuple(w.shape)} is wanted: the clients' mean.",
    )
    fedavg, truth = after_round(fm.FedAvg(lr=0.02)), after_round(fm.FedProx(lr=0.02, mu=1.0))
    yield not _near(answer - w, fedavg - w, 1e-6), "This is FedAvg. The gradient of the added term is still missing."
    away = after_round(fm.FedProx(lr=0.02, mu=2.0))
    yield not _near(answer - w, away - w, 1e-6), "The half in mu / 2 goes when the square is differentiated."
    yield (
        _near(answer - w, truth - w, 1e-6),
        "In each local step add mu * (v - w) to the gradient; w stays what was sent.",
    )


def maml_on_a_quadratic(answer: Any) -> Steps:
    """Two numbers: the exact meta-gradient on the quadratic at w = (0, 0)."""
    a, m = torch.tensor([3.0, 0.5]).double(), torch.tensor([1.0, -1.0]).double()

    def f(w: torch.Tensor) -> torch.Tensor:
        return 0.5 * (a * (w - m).square()).sum(-1)

    w = torch.zeros(1, 1, 2, dtype=torch.float64)
    u = w - 0.2 * fm.grad(f, w)
    truth = fm.grad(lambda v: f(v - 0.2 * fm.grad(f, v)), w)[0, 0]
    yield torch.as_tensor(answer).shape == truth.shape, "Two numbers are wanted, one for each coordinate."
    yield not _near(answer, fm.grad(f, w)[0, 0]), "This is the gradient at w, without an inner step."
    yield not _near(answer, fm.grad(f, u)[0, 0]), "This is first order: the factor from the chain rule is missing."
    yield not _near(-torch.as_tensor(answer), truth), "Turn the signs: w - m is what the gradient is taken of."
    yield _near(answer, truth), "Each coordinate: (1 - alpha a) a (1 - alpha a) (w - m)."


def two_inner_steps(answer: Any) -> Steps:
    """A function (f, w, S, Q, alpha) -> the exact meta-gradient for two inner steps, of the shape of w."""
    yield callable(answer), "A function is wanted: pass its name, without calling it."
    population = fm.Sines(n_clients=4)
    S, Q = population.draw("training", seed=0).everyone()
    f = population.objective(population.model())
    w = population.model().init(torch.Generator().manual_seed(0)).expand(1, 4, -1)
    found = torch.as_tensor(answer(f, w, S, Q, 0.01))
    yield found.shape == w.shape, "One gradient for each task is wanted, of the shape of w."
    for steps, first, hint in (
        (1, False, "This is one inner step; the second starts where the first has arrived."),
        (2, True, "This is first order: do both steps inside the function that fm.grad differentiates."),
    ):
        other = fm.meta_grad(f, w, S, Q, 0.01, steps, first)
        yield not _near(found, other, 1e-9), hint
    yield _near(found, fm.meta_grad(f, w, S, Q, 0.01, 2), 1e-9), "Inner steps use S, the loss at the end uses Q."


def first_order_turns(answer: Any) -> Steps:
    """A number: the smallest inner step size beyond which first order points away from the minimum of L(u)."""
    a, tried = 2.0, torch.linspace(0, 1, 1001, dtype=torch.float64)
    w = torch.ones(1, len(tried), 1, dtype=torch.float64)  # m = 0, one client for each step size

    def f(v: torch.Tensor) -> torch.Tensor:
        return 0.5 * a * v.square().sum(-1)

    alpha = tried[None, :, None]
    first = fm.grad(f, w - alpha * fm.grad(f, w))
    truth = tried[(first * w < -1e-9)[0, :, 0]][0]
    yield torch.as_tensor(answer).numel() == 1, "One number is wanted."
    yield not _near(answer, 2 / a, 1e-3), "From there on the inner step itself makes the loss larger; look for less."
    yield _near(torch.as_tensor(answer).flatten()[0], truth, 5e-3), "Where does 1 - alpha a change its sign?"


def share_ahead(answer: Any) -> Steps:
    """A function (first, second, k) -> the share of clients on whom the first has the lower loss after k steps."""
    yield callable(answer), "A function is wanted: pass its name, without calling it."
    methods = {"first": fm.FedAvg(lr=0.02, adapt_lr=0.01), "second": fm.FedAvg(lr=0.01, adapt_lr=0.02)}
    study = fm.compare(methods, fm.Sines(n_unseen=40), rounds=5, seeds=2, evaluations=1)
    first, second = study.adaptation["first"], study.adaptation["second"]
    for k in (5, 1):
        found, truth = answer(first, second, k), (first[..., k] < second[..., k]).double().mean()
        yield torch.as_tensor(found).numel() == 1, "One number for all clients of all seeds is wanted."
        yield not _near(found, 1 - truth, 1e-9), "The lower loss is ahead."
        yield _near(found, truth, 1e-9), "Compare column k of the two, client by client, and take the mean."


def per_fedavg_first_order(answer: Any) -> Steps:
    """A function (f, w, S, Q, alpha, beta, tau) -> the server's new model (1, 1, P); w comes as (1, C, P)."""
    yield callable(answer), "A function is wanted: pass its name, without calling it."
    population = fm.Sines(n_clients=4)
    S, Q = population.draw("training", seed=0).everyone()
    f = population.objective(population.model())
    start = population.model().init(torch.Generator().manual_seed(0)).expand(1, 4, -1)
    v = start
    for _ in range(3):
        v = v - 0.02 * fm.meta_grad(f, v, S, Q, 0.01, 1, first_order=True)
    found = torch.as_tensor(answer(f, start, S, Q, 0.01, 0.02, 3))
    yield found.shape == (1, 1, start.shape[-1]), "The mean over clients is wanted, of shape (1, 1, P)."
    query_only = Batch(Q, Q)
    for k in (1, 3):  # alpha = 0: FedAvg on the query sets
        sent, _ = fm.FedAvg(local_steps=k, lr=0.02).local(f, {"model": start}, {}, query_only)
        zero = torch.as_tensor(answer(f, start, S, Q, 0.0, 0.02, k))
        yield (
            _near(zero, (start - sent["model"]).mean(1, keepdim=True), 1e-9),
            "At alpha = 0 it is FedAvg on Q, tau steps of size beta.",
        )
    yield (
        _near(found, v.mean(1, keepdim=True), 1e-9),
        "The second gradient is taken at u on Q, the step is made from v.",
    )


def reptile_is_fedavg(answer: Any) -> Steps:
    """A number: the epsilon at which FedReptile is FedAvg."""
    yield torch.as_tensor(answer).numel() == 1, "One number is wanted."
    population = fm.Sines(n_clients=4)
    batch = Batch(*population.draw("training", seed=0).everyone())
    f = population.objective(population.model())
    w = population.model().init(torch.Generator().manual_seed(0)).expand(1, 4, -1)
    fedavg, reptile = fm.FedAvg(lr=0.02), fm.FedReptile(epsilon=float(answer), lr=0.02)
    means = [a.combine(f, {"model": w}, a.local(f, {"model": w}, {}, batch)[0], None) for a in (fedavg, reptile)]
    yield means[0]["model"].equal(means[1]["model"]), "Where does w + epsilon (mean v - w) end up at mean v?"
