"""Figures and views: what is drawn is what the study holds, and drawing again is drawing afresh."""

import dataclasses
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import fmlab as fm
import lab
from fmlab.evaluation import Scores
from fmlab.populations.digits import Digits
from fmlab.setup import Setup
from lab import plots
from lab.plots import style
from lab.plots.clientview import look_at
from lab.plots.marks import FAR, Marks
from lab.plots.words import sentence

PROJECTOR = dataclasses.replace(style.DARK, scale=style.SIZES["projector"])
THEMES = {"light": style.LIGHT, "dark on a projector": PROJECTOR}


@pytest.fixture(scope="module")
def study():
    """FedAvg, FedMAML, and a FedProx that diverges in round 1."""
    methods = [fm.FedAvg(lr=0.02, adapt_lr=0.02), fm.FedMAML(inner_lr=0.01, adapt_lr=0.01)]
    methods.append(fm.FedProx(lr=10.0, adapt_lr=0.02))
    clients = fm.Sines(n_clients=30, n_unseen=12, n_validation=5)
    return fm.compare(methods, clients, rounds=6, seeds=2, evaluations=3, clients_per_round=10, steps=3)


@pytest.fixture(scope="module")
def pictures():
    methods = [fm.FedAvg(lr=0.1, adapt_lr=0.1), fm.FedMAML(inner_lr=0.1, adapt_lr=0.1)]
    clients = Digits(n_clients=20, n_unseen=6, n_validation=5)
    return fm.compare(methods, clients, rounds=4, seeds=2, evaluations=2, clients_per_round=10, steps=2)


@pytest.fixture(scope="module")
def own():
    """FedAvg and FedMAML, which have no models of clients' own, and Ditto, which has."""
    methods = [fm.FedAvg(lr=0.02, adapt_lr=0.02), fm.FedMAML(inner_lr=0.01, adapt_lr=0.01)]
    methods.append(fm.Ditto(lr=0.02, adapt_lr=0.02))
    clients = fm.Sines(n_clients=14, n_unseen=5, n_validation=3)
    return fm.compare(methods, clients, rounds=6, seeds=2, evaluations=2, clients_per_round=7, steps=2)


@pytest.fixture(params=THEMES.values(), ids=THEMES)
def ax(request):
    return style.figure(theme=request.param, width=5.2 * request.param.scale, height=3.6 * request.param.scale).axes[0]


def views(study, pictures, own):
    """Every view, as a function of an axes."""
    grid = [0.0, 0.5, 1.0], [1.0, 5.0], [[-40.0, float("nan"), 60.0], [0.0, 100.0, -100.0]]
    side = np.linspace(-1, 1, 9)
    bowl = side, side, side[:, None] ** 2 + side**2
    walk = np.linspace([0.9, 0.9], [0, 0], 4)
    return {
        "a sine": lambda a: plots.unseen_client(a, study, k=2),
        "digits": lambda a: plots.unseen_client(a, pictures),
        "learning": lambda a: plots.learning(a, study),
        "learning by bytes": lambda a: plots.learning(a, study, x="bytes", k=0),
        "accuracy": lambda a: plots.learning(a, pictures, x="gradient evaluations", quantity="accuracy"),
        "adaptation": lambda a: plots.adaptation(a, study, k=1),
        "adaptation, accuracy": lambda a: plots.adaptation(a, pictures, "accuracy"),
        "whom": lambda a: plots.whom(a, study),
        "whom, accuracy": lambda a: plots.whom(a, pictures, quantity="accuracy"),
        "adaptation, participating": lambda a: plots.adaptation(a, own, clients="participating"),
        "whom, participating": lambda a: plots.whom(a, own, clients="participating"),
        "map": lambda a: plots.advantage_map(a, *grid, here=(0.7, 2.0)),
        "drift": lambda a: plots.drift(
            a, bowl, walk[None] * [[[1.0, 0.5]]], walk, {"FedAvg": (0, 0), "best": (0.1, 0)}
        ),
        "leak": lambda a: plots.leak(a, walk.reshape(2, 2, 2), 1 - walk.reshape(2, 2, 2), "read"),
        "liars": lambda a: plots.liars(a, [0, 0.5], {"mean": 1 + walk[:2], "Krum": walk[2:]}, 0.2, "share", "lies"),
    }


VIEWS = list(views(None, None, None))


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(figure.png())).convert("RGB"))


# --- figures ------------------------------------------------------------------------------------------------------


def test_a_figure_shows_itself_without_pyplot(study):
    figure = style.figure(2, says='loss < 1 against "rounds"')
    shown = figure._repr_mimebundle_()
    assert Image.open(io.BytesIO(shown["image/png"])).size == (832, 288)
    assert shown["text/plain"] == '<Figure: loss < 1 against "rounds">'
    assert shown["text/html"].startswith(
        '<img alt="loss &lt; 1 against &quot;rounds&quot;" src="data:image/png;base64,'
    )


def test_few_colours_are_enough(study):
    """What a notebook stores differs from what was drawn by less than an eye sees, and takes half of the bytes."""
    figure = style.figure(2)
    plots.learning(figure.axes[0], study)
    plots.adaptation(figure.axes[1], study)
    drawn, stored = figure.png(), style.small(figure.png())
    apart = np.abs(pixels(figure).astype(int) - np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")))
    assert np.quantile(apart, 0.999) <= 16
    assert len(stored) < len(drawn) / 2


@pytest.mark.parametrize("entries", [1, 5])
def test_no_curve_lies_under_a_legend(ax, entries):
    for i in range(entries):
        ax.plot([0, 1], [0, 1 + i], label=f"method number {i}")
    ax.set_ylim(0, entries)
    style.legend(ax)
    ax.figure.canvas.draw()
    key = ax.get_legend().get_window_extent()
    assert key.y0 >= ax.transData.transform((0, entries))[1] - 1e-6
    assert ax.bbox.padded(1).contains(*key.min)
    assert ax.bbox.padded(1).contains(*key.max)


def test_a_plot_without_words_needs_no_legend(ax):
    ax.plot([0, 1], [0, 1])
    style.legend(ax)
    assert ax.get_legend() is None


def test_the_library_never_loads_pyplot():
    """It holds global state, which threads must not share."""
    code = "import sys, lab.plots.style, lab.plots.marks; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
    sources = Path(lab.__file__).parent.rglob("*.py")
    assert [p.name for p in sources if "import matplotlib.pyplot" in p.read_text()] == []


def test_a_figure_made_elsewhere_is_drawn_light(study):
    figure = Figure()
    m = plots.learning(figure.add_subplot(), study)
    assert m.theme is style.LIGHT
    figure.savefig(io.BytesIO(), format="png")


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_cut_off_and_nothing_is_mathtext(view, ax, study, pictures, own, monkeypatch):
    """All that is drawn lies on the paper: on a desk, and 1.5 times as large. Mathtext is slow and not thread-safe."""
    monkeypatch.setattr("matplotlib.mathtext.MathTextParser.parse", lambda *_: pytest.fail("mathtext in a live plot"))
    m = views(study, pictures, own)[view](ax)
    figure = ax.figure
    figure.canvas.draw()
    inside = figure.bbox.padded(0.5)
    parts = [ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label, ax.get_legend()]
    for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
        low, high = sorted(axis.get_view_interval())
        parts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    parts += [a for a in m.artists if isinstance(a, Text)]
    for part in parts:
        if part is not None and part.get_visible():
            box = part.get_window_extent()
            assert box.width == 0 or (inside.contains(*box.min) and inside.contains(*box.max)), part


@pytest.mark.parametrize("view", VIEWS)
def test_drawing_again_is_drawing_afresh(view, study, pictures, own):
    """What a live panel does: the artists of another state are moved; every pixel is as if drawn for the first time."""
    draw = views(study, pictures, own)
    fresh, used = (style.figure(dpi=50).axes[0] for _ in range(2))
    draw[view](fresh)
    m = draw[view](used)
    made = {id(a) for a in m.artists}
    alike = {"learning by bytes": "learning", "learning": "learning by bytes", "adaptation": "adaptation, accuracy"}
    draw[alike.get(view, view)](m)
    draw[view](m)
    assert {id(a) for a in m.artists if a is not used.get_legend()} <= made
    assert np.array_equal(pixels(fresh.figure), pixels(used.figure))


# --- what the views show ------------------------------------------------------------------------------------------


def test_calm_limits_stay_while_they_hold_what_is_drawn(ax):
    m = Marks(ax)
    m.calm = True
    assert m.settle((0.0, 3.0)) == (0.0, 3.0)  # nothing drawn yet
    m.frame(xlim=(0, 1), ylim=(0.0, 4.0))
    assert m.settle((0.0, 3.0)) == (0.0, 4.0)
    assert m.settle((0.0, 4.1)) == (0.0, 4.1)  # would be cut off
    assert m.settle((-1.0, 3.0)) == (-1.0, 4.0)
    m.calm = False
    assert m.settle((0.0, 3.0)) == (0.0, 3.0)


def test_learning_shows_the_mean_and_the_range_of_the_seeds(ax, study):
    m = plots.learning(ax, study)
    curve = study.learning["FedMAML"][..., -1].numpy()
    assert np.array_equal(m["FedMAML"].get_xdata(), study.rounds.numpy())
    assert np.allclose(m["FedMAML"].get_ydata(), curve.mean(0))
    corners = m["FedMAML", "band"].get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(curve.min())
    assert corners[:, 1].max() == pytest.approx(curve.max())
    assert ax.get_xlim() == (0, 6)


@pytest.mark.parametrize("x", ["bytes", "gradient evaluations"])
def test_learning_along_other_axes(ax, study, x):
    m = plots.learning(ax, study, x=x)
    along = {"bytes": study.bytes, "gradient evaluations": study.gradient_evaluations}[x]
    for name in ("FedAvg", "FedMAML"):
        assert np.array_equal(m[name].get_xdata(), along[name].numpy().ravel())
    assert ax.get_xlim()[1] == max(float(t.max()) for t in along.values())


def test_a_shorter_run_may_stand_on_the_axis_of_a_longer_one(ax, study):
    m = plots.learning(ax, study, up_to=4 * study.config["rounds"])
    assert m.ax.get_xlim() == (0.0, 4.0 * study.config["rounds"])
    assert m["FedMAML"].get_xdata()[-1] == study.config["rounds"]


def test_the_horizontal_axis_does_not_grow_while_a_run_goes_on(ax):
    """From the first answer after round 0 the axis ends where the whole run will end."""
    options = {"rounds": 6, "seeds": 1, "evaluations": 3, "clients_per_round": 5, "steps": 1}
    methods = [fm.FedAvg(lr=0.02, adapt_lr=0.02)]
    for x in ("rounds", "bytes"):
        m = Marks(ax)
        ends = []
        for so_far in fm.stream(methods, fm.Sines(n_clients=10, n_unseen=4), **options):
            plots.learning(m, so_far, x=x)
            ends.append(ax.get_xlim()[1])
        assert len({*ends[1:]}) == 1
        assert ends[-1] == {"rounds": 6, "bytes": float(so_far.bytes["FedAvg"][-1])}[x]


def test_adaptation_shows_the_baselines_of_the_study(ax, study):
    m = plots.adaptation(ax, study, k=2)
    assert np.allclose(m["FedAvg"].get_ydata(), study.adaptation["FedAvg"].mean((0, 1)))
    for name, loss in study.baselines.items():
        assert m["base", name].get_ydata() == pytest.approx([float(loss.mean())] * 2)
    assert list(m["k"].get_xdata()) == [2, 2]


def test_a_diverged_run_is_named_and_the_others_stay_readable(ax, study):
    assert study.diverged["FedProx"].tolist() == [1, 1]
    for view in (plots.learning, plots.adaptation, plots.whom):
        ax.clear()
        m = view(ax, study)
        assert m["diverged"].get_text() == "FedProx diverged\n(all seeds, from round 1)"
    m = plots.learning(ax, study)
    assert np.isnan(m["FedProx"].get_ydata()[1:]).all()
    highest = max(float(study.history[name].max()) for name in ("FedAvg", "FedMAML"))
    assert highest < ax.get_ylim()[1] < 2 * highest


def test_a_loss_that_explodes_without_becoming_infinite_leaves_the_plot(ax, study):
    wild = study.learning["FedMAML"].clone()
    wild[:, 1:] = 1e300
    m = plots.learning(ax, dataclasses.replace(study, learning=study.learning | {"FedMAML": wild}))
    assert ax.get_ylim()[1] < 20
    assert m["FedMAML"].get_ydata()[-1] == FAR
    ax.figure.png()


def test_gains_are_against_fine_tuned_fedavg(study):
    for k in (0, 3):
        found = plots.gains(study, k)["FedMAML"]
        expected = study.adaptation["FedAvg"][..., k] - study.adaptation["FedMAML"][..., k]
        assert np.array_equal(found, expected.flatten().numpy())
    mirrored = plots.gains(study, 3, against="FedMAML")["FedAvg"]
    assert np.array_equal(mirrored, -plots.gains(study, 3)["FedMAML"])


def test_whom_is_sorted_and_says_for_how_many_it_is_worse(ax, study):
    m = plots.whom(ax, study)
    gain = plots.gains(study)["FedMAML"]
    assert np.array_equal(m["FedMAML"].get_ydata(), np.sort(gain)[::-1])
    worse = sum(g < 0 for g in gain) / len(gain)
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert texts == [f"FedMAML: worse for {100 * worse:.0f} %", "FedProx: diverged"]


def test_accuracy_gains_count_upwards(pictures):
    gain = plots.gains(pictures, 2, "accuracy")["FedMAML"]
    assert np.allclose(gain, (pictures.accuracy["FedMAML"] - pictures.accuracy["FedAvg"])[..., 2].flatten())


def test_advantage_is_signed_bounded_and_antisymmetric(study):
    there = plots.advantage(study, "FedMAML")
    ours, theirs = (float(study.adaptation[n][..., -1].mean()) for n in ("FedMAML", "FedAvg"))
    assert there == pytest.approx(100 * (theirs - ours) / float(study.baselines["trivial"].mean()))
    assert plots.advantage(study, "FedAvg", against="FedMAML") == pytest.approx(-there)
    assert plots.advantage(study, "FedProx") == -100
    assert plots.advantage(study, "FedAvg", against="FedProx") == 100
    assert np.isnan(plots.advantage(study, "FedProx", against="FedProx"))


@pytest.mark.parametrize("far", [1e4, float("inf"), float("nan")])
def test_a_client_that_flew_away_does_not_decide_a_cell_of_the_map(study, far):
    """The mean over clients would be hundreds of per cent; the median client stands in, for both methods."""
    loss = study.adaptation["FedAvg"].clone()
    loss[1, 3, -1] = far
    given = dataclasses.replace(study, adaptation=study.adaptation | {"FedAvg": loss})
    ours, theirs = (given.adaptation[n][..., -1].nan_to_num(1e9, posinf=1e9) for n in ("FedMAML", "FedAvg"))
    medians = [np.median(t, -1).mean() for t in (ours, theirs)]
    expected = 100 * (medians[1] - medians[0]) / study.trivial_loss
    assert plots.advantage(given, "FedMAML") == pytest.approx(expected)
    assert plots.flew(given, "FedMAML")
    assert not plots.flew(given, "FedMAML", k=0)
    assert not plots.flew(study, "FedMAML")


def test_a_cell_where_clients_flew_away_has_a_star(ax):
    m = plots.advantage_map(ax, [0.0, 1.0], [1], [[2.0, 30.0]], flown=[[False, True]])
    assert [m[0, column].get_text() for column in (0, 1)] == ["+2 %", "+30 % *"]


def test_the_map_has_the_colour_of_the_winner(ax):
    m = plots.advantage_map(ax, [0.0, 1.0], [1, 5], [[100.0, -100.0], [0.0, float("nan")]], here=(1.0, 1.0))
    drawn = np.asarray(m["cells"].get_array())[::-1, :, :3]  # rows from the bottom
    theme = m.theme
    for where, color in (((0, 0), style.LOOKS["FedMAML"].color(theme)), ((0, 1), style.LOOKS["FedAvg"].color(theme)),
                         ((1, 0), theme.paper), ((1, 1), theme.faint)):  # fmt: skip
        assert np.allclose(drawn[where], to_rgb(color), atol=0.01), where
    assert m["here"].get_xydata()[:4].mean(0).tolist() == [1.0, 0.0]
    assert [m[row, column].get_text() for row in (0, 1) for column in (0, 1)] == ["+100 %", "−100 %", "0 %", "…"]


def test_an_unseen_client_is_drawn_as_the_study_has_it(ax, study):
    view = look_at(study, client=4, seed=1)
    m = plots.client(ax, view, k=3)
    support, _ = study.unseen.everyone()
    assert np.array_equal(m["support"].get_xdata(), support.x[1, 4, :, 0])
    assert np.array_equal(m["support"].get_ydata(), support.y[1, 4, :, 0])
    at = torch.tensor(view.grid)[:, None]
    expected = study.predict("FedAvg", at, seed=1, client=4)
    assert np.allclose(m["FedAvg"].get_ydata(), expected[3, :, 0])
    assert np.allclose(m["FedAvg", "before"].get_ydata(), expected[0, :, 0])
    for x, y in zip(support.x[1, 4, :, 0], support.y[1, 4, :, 0], strict=True):  # the truth goes through the examples
        assert np.interp(x, view.grid, view.truth) == pytest.approx(float(y), abs=0.02)


def test_a_patient_is_drawn_in_units_that_are_measured():
    """Subject 1 had 2.84 mg/l after 4.02 mg/kg and a quarter of an hour, however a model counts."""
    clients = fm.Patients(real=True, n_clients=5, n_validation=2)
    study = fm.compare([fm.FedAvg(lr=0.01, adapt_lr=0.01)], clients, rounds=1, seeds=1)
    view, middle, unit = look_at(study), *clients.labels().y_scale
    assert view.support[1][0, 0] == pytest.approx(2.84 / 4.02)
    predicted = study.predict("FedAvg", torch.tensor(view.grid)[:, None])
    assert np.allclose(view.predictions["FedAvg"], middle + unit * predicted.numpy())


def test_pictures_carry_their_labels_and_every_methods_guesses(ax, pictures):
    m = plots.client(ax, look_at(pictures, client=2), k=1)
    _, query = pictures.unseen.everyone()
    real = query.weight[0, 2] > 0
    guesses = pictures.predict("FedAvg", query.x[0, 2][real], client=2)[1].argmax(-1)
    right = (guesses == query.y[0, 2][real]).double().mean()
    assert m["FedAvg"].get_text() == f"FedAvg {100 * right:.0f} %"
    score = float(pictures.accuracy["FedAvg"][0, 2, 1])
    assert float(right) == pytest.approx(score)
    wrong = [m["FedAvg", c].get_text().endswith("✗") for c in range(8)]
    told = [m["FedAvg", c].get_text().rstrip("✗") != m["q", c].get_text() for c in range(8)]
    assert wrong == told


def test_participating_clients_and_their_own_models(ax, own):
    m = plots.adaptation(ax, own, clients="participating")
    assert np.allclose(m["FedAvg"].get_ydata(), own.participating["FedAvg"].mean((0, 1)))
    assert m["own", "Ditto"].get_ydata() == pytest.approx([float(own.personal["Ditto"].mean())] * 2)
    assert m["own", "Ditto"].get_color() == m["Ditto"].get_color()
    assert [t.get_text() for t in ax.get_legend().get_texts()][-1] == "Ditto, own models"
    for unseen in (("own", "FedAvg"), ("base", "trivial")):
        with pytest.raises(KeyError):
            m[unseen]
    gains = plots.gains(own, 1, clients="participating")
    theirs = own.participating["FedAvg"][..., 1]
    assert np.array_equal(gains["Ditto"], (theirs - own.personal["Ditto"]).flatten())
    assert np.array_equal(gains["FedMAML"], (theirs - own.participating["FedMAML"][..., 1]).flatten())


def test_the_words_say_whose_scores_they_are(ax, own):
    for k, says in ((0, "own models / 0 steps"), (1, "own models / 1 step"), (2, "own models / 2 steps")):
        m = plots.whom(ax, own, k, clients="participating")
        assert m.ax.get_title(loc="left") == f"Whom it helps, {says}"
    assert m.ax.get_xlabel() == "participating clients, sorted (%)"
    assert ax.get_legend().get_texts()[1].get_text().startswith("Ditto (own): worse for ")
    assert plots.adaptation(ax, own, clients="participating").ax.get_ylabel() == "loss of participating clients"
    with pytest.raises(ValueError, match="'all' is not one of"):
        plots.adaptation(ax, own, clients="all")


def test_nobody_scores_participating_clients_in_the_middle_of_a_run(ax, own):
    with pytest.raises(ValueError, match="at the end of a run"):
        plots.adaptation(ax, dataclasses.replace(own, kept=None), clients="participating")


def losses(own, ours, theirs):
    """The study with these losses of Ditto's own models, and of FedAvg after the last step."""
    flat = {name: torch.full((2, 14, 3), 9.0, dtype=torch.float64) for name in own.names}
    flat["FedAvg"] = torch.full((2, 14, 3), theirs, dtype=torch.float64)
    study = dataclasses.replace(own, personal={"Ditto": torch.full((2, 14), ours, dtype=torch.float64)})
    vars(study)["_participating"] = {name: Scores(t, None) for name, t in flat.items()}
    return study


def share(study, lead):
    return f"{100 * lead / study.trivial_loss:.0f} % of what the trivial predictor loses"


def test_the_sentence_compares_own_models_with_adapted_ones(own):
    given = losses(own, 1.0, 4.0)
    assert sentence(given, clients="participating") == (
        "On participating clients, Ditto (each with its own model) leads with a loss of 1 against 4 of fine-tuned "
        f"FedAvg (after 2 adaptation steps), {share(given, 3)}; both seeds agree."
    )
    assert sentence(losses(own, 8.0, 4.0), k=1, clients="participating") == (
        "On participating clients, fine-tuned FedAvg (after 1 adaptation step) leads with a loss of 4 against 8 of "
        f"Ditto (each with its own model), {share(given, 4)}; both seeds agree."
    )
    assert sentence(losses(own, 10.0, 4.0), clients="participating").startswith(
        "On participating clients after 2 adaptation steps, fine-tuned FedAvg leads with a loss of 4 against 9 of "
    )
    assert sentence(own).startswith("On unseen clients after 2 adaptation steps, ")


def after(study, **scores):
    """The study in which the methods have these losses (seeds,) on unseen clients after the last step."""
    adaptation = {
        name: torch.as_tensor(loss, dtype=torch.float64)[:, None, None].expand(len(loss), 14, 3)
        for name, loss in scores.items()
    }
    return dataclasses.replace(study, adaptation=study.adaptation | adaptation)


def test_the_sentence_names_a_leader_only_where_there_is_one(own):
    """Level beside what the trivial predictor loses, open where the seeds differ; whose servers differ is said."""
    begin, unit = "On unseen clients after 2 adaptation steps,", own.trivial_loss
    only = {name: own.adaptation[name] for name in ("FedAvg", "FedMAML")}
    own = dataclasses.replace(own, adaptation=only)
    level = sentence(after(own, FedAvg=[0.5, 0.5], FedMAML=[0.45, 0.45]))
    assert level == f"{begin} FedMAML and fine-tuned FedAvg are level: a loss of 0.45 against 0.5."
    open_ = sentence(after(own, FedAvg=[2 * unit, 1.0], FedMAML=[1.0, 1.1]))
    assert open_.startswith(f"{begin} it is open: FedMAML has a loss of 1.1 against ")
    assert "is ahead in 1 of 2 seeds." in open_
    lead = sentence(after(own, FedAvg=[3.0, 3.0], FedMAML=[1.0, 1.0]))
    assert lead.startswith(
        f"{begin} FedMAML leads with a loss of 1 against 3 of fine-tuned FedAvg, {share(own, 2)}; both"
    )
    assert re.search(r"Their servers differ, Adam\(\S+\) for FedMAML and the plain mean for FedAvg", lead)
    assert "fine-tuned" not in sentence(after(own, FedAvg=[3.0, 3.0], FedMAML=[1.0, 1.0]), k=0)


def test_all_methods_on_at_once_stay_readable(ax, own):
    """Legends within a third of the plot, own models in one entry, every method's share inside the plot, and one that
    starts far above all others does not press them flat."""
    names = [a.__name__ for a in fm.ALGORITHMS]
    rows = dict.fromkeys(names, own.adaptation["FedMAML"]) | {"FedRep": own.adaptation["FedMAML"] * 1e7}
    looks = style.looks(names)
    methods = dict.fromkeys(names, own.setup.algorithms["FedMAML"])
    config = own.setup.config | {"algorithms": methods}
    all_on = dataclasses.replace(
        own, adaptation=rows, diverged=dict.fromkeys(names, own.diverged["FedMAML"]), setup=Setup(config),
        personal=dict.fromkeys(names[:4], own.personal["Ditto"]), states=dict.fromkeys(names, own.states["FedMAML"]),
        learning=dict.fromkeys(names, own.learning["FedMAML"]),
    )  # fmt: skip
    m = plots.adaptation(ax, all_on, looks=looks, clients="participating")
    said = [t.get_text() for t in ax.get_legend().get_texts()]
    assert said == [*names, "own models"]
    box = ax.get_legend().get_window_extent().transformed(ax.transAxes.inverted())
    assert box.x1 <= 1
    assert box.height < 0.5
    m = plots.adaptation(ax, all_on, base={}, looks=looks)
    assert ax.get_ylim()[1] < 100
    m = plots.whom(ax, all_on, looks=looks)
    for name in names:
        if name != "FedAvg":
            at = m["worse", name].get_window_extent()
            assert ax.bbox.padded(1).contains(*at.min)
            assert ax.bbox.padded(1).contains(*at.max)


def test_bad_input_says_the_way_out(ax, study):
    with pytest.raises(ValueError, match="'epochs' is not one of"):
        plots.learning(ax, study, x="epochs")
    with pytest.raises(ValueError, match="'f1' is not one of"):
        plots.adaptation(ax, study, "f1")
    with pytest.raises(ValueError, match="no classification task"):
        plots.whom(ax, study, quantity="accuracy")
    with pytest.raises(IndexError, match="0 to 11"):
        look_at(study, client=12)


def test_a_swept_study_is_refused(ax):
    methods = [fm.FedAvg(lr=fm.sweep(0.01, 0.02), adapt_lr=0.02)]
    swept = fm.compare(methods, fm.Sines(n_clients=5, n_unseen=3), rounds=1, seeds=1, clients_per_round=2)
    with pytest.raises(ValueError, match="'FedAvg' is swept"):
        plots.learning(ax, swept)


def test_whom_stays_readable_with_many_methods_and_a_client_that_flies_away(ax, study):
    far = study.adaptation["FedMAML"].clone()
    far[:, :1] = 1e20
    names = [*study.adaptation, "FedReptile", "PFedMe", "PerFedAvg"]
    many = {
        name: far if name == "PFedMe" else study.adaptation.get(name, study.adaptation["FedMAML"]) for name in names
    }
    m = plots.whom(ax, dataclasses.replace(study, adaptation=many))
    assert ax.get_legend() is None
    assert m["worse", "PFedMe"].get_text().startswith("PFedMe: worse for ")
    assert ax.get_ylim()[1] < 1e3
    assert m["worse", "FedProx"].get_text() == "FedProx: diverged"
    with pytest.raises(KeyError):
        m["diverged"]
