"""Who leads: what counts as a lead, and what does not, on made-up scores and on real runs."""

from dataclasses import replace

import pytest
import torch

import fmlab as fm
from fmlab.judgement import LEVEL, judge, still_falling, trivial_error
from fmlab.report import FLOWN

POPULATION = fm.Sines(n_clients=10, n_validation=2, n_unseen=40)
METHODS = {
    "FedAvg": fm.FedAvg(lr=0.01, adapt_lr=0.01),
    "FedAvg + Adam": fm.FedAvg(lr=0.01, adapt_lr=0.01, server=fm.Adam()),
    "FedMAML": fm.FedMAML(inner_lr=0.01, adapt_lr=0.01),
}


@pytest.fixture(scope="module")
def study():
    return fm.compare(METHODS, POPULATION, rounds=1, seeds=3, clients_per_round=3, evaluations=1, steps=1)


def said(study, losses, seeds=3):
    """The study with these losses (numbers, or tensors (seeds, clients)) after the last step."""
    unit = trivial_error(study)
    adaptation, diverged = {}, {}
    for name, loss in losses.items():
        t = (unit * torch.as_tensor(loss, dtype=torch.float64)).expand(seeds, 40)
        adaptation[name] = torch.stack([torch.full_like(t, unit), t], -1)
        diverged[name] = torch.full((seeds,), -1)
    return replace(study, adaptation=adaptation, diverged=diverged)


def noise(seed, size):
    return size * torch.randn(3, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("theirs", "outcome"), [(0.5, "level"), (0.5 + 0.9 * LEVEL, "level"), (0.5 + 1.1 * LEVEL, "lead"), (0.9, "lead")]
)
def test_a_lead_counts_beside_what_the_trivial_predictor_loses(study, theirs, outcome):
    verdict = judge(said(study, {"FedAvg": theirs, "FedMAML": 0.5}))
    assert verdict.outcome == outcome
    assert verdict.lead == pytest.approx(theirs - 0.5, abs=1e-12)
    other = judge(said(study, {"FedAvg": 0.5, "FedMAML": theirs}))
    assert (other.outcome, other.lead) == (outcome, pytest.approx(verdict.lead))
    if outcome == "lead":
        assert (verdict.best, verdict.against, other.best) == ("FedMAML", "FedAvg", "FedAvg")


def test_ninety_seven_per_cent_of_next_to_nothing_is_level(study):
    assert judge(said(study, {"FedAvg": 0.01, "FedMAML": 0.0003})).outcome == "level"


def test_two_copies_of_one_method_are_level(study):
    copies = fm.compare(
        {"a": METHODS["FedAvg"], "b": METHODS["FedAvg"]}, POPULATION, rounds=3, seeds=2, clients_per_round=3
    )
    verdict = judge(copies)
    assert (verdict.outcome, verdict.lead) == ("level", 0.0)


@pytest.mark.parametrize(("leads", "wins"), [((0.6, -0.1, -0.1), 1), ((0.4, 0.4, -0.4), 2), ((0.5, 0.0, 0.0), 1)])
def test_seeds_that_disagree_leave_it_open(study, leads, wins):
    """Also where the mean lead is large: one seed of three makes no winner."""
    verdict = judge(said(study, {"FedAvg": 0.5 + torch.tensor(leads)[:, None].expand(3, 40), "FedMAML": 0.5}))
    assert (verdict.best, verdict.outcome, verdict.wins) == ("FedMAML", "open", wins)


@pytest.mark.parametrize("size", [2.0, 6.0, 9.0])
def test_who_wins_never_hangs_on_one_client(study, size):
    """One client of one seed, however bad it is for FedAvg, makes no lead for the other."""
    theirs = torch.full((3, 40), 0.5, dtype=torch.float64)
    theirs[:, 7] += size
    assert judge(said(study, {"FedAvg": theirs, "FedMAML": 0.5 + noise(0, 1e-3)})).outcome in ("level", "lead")
    theirs = torch.full((3, 40), 0.5, dtype=torch.float64)
    theirs[0, 7] += size
    assert judge(said(study, {"FedAvg": theirs, "FedMAML": 0.5 + noise(0, 1e-3)})).outcome in ("level", "open")


@pytest.mark.parametrize("far", [float("nan"), float("inf"), 1.5 * FLOWN, 1e30])
def test_clients_that_flew_away_are_counted_and_the_median_stands_in(study, far):
    ours = 0.5 + noise(1, 0.01)
    ours[1, 3] = ours[2, 9] = far
    verdict = judge(said(study, {"FedAvg": 0.7 + noise(2, 0.01), "FedMAML": ours}))
    assert (verdict.outcome, verdict.best) == ("lead", "FedMAML")
    assert verdict.median
    assert verdict.flown == {"FedMAML": 2}
    assert verdict.ours == pytest.approx(0.5 * trivial_error(study), rel=0.02)
    plain = judge(said(study, {"FedAvg": 0.7, "FedMAML": 0.5}))
    assert (plain.median, plain.flown) == (False, None)


def test_a_method_that_diverged_is_not_ranked(study):
    given = said(study, {"FedAvg": 0.7, "FedMAML": 0.1})
    given.diverged["FedMAML"][1] = 5
    verdict = judge(given)
    assert (verdict.outcome, verdict.best) == ("alone", "FedAvg")
    given.diverged["FedAvg"][0] = 2
    assert judge(given).outcome == "none"


def test_the_comparison_is_with_the_best_fedavg_on_show(study):
    verdict = judge(said(study, {"FedAvg": 0.9, "FedAvg + Adam": 0.55, "FedMAML": 0.5}))
    assert (verdict.best, verdict.against, verdict.outcome) == ("FedMAML", "FedAvg + Adam", "lead")
    verdict = judge(said(study, {"FedAvg": 0.9, "FedAvg + Adam": 0.3, "FedMAML": 0.5}))
    assert (verdict.best, verdict.against) == ("FedAvg + Adam", "FedMAML")


def test_accuracy_is_judged_by_the_trivial_predictors_errors():
    clients = fm.Digits(n_clients=10, n_validation=2, n_unseen=5)
    methods = [fm.FedAvg(lr=0.1, adapt_lr=0.1), fm.FedMAML(inner_lr=0.1, adapt_lr=0.1)]
    given = fm.compare(methods, clients, rounds=1, seeds=2, clients_per_round=3, evaluations=1, steps=1)
    _, hits = given.setup.objective.trivial(*given.unseen.everyone())
    wrong = 1 - hits.mean().item()
    assert trivial_error(given, "accuracy") == pytest.approx(wrong)
    for points, outcome in ((0.9 * LEVEL * wrong, "level"), (1.2 * LEVEL * wrong, "lead")):
        accuracy = {n: torch.full((2, 5, 2), 0.6 + points * (n == "FedMAML")) for n in given.names}
        verdict = judge(replace(given, accuracy=accuracy), quantity="accuracy")
        assert verdict.outcome == outcome
        assert verdict.ours == pytest.approx(0.6 + points)
        assert verdict.lead == pytest.approx(points / wrong)


@pytest.mark.parametrize("population", [fm.Sines, fm.Digits, fm.Glyphs], ids=lambda p: p.__name__)
def test_where_all_clients_are_alike_the_methods_are_level(population):
    """With one server for both, and FedAvg also with its own. Nobody has anything to adapt to. Of classifiers the
    accuracy is judged, as in the panel: the loss also tells how sure a model is of what it knows, and methods that have
    learned as much differ in that."""
    clients = population(heterogeneity=0.0)
    methods = {
        "FedAvg": fm.FedAvg(server=fm.Adam()),
        "FedAvg, plain mean": fm.FedAvg(),
        "FedMAML": fm.FedMAML(inner_steps=3),
    }
    found = fm.compare(methods, clients, rounds=300, seeds=2, evaluations=1, dtype=torch.float32)
    verdict = judge(found, quantity="accuracy" if found.accuracy else "loss")
    assert verdict.outcome == "level", verdict


def test_curves_that_still_fall_are_known(study):
    unit = trivial_error(study)
    for last, falling in ((0.5, True), (0.595, False), (0.7, False)):
        curve = unit * torch.tensor([1.0, 0.6, last]).expand(3, 3)[..., None].expand(3, 3, 2)
        assert still_falling(replace(study, learning={"FedAvg": curve}), "FedAvg") is falling
