"""Exercises take every right answer, whatever its form, and tell a wrong one what is wrong with it."""

import importlib.util
import inspect
import math
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import fmlab as fm
from lab.lessons import answers, exercises
from lab.lessons.answers import Function, Wrong, array, number
from lab.lessons.teaching import names, verdict

FOLDER = Path(__file__).resolve().parents[1] / "course" / "solutions"
D = torch.float64


def _solutions():
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"solutions_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, f in inspect.getmembers(module, inspect.isfunction):
            if f.__module__ == module.__name__:
                wants = any(p.default is p.empty for p in inspect.signature(f).parameters.values())
                found[name] = f if wants else f()
    return found


SOLUTIONS = _solutions()
FORMS = {
    "float32": lambda t: t.to(torch.float32),
    "float64": lambda t: t,
    "numpy": lambda t: t.numpy(),
    "numpy float32": lambda t: t.numpy().astype(np.float32),
    "list": lambda t: t.tolist(),
    "list of tensors": lambda t: list(t) if t.ndim else [t],
    "tuple": lambda t: tuple(t.tolist()) if t.ndim else (float(t),),
    "with a gradient": lambda t: t.clone().requires_grad_(),
}
OF_ONE_NUMBER = {
    "float": float,
    "numpy scalar": lambda t: np.float32(t),
    "shape [1]": lambda t: t.reshape(1),
    "shape [1, 1, 1]": lambda t: t.reshape(1, 1, 1),
    "array of one": lambda t: np.array([float(t)]),
    "list of one": lambda t: [float(t)],
}


def formed(value, form):
    """The same numbers in another form; None stays."""
    if value is None:
        return None
    t = torch.as_tensor(value, dtype=D)
    if t.numel() == 1:
        return {**FORMS, **OF_ONE_NUMBER}[form](t.reshape(()))
    return FORMS.get(form, FORMS["float64"])(t)


def as_function(name, function):
    """With the parameters that the solution has."""
    function.__signature__ = inspect.signature(SOLUTIONS[name])
    return function


@pytest.mark.parametrize("form", [*FORMS, *OF_ONE_NUMBER])
@pytest.mark.parametrize("name", names())
def test_a_right_answer_passes_in_every_form(name, form):
    right = SOLUTIONS[name]
    answer = as_function(name, lambda *given: formed(right(*given), form)) if callable(right) else formed(right, form)
    solved, says = verdict(name, answer)
    assert solved, says


@pytest.mark.parametrize("name", [n for n in names() if callable(SOLUTIONS[n])])
def test_a_function_may_write_into_what_it_is_given(name):
    """Right, and destructive: the next call finds its data as it was."""
    solution = SOLUTIONS[name]

    def spoils(*given):
        found = solution(*given)
        found = found.clone() if isinstance(found, torch.Tensor) else found
        for g in given:
            if isinstance(g, list):
                g.clear()
            for t in g if isinstance(g, tuple) else [g]:
                if isinstance(t, torch.Tensor):
                    t.zero_()
        return found

    assert verdict(name, as_function(name, spoils)) == (True, f"{name}: yes.")


def in_float32(before, after):
    return ((after > before) | after.isnan()).float().mean()


def by_loop(before, after):
    hurt = 0
    for b, a in zip(before, after, strict=True):
        if not a <= b:
            hurt += 1
    return hurt / len(after)


def by_numpy(before, after):
    return np.mean(~(after.numpy() <= before.numpy()))


def ahead_by_loop(first, second, k):
    wins = [f[k] < s[k] for a, b in zip(first, second, strict=True) for f, s in zip(a, b, strict=True)]
    return sum(wins) / len(wins)


def rest_in_place(a, m, alpha):
    a *= 1 - alpha * a
    return (a * m).sum() / a.sum()


def rest_by_loop(a, m, alpha):
    above = below = 0.0
    for ai, mi in zip(a.tolist(), m.tolist(), strict=True):
        above += ai * (1 - alpha * ai) * mi
        below += ai * (1 - alpha * ai)
    return above / below


def interval_by_hand(accuracies):
    n = len(accuracies)
    mean = sum(accuracies) / n
    return 1.96 * (sum((a - mean) ** 2 for a in accuracies) / (n - 1)) ** 0.5 / n**0.5


def nearest_by_loop(support_x, support_y, query_x):
    labels = []
    for q in query_x:
        far = [float((q - support_x[support_y == j].mean(0)).norm()) for j in range(int(support_y.max()) + 1)]
        labels.append(far.index(min(far)))
    return labels


def crossover_numpy(levels, lead, enough):
    lead = np.array(lead)
    if not (lead >= enough).any():
        return None
    i = int(np.argmax(lead >= enough))
    return levels[0] if i == 0 else np.interp(enough, [lead[i - 1], lead[i]], [levels[i - 1], levels[i]])


def maml_autograd(f, w, S, Q, alpha):
    """torch's own autograd, as a reader knows it."""
    v = w.detach().clone().requires_grad_()
    u = v
    for _ in range(2):
        (g,) = torch.autograd.grad(f(u, S).sum(), u, create_graph=True)
        u = u - alpha * g
    return torch.autograd.grad(f(u, Q).sum(), v)[0]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("share_hurt", in_float32),
        ("share_hurt", by_loop),
        ("share_hurt", by_numpy),
        ("share_hurt", lambda before, after: (~(after <= before)).sum() / len(after)),
        ("share_ahead", lambda first, second, k: (first[..., k] < second[..., k]).float().mean()),
        ("share_ahead", ahead_by_loop),
        ("first_order_rest", rest_in_place),
        ("first_order_rest", rest_by_loop),
        ("interval", interval_by_hand),
        ("nearest_mean", nearest_by_loop),
        ("crossover", crossover_numpy),
        ("two_inner_steps", maml_autograd),
        ("largest_step", lambda a: np.min(2 / np.asarray(a))),
        ("trivial_loss", [3.25]),
        ("where_fedavg_settles", torch.tensor([0.604])),
    ],
)
def test_right_answers_that_readers_write(name, answer):
    assert verdict(name, answer) == (True, f"{name}: yes.")


def one_step(f, w, S, Q, alpha):
    return fm.grad(lambda v: f(v - alpha * fm.grad(f, v, S), Q), w)


def first_order(f, w, S, Q, alpha):
    u = w - alpha * fm.grad(f, w, S)
    return fm.grad(f, u - alpha * fm.grad(f, u, S), Q)


def all_on_q(f, w, S, Q, alpha):
    return maml_autograd(f, w, Q, Q, alpha)


def both_steps_at_v(f, w, S, Q, alpha):
    def after(v):
        u = v - alpha * fm.grad(f, v, S)
        return f(u - alpha * fm.grad(f, v, S), Q)

    return fm.grad(after, w)


def in_place(f, w, S, Q, alpha):
    def after(v):
        u = v - alpha * fm.grad(f, v, S)
        u -= alpha * fm.grad(f, u, S)
        return f(u, Q)

    return fm.grad(after, w)


def per_fedavg_in_place(f, w, S, Q, alpha, beta, tau):
    for _ in range(tau):
        w -= beta * fm.grad(f, w - alpha * fm.grad(f, w, S), Q)
    return w.mean(1, keepdim=True)


def shortcut(f, w, S, Q, alpha):
    def inner():
        return fm.meta_grad(f, w, S, Q, alpha, 2)

    return inner()


def per_fedavg_exact(f, w, S, Q, alpha, beta, tau):
    v = w
    for _ in range(tau):
        v = v - beta * fm.meta_grad(f, v, S, Q, alpha, 1)
    return v.mean(1, keepdim=True)


def per_fedavg_one(f, w, S, Q, alpha, beta, tau):
    return (w - beta * fm.grad(f, w - alpha * fm.grad(f, w, S), Q)).mean(1, keepdim=True)


def per_fedavg_from_u(f, w, S, Q, alpha, beta, tau):
    v = w
    for _ in range(tau):
        u = v - alpha * fm.grad(f, v, S)
        v = u - beta * fm.grad(f, u, Q)
    return v.mean(1, keepdim=True)


def crossover_with(reached=lambda lead, enough: lead >= enough, last=False, ratio=True, none=None, fixed=None):
    def crossover(levels, lead, enough):
        enough = enough if fixed is None else fixed
        if reached(lead[0], enough):
            return levels[0]
        found = [i for i in range(1, len(levels)) if reached(lead[i], enough) and not reached(lead[i - 1], enough)]
        if not found:
            return levels[-1] if none else None
        i = found[-1 if last else 0]
        if not ratio:
            return levels[i]
        way = (enough - lead[i - 1]) / (lead[i] - lead[i - 1])
        return levels[i - 1] + way * (levels[i] - levels[i - 1])

    return crossover


def crossover_by_interp(levels, lead, enough):
    """np.interp over all of it, which is right while the lead rises."""
    return None if max(lead) < enough else np.interp(enough, lead, levels)


def class_means(support_x, support_y):
    return torch.stack([support_x[support_y == j].mean(0) for j in support_y.unique()])


def neighbour(support_x, support_y, query_x):
    return support_y[torch.cdist(query_x, support_x).argmin(1)]


def weight(a, m, w):
    return (w * m).sum() / w.sum()


def rest_after(a, m, share, tau):
    """Where steps that take this share of the distance to m rest."""
    return weight(a, m, 1 - (1 - share) ** tau)


def correlated(a, m):
    return (a**2 * (m - (a * m).sum() / a.sum())).sum()


def spans(B, B_star):
    """The cosines' matrix, and what of the second span the first does not reach."""
    p, q = torch.linalg.qr(B)[0], torch.linalg.qr(B_star)[0]
    return p.mT @ q, q - p @ (p.mT @ q)


def fedprox(eta=0.02, K=5, mu=1.0, mean=True):
    population = fm.Sines(n_clients=10)
    clients = population.draw("training", seed=0)
    f = population.objective(population.model())
    w = population.model().init(torch.Generator().manual_seed(0))[None, None]
    models = []
    for i in range(10):
        v = w
        for _ in range(K):
            v = v - eta * (fm.grad(f, v, clients.take(torch.tensor([[i]]))[2]) + mu * (v - w))
        models.append(v)
    return torch.stack(models).mean(0) if mean else torch.cat(models, 1)


def _here(turn, here):
    return [c for c in turn if c in here]


def _left(kept, lost):
    left = kept.clone()
    left[lost] = 0
    return left


WRONG = [
    ("trivial_loss", 2.55**2, "square of the amplitude"),
    ("trivial_loss", 2.55 / 2**0.5, "root"),
    ("trivial_loss", 2.55 * 2 / np.pi, "and not that of the distances"),
    ("trivial_loss", 2.55**2 / 4, "without a factor 1/2"),
    ("trivial_loss", 3.07, "the printed line"),
    ("trivial_loss", 1.0, "average over a period"),
    ("trivial_loss", "3.25", "this is a str: '3.25'"),
    ("trivial_loss", lambda: 3.25, "this is a function"),
    ("trivial_loss", [3.2, 3.3], "One number is wanted; this is a list"),
    ("trivial_loss", float("nan"), "this is nan"),
    ("fedprox_round", lambda: fedprox(mu=0.0), "This is FedAvg"),
    ("fedprox_round", lambda: fedprox(mu=2.0), "The half in mu / 2"),
    ("fedprox_round", lambda: fedprox(mu=0.5), "brings a 2"),
    ("fedprox_round", lambda: fedprox(mu=-1.0), "The sign"),
    ("fedprox_round", lambda: fedprox(K=4), "add mu * (v - w)"),
    ("fedprox_round", lambda: fedprox(mean=False), "of shape (1, 10, 1761)"),
    ("where_fedavg_settles", 0.8, "minimum of the mean"),
    ("where_fedavg_settles", 0.5, "mean of the two minima"),
    ("where_fedavg_settles", 0.60, "three digits"),
    ("where_fedavg_settles", 0.1, "At the fixed point"),
    ("megabytes", 1761 * 4 * 25 * 300 / 1e6, "one way only"),
    ("megabytes", 2 * 1761 * 4 * 25 * 300, "These are bytes"),
    ("megabytes", 2 * 1761 * 4 * 25 * 300 / 2**20, "mebibytes"),
    ("megabytes", 2 * 1761 * 4 * 300 / 1e6, "one client"),
    ("megabytes", 2 * 1761 * 4 * 25 / 1e6, "one round"),
    ("megabytes", 2 * 1761 * 25 * 300 / 1e6, "four bytes."),
    ("megabytes", 2 * 1761 * 8 * 25 * 300 / 1e6, "not eight"),
    ("megabytes", 7.0, "Multiply"),
    ("maml_on_a_quadratic", [-3.0, 0.5], "without an inner step"),
    ("maml_on_a_quadratic", [-1.2, 0.45], "This is first order"),
    ("maml_on_a_quadratic", [0.48, -0.405], "Turn the signs"),
    ("maml_on_a_quadratic", [1.0, 1.0], "chain rule brings"),
    ("maml_on_a_quadratic", 1.0, "Two numbers are wanted"),
    ("two_inner_steps", one_step, "This is one inner step"),
    ("two_inner_steps", lambda f, w, S, Q, alpha: fm.grad(f, w - alpha * fm.grad(f, w, S), Q), "and first order"),
    ("two_inner_steps", first_order, "This is first order"),
    ("two_inner_steps", all_on_q, "Inner steps use S"),
    ("two_inner_steps", both_steps_at_v, "the second takes it at the first u"),
    ("two_inner_steps", shortcut, "By hand"),
    ("two_inner_steps", lambda f, w, S, Q, alpha: maml_autograd(f, w, S, Q, alpha)[0], "of shape (4, 1761)"),
    ("first_order_turns", 1.0, "look for less"),
    ("first_order_turns", 0.25, "change its sign"),
    ("share_ahead", lambda a, b, k: 100 * (a[..., k] < b[..., k]).double().mean(), "in per cent"),
    ("share_ahead", lambda a, b, k: (a[..., k] < b[..., k]).sum(), "number of clients"),
    ("share_ahead", lambda a, b, k: (a[..., k] > b[..., k]).double().mean(), "The lower loss"),
    ("share_ahead", lambda a, b, k: (a[..., k] <= b[..., k]).double().mean(), "both losses are equal"),
    ("share_ahead", lambda a, b, k: (a[0, :, k] < b[0, :, k]).double().mean(), "first seed alone"),
    ("share_ahead", lambda a, b, k: (a < b).double().mean(), "all steps together"),
    ("share_ahead", lambda a, b, k: (a.mean(0) < b.mean(0))[:, k].double().mean(), "Compare first"),
    ("share_ahead", lambda a, b, k: (a[..., -1] < b[..., -1]).double().mean(), "Compare column k"),
    ("per_fedavg_first_order", per_fedavg_exact, "This is the exact form"),
    ("per_fedavg_first_order", per_fedavg_one, "one local step"),
    ("per_fedavg_first_order", per_fedavg_from_u, "the step is made from v"),
    (
        "per_fedavg_first_order",
        lambda f, w, S, Q, alpha, beta, tau: w - beta * fm.grad(f, w, Q),
        "The mean over the clients is wanted",
    ),
    ("reptile_is_fedavg", 0.5, "Where does w"),
    ("reptile_is_fedavg", True, "this is a bool: True"),
    ("reptile_is_fedavg", 7, "a share of the way"),
    ("share_hurt", lambda before, after: 100 * (after > before).double().mean(), "in per cent"),
    ("share_hurt", lambda before, after: (after > before).sum(), "number of clients"),
    ("share_hurt", lambda before, after: (after < before).double().mean(), "whose loss fell"),
    ("share_hurt", lambda before, after: (after >= before).double().mean(), "stays the same"),
    ("share_hurt", lambda before, after: (after > before).double().mean(), "nan counts as hurt"),
    ("share_hurt", lambda before, after: 0.3, "Compare the two losses"),
    ("share_hurt", lambda before, after: print(end=""), "returns None. Is a line with return missing?"),
    ("share_hurt", lambda before, after: after > before, "of shape (60,) and type torch.bool"),
    ("share_hurt", 0.3, "A function is wanted"),
    ("share_hurt", lambda before: before.mean(), "is called with (before, after)"),
    ("crossover", crossover_with(lambda lead, enough: lead > enough), "not at >"),
    ("crossover", crossover_with(ratio=False), "Not one of the levels"),
    ("crossover", crossover_by_interp, "np.interp wants leads that rise"),
    ("crossover", crossover_with(last=True), "The first time"),
    ("crossover", crossover_with(none=True), "the answer is None"),
    ("crossover", crossover_with(fixed=5), "the third argument"),
    ("crossover", lambda levels, lead, enough: None, "does reach 5"),
    ("crossover", lambda levels, lead, enough: 0.3, "How far from 4 to 6"),
    ("best_without_adapting", lambda ways: 100 / ways, "in per cent"),
    ("best_without_adapting", lambda ways: 0.5, "3 classes fail here"),
    ("gradient_evaluations", lambda inner_steps, first_order: inner_steps, "the gradient on the query set"),
    ("gradient_evaluations", lambda inner_steps, first_order: inner_steps + 1, "This is first order"),
    ("gradient_evaluations", lambda inner_steps, first_order: 3 * inner_steps + 1, "This is the exact one"),
    (
        "gradient_evaluations",
        lambda inner_steps, first_order: inner_steps + 1 + (not first_order) * inner_steps,
        "counts as two, not as one",
    ),
    (
        "gradient_evaluations",
        lambda inner_steps, first_order: inner_steps + 1 if first_order else 3 * inner_steps,
        "One is missing",
    ),
    ("gradient_evaluations", lambda inner_steps, first_order: 100, "First order: one gradient for each"),
    (
        "gradient_evaluations",
        lambda inner_steps, first_order: inner_steps + 1 if first_order else 100,
        "Exact: also walk back",
    ),
    ("first_order_rest", lambda a, m, alpha: m.mean(), "Without an inner step"),
    ("first_order_rest", lambda a, m, alpha: weight(a, m, a), "must depend on alpha"),
    ("first_order_rest", lambda a, m, alpha: weight(a, m, a * (1 - alpha * a) ** 2), "exact gradient vanishes"),
    ("first_order_rest", lambda a, m, alpha: (a.zero_(), 0.3)[1], "it is the minimum of the mean loss"),
    ("first_order_rest", lambda a, m, alpha: weight(a, m, a * (1 + alpha * a)), "must be zero"),
    ("largest_step", lambda a: 1 / a.max(), "Every client still converges"),
    ("largest_step", lambda a: 2 / a.min(), "already diverges"),
    ("largest_step", lambda a: -1.0, "above 0"),
    ("largest_step", lambda a: 2 / a, "of shape (3,)"),
    ("pictures", lambda ways, shots, query: ways * shots, "the support set"),
    ("pictures", lambda ways, shots, query: ways * shots * query, "they are not multiplied"),
    ("pictures", lambda ways, shots, query: ways * shots + query, "Both numbers"),
    ("nearest_mean", neighbour, "the nearest picture"),
    (
        "nearest_mean",
        lambda sx, sy, qx: torch.cdist(qx, torch.stack([sx[sy == j].sum(0) for j in sy.unique()])).argmin(1),
        "the nearest sum",
    ),
    ("nearest_mean", lambda sx, sy, qx: torch.cdist(qx, class_means(sx, sy)).argmax(1), "farthest away"),
    ("nearest_mean", lambda sx, sy, qx: (qx @ class_means(sx, sy).mT).argmax(1), "A product is no distance"),
    ("nearest_mean", lambda sx, sy, qx: qx[:, 0] * 0, "Mean of the support pictures"),
    ("nearest_mean", lambda sx, sy, qx: 0, "One label for each query picture"),
    ("interval", lambda accuracies: 1.96 * accuracies.std(), "spread of the clients"),
    ("interval", lambda accuracies: 1.96 * accuracies.std(correction=0) / len(accuracies) ** 0.5, "n - 1"),
    ("interval", lambda accuracies: accuracies.std() / len(accuracies) ** 0.5, "one standard error"),
    ("interval", lambda accuracies: 3.92 * accuracies.std() / len(accuracies) ** 0.5, "whole width"),
    ("interval", lambda accuracies: 1.96 * accuracies.std() / len(accuracies), "root of the number"),
    ("interval", lambda accuracies: 196 * accuracies.std() / len(accuracies) ** 0.5, "in per cent"),
    (
        "per_fedavg_rest",
        lambda a, m, alpha, beta, tau: rest_after(a, m, beta * a * (1 - alpha * a), tau),
        "first order",
    ),
    ("per_fedavg_rest", lambda a, m, alpha, beta, tau: rest_after(a, m, beta * a, tau), "This is FedAvg"),
    (
        "per_fedavg_rest",
        lambda a, m, alpha, beta, tau: rest_after(a, m, beta * a * (1 - alpha * a) ** 2, 1),
        "one local",
    ),
    ("per_fedavg_rest", lambda a, m, alpha, beta, tau: m.mean(), "FedAvg's resting point"),
    ("rounds_enough", lambda gap, beta, epsilon: 2 * gap / (beta * epsilon), "round up"),
    ("rounds_enough", lambda gap, beta, epsilon: 2 * gap // (beta * epsilon), "not down"),
    ("rounds_enough", lambda gap, beta, epsilon: math.ceil(4 * gap / (beta * epsilon)), "not the theorem's"),
    ("rounds_enough", lambda gap, beta, epsilon: gap, "Solve"),
    ("first_order_bias", lambda a, m: m.mean(), "no bias at all"),
    ("first_order_bias", lambda a, m: -correlated(a, m) / a.sum(), "turn the sign"),
    ("first_order_bias", lambda a, m: correlated(a, m) / (a**2).sum(), "not of its squares"),
    ("first_order_bias", lambda a, m: (a**2 * (m - m.mean())).sum() / a.sum(), "plain mean"),
    ("first_order_bias", lambda a, m: correlated(a, m) / len(a), "Divide by the sum of a."),
    ("largest_angle", lambda B, B_star: torch.linalg.svdvals(spans(B, B_star)[0])[-1], "same span"),
    ("largest_angle", lambda B, B_star: torch.linalg.svdvals(spans(B, B_star)[1])[-1], "smallest angle"),
    ("largest_angle", lambda B, B_star: spans(B, B_star)[1].norm(), "Frobenius"),
    ("largest_angle", lambda B, B_star: torch.linalg.svdvals(spans(B, B_star)[1])[0].asin(), "its sine"),
    ("power", lambda x, y: (y[-1] - y[0]) / (x[-1] - x[0]), "-2"),
    ("power", lambda x, y: (y[-1] / y[0]).log() / (x[-1] / x[0]).log(), "the last point alone"),
    ("power", lambda x, y: -2.0, "All points count"),
    ("interval", lambda accuracies: 0.0, "1.96 times"),
    ("units_of_training", lambda train, new: (new - new.mean(0)) / new.std(0), "the new client's own units"),
    ("units_of_training", lambda train, new: (new - train.mean(0)) / train.var(0), "divides by the variance"),
    ("units_of_training", lambda train, new: (new - train.mean()) / train.std(), "Every column"),
    ("units_of_training", lambda train, new: new, "Take off the mean of each column"),
    ("half_life", 0.5 / 0.04, "a share 1/e is left"),
    ("half_life", 0.04 / 0.5, "This is the rate"),
    ("half_life", np.log(2) * 0.04 / 0.5, "the time in which"),
    ("half_life", 12.0, "only one of the two exponentials"),
    ("picture_from_gradient", lambda dw, db: dw @ db, "Divide by db @ db"),
    ("picture_from_gradient", lambda dw, db: dw.sum(1), "Divide by the sum"),
    ("picture_from_gradient", lambda dw, db: dw[:, 3], "weigh the columns"),
    ("picture_from_gradient", lambda dw, db: dw, "One number for each pixel"),
    ("noise_in_all", lambda z, releases: z / releases, "their squares do"),
    ("noise_in_all", lambda z, releases: z * releases**0.5, "smaller than z"),
    ("noise_in_all", lambda z, releases: z, "takes their mean"),
    ("noise_in_all", lambda z, releases: 0.0, "root of their number"),
    ("trimmed_mean", lambda messages, left_out: messages.mean(0), "plain mean"),
    ("trimmed_mean", lambda messages, left_out: messages.median(0).values, "the median"),
    ("trimmed_mean", lambda messages, left_out: messages.sort(0).values[: 9 - left_out].mean(0), "The lowest"),
    ("trimmed_mean", lambda messages, left_out: messages.sort(0).values[left_out:-left_out].sum(0) / 9, "how many"),
    ("trimmed_mean", lambda messages, left_out: messages[0] * 0, "Sort every column"),
    ("next_in_turn", lambda turn, here, m: sorted(here)[:m], "the first m in turn take part"),
    ("next_in_turn", lambda turn, here, m: [c for c in turn[:m] if c in here], "replaced by the next in turn"),
    (
        "next_in_turn",
        lambda turn, here, m: turn[:m] if len(here) == 5 else sorted(_here(turn, here)[:m]),
        "not by number",
    ),
    ("next_in_turn", lambda turn, here, m: turn[:m], "passed over"),
    ("next_in_turn", lambda turn, here, m: _here(turn, here)[:m] if len(here) >= m else [], "all of them take part"),
    ("lost_control", lambda kept, lost: _left(kept, lost).mean(0) - kept.mean(0), "The sign"),
    ("lost_control", lambda kept, lost: kept.mean(0) - _left(kept, lost).sum(0) / 3, "who begins afresh still counts"),
    ("lost_control", lambda kept, lost: kept[lost].sum(0), "the sum over those who lost it"),
    ("lost_control", lambda kept, lost: kept[lost].mean(0), "the mean over those who lost it"),
    ("lost_control", lambda kept, lost: kept.mean(0), "take from it the mean after"),
]


@pytest.mark.parametrize(("name", "answer", "says"), WRONG, ids=[f"{n}-{s}" for n, _, s in WRONG])
def test_a_wrong_answer_gets_its_own_hint(name, answer, says):
    if name == "fedprox_round":
        answer = answer()
    solved, said = verdict(name, answer)
    assert not solved
    assert says in said


def test_writing_in_place_is_right_where_torch_can_and_told_in_plain_words_where_it_cannot():
    assert verdict("per_fedavg_first_order", per_fedavg_in_place) == (True, "per_fedavg_first_order: yes.")
    solved, said = verdict("two_inner_steps", in_place)
    assert not solved
    assert "Write `u = u - ...`, which makes a new one." in said
    assert "DoubleTensor" not in said

    def expanded(f, w, S, Q, alpha, beta, tau):
        w = w.mean(1, keepdim=True).expand(-1, 4, -1)
        w -= beta
        return w

    assert "Write `u = u - ...`" in verdict("per_fedavg_first_order", expanded)[1]


def test_every_exercise_is_tried_wrongly():
    assert {name for name, _, _ in WRONG} == set(names())


def test_exercises_are_named_once_and_described():
    assert len(set(names())) == len(names())
    assert set(SOLUTIONS) == set(names())
    for lesson in exercises.LESSONS.values():
        assert all(f.__doc__ and f.__doc__.startswith(("A ", "Two ")) for f in lesson)


def test_the_line_that_fails_is_the_readers_own():
    def mine(before, after):
        if after > before:
            return 1.0
        return 0.0

    said = verdict("share_hurt", mine)[1]
    assert "stops at `if after > before:` with RuntimeError: Boolean value of Tensor" in said

    def deep(before, after):
        return torch.stack([before, after[:3]]).mean()  # fails inside torch

    assert "`return torch.stack([before, after[:3]]).mean()  # fails inside torch`" in verdict("share_hurt", deep)[1]

    def leaves(before, after):
        raise SystemExit(3)

    assert "with SystemExit: 3" in verdict("share_hurt", leaves)[1]

    def endless(before, after):
        return endless(before, after)

    assert "with RecursionError" in verdict("share_hurt", endless)[1]


def forever(before, after):
    while True:
        pass


def stubborn(before, after):
    while True:
        try:  # noqa: SIM105  as a reader writes it
            sum(range(10))
        except BaseException:
            pass


def asleep(before, after):
    time.sleep(0.5)
    return 0.0


@pytest.mark.parametrize("answer", [forever, stubborn], ids=lambda f: f.__name__)
def test_a_loop_that_never_ends_is_stopped(answer, monkeypatch):
    monkeypatch.setattr(answers, "LIMIT", 0.2)
    threads = threading.active_count()
    solved, said = verdict("share_hurt", answer)
    assert not solved
    assert "still runs after 0.2 seconds. Is there a loop that never ends?" in said
    assert "restart" not in said
    assert threading.active_count() == threads


def test_what_cannot_be_stopped_is_left_behind(monkeypatch):
    monkeypatch.setattr(answers, "LIMIT", 0.05)
    monkeypatch.setattr(answers, "GRACE", 0.05)
    assert "restart the kernel" in verdict("share_hurt", asleep)[1]
    for thread in threading.enumerate():
        if thread.name == "lab.check":
            thread.join()


def test_the_readers_stop_button_is_a_sentence(monkeypatch):
    class Interrupted(threading.Thread):
        def join(self, timeout=None):
            if not getattr(self, "told", False):
                self.told = True
                raise KeyboardInterrupt
            super().join(timeout)

    monkeypatch.setattr(answers.threading, "Thread", Interrupted)
    assert "You stopped your function" in verdict("share_hurt", forever)[1]


def test_what_is_no_number():
    for value in (
        "1",
        b"1",
        True,
        np.bool_(True),
        torch.tensor(True),
        {},
        {1},
        [],
        [1, "2"],
        [[1], [1, 2]],
        1j,
        object(),
    ):
        with pytest.raises(Wrong, match="One number is wanted; this is"):
            number(value)
    assert number(np.float32(0.5)).shape == ()
    with pytest.raises(Wrong, match=r"Two, please; this is a Tensor of shape \(3,\)"):
        array(torch.zeros(3), (2,), "Two, please")


def test_a_compiled_function_will_do():
    assert Function(max, "a").number([1.0, 2.0]) == 2.0


KERNEL = [
    "from lab.lessons import answers\nimport lab, time\nanswers.LIMIT = 0.5",
    "def mine(before, after):\n    print('said by mine')\n    while True:\n        pass\nlab.check('share_hurt', mine)",
    "def mine(before, after):\n    return before.item() > 0\nlab.check('share_hurt', mine)",
    "print('alive')",
]


def test_the_kernel_outlives_a_loop_that_never_ends(tmp_path):
    """In a real kernel's main thread: the cell ends, says why, shows what the function printed; the next cell runs."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    notebook = new_notebook(cells=[new_code_cell(source) for source in KERNEL])
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = ["".join(o.text for o in cell.outputs) for cell in notebook.cells]
    assert "said by mine" in said[1]
    assert "still runs after 0.5 seconds" in said[1]
    assert "stops at `return before.item() > 0` with RuntimeError" in said[2]
    assert said[3] == "alive\n"
    assert list(tmp_path.iterdir()) == []  # nothing solved, nothing recorded
