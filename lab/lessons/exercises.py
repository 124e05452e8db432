"""The exercises of the lessons: one function each, named as in ``lab.check("name", answer)``.

To add one, write a function of the answer here, and put it into ``LESSONS``. Its docstring says what is wanted. It
reads the answer with `number`, `array` or `Function`, which complain by themselves about an answer of another kind, and
yields (passed, hint) pairs in the order in which a reader should put things right; the first that did not pass is
shown. What the answer is compared with is computed by fmlab when the check runs, and no hint contains it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import fmlab as fm
from fmlab.data import Batch, Examples
from lab.lessons.answers import Function, array, near, number

Steps = Iterator[tuple[Any, str]]
PERCENT = "This is in per cent; a share lies between 0 and 1."


def _float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _told(found: Tensor, truth: Any, hint: str, *slips: tuple[Any, str], within: float = 1e-5) -> Steps:
    """The usual slips, each (what it gives, what to say), then the truth. What is right is never called a slip."""
    right = near(found, truth, within)
    for slip, says in slips:
        yield right or not near(found, slip, within), says
    yield right, hint


def _four_clients() -> tuple[Any, Tensor, Examples, Examples]:
    """f, w (1, 4, P), and the support and query sets of four clients with sine curves."""
    population = fm.Sines(n_clients=4)
    S, Q = population.draw("training", seed=0).everyone()
    w = population.model().init(torch.Generator().manual_seed(0)).expand(1, 4, -1)
    return population.objective(population.model()), w, S, Q


def trivial_loss(answer: Any) -> Steps:
    """A number: the mean square error of predicting 0 for y = 2.55 sin(x - pi/2), over a full period."""
    x = torch.linspace(0, 2 * torch.pi, 1001, dtype=torch.float64)[:-1]
    amplitude, phase = fm.Sines(heterogeneity=0.0, n_unseen=1).curves("unseen", seed=0)
    y = amplitude * (x - phase).sin()
    truth = y.square().mean()
    printed = torch.cat([fm.Sines(heterogeneity=0.0).draw("unseen", seed).query.y for seed in range(3)])
    yield from _told(
        number(answer),
        truth,
        "What is the error at one x? Square it, and average over a period.",
        (printed.square().mean(), "This is the printed line: a mean over the points that clients hold, not a period."),
        (amplitude.square().max(), "This is the square of the amplitude; the sine is seldom at 1."),
        (truth.sqrt(), "This is the root of it: the mean of the squares is wanted."),
        (
            truth / 2,
            "Half of it: the mean of the squares is wanted, without a factor 1/2, and not that of the distances.",
        ),
        within=0.02,
    )


def fedprox_round(answer: Any) -> Steps:
    """A tensor of the shape of start: the model after one round of FedProx with mu = 1, eta = 0.02, K = 5."""
    population = fm.Sines(n_clients=10)
    both = Batch(*population.draw("training", seed=0).everyone()).both
    f = population.objective(population.model())
    w = population.model().init(torch.Generator().manual_seed(0))[None, None]
    sent = w.expand(1, 10, -1)

    def change(mu: float) -> Tensor:
        v = f.descend(sent, both, 0.02, 5, pull=mu, to=sent)
        return (v.mean(1, keepdim=True) - w).to(torch.float64)

    wanted = f"A model of the shape {tuple(w.shape)} is wanted, the clients' mean"
    yield from _told(
        array(answer, w.shape, wanted) - w.to(torch.float64),
        change(1.0),
        "In each local step add mu * (v - w) to the gradient; w stays what was sent.",
        (change(0.0), "This is FedAvg. The gradient of the added term is still missing."),
        (change(2.0), "The half in mu / 2 goes when the square is differentiated."),
        (change(0.5), "The derivative of the square brings a 2, which the half in mu / 2 takes away."),
        (change(-1.0), "The sign: a step along minus the added gradient must lead from v back towards w."),
        within=1e-4,
    )


def where_fedavg_settles(answer: Any) -> Steps:
    """A number: the model at which FedAvg settles on the two clients, to three digits."""
    curvature, minimum = _float64(1.0, 4.0), _float64(0.0, 1.0)
    left = (1 - 0.1 * curvature) ** 10  # what ten steps leave of the distance to the client's own minimum
    found, truth = number(answer), ((1 - left) * minimum).sum() / (1 - left).sum()
    best = (curvature * minimum).sum() / curvature.sum()
    close = near(found, truth, 0.02) and not near(found, truth, 2e-3)
    yield not close, "Close, but three digits are wanted: round later, or take more rounds."
    yield from _told(
        found,
        truth,
        "At the fixed point a round changes nothing: w = mean of (m_i + c_i (w - m_i)).",
        (best, "This is the minimum of the mean loss; ten local steps do not settle there."),
        (minimum.mean(), "This is the mean of the two minima; after ten steps not every client has reached its own."),
        within=2e-3,
    )


def megabytes(answer: Any) -> Steps:
    """A number: the megabytes (10^6 bytes), both ways together, of 300 rounds of FedAvg with 25 clients a round."""
    study = fm.compare([fm.FedAvg(lr=0.01, adapt_lr=0.01)], fm.Sines(), rounds=1, seeds=1, evaluations=1, steps=1)
    truth = 300 * float(study.bytes["FedAvg"].flatten()[-1]) / 1e6
    yield from _told(
        number(answer),
        truth,
        "Multiply: rounds, clients, parameters of the model, bytes of a number, two ways.",
        (truth / 2, "This is one way only: the server also sends its model to every client."),
        (truth * 1e6, "These are bytes; a megabyte is a million of them."),
        (truth * 1e6 / 2**20, "These are mebibytes, of 2^20 bytes; a megabyte has 10^6."),
        (truth / 25, "This is one client; there are 25 in a round."),
        (truth / 300, "This is one round; there are 300."),
        (truth / 4, "A number takes four bytes."),
        (truth * 2, "A number takes four bytes here, not eight."),
        within=0.01,
    )


def maml_on_a_quadratic(answer: Any) -> Steps:
    """Two numbers: the exact meta-gradient on the quadratic at w = (0, 0)."""
    a, m = _float64(3.0, 0.5), _float64(1.0, -1.0)

    def f(w: Tensor) -> Tensor:
        return 0.5 * (a * (w - m).square()).sum(-1)

    w = torch.zeros(1, 1, 2, dtype=torch.float64)
    u = w - 0.2 * fm.grad(f, w)
    truth = fm.grad(lambda v: f(v - 0.2 * fm.grad(f, v)), w)[0, 0]
    yield from _told(
        array(answer, (2,), "Two numbers are wanted, one for each coordinate"),
        truth,
        "Each coordinate by itself: the gradient at u, times what the chain rule brings from u to w.",
        (fm.grad(f, w)[0, 0], "This is the gradient at w, without an inner step."),
        (fm.grad(f, u)[0, 0], "This is first order: the factor from the chain rule is missing."),
        (-truth, "Turn the signs: w - m is what the gradient is taken of."),
        within=0.01,
    )


def two_inner_steps(answer: Any) -> Steps:
    """A function (f, w, S, Q, alpha) -> the exact meta-gradient for two inner steps, of the shape of w."""
    ask = Function(answer, "f, w, S, Q, alpha")
    yield (
        not {"meta_grad", "meta_grads", "meta_gradient"} & ask.names(),
        "By hand: fm.grad three times is all it takes.",
    )
    f, w, S, Q = _four_clients()
    wanted = f"One gradient for each task is wanted, of the shape of w, here {tuple(w.shape)}"
    yield from _told(
        ask.array(w.shape, wanted, f, w, S, Q, 0.01),
        fm.meta_grad(f, w, S, Q, 0.01, 2),
        "Inner steps use S, the loss at the end uses Q.",
        (fm.meta_grad(f, w, S, Q, 0.01, 1), "This is one inner step; the second starts where the first has arrived."),
        (fm.meta_grad(f, w, S, Q, 0.01, 1, True), "This is one inner step, and first order."),
        (fm.meta_grad(f, w, S, Q, 0.02, 1), "Both steps take the gradient at v: the second takes it at the first u."),
        (
            fm.meta_grad(f, w, S, Q, 0.01, 2, True),
            "This is first order: do both steps inside the function that fm.grad differentiates.",
        ),
    )


def first_order_turns(answer: Any) -> Steps:
    """A number: the inner step size beyond which a step along minus the first-order direction leads away from m."""
    a, tried = 2.0, torch.linspace(0, 1, 1001, dtype=torch.float64)
    w = torch.ones(1, len(tried), 1, dtype=torch.float64)  # m = 0, one client for each step size

    def f(v: Tensor) -> Tensor:
        return 0.5 * a * v.square().sum(-1)

    alpha = tried[None, :, None]
    first = fm.grad(f, w - alpha * fm.grad(f, w))
    found, truth = number(answer), tried[(first * w < -1e-9)[0, :, 0]][0]
    yield from _told(
        found,
        truth,
        "Where does 1 - alpha a change its sign?",
        (2 / a, "From there on the inner step itself makes the loss larger; look for less."),
        within=5e-3,
    )


def share_ahead(answer: Any) -> Steps:
    """A function (first, second, k) -> the share of clients on whom the first has the lower loss after k steps."""
    ask = Function(answer, "first, second, k")
    first, second = _uniform(2, 40, 6), _uniform(2, 40, 6, seed=1) ** 0.7
    second[:, :4] = first[:, :4]  # equal losses: nobody is ahead
    second[1, 4:20] += 1  # the two seeds differ
    for k in (5, 1):
        ahead = first[..., k] < second[..., k]
        yield from _told(
            ask.number(first, second, k),
            ahead.double().mean(),
            "Compare column k of the two, client by client, and take the mean.",
            (100 * ahead.double().mean(), PERCENT),
            (ahead.sum(), "This is a number of clients; divide by how many there are, over all seeds."),
            ((first[..., k] > second[..., k]).double().mean(), "The lower loss is ahead."),
            ((first[..., k] <= second[..., k]).double().mean(), "Where both losses are equal, the first is not lower."),
            (ahead[0].double().mean(), "This is the first seed alone; all clients of all seeds count."),
            ((first < second).double().mean(), "These are all steps together; only column k is wanted."),
            (
                (first[..., k].mean(0) < second[..., k].mean(0)).double().mean(),
                "Compare first, then take the mean: every client of every seed counts by itself.",
            ),
        )


def per_fedavg_first_order(answer: Any) -> Steps:
    """A function (f, w, S, Q, alpha, beta, tau) -> the server's new model (1, 1, P); w comes as (1, C, P)."""
    ask = Function(answer, "f, w, S, Q, alpha, beta, tau")
    f, start, S, Q = _four_clients()
    start64 = start.to(torch.float64).mean(1, keepdim=True)
    wanted = f"The mean over the clients is wanted, of the shape (1, 1, P), here {(1, 1, start.shape[-1])}"

    def change(alpha: float, tau: int) -> Tensor:
        return ask.array((1, 1, start.shape[-1]), wanted, f, start, S, Q, alpha, 0.02, tau) - start64

    def truth(alpha: float, tau: int, first_order: bool = True) -> Tensor:
        v = start
        for _ in range(tau):
            v = v - 0.02 * fm.meta_grad(f, v, S, Q, alpha, 1, first_order)
        return v.mean(1, keepdim=True).to(torch.float64) - start64

    for k in (1, 3):  # alpha = 0: FedAvg on the query sets
        yield from _told(
            change(0.0, k),
            truth(0.0, k),
            "At alpha = 0 it is FedAvg on Q, tau steps of size beta.",
            (truth(0.0, 1), "This is one local step; there are tau of them."),
            within=1e-4,
        )
    yield from _told(
        change(0.01, 3),
        truth(0.01, 3),
        "The second gradient is taken at u on Q, the step is made from v.",
        (truth(0.01, 3, False), "This is the exact form; first order leaves the Hessian out."),
        within=1e-4,
    )


def reptile_is_fedavg(answer: Any) -> Steps:
    """A number: the epsilon at which FedReptile is FedAvg."""
    epsilon = float(number(answer))
    f, w, S, Q = _four_clients()
    yield 0 <= epsilon <= 2, "It is a share of the way: 0 stays where the server is."
    reptile = fm.FedReptile(epsilon=epsilon, lr=0.02)
    means = [
        a.combine(f, {"model": w}, a.local(f, {"model": w}, {}, Batch(S, Q))[0], None)
        for a in (fm.FedAvg(lr=0.02), reptile)
    ]
    yield means[0]["model"].equal(means[1]["model"]), "Where does w + epsilon (mean v - w) end up at mean v?"


def share_hurt(answer: Any) -> Steps:
    """A function (before, after) -> the share of clients whose loss rose, a number in [0, 1]."""
    ask = Function(answer, "before, after")
    before = 0.1 + _uniform(60)
    after = before * (0.6 + 0.6 * _uniform(60, seed=1))
    after[:5] = before[:5]
    rose = after > before
    yield from _told(
        ask.number(before, after),
        rose.double().mean(),
        "Compare the two losses of each client, and count those whose loss rose.",
        (100 * rose.double().mean(), PERCENT),
        (rose.sum(), "This is a number of clients; divide by how many there are."),
        ((after < before).double().mean(), "These are the clients whose loss fell."),
        ((after >= before).double().mean(), "A client whose loss stays the same is not hurt."),
    )
    lost = after.clone()
    lost[5:12] = torch.nan
    truth = (~(lost <= before)).double().mean()
    yield near(ask.number(before, lost), truth), "A loss of nan counts as hurt, and no comparison with nan is true."
    yield near(ask.number(before[:1], 2 * before[:1]), 1.0), "It must also be right for one client alone."


def crossover(answer: Any) -> Steps:
    """A function (levels, lead, enough) -> the level at which the lead first reaches enough, or None."""
    ask = Function(answer, "levels, lead, enough")
    levels = [0.0, 0.2, 0.6, 1.0]

    def at(lead: list[float], enough: float = 5.0) -> Tensor | None:
        found = ask(levels, lead, enough)
        return None if found is None else number(found, "your function returns")

    found = at([-1.0, 4.0, 6.0, 9.0])
    yield found is not None, "A lead of -1, 4, 6, 9 does reach 5."
    yield float(found or 0) not in levels, "Not one of the levels: a point between two of them, by a straight line."
    half = 0.2 + 0.4 * (5 - 4) / (6 - 4)
    yield near(found, half), "How far from 4 to 6 is 5? Go as far in the levels."
    other = at([-1.0, 4.0, 6.0, 9.0], 4.5)
    yield other is not None and near(other, 0.2 + 0.4 / 4), "What is enough is the third argument, not always 5."
    yield at([1.0, 2.0, 2.0, 4.0]) is None, "If the lead stays below enough, the answer is None."
    starts = at([7.0, 8.0, 1.0, 9.0])
    yield starts is not None and float(starts) == levels[0], "If the lead is enough from the start: the first level."
    falls = at([1.0, 9.0, 3.0, 4.0])
    interp = "np.interp wants leads that rise: find the first interval in which it is reached, and use that alone."
    yield falls is None or float(falls) != levels[-1], interp
    again = at([1.0, 9.0, 1.0, 9.0])
    yield again is not None and near(again, 0.2 * (5 - 1) / (9 - 1)), "The first time that it is reached is wanted."
    touches = at([1.0, 5.0, 3.0, 9.0])
    yield touches is not None and near(touches, levels[1]), "Exactly enough is enough: it is reached at >=, not at >."
    equal, last = at([5.0, 3.0, 2.0, 1.0]), at([1.0, 2.0, 3.0, 5.0])
    yield equal is not None and float(equal) == levels[0], "Exactly enough at the first level is enough."
    yield last is not None and near(last, levels[-1]), "The last level counts as well."


def best_without_adapting(answer: Any) -> Steps:
    """A function (ways) -> the share of pictures that the best shared model labels correctly before it adapts."""
    ask = Function(answer, "ways")
    for ways in (2, 3, 5):
        orders = list(itertools.permutations(range(ways)))  # label of class 0, 1, ... at a client
        best = sum(max(sum(o[c] == j for o in orders) for j in range(ways)) for c in range(ways)) / ways / len(orders)
        hint = f"Write down all orders for 2 classes, and count; {ways} classes fail here."
        yield from _told(ask.number(ways), best, hint, (100 * best, PERCENT))


def gradient_evaluations(answer: Any) -> Steps:
    """A function (inner_steps, first_order) -> gradient evaluations of one client in one round of FedMAML."""
    ask = Function(answer, "inner_steps, first_order")
    for steps in (2, 5, 1):
        first, exact = (float(fm.FedMAML(inner_steps=steps, first_order=o).evaluations()) for o in (True, False))
        missing = "One is missing: after the inner steps comes the gradient on the query set."
        yield from _told(
            ask.number(steps, True),
            first,
            "First order: one gradient for each inner step, and one on the query set.",
            (first - 1, missing),
            (exact, "This is the exact one; first order walks back through no step."),
        )
        yield from _told(
            ask.number(steps, False),
            exact,
            "Exact: also walk back through all inner steps; a product with the Hessian counts as two.",
            (exact - 1, missing),
            (first, "This is first order; the exact one also walks back through every inner step."),
            (first + steps, "A product with the Hessian counts as two, not as one."),
        )


def first_order_rest(answer: Any) -> Steps:
    """A function (a, m, alpha) -> the w at which the mean first-order meta-gradient of one inner step vanishes."""
    ask = Function(answer, "a, m, alpha")
    a, m = _float64(1.0, 2.0, 5.0), _float64(0.0, 1.0, -2.0)

    def f(w: Tensor) -> Tensor:
        return a / 2 * (w[..., 0] - m) ** 2

    def rest(alpha: float, exact: bool) -> Tensor:
        """The mean gradient is a straight line in w; this is its zero."""
        at = []
        for start in (0.0, 1.0):
            w = torch.full((1, 3, 1), start, dtype=torch.float64)
            first = fm.grad(f, w - alpha * fm.grad(f, w))
            at.append((fm.grad(lambda v: f(v - alpha * fm.grad(f, v)), w) if exact else first).mean())
        return at[0] / (at[0] - at[1])

    yield near(ask.number(a, m, 0.0), rest(0.0, True)), "Without an inner step it is the minimum of the mean loss."
    yield from _told(
        ask.number(a, m, 0.1),
        rest(0.1, False),
        "There the sum over clients of a (1 - alpha a) (w - m) must be zero.",
        (rest(0.0, True), "With an inner step the point must depend on alpha."),
        (rest(0.1, True), "This is where the exact gradient vanishes; first order has the factor only once."),
    )


def largest_step(answer: Any) -> Steps:
    """A function (a) -> the step size at and beyond which gradient descent stops converging for some client."""
    ask = Function(answer, "a")
    for a in (_float64(0.5, 3.0, 4.0), _float64(0.7)):
        size = float(ask.number(a))

        def far(alpha: float, a: Tensor = a) -> float:
            return float(((1 - alpha * a) ** 2000).abs().max())  # what 2,000 steps leave of the distance

        yield size > 0, "A step size above 0 is wanted."
        yield far(0.99 * size) < 1, "Some client already diverges below this step size."
        yield far(1.01 * size) > 1, "Every client still converges at this step size; a larger one can do."


def pictures(answer: Any) -> Steps:
    """A function (ways, shots, query) -> labelled pictures of a training client, support and query together."""
    ask = Function(answer, "ways, shots, query")
    for ways, shots, query in ((2, 3, 5), (3, 5, 4)):
        task = fm.Digits(ways=ways, shots=shots, query=query, n_clients=1, skew=0.0)
        support, asked = (e.y.shape[-1] for e in task.draw("training", 0).everyone())
        yield from _told(
            ask.number(ways, shots, query),
            support + asked,
            "Both numbers count the pictures of each class.",
            (support, "This is the support set; the query pictures have labels, too."),
            (ways * shots * query, "Support and query pictures add up; they are not multiplied."),
        )


def nearest_mean(answer: Any) -> Steps:
    """A function (support_x, support_y, query_x) -> the label of the nearest class mean for each query picture."""
    ask = Function(answer, "support_x, support_y, query_x")
    sy = torch.tensor([2, 0, 1, 1, 2, 1, 1, 0, 1, 2, 1])  # in no order, and not equally often
    centres, noise = _uniform(3, 16), _uniform(41, 16, seed=1) - 0.5
    sx, qx = centres[sy] + 2 * noise[:11], centres[torch.arange(30) % 3] + noise[11:]
    sums = torch.stack([sx[sy == j].sum(0) for j in range(3)])
    means = sums / sy.bincount()[:, None]

    def far(points: Tensor) -> Tensor:
        return (qx[:, None] - points).square().sum(-1)

    def nearest(points: Tensor) -> Tensor:
        return far(points).argmin(1)

    yield from _told(
        ask.array((30,), "One label for each query picture is wanted, here 30 labels", sx, sy, qx),
        nearest(means).double(),
        "Mean of the support pictures of each class, then the label of the nearest.",
        (sy[nearest(sx)], "This is the label of the nearest picture; take the mean of each class first."),
        (nearest(sums), "This is the nearest sum; the mean divides by the number of pictures."),
        (far(means).argmax(1), "This is the mean that is farthest away."),
        ((qx @ means.mT).argmax(1), "A product is no distance: a bright mean has a large one with every picture."),
    )


def interval(answer: Any) -> Steps:
    """A function (accuracies) -> 1.96 standard errors of their mean."""
    ask = Function(answer, "accuracies")
    values = torch.linspace(0.1, 0.9, 17, dtype=torch.float64) ** 2
    error = values.std() / len(values) ** 0.5
    yield from _told(
        ask.number(values),
        1.96 * error,
        "1.96 times the standard deviation, divided by the root of the number of clients.",
        (1.96 * values.std(), "This is the spread of the clients; the mean of many varies less."),
        (1.96 * values.std(correction=0) / len(values) ** 0.5, "Divide by n - 1 in the variance."),
        (error, "This is one standard error; 1.96 of them are wanted."),
        (2 * 1.96 * error, "This is the whole width; what stands after the ± is half of it."),
        (1.96 * values.std() / len(values), "Divide by the root of the number of clients."),
        (100 * 1.96 * error, "This is in per cent; the accuracies lie between 0 and 1."),
    )


def units_of_training(answer: Any) -> Steps:
    """A function (train, new) -> the columns of new (m, d) in units of the training clients' rows train (n, d)."""
    ask = Function(answer, "train, new")
    train, new = 5 + 3 * _uniform(90, 2), 9 + _uniform(70, 2, seed=1)
    found = ask.array((70, 2), "the rows of new, in other units", train, new)
    mean, spread = train.mean(0), train.std(0, correction=0)
    own = (new - new.mean(0)) / new.std(0, correction=0)
    yield from _told(
        found,
        (new - mean) / spread,
        "Take off the mean of each column and divide by its standard deviation, over the rows of train.",
        (own, "These are the new client's own units: his mean is gone, and with it what tells him from others."),
        ((new - mean) / train.var(0, correction=0), "This divides by the variance; its root is wanted."),
        ((new - train.mean()) / train.std(correction=0), "Every column has a mean and a spread of its own."),
        within=0.02,  # with n or n - 1 below the root
    )


def half_life(answer: Any) -> Steps:
    """A number: the hours in which half of the drug leaves the textbook's usual patient, once all is absorbed."""
    _, volume, clearance = fm.Patients(heterogeneity=0.0, n_unseen=1).rates("unseen", 0)[0]
    truth = math.log(2) * volume / clearance
    yield from _told(
        number(answer),
        truth,
        "Late after the dose only one of the two exponentials is left. When has it halved?",
        (volume / clearance, "After this time a share 1/e is left, not a half."),
        (clearance / volume, "This is the rate, per hour; the time is wanted."),
        (math.log(2) * clearance / volume, "The rate is CL / V; the time in which exp(-rate t) halves is wanted."),
        within=0.02,
    )


def picture_from_gradient(answer: Any) -> Steps:
    """A function (dw, db) -> the one picture that a client learned from, of its gradient in the first layer."""
    ask = Function(answer, "dw, db")
    picture, db = _uniform(64), _uniform(12, seed=1) - 0.5
    db[:3] = 0.0  # units that are silent tell nothing
    dw = picture[:, None] * db
    given = ask.array((64,), "One number for each pixel is wanted, here 64", dw, db)
    yield from _told(
        given,
        picture,
        "dw is the picture times db, column by column: weigh the columns, and divide by what db then adds up to.",
        (dw @ db, "Divide by db @ db: the picture has to be right, not only its shape."),
        (dw.sum(1), "Divide by the sum of db."),
    )


def noise_in_all(answer: Any) -> Steps:
    """A function (z, releases) -> the noise multiplier of one release that gives away as much as all of them."""
    ask = Function(answer, "z, releases")
    for z, releases in ((2.0, 9), (0.5, 4)):
        yield from _told(
            ask.number(z, releases),
            z / releases**0.5,
            "Whoever takes the mean of the releases has noise that is smaller by the root of their number.",
            (z / releases, "Standard deviations of independent noise do not add up; their squares do."),
            (z * releases**0.5, "More releases give more away, so this has to be smaller than z."),
            (z, "With more than one release an onlooker takes their mean."),
        )


def trimmed_mean(answer: Any) -> Steps:
    """A function (messages, left_out) -> of each number the mean without its so many lowest and highest clients."""
    ask = Function(answer, "messages, left_out")
    messages = _uniform(9, 5)
    messages[2], messages[5] = 50.0, -70.0
    for left_out in (1, 3):
        yield from _told(
            ask.array((5,), "One number for each of the message's is wanted, here 5", messages, left_out),
            messages.sort(0).values[left_out : 9 - left_out].mean(0),
            "Sort every column by itself, leave out so many rows at either end, and take the mean of the rest.",
            (messages.mean(0), "This is the plain mean, which the liars decide."),
            (messages.median(0).values, "This is the median."),
            (messages.sort(0).values[: 9 - left_out].mean(0), "The lowest are to be left out, too."),
            (messages.sort(0).values[left_out : 9 - left_out].sum(0) / 9, "Divide by how many are left."),
        )


def per_fedavg_rest(answer: Any) -> Steps:
    """A function (a, m, alpha, beta, tau) -> the w at which exact Per-FedAvg with tau local steps comes to rest."""
    ask = Function(answer, "a, m, alpha, beta, tau")
    a, m = _float64(1.0, 2.0, 4.0), _float64(0.0, 1.0, -2.0)

    def rest(alpha: float, beta: float, tau: int) -> Tensor:
        """A round is linear in w; this is the point that it leaves where it is."""
        after = []
        for start in (0.0, 1.0):
            v = torch.full_like(m, start)
            for _ in range(tau):
                v = v - beta * a * (1 - alpha * a) ** 2 * (v - m)
            after.append(v.mean())
        return after[0] / (1 - after[1] + after[0])

    for alpha, beta, tau in ((0.1, 0.1, 1), (0.1, 0.1, 5), (0.0, 0.2, 3)):
        away = 1 - beta * a * (1 - alpha * a)  # first order
        slip = ((1 - away**tau) * m).sum() / (1 - away**tau).sum()
        yield from _told(
            ask.number(a, m, alpha, beta, tau),
            rest(alpha, beta, tau),
            "It is FedAvg's resting point with 1 - beta a (1 - alpha a)^2 for what one step leaves of the distance.",
            (slip, "This is first order: the exact gradient has the factor 1 - alpha a twice."),
            (rest(alpha, beta, 1), "This is one local step; there are tau of them."),
            (rest(0.0, beta, tau), "This is FedAvg: the inner step of alpha is missing."),
        )


def rounds_enough(answer: Any) -> Steps:
    """A function (gap, beta, epsilon) -> the smallest whole number of rounds for which the bound is at most epsilon."""
    ask = Function(answer, "gap, beta, epsilon")
    for gap, beta, epsilon in ((3.0, 0.07, 0.11), (0.9, 0.25, 0.3)):
        enough = next(t for t in itertools.count(1) if 2 * gap / (beta * t) <= epsilon)
        exact = 2 * gap / (beta * epsilon)
        found = ask.number(gap, beta, epsilon)
        yield near(found, enough) or not near(found, exact), "Rounds are whole: round up, since fewer are not enough."
        yield from _told(
            found,
            enough,
            "Solve 2 gap / (beta T) = epsilon for T, and round up.",
            (enough - 1, "One round less than needed: round up, not down."),
            (2 * exact, "The bound with the 2 is asked for, not the theorem's with the 4."),
            (-(-2 * exact // 1), "The bound with the 2 is asked for, not the theorem's with the 4."),
        )


def first_order_bias(answer: Any) -> Steps:
    """A function (a, m) -> (first order's resting point minus the exact one) / alpha, for small alpha."""
    ask = Function(answer, "a, m")
    a, m = _float64(1.0, 2.0, 5.0), _float64(0.0, 1.0, -2.0)

    def rest(power: int, alpha: float) -> Tensor:
        weight = a * (1 - alpha * a) ** power
        return (weight * m).sum() / weight.sum()

    small = 1e-5  # a central difference: both points are smooth in alpha
    truth = sum(s * (rest(1, s * small) - rest(2, s * small)) for s in (1, -1)) / (2 * small)
    yield near(ask.number(torch.ones_like(m), m) + 1, 1.0), "Clients of equal curvature have no bias at all."
    best = (a * m).sum() / a.sum()
    yield from _told(
        ask.number(a, m),
        truth,
        "Mean of a^2 (m - w*) over the mean of a; w* is the mean of m weighted by a.",
        (-truth, "First order minus exact: turn the sign."),
        ((a**2 * (m - best)).sum() / (a**2).sum(), "Divide by the sum of a, not of its squares."),
        ((a**2 * (m - m.mean())).sum() / a.sum(), "w* is not the plain mean of m: weigh it by a."),
        ((a**2 * (m - best)).mean(), "Divide by the sum of a."),
        within=1e-4,
    )


def largest_angle(answer: Any) -> Steps:
    """A function (B, B_star) -> the sine of the largest angle between the two spans, a number in [0, 1]."""
    ask = Function(answer, "B, B_star")
    one, other = _uniform(7, 2) - 0.5, _uniform(7, 2, seed=1) - 0.5
    mixed = one @ _float64(2.0, 1.0, 0.0, 3.0).view(2, 2)
    yield near(1 + ask.number(one, mixed), 1.0), "Columns mixed with each other have the same span: 0 is wanted."
    p, q = torch.linalg.qr(one)[0], torch.linalg.qr(other)[0]
    sines = torch.linalg.svdvals(q - p @ (p.mT @ q))
    yield from _told(
        ask.number(one, other),
        sines[0],
        "Orthonormal columns of both, what of one the other does not reach, and its largest singular value.",
        (torch.linalg.svdvals(p.mT @ q)[-1], "This is the cosine."),
        (sines[-1], "This is the smallest angle."),
        (sines.square().sum().sqrt(), "This is the Frobenius norm; the largest singular value is wanted."),
        (torch.asin(sines[0]), "This is the angle; its sine is wanted."),
    )


def power(answer: Any) -> Steps:
    """A function (x, y) -> the exponent p of y = c x^p, by least squares on the logarithms."""
    ask = Function(answer, "x, y")
    x = _float64(1.0, 3.0, 10.0, 40.0)
    yield near(ask.number(x, 7 * x**-2), -2.0), "A law without noise must give its exponent: here it is -2."
    y = x**-1.0 * (0.8 + 0.4 * _uniform(4))
    a, b = x.log(), y.log()
    line = torch.stack([a, torch.ones_like(a)], 1)
    yield from _told(
        ask.number(x, y),
        torch.linalg.lstsq(line, b[:, None]).solution[0, 0],
        "All points count, by least squares: the covariance of the logarithms over the variance of log x.",
        ((b[-1] - b[0]) / (a[-1] - a[0]), "This takes the first and the last point alone."),
        ((a * b).sum() / a.square().sum(), "Take the means off first: the line need not pass through the origin."),
    )


def next_in_turn(answer: Any) -> Steps:
    """A function (turn, here, m) that gives the clients of a round as a list, in order: turn is a list of all clients,
    here a set of those that can be reached."""
    own = Function(answer, "turn, here, m")
    turn, everybody = [3, 0, 4, 2, 1], {0, 1, 2, 3, 4}

    def says(here: set[int], m: int) -> Tensor:
        wanted = "A list of clients is wanted"
        found = own(turn, here, m)
        count = len(found) if isinstance(found, list | tuple | Tensor) else min(m, len(here))
        return array(found, (count,), wanted, "your function returns")

    def right(here: set[int], m: int) -> Tensor:
        return _float64(*[c for c in turn if c in here][:m])

    yield near(says(everybody, 3), right(everybody, 3)), "With all of them here, the first m in turn take part."
    gone = everybody - {0}
    dropped = near(says(gone, 3), _float64(3, 4))
    yield not dropped, "Who is not here is replaced by the next in turn, so that m take part if there are as many."
    sorted_ = near(says(gone, 3), right(gone, 3).sort().values)
    yield not sorted_, "In turn, not by number: on both sides sums are made in this order."
    yield near(says(gone, 3), right(gone, 3)), "Who is not here is passed over; the next in turn takes the place."
    yield near(says({1, 2}, 3), right({1, 2}, 3)), "With fewer than m here, all of them take part."


def lost_control(answer: Any) -> Steps:
    """A function (kept, lost) that gives c minus the mean of the c_i, a tensor (P,)."""
    own = Function(answer, "kept, lost")
    kept, lost = _uniform(5, 3), [1, 4]
    found = own.array((3,), "A tensor of shape (P,) is wanted", kept, lost)
    left = kept.clone()
    left[lost] = 0
    yield from _told(
        found,
        kept.mean(0) - left.mean(0),
        "c is the mean of all that was kept; take from it the mean after those of the lost are 0.",
        (left.mean(0) - kept.mean(0), "The sign: c minus the mean, not the mean minus c."),
        (kept.mean(0) - left.sum(0) / 3, "The mean is over all N clients: who begins afresh still counts, with 0."),
        (kept[lost].sum(0), "This is the sum over those who lost it; the means are over N."),
        (kept[lost].mean(0), "This is the mean over those who lost it; the means are over all N."),
    )


LESSONS = {
    "00 Start here": (trivial_loss,),
    "01 Federated averaging": (fedprox_round, where_fedavg_settles, megabytes),
    "02 Learning to adapt": (maml_on_a_quadratic, two_inner_steps, first_order_turns),
    "03 Federated meta-learning": (share_ahead, per_fedavg_first_order, reptile_is_fedavg),
    "04 Heterogeneity": (share_hurt, crossover, best_without_adapting),
    "05 Inner steps": (gradient_evaluations, first_order_rest, largest_step),
    "06 Few-shot images": (pictures, nearest_mean, interval),
    "07 Real clients": (units_of_training, half_life),
    "08 What leaves the client": (picture_from_gradient, noise_in_all, trimmed_mean),
    "09 Why it works": (per_fedavg_rest, rounds_enough, first_order_bias, largest_angle, power),
    "10 Real nodes": (next_in_turn, lost_control),
}
