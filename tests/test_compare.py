"""compare, stream and Study: the contract, equal treatment, and one clear error before any training."""

import inspect
import json
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fmlab as fm
from fmlab.data import Examples
from fmlab.evaluation import Scores
from fmlab.setup import DEFAULTS, prepare
from fmlab.tuning import GRID, rank

POPULATION = fm.Sines(n_clients=30, n_validation=6, n_unseen=7, test=5)
SHORT = {"rounds": 4, "seeds": 2, "clients_per_round": 5, "steps": 2, "evaluations": 2}
BOTH = [fm.FedAvg(lr=0.02, adapt_lr=0.01), fm.FedMAML(inner_lr=0.01, adapt_lr=0.01)]


@pytest.fixture(scope="module")
def study():
    return fm.compare(BOTH, POPULATION, **SHORT)


def test_shapes_of_the_contract(study):
    assert study.rounds.tolist() == [0, 2, 4]
    for name in ("FedAvg", "FedMAML"):
        assert study.adaptation[name].shape == study.adaptation[name].shape == (2, 7, 3)
        assert study.history[name].shape == (2, 3)
        assert study.participating[name].shape == (2, 30, 3)
        assert study.held[name]["model"].shape == (2, 1, 1761)
    assert {k: v.shape for k, v in study.baselines.items()} == {"trivial": (2, 7), "local only": (2, 7)}
    assert torch.equal(study.history["FedAvg"][:, -1], study.adaptation["FedAvg"][..., -1].mean(-1))


def test_local_only_does_not_depend_on_the_precision_of_the_study():
    """A hundred steps on ten points multiply rounding errors: where two step sizes are as good they would choose."""
    clients = fm.Sines(n_clients=3, n_validation=5, n_unseen=6)
    methods = [fm.FedAvg(lr=0.01, adapt_lr=0.01)]
    options = {"rounds": 1, "seeds": 2, "clients_per_round": 3}
    one, two = (fm.compare(methods, clients, dtype=d, **options) for d in (torch.float32, torch.float64))
    assert one.baselines["local only"].dtype == torch.float32
    assert torch.equal(one.baselines["local only"], two.baselines["local only"].float())


def test_config_runs_the_very_study_again(study):
    again = fm.compare(**study.config)
    for name in study.names:
        assert torch.equal(study.adaptation[name], again.adaptation[name])
        assert torch.equal(study.learning[name], again.learning[name])
    assert study.table() == again.table()


def test_a_method_is_the_same_alone_and_in_company(study):
    alone = fm.compare(BOTH[1:], POPULATION, **SHORT)
    assert torch.equal(alone.adaptation["FedMAML"], study.adaptation["FedMAML"])


def test_every_seed_is_the_same_alone_and_in_company(study):
    alone = fm.compare(BOTH, POPULATION, **(SHORT | {"seeds": [1]}))
    for name in study.names:
        torch.testing.assert_close(alone.adaptation[name][0], study.adaptation[name][1], rtol=1e-10, atol=1e-12)


def test_evaluating_more_often_changes_nothing(study):
    often = fm.compare(BOTH, POPULATION, **(SHORT | {"evaluations": 4}))
    for name in study.names:
        assert torch.equal(often.held[name]["model"], study.held[name]["model"])
        assert torch.equal(often.adaptation[name], study.adaptation[name])


def test_one_server_for_every_method():
    methods = [*BOTH, fm.LocalOnly(lr=0.01)]
    together = fm.compare(methods, POPULATION, server=fm.Yogi(lr=0.05), **SHORT)
    apart = fm.compare([replace(a, server=fm.Yogi(lr=0.05)) for a in BOTH], POPULATION, **SHORT)
    for name in apart.names:
        assert together.config["algorithms"][name].server == fm.Yogi(lr=0.05)
        assert torch.equal(together.adaptation[name], apart.adaptation[name])
    again = fm.compare(**together.config)
    assert torch.equal(again.adaptation["FedMAML"], together.adaptation["FedMAML"])
    swept = fm.compare(BOTH, POPULATION, server=fm.SGD(lr=fm.sweep(0.5, 1.0)), **SHORT)
    assert swept.adaptation["FedAvg"].shape == (2, 2, 7, 3)


def test_counters_by_hand(study):
    # 5 clients a round, 1,761 float32 numbers each way; FedAvg takes 5 gradients, one-step MAML 1 + 1 + 2.
    assert study.bytes["FedAvg"].tolist() == [0, 2 * 5 * 2 * 1761 * 4, 4 * 5 * 2 * 1761 * 4]
    assert study.gradient_evaluations["FedAvg"].tolist() == [0, 2 * 5 * 5, 4 * 5 * 5]
    assert study.gradient_evaluations["FedMAML"].tolist() == [0, 2 * 5 * 4, 4 * 5 * 4]


def test_personal_models_and_their_predictions_agree_with_the_scores(study):
    support, query = study.unseen.everyone()
    for seed, client in ((0, 0), (1, 6)):
        p = study.predict("FedMAML", query.x[seed, client], seed, client)
        loss = (p - query.y[seed, client]).square().mean((1, 2))
        torch.testing.assert_close(loss, study.adaptation["FedMAML"][seed, client], rtol=1e-10, atol=1e-12)
    assert support.x.shape == (2, 7, 10, 1)


def test_query_labels_of_unseen_clients_change_no_personal_model(study):
    before = study.adapted("FedAvg", 1, 2)
    study.unseen.query.y.add_(1.0)
    assert torch.equal(before, study.adapted("FedAvg", 1, 2))
    study.unseen.query.y.sub_(1.0)


def test_trivial_predictor_on_sines_is_the_analytic_mean():
    many = prepare(BOTH, fm.Sines(n_unseen=4000, test=50), seeds=1)
    loss, _ = many.objective.trivial(*many.unseen.everyone())
    # E[A^2] E[sin^2] = (0.1^2 + 0.1 * 5 + 5^2) / 6; the phase makes sin^2 average a half over [-5, 5] within 1 %.
    assert loss.mean().item() == pytest.approx((0.1**2 + 0.1 * 5 + 5**2) / 6, rel=0.03)


def test_sweep_equals_separate_runs_and_labels_its_rows():
    swept = fm.compare(
        {"A": fm.FedAvg(local_steps=fm.sweep(1, 3), lr=fm.sweep(0.01, 0.02), adapt_lr=0.01)}, POPULATION, **SHORT
    )
    assert swept.adaptation["A"].shape == (2, 2, 7, 3)
    for v, (k, lr) in enumerate(((1, 0.01), (3, 0.02))):
        one = fm.compare([fm.FedAvg(local_steps=k, lr=lr, adapt_lr=0.01)], POPULATION, **SHORT)
        torch.testing.assert_close(swept.adaptation["A"][v], one.adaptation["FedAvg"], rtol=1e-9, atol=1e-11)
        assert swept.gradient_evaluations["A"][v].tolist() == one.gradient_evaluations["FedAvg"].tolist()
        torch.testing.assert_close(
            swept.adapted("A", 1, 3, value=v), one.adapted("FedAvg", 1, 3), rtol=1e-9, atol=1e-11
        )
    assert "A (local_steps=3, lr=0.02)" in swept.table()


def test_a_diverged_run_is_named_and_the_others_go_on():
    study = fm.compare({"A": fm.FedAvg(lr=fm.sweep(0.01, 10.0), adapt_lr=0.01)}, POPULATION, **(SHORT | {"rounds": 40}))
    assert (study.diverged["A"][0] == -1).all()
    assert (study.diverged["A"][1] > 0).all()
    assert study.adaptation["A"][0].isfinite().all()
    assert "diverged: 2 of 2 seeds" in study.table()


def test_saved_and_loaded(study, tmp_path):
    study.save(tmp_path / "study")
    loaded = fm.load(tmp_path / "study")
    assert loaded.config == study.config
    assert loaded.table() == study.table()
    assert torch.equal(loaded.adaptation["FedAvg"], study.adaptation["FedAvg"])
    assert torch.equal(loaded.adapted("FedAvg", 1, 1), study.adapted("FedAvg", 1, 1))
    json.loads((tmp_path / "study" / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"study\.save"):
        fm.load(tmp_path)


def below_the_methods(study):
    """The table from the first empty line on; None where there is none."""
    _, *own = study.table().split("\n\n")
    return own[0] if own else None


def test_the_table_gives_own_models_of_participating_clients_lines_of_their_own(study):
    """By hand: three clients, two seeds, means 2 and 4, hence 3 and a deviation of the square root of 2."""
    assert below_the_methods(study) is None
    own = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])
    with_own = replace(study, personal={"FedMAML": own})
    off = study.off_distribution["FedMAML"].mean(1)
    others = f"{off.mean():.2f} ± {off.std():.2f}"
    head, names, line = below_the_methods(with_own).splitlines()
    assert head == "query loss on the 30 participating clients, each with its own model, no adaptation"
    assert names.split("  ")[-3:] == ["own client", "worst tenth", "other clients"]
    assert line.split() == f"FedMAML 3.00 ± 1.41 4.50 {others}".split()  # the worst of three: 3 and 6
    assert with_own.table().startswith(study.table() + "\n\n"), "what is said of unseen clients stays as it was"
    shares = {name: t.clamp(max=1) for name, t in study.adaptation.items()}
    right = torch.tensor([[0.5, 0.25, 0.75], [0.5, 1.0, 0.0]])
    classified = replace(study, accuracy=shares, personal={"FedMAML": own}, personal_accuracy={"FedMAML": right})
    vars(classified)["_baselines"] = {}
    vars(classified)["_elsewhere"] = {"FedMAML": Scores(own, right / 2)}
    assert below_the_methods(classified).splitlines()[2].endswith("50.0 ± 0.0         12.5     25.0 ± 0.0")
    assert below_the_methods(classified).startswith("accuracy in %")
    one_gone = replace(with_own, diverged=study.diverged | {"FedMAML": torch.tensor([-1, 3])})
    assert below_the_methods(one_gone).splitlines()[2].split() == f"FedMAML 2.00 3.00 {off[0]:.2f}".split()
    gone = replace(with_own, diverged=study.diverged | {"FedMAML": torch.tensor([1, 3])})
    assert below_the_methods(gone).splitlines()[2].split() == ["FedMAML", "-", "-", "-"]


def test_own_models_of_a_swept_method_have_a_line_a_value():
    swept = fm.compare({"D": fm.Ditto(lam=fm.sweep(0.0, 1.0), lr=0.02, adapt_lr=0.01)}, POPULATION, **SHORT)
    lines = below_the_methods(swept).splitlines()[2:]
    assert swept.off_distribution["D"].shape == swept.personal["D"].shape
    off = swept.off_distribution["D"].mean((1, 2)).tolist()
    assert [float(line.split("  ")[-1].split(" ±")[0]) for line in lines] == pytest.approx(off, abs=0.005)
    means = swept.personal["D"].mean((1, 2)).tolist()
    assert [line.split("  ")[0] for line in lines] == ["D (lam=0)", "D (lam=1)"]
    assert [float(line.split("  ")[1].split(" ±")[0]) for line in lines] == pytest.approx(means, abs=0.005)
    assert below_the_methods(next(fm.stream([fm.Ditto(lr=0.02, adapt_lr=0.01)], POPULATION, **SHORT))) is None


def test_off_its_distribution_a_model_is_scored_on_five_other_clients():
    """By hand, model by model, for a method with personal models and for one whose models are adapted ones."""
    methods = {"Ditto": fm.Ditto(lr=0.02, adapt_lr=0.01), "FedMAML": fm.FedMAML(inner_lr=0.01, adapt_lr=0.01)}
    study = fm.compare(methods, replace(POPULATION, n_clients=8), **SHORT | {"dtype": torch.float64})
    setup, steps = study.setup, study.steps
    support, query = setup.participating.everyone()
    own = {"Ditto": study.kept["Ditto"][0]["model"]}
    start = study.held["FedMAML"]["model"].expand(-1, 8, -1)
    *_, own["FedMAML"] = setup.objective.path(start, support, 0.01, steps)
    for name, models in own.items():
        all_pairs = torch.stack([setup.objective(models, query.map(lambda t, k=k: t.roll(-k, 1))) for k in range(8)])
        five = [1, 2, 3, 5, 6]  # of the seven others, evenly
        assert torch.allclose(study.off_distribution[name], all_pairs[five].mean(0), rtol=1e-10)
        assert not torch.allclose(study.off_distribution[name], all_pairs[0])
    assert study.off_distribution_accuracy == {}
    with pytest.raises(ValueError, match="middle of a run"):
        _ = next(fm.stream(methods, POPULATION, **SHORT)).off_distribution


def test_the_worst_tenth_of_a_study_is_that_of_its_table(study):
    """Of twenty clients the two with the largest loss, or with the fewest right."""
    losses = torch.arange(40.0).view(2, 20, 1).expand(-1, -1, 3)
    made = replace(study, adaptation={"A": losses}, accuracy={"A": losses / 40})
    assert made.worst_tenth["A"].tolist() == [18.5, 38.5]
    assert made.worst_tenth_accuracy["A"].tolist() == pytest.approx([0.5 / 40, 20.5 / 40])
    assert study.worst_tenth["FedAvg"].shape == (2,)
    assert study.worst_tenth_accuracy == {}


def test_who_is_alone_has_no_others():
    study = fm.compare(
        [fm.Ditto(lr=0.02, adapt_lr=0.01)], replace(POPULATION, n_clients=1), **SHORT | {"clients_per_round": 1}
    )
    assert study.off_distribution == {}
    assert below_the_methods(study).splitlines()[2].endswith("  -")


def test_data_frame_holds_every_value(study):
    frame = study.to_dataframe()
    assert len(frame) == 2 * 2 * 7 * 3
    row = frame[(frame.method == "FedMAML") & (frame.seed == 1) & (frame.client == 4) & (frame.step == 2)]
    assert row.loss.item() == study.adaptation["FedMAML"][1, 4, 2].item()


def test_tuning_picks_from_the_grid_by_validation_clients_alone():
    tuned = fm.compare([fm.FedAvg()], POPULATION, tune=True, **SHORT)
    chosen = tuned.config["algorithms"]["FedAvg"]
    assert chosen.lr in GRID
    assert chosen.adapt_lr in GRID
    assert tuned.config["tune"] is False
    other_unseen = fm.compare([fm.FedAvg()], replace(POPULATION, n_unseen=3), tune=True, **SHORT)
    assert other_unseen.config["algorithms"]["FedAvg"] == chosen


@given(st.lists(st.floats(0, 20), min_size=12, max_size=12), st.floats(1, 10))
def test_the_search_ranks_by_the_mean_loss_and_useless_settings_last(losses, useless):
    loss = torch.tensor(losses, dtype=torch.float64).view(4, 1, 3)
    mean, found = loss.mean((1, 2)), rank(loss, useless)
    good = mean <= useless
    assert torch.equal(found[good], mean[good])
    assert (found[~good] >= useless).all()
    assert found.isfinite().all()


def test_the_search_prefers_fewer_diverged_clients_where_all_settings_have_some():
    loss = torch.ones(4, 2, 5)
    loss[0, 0, :3], loss[1, 0, 0], loss[2, 1, 1:3] = torch.inf, torch.nan, 1e30
    assert rank(loss, 10.0).argsort().tolist() == [3, 1, 2, 0]
    assert rank(loss[:3], 10.0).isfinite().all()


def test_streaming_ends_in_the_study_and_can_be_cancelled(study):
    partial = list(fm.stream(BOTH, POPULATION, **SHORT))
    assert [int(s.rounds[-1]) for s in partial] == [0, 2, 4]
    assert torch.equal(partial[-1].adaptation["FedAvg"], study.adaptation["FedAvg"])

    class Enough(Exception):
        pass

    def stop(t):
        if t == 3:
            raise Enough

    with pytest.raises(Enough):
        list(fm.stream(BOTH, POPULATION, on_round=stop, **SHORT))


def test_stream_shows_any_round_and_keeps_none_of_them():
    clients, options = fm.Sines(n_clients=10, n_unseen=5), {"rounds": 10, "seeds": 2, "evaluations": 2}
    options["clients_per_round"] = 5
    seen = [s.rounds.tolist() for s in fm.stream([fm.FedAvg()], clients, on_round=lambda t: t % 3 == 1, **options)]
    assert seen == [[0], [0, 1], [0, 4], [0, 5], [0, 5, 7], [0, 5, 10]]
    *_, asked = fm.stream([fm.FedAvg()], clients, on_round=lambda t: t % 3 == 1, **options)
    plain = fm.compare([fm.FedAvg()], clients, **options)
    assert torch.equal(asked.learning["FedAvg"], plain.learning["FedAvg"])
    assert json.dumps(asked.bytes["FedAvg"].tolist()) == json.dumps(plain.bytes["FedAvg"].tolist())


@dataclass(frozen=True)
class Spoiled(fm.Sines):
    how: str = "nan"

    def draw(self, split, seed):
        clients = super().draw(split, seed)
        s = clients.support
        if self.how == "nan":
            s.x[0, 0, 0] = float("nan")
            return clients
        if self.how == "empty":
            return replace(clients, support=Examples(s.x, s.y, torch.zeros_like(s.weight)))
        return replace(clients, support=Examples(s.x.repeat(1, 1, 1, 2), s.y, s.weight))


def test_models_of_any_round_come_without_an_evaluation():
    seen = list(fm.stream(BOTH, POPULATION, on_round=lambda t: "models" if t in (1, 2, 3) else None, **SHORT))
    assert [s.rounds.tolist() for s in seen] == [[0], [0], [0, 2], [0, 2], [0, 2, 4]]  # round 2 is evaluated anyway
    short = fm.compare(BOTH, POPULATION, **SHORT | {"rounds": 3, "evaluations": 1})
    for name in short.names:
        assert torch.equal(seen[3].held[name]["model"], short.held[name]["model"])
        assert torch.equal(seen[3].adaptation[name], seen[2].adaptation[name])


def test_baselines_can_be_stopped_half_way(study):
    class Enough(Exception):
        pass

    calls = []

    def between():
        calls.append(1)
        if len(calls) == 3:
            raise Enough

    fresh = replace(study)
    with pytest.raises(Enough):
        fresh.find_baselines(between)
    fresh.find_baselines(lambda: None)
    for name, t in study.baselines.items():
        torch.testing.assert_close(fresh.baselines[name], t)


def test_the_defaults_that_compare_shows_are_those_that_stream_takes():
    shown = {n: p.default for n, p in inspect.signature(fm.compare).parameters.items() if p.kind == p.KEYWORD_ONLY}
    assert shown == DEFAULTS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchs_default_dtype_is_compares(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        study = fm.compare(
            [fm.FedAvg(local_steps=1)], fm.Sines(n_clients=2, n_unseen=2), rounds=1, seeds=1, clients_per_round=2
        )
    finally:
        torch.set_default_dtype(before)
    assert study.adaptation["FedAvg"].dtype == study.config["dtype"] == dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds = 0"),
        ({"steps": 0}, "steps = 0"),
        ({"steps": 1.5}, "steps = 1.5"),
        ({"clients_per_round": 31}, "more than the 30 clients"),
        ({"weights": "sizes"}, "weights = 'sizes'"),
        ({"dtype": torch.float16}, "dtype"),
        ({"seeds": "3"}, "seeds = '3'"),
        ({"seeds": []}, "seeds = "),
        ({"seeds": [1, 1]}, "seeds = "),
        ({"seeds": [0.5]}, "seeds = "),
        ({"algorithms": []}, "no algorithm"),
        ({"algorithms": [fm.FedMAML(), fm.FedMAML()]}, "same class"),
        ({"algorithms": [fm.FedAvg]}, "not an algorithm"),
        ({"clients": fm.Sines}, "not a population"),
        ({"epochs": 3}, "unknown arguments"),
        ({"server": fm.Adam}, r"server = .*Adam.* is not an optimiser .* make one: fm\.Adam\(\)"),
        ({"server": "Adam"}, "server = 'Adam' is not an optimiser"),
        ({"dropout": 1.0}, r"dropout = 1\.0 is not a number in \[0, 1\)"),
        ({"dropout": -0.1}, "dropout = -0.1"),
        ({"dropout": True}, "dropout = True"),
        ({"dropout": "half"}, "dropout = 'half'"),
        ({"transforms": [0.5]}, "transforms holds 0.5, which is not a function"),
        ({"transforms": [fm.FedAvg]}, "is not a function"),
        ({"transforms": [lambda sent, batch: {}]}, r"makes \{\} of FedAvg's message .*same names and shapes"),
        ({"transforms": [lambda sent, batch: {k: t[..., :5] for k, t in sent.items()}]}, "same names and shapes"),
        ({"evaluations": 0}, "evaluations = 0"),
        ({"evaluations": [0, 2]}, "from 0 to the last, 4"),
        ({"evaluations": [0, 3, 1, 4]}, "rising order"),
        ({"algorithms": [fm.FedPer()], "clients": fm.Quadratics(n_clients=30)}, "FedPer.*cannot train.*without layers"),
        ({"algorithms": [fm.FedMA()], "model": fm.softmax(1, 1)}, "FedMA.*cannot train.*hidden"),
        ({"model": fm.MLP((2, 4, 1))}, "does not fit"),
        ({"clients": Spoiled(n_clients=30, how="nan")}, "NaN"),
        ({"clients": Spoiled(n_clients=30, how="empty")}, "no example"),
        ({"clients": Spoiled(n_clients=30, how="shape")}, "does not fit"),
    ],
)
def test_one_clear_error_before_any_training(change, message):
    arguments = {"algorithms": BOTH, "clients": POPULATION} | SHORT | change
    with pytest.raises((ValueError, TypeError), match=message):
        prepare(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fm.Sines(heterogeneity=1.2), r"Sines.heterogeneity = 1.2 is outside \[0, 1\]"),
        (lambda: fm.Sines(heterogeneity=-0.1), "outside"),
        (lambda: fm.Sines(support=0), "Sines.support = 0"),
        (lambda: fm.FedMAML(inner_steps=0), "FedMAML.inner_steps = 0"),
        (lambda: fm.FedMAML(inner_steps=fm.sweep(1, 0)), "inner_steps = 0 is outside"),
        (lambda: fm.FedAvg(lr=float("nan")), "FedAvg.lr = nan"),
        (lambda: fm.FedAvg(lr="0.1"), "FedAvg.lr = '0.1'"),
        (lambda: fm.FedAvg(batch_size=fm.sweep(1, 2)), "cannot be swept"),
        (lambda: fm.sweep(), "at least one"),
        (lambda: prepare([fm.FedAvg(lr=fm.sweep(1, 2), adapt_lr=fm.sweep(1, 2, 3))], POPULATION), "differ in length"),
        (lambda: fm.compare([fm.FedAvg(lr=fm.sweep(0.1, 0.2))], POPULATION, tune=True, **SHORT), "one at a time"),
    ],
)
def test_settings_out_of_range_say_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()
