"""Methods whose server holds more than a model, or whose clients keep something: their identities, in float64."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch.testing import assert_close

import fmlab as fm
from fmlab.data import Batch
from fmlab.engine import Store, rounds
from fmlab.evaluation import personal

POPULATION = fm.Sines(n_clients=6, n_validation=2, n_unseen=3)
LOCAL = {"local_steps": 3, "lr": 0.02}
SHARING = [fm.FedPer(**LOCAL), fm.FedRep(**LOCAL), fm.FedBABU(**LOCAL)]
QUADRATICS = fm.Quadratics(n_clients=8, n_validation=2, n_unseen=2)


def model(state):
    return state.held["model"]


# --- SCAFFOLD -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("local_steps", [1, 5, 20])
def test_scaffold_comes_to_the_optimum_for_any_number_of_local_steps(train, local_steps):
    """Of the mean loss, where FedAvg settles elsewhere, the farther the more local steps it takes."""
    state, _ = train(fm.Scaffold(local_steps=local_steps, lr=0.05), QUADRATICS, 3000 // local_steps)
    assert (model(state)[0, 0] - QUADRATICS.optimum(0)).norm() < 1e-10


def test_fedavg_settles_away_from_the_optimum_in_proportion_to_its_further_steps():
    """offset ~ eta (K - 1): the slope over eta (K - 1), fitted at small steps, is constant to 5 %."""
    offsets = [
        (eta * (k - 1), (QUADRATICS.fedavg_point(0, eta, k) - QUADRATICS.optimum(0)).norm().item())
        for eta in (1e-4, 2e-4)
        for k in (2, 5, 20)
    ]
    slopes = torch.tensor([y / x for x, y in offsets])
    assert slopes.min() > 0
    assert slopes.max() / slopes.min() < 1.05


def test_scaffolds_first_round_is_fedavgs(train):
    """All control variates are 0 then."""
    ours, _ = train(fm.Scaffold(**LOCAL), POPULATION, 1, per_round=4)
    theirs, _ = train(fm.FedAvg(**LOCAL), POPULATION, 1, per_round=4)
    assert_close(model(ours), model(theirs), rtol=1e-12, atol=1e-13)
    later = [train(a, POPULATION, 3, per_round=4)[0] for a in (fm.Scaffold(**LOCAL), fm.FedAvg(**LOCAL))]
    assert not torch.allclose(*map(model, later))


def test_scaffold_with_one_step_of_everybody_is_gradient_descent(train):
    """Then the corrections cancel in the mean."""
    ours, _ = train(fm.Scaffold(local_steps=1, lr=0.03), POPULATION, 5)
    theirs, _ = train(fm.FedAvg(local_steps=1, lr=0.03), POPULATION, 5)
    assert_close(model(ours), model(theirs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize(("weights", "sampling"), [("uniform", "fixed"), ("size", "fixed"), ("uniform", "poisson")])
def test_the_servers_control_variate_is_the_mean_of_all_clients(train, weights, sampling, dropout):
    """By the weights of the mean, also when few take part, or as many as chance has it, and some do not answer."""
    clients = fm.Synthetic(n_clients=7, n_validation=2, n_unseen=2)
    options = {"per_round": 3, "weights": weights, "sampling": sampling, "dropout": dropout, "seeds": (0, 1)}
    state, setup = train(fm.Scaffold(**LOCAL), clients, 6, **options)
    size = setup.training.sizes if weights == "size" else torch.ones(2, 7)
    mean = (state.kept["control"] * (size / size.sum(1, keepdim=True))[..., None]).sum(1, keepdim=True)
    assert mean.norm() > 0.1
    assert_close(state.held["control"], mean, rtol=1e-10, atol=1e-12)


def test_scaffold_at_step_size_zero_stays_and_learns_every_clients_gradient(train):
    state, setup = train(fm.Scaffold(local_steps=3, lr=0.0), POPULATION, 2)
    assert torch.equal(model(state), setup.start[:, None])
    both = Batch(*setup.training.everyone()).both
    assert_close(state.kept["control"], setup.objective.gradient(setup.start[:, None].expand(-1, 6, -1), both))


def test_scaffold_sends_twice_the_bytes_both_ways(train):
    ours, setup = train(fm.Scaffold(**LOCAL), POPULATION, 1)
    assert ours.up == ours.down == 2 * 4 * setup.model.size


# --- Ditto --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 4])
def test_dittos_global_part_is_fedavg_bit_for_bit(train, batch_size):
    ditto, _ = train(fm.Ditto(lam=0.7, batch_size=batch_size, **LOCAL), POPULATION, per_round=4)
    fedavg, _ = train(fm.FedAvg(batch_size=batch_size, **LOCAL), POPULATION, per_round=4)
    assert torch.equal(model(ditto), model(fedavg))


@pytest.mark.parametrize("batch_size", [None, 4])
def test_ditto_without_a_pull_keeps_the_models_of_local_only_bit_for_bit(train, batch_size):
    ditto, _ = train(fm.Ditto(lam=0.0, batch_size=batch_size, **LOCAL), POPULATION, per_round=4)
    alone, _ = train(fm.LocalOnly(batch_size=batch_size, **LOCAL), POPULATION, per_round=4)
    assert torch.equal(ditto.kept["model"], alone.kept["model"])


def test_ditto_pulls_towards_the_model_that_was_sent_not_the_new_one(train):
    """On quadratics, many steps: u = (A + lambda I)^-1 (A m + lambda w), w as sent."""
    a = fm.Ditto(lam=2.0, local_steps=100, lr=0.1)
    state, setup = train(a, QUADRATICS, 1)
    m, curvature = QUADRATICS.losses("training", 0)
    eye, w = torch.eye(2), setup.start[:, None].expand(-1, 8, -1)
    pulled = torch.linalg.solve(curvature + 2 * eye, (curvature @ m[..., None])[..., 0] + 2 * w[0])
    assert_close(state.kept["model"][0], pulled, rtol=1e-6, atol=1e-6)


# --- a shared body and own heads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", SHARING, ids=lambda a: type(a).__name__)
def test_only_the_body_crosses_the_network(train, algorithm):
    state, setup = train(algorithm, POPULATION, 2)
    body = int((~setup.objective.head).sum())
    assert setup.model.size - body == 41
    assert state.up == state.down == 4 * body
    assert torch.equal(state.held["head"], setup.objective.split(setup.start[:, None])[1]), "the fresh head stays"


def test_fedper_with_one_client_is_that_clients_own_training(train):
    one = replace(POPULATION, n_clients=1)
    ours, setup = train(fm.FedPer(**LOCAL), one, 4)
    alone, _ = train(fm.LocalOnly(**LOCAL), one, 4)
    assert_close(setup.objective.join(model(ours), ours.kept["head"]), alone.kept["model"], rtol=1e-12, atol=1e-13)


def test_fedrep_moves_the_head_first_and_then_the_body(train):
    """With one client: the head's steps leave the body as it is, and the body's the head."""
    one = replace(POPULATION, n_clients=1)
    state, setup = train(fm.FedRep(head_steps=4, **LOCAL), one, 1)
    f, w = setup.objective, setup.start[:, None]
    both, head = Batch(*setup.training.everyone()).both, f.head
    fitted = w
    for _ in range(4):
        fitted = fitted - 0.02 * head * f.gradient(fitted, both)
    moved = fitted
    for _ in range(3):
        moved = moved - 0.02 * ~head * f.gradient(moved, both)
    assert_close(state.kept["head"], fitted[..., head], rtol=1e-9, atol=1e-11)
    assert_close(model(state), moved[..., ~head], rtol=1e-9, atol=1e-11)


def test_fedbabu_learns_a_body_under_a_head_that_never_moves(train):
    state, setup = train(fm.FedBABU(**LOCAL), POPULATION, 1, per_round=6)
    f, w = setup.objective, setup.start[:, None].expand(-1, 6, -1)
    both = Batch(*setup.training.everyone()).both
    for _ in range(3):
        w = w - 0.02 * ~f.head * f.gradient(w, both)
    assert state.kept == {}
    assert_close(model(state)[:, 0], w[..., ~f.head].mean(1), rtol=1e-9, atol=1e-11)


def test_fedbabu_refuses_a_head_that_starts_at_zero():
    images = fm.Digits(n_clients=4, n_validation=2, n_unseen=2)
    zero = fm.MLP((64, 8, 3))
    f, w = images.objective(zero), zero.init(torch.Generator().manual_seed(0))[None, None]
    w = f.join(f.split(w)[0], torch.zeros_like(f.split(w)[1]))
    with pytest.raises(ValueError, match="head starts at zero"):
        fm.FedBABU().start(f, w)


def test_unseen_clients_of_fedrep_and_anil_move_the_head_alone(train):
    for algorithm in (fm.FedRep(adapt_lr=0.02, **LOCAL), fm.ANIL(inner_lr=0.02, adapt_lr=0.02)):
        state, setup = train(algorithm, POPULATION, 2)
        f, (support, _) = setup.objective, setup.unseen.everyone()
        held = {name: t.expand(-1, 3, -1) for name, t in state.held.items()}
        before, *_, after = algorithm.adapt(f, held, support, 4)
        assert torch.equal(before[..., ~f.head], after[..., ~f.head])
        assert (before[..., f.head] != after[..., f.head]).any(-1).all()


def test_anil_that_moves_everything_is_maml(problem):
    f, w, batch = problem((2, 5, 4, 3), classes=True)

    class AllHead(type(f)):
        head = torch.ones(w.shape[-1], dtype=torch.bool)

    everything = AllHead(f.model, f.loss)
    for steps in (1, 3):
        anil = fm.ANIL(inner_steps=steps, inner_lr=0.1).local(everything, {"model": w}, {}, batch)[0]["model"]
        maml = fm.FedMAML(inner_steps=steps, inner_lr=0.1).local(f, {"model": w}, {}, batch)[0]["model"]
        assert_close(anil, maml, rtol=1e-10, atol=1e-12)
        own = fm.ANIL(inner_steps=steps, inner_lr=0.1).local(f, {"model": w}, {}, batch)[0]["model"]
        assert not torch.allclose(own, maml)


# --- personal models ----------------------------------------------------------------------------------------------


OWN = [fm.LocalOnly(**LOCAL), fm.PFedMe(lam=1.0, inner_lr=0.02, lr=0.05), fm.Ditto(**LOCAL), *SHARING[:2]]


@pytest.mark.parametrize("algorithm", OWN, ids=lambda a: type(a).__name__)
def test_personal_models_are_scored_on_fresh_examples_of_their_own_clients(train, algorithm):
    state, setup = train(algorithm, POPULATION, 5, per_round=4)
    found = personal(algorithm, setup.objective, state.held, state.kept, setup.participating)
    query = setup.participating.everyone()[1]
    held = {name: t.expand(-1, 6, -1) for name, t in state.held.items()}
    own = algorithm.personal(setup.objective, held, state.kept)
    for c in range(6):
        p = setup.model(own[:, c : c + 1], query.x[:, c : c + 1])
        assert_close(found.loss[0, c], (p - query.y[:, c : c + 1]).square().mean())


@pytest.mark.parametrize("batch_size", [None, 3])
def test_pfedmes_personal_models_are_of_all_clients_or_of_those_asked_last(batch_size):
    """Where all take part, Alg. 1's models after T rounds are what clients keep after round T + 1."""
    few = {"seeds": 2, "evaluations": 1, "steps": 1}
    method = fm.PFedMe(lam=1.0, inner_lr=0.02, lr=0.05, adapt_lr=0.01, batch_size=batch_size)
    asked_last = replace(method, everyone=False)
    now = fm.compare([method], POPULATION, rounds=3, clients_per_round=POPULATION.n_clients, **few)
    later = fm.compare([asked_last], POPULATION, rounds=4, clients_per_round=POPULATION.n_clients, **few)
    assert_close(now.personal["PFedMe"], later.personal["PFedMe"], rtol=1e-10, atol=1e-12)
    both = {"all": method, "asked last": asked_last}
    study = fm.compare(both, POPULATION, rounds=2, clients_per_round=1, **few)
    assert torch.equal(study.held["all"]["model"], study.held["asked last"]["model"])
    assert torch.equal(study.kept["all"][0]["model"], study.kept["asked last"][0]["model"])
    never = study.kept["asked last"][0]["model"] == study.setup.start[:, None]  # asked in no round
    assert never.all(-1).sum() >= 2 * (POPULATION.n_clients - 2)
    fresh = study.setup.objective(study.setup.start[:, None].expand_as(never), study.setup.participating.everyone()[1])
    assert_close(study.personal["asked last"][never.all(-1)], fresh[never.all(-1)])
    assert (study.personal["all"] != study.personal["asked last"]).all()


def test_methods_without_personal_models_have_none():
    study = fm.compare(
        [fm.Scaffold(**LOCAL, adapt_lr=0.01), fm.FedBABU(**LOCAL, adapt_lr=0.01), fm.Ditto(**LOCAL, adapt_lr=0.01)],
        POPULATION, rounds=2, seeds=2, clients_per_round=3, evaluations=1,
    )  # fmt: skip
    assert set(study.personal) == {"Ditto"}
    assert study.personal["Ditto"].shape == (2, 6)


def test_what_clients_keep_is_theirs_alone(train):
    """Another client's data changes nothing of what a client keeps in one round."""
    for algorithm in (*OWN, fm.Scaffold(**LOCAL)):
        _, setup = train(algorithm, POPULATION, 0)
        ends = []
        for spoil in (False, True):
            training = setup.training
            if spoil:
                y = training.support.y.clone()
                y[:, 3] += 5.0
                training = replace(training, support=training.support._replace(y=y))
            store = Store()
            run = rounds(algorithm, setup.objective, training, setup.start, seeds=(0,), per_round=6, store=store)
            next(islice(run, 1, None))
            ends.append(store.kept)
        for name, t in ends[0].items():
            others = [0, 1, 2, 4, 5]
            assert torch.equal(t[:, others], ends[1][name][:, others])
            assert not torch.equal(t[:, 3], ends[1][name][:, 3])
