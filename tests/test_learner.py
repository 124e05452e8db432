"""``FederatedMetaLearner``: the loop as it is usually written, and the numbers of FedMAML."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

import fmlab as fm
from fmlab.engine import rounds
from fmlab.optimisers import Adam

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def data(clients=5, n=32, inputs=10, classes=0, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(clients, n, inputs, generator=g)
    w = torch.randn(clients, inputs, classes or 1, generator=g)
    return [(x_, (x_ @ w_).argmax(-1) if classes else x_ @ w_) for x_, w_ in zip(x, w, strict=True)]


def module(inputs=10, outputs=1, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, outputs))


def by_hand(model, clients, inner_steps, inner_lr, outer_lr, first_order, updates, loss):
    """MAML in a loop over clients and steps, with torch's own Adam: one mean query loss a round."""
    optimiser, found = torch.optim.Adam(model.parameters(), lr=outer_lr), []
    names = [n for n, _ in model.named_parameters()]
    for _ in range(updates):
        queries = []
        for x, y in clients:
            half = (len(x) + 1) // 2
            w = list(model.parameters())
            for _ in range(inner_steps):
                out = torch.func.functional_call(model, dict(zip(names, w, strict=True)), x[:half])
                gs = torch.autograd.grad(loss(out, y[:half]), w, create_graph=not first_order)
                w = [v - inner_lr * g for v, g in zip(w, gs, strict=True)]
            queries.append(
                loss(torch.func.functional_call(model, dict(zip(names, w, strict=True)), x[half:]), y[half:])
            )
        optimiser.zero_grad()
        torch.stack(queries).mean().backward()
        optimiser.step()
        found.append(torch.stack(queries).mean().item())
    return found


def test_the_loop_as_it_is_written():
    torch.manual_seed(0)
    client_datasets = [TensorDataset(torch.randn(32, 10), torch.randn(32, 1)) for _ in range(5)]
    model = fm.FederatedMetaLearner(num_clients=5, inner_steps=1, inner_lr=0.01, outer_lr=0.001)
    for _ in range(100):
        loss = model.meta_update(client_datasets)
    assert isinstance(loss, float)
    assert model(torch.randn(7, 10)).shape == (7, 1)
    personal = model.adapt(client_datasets[0], steps=5)
    assert isinstance(personal, nn.Module)
    assert int(model.updates) == 100


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_it_is_the_loop_by_hand(steps, first_order, classes):
    clients = data(classes=classes)
    loss = nn.CrossEntropyLoss() if classes else nn.MSELoss()
    mine, theirs = module(outputs=classes or 1), module(outputs=classes or 1)
    learner = fm.FederatedMetaLearner(5, steps, 0.05, 0.01, model=mine, loss=loss, first_order=first_order)
    found = [learner.meta_update(clients) for _ in range(6)]
    expected = by_hand(theirs, clients, steps, 0.05, 0.01, first_order, 6, loss)
    assert_close(torch.tensor(found), torch.tensor(expected), **CLOSE)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert_close(p, q, **CLOSE)


def test_clients_of_different_sizes_count_the_same():
    clients = [(x[:n], y[:n]) for (x, y), n in zip(data(), (2, 9, 32, 5, 3), strict=True)]
    mine, theirs = module(), module()
    learner = fm.FederatedMetaLearner(5, 2, 0.05, 0.01, model=mine)
    found = [learner.meta_update(clients) for _ in range(3)]
    expected = by_hand(theirs, clients, 2, 0.05, 0.01, False, 3, nn.MSELoss())
    assert_close(torch.tensor(found), torch.tensor(expected), **CLOSE)


def test_it_is_fedmaml_on_the_same_clients():
    """A population of the same data, with nothing kept back, is trained to the same parameters by ``rounds``."""
    clients = fm.Datasets([TensorDataset(x, y) for x, y in data(clients=8)], held=0.0)
    drawn = clients.draw("training", 0)
    model = module()
    algorithm = fm.FedMAML(inner_steps=2, inner_lr=0.05, adapt_lr=0.05, server=Adam(0.01))
    f, start = clients.objective(fm.lift(model)), fm.lift(model).init(torch.Generator())[None]
    run = rounds(algorithm, f, drawn, start, seeds=(0,), per_round=drawn.number)
    support, query = drawn.everyone()
    given = [
        (support.x[0, i], support.y[0, i], query.x[0, i], query.y[0, i]) for i in range(drawn.number)
    ]  # of equal sizes, so nothing is padded
    learner = fm.FederatedMetaLearner(drawn.number, 2, 0.05, 0.01, model=model)
    for _ in range(5):
        state = next(run)
        assert_close(state.held["model"][0, 0], torch.cat([p.detach().flatten() for p in model.parameters()]), **CLOSE)
        learner.meta_update(given)
    assert state.round == 4


def test_adapting_is_gradient_descent_on_a_copy():
    (x, y), model = data()[0], module()
    learner = fm.FederatedMetaLearner(1, 2, 0.1, 0.01, model=model)
    before, other = copy.deepcopy(model.state_dict()), module()
    optimiser = torch.optim.SGD(other.parameters(), lr=0.1)
    for steps in (0, 1, 4):
        personal = learner.adapt((x, y), steps=steps)
        other.load_state_dict(before)
        for _ in range(steps):
            optimiser.zero_grad()
            nn.functional.mse_loss(other(x), y).backward()
            optimiser.step()
        assert_close(personal(x), other(x), **CLOSE)
    assert_close(learner.adapt((x, y))(x), learner.adapt((x, y), steps=2)(x))
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())


def test_a_state_dict_goes_on_where_it_was():
    clients = data()
    one, two = (fm.FederatedMetaLearner(5, 1, 0.05, 0.01, model=module(seed=s)) for s in (0, 1))
    for _ in range(3):
        one.meta_update(clients)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert one.meta_update(clients) == two.meta_update(clients)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_data_comes_in_any_of_its_forms():
    (x, y), *_ = data(1)
    forms = [
        (x, y),
        TensorDataset(x, y),
        DataLoader(TensorDataset(x, y), batch_size=5),
        list(zip(x, y, strict=True)),
        ((x[:16], y[:16]), TensorDataset(x[16:], y[16:])),
        (x[:16], y[:16], x[16:], y[16:]),
    ]
    losses = [fm.FederatedMetaLearner(1, 1, 0.05, 0.01, model=module()).meta_update([form]) for form in forms]
    assert_close(torch.tensor(losses), torch.full((6,), losses[0]), **CLOSE)


def test_frozen_parameters_stay():
    model = module()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    learner = fm.FederatedMetaLearner(5, 1, 0.05, 0.01, model=model)
    learner.meta_update(data())
    assert torch.equal(model[0].weight, before)
    assert torch.equal(learner.adapt(data()[0])[0].weight, before)


X, Y = data()[0]
FINE = {"num_clients": 5, "inner_steps": 1, "inner_lr": 0.01, "outer_lr": 0.01}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_clients": 0}, "num_clients = 0 is not a whole number >= 1"),
        ({"inner_steps": 0}, "inner_steps = 0 is outside"),
        ({"inner_lr": -1.0}, "inner_lr = -1.0 is not a number in"),
        ({"outer_lr": None}, "outer_lr = None is not"),
        ({"model": nn.Sequential(nn.Linear(10, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))}, "BatchNorm1d"),
        ({"model": 3}, "is not an nn.Module"),
        ({"loss": nn.L1Loss()}, "neither nn.MSELoss"),
        ({"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, "as they are by default"),
    ],
)
def test_arguments_that_do_not_fit(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fm.FederatedMetaLearner(**FINE | change)


@pytest.mark.parametrize(
    ("clients", "message"),
    [
        ([], "0 client_datasets; give 1 to num_clients = 5"),
        ([(X, Y)] * 6, "6 client_datasets"),
        (iter([(X, Y)]), "is no list"),
        ([(X, Y[:5])], r"client_datasets\[0\] has x .* and y"),
        ([(X[:1], Y[:1])], "has 1 example"),
        ([(X, Y), (X[:, :3], Y)], "different shapes"),
        ([(X, torch.zeros(32, 2))], "does not fit"),
        ([(X[:, :3], Y)], "the model does not fit the clients' data: "),
        ([3], r"client_datasets\[0\] is no Dataset"),
        ([(X, torch.zeros(32, dtype=torch.int64) + 4)], "1 logits for classes"),
    ],
)
def test_data_that_do_not_fit_leave_the_model_as_it_was(clients, message):
    learner = fm.FederatedMetaLearner(**FINE)
    before = copy.deepcopy(learner.state_dict())
    with pytest.raises((ValueError, TypeError), match=message):
        learner.meta_update(clients)
    assert all(torch.equal(t, before[k]) for k, t in learner.state_dict().items())


def test_its_algorithm_is_one_that_compare_takes():
    learner = fm.FederatedMetaLearner(**FINE)
    assert replace(learner.algorithm, first_order=True) == fm.FedMAML(
        inner_lr=0.01, adapt_lr=0.01, first_order=True, server=Adam(0.01)
    )
