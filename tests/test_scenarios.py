"""Scenarios: what their clients hold against the source, laws of those that are drawn, and who is kept apart."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.io import savemat
from torch.testing import assert_close

import fmlab as fm
from fmlab.populations import bearings, patients
from fmlab.populations.collection import Collection, packaged
from fmlab.randomness import uniform

SEEDS = range(3)
SPLITS = ("training", "validation", "unseen")


@pytest.mark.parametrize("kind", fm.SCENARIOS, ids=lambda p: p.__name__)
def test_heterogeneity_moves_the_measured_difference(kind):
    few = {} if issubclass(kind, Collection) else {"n_clients": 30}
    made = {h: kind(heterogeneity=h, **few) for h in (0.0, 0.5, 1.0)}
    found = {h: np.mean([clients.difference(seed).value for seed in SEEDS]) for h, clients in made.items()}
    assert found[0.0] < 0.01
    assert found[0.0] < found[0.5] < found[1.0]


@pytest.mark.parametrize("kind", [fm.Watches, fm.Insurers, fm.Speeches])
@pytest.mark.parametrize("seed", SEEDS)
def test_no_person_company_or_speaker_is_in_two_parts(kind, seed):
    cut = {fm.Watches: lambda n: n.split(",")[0], fm.Insurers: lambda n: n.split()[0]}
    name = cut.get(kind, lambda n: " ".join(n.split()[:-2]))
    people = [{name(n) for n in kind().names(split, seed)} for split in SPLITS]
    assert sum(map(len, people)) == len(set().union(*people))
    assert all(people)


def test_clients_of_a_group_that_have_no_room_apart():
    with pytest.raises(ValueError, match=r"n_clients = 13, .* leave no room"):
        fm.Watches(n_clients=13, n_validation=3, n_unseen=4).draw("training", 0)


def test_the_data_is_small_and_its_origin_is_said():
    folder = files("fmlab.populations").joinpath("files")
    names = {f.name: len(f.read_bytes()) for f in folder.iterdir()}
    assert sum(names.values()) < 4e6
    notice = files("fmlab").joinpath("../NOTICE").read_text(encoding="utf-8")
    assert all(f"\n{name} " in notice for name in names)


# --- Watches --------------------------------------------------------------------------------------------------------


def test_watches_hold_what_was_recorded():
    rows, held = fm.Watches().rows, packaged("watches.npz")
    assert (len(rows.names), len(held["lengths"]), len(rows.classes)) == (20, 140, 7)
    assert rows.counts.sum() == (held["lengths"] // 20).sum()
    start = held["lengths"][:7].sum()  # the first series of the second arm
    window = held["motion"][start : start + 20].astype(float) / 1000
    x = rows.x[rows.counts[0]].view(11, 6).double()
    assert_close(x[0], torch.from_numpy(window.mean(0)), atol=1e-6, rtol=1e-5)
    t = np.arange(20)
    for k in (1, 4, 10):  # the discrete Fourier transform by its definition
        wave = np.abs((window * np.exp(-2j * np.pi * k * t / 20)[:, None]).sum(0)) / 20
        assert_close(x[k], torch.from_numpy(wave), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("split", ["training", "unseen"])
def test_a_support_set_of_seven_is_the_beginning_of_each_exercise(split):
    drawn = fm.Watches(shots=7).draw(split, 0)
    assert torch.equal(drawn.support.y[0].sort(1).values, torch.arange(7).expand(drawn.number, 7))


# --- Insurers -------------------------------------------------------------------------------------------------------


def test_an_example_is_a_step_of_the_triangle():
    rows, held = fm.Insurers().rows, packaged("insurers.npz")
    code, line = rows.names[5].split()
    i = int(((held["company"] == int(code)) & (held["line"] == line)).argmax())
    mine = slice(int(rows.counts[:5].sum()), int(rows.counts[:6].sum()))
    for x, y, year in zip(rows.x[mine], rows.y[mine], rows.time[mine].tolist(), strict=True):
        j = int(x[:9].argmax())  # paid up to the end of year j + 1
        paid = np.array([0, *held["paid"][i, year]]) / held["premium"][i, year]
        assert_close(x[15:], torch.tensor([paid[j + 1], paid[j + 1] - paid[j]]))
        assert_close(y[0], torch.tensor(paid[j + 2] - paid[j + 1]))
        assert rows.columns[9 + int(x[9:15].argmax())] == line
    assert rows.counts[5] == 45, "what 1997 knows: 9 steps of 1988, 8 of 1989, ..., 1 of 1996"


@pytest.mark.parametrize(("shots", "years"), [(9, {0}), (17, {0, 1})])
def test_a_new_insurer_shows_its_first_years(shots, years):
    clients = fm.Insurers(shots=shots)
    whole = clients.rows.counts[clients._who("unseen", 1)] == 45  # without a year of which nothing is known
    at = clients.draw("unseen", 1).support.x[0, whole]
    assert len(at) > 30
    assert {int(t) for t in clients.rows.time[at].flatten()} == years


# --- Speeches -------------------------------------------------------------------------------------------------------


def test_an_example_is_a_letter_after_three():
    rows, held = fm.Speeches().rows, packaged("speeches.npz")
    alphabet = str(held["alphabet"])
    text = "".join(alphabet[i] for i in held["letters"][3])
    n = int(rows.counts[0])
    for i in (0, 1, n - 1):
        x, y = rows.x[3 * n + i].view(3, -1), rows.y[3 * n + i]
        assert "".join(alphabet[int(k)] for k in x.argmax(1)) + alphabet[int(y)] == text[25 * i : 25 * i + 4]
        assert x.sum() == 3


# --- Patients -------------------------------------------------------------------------------------------------------


def test_concentrations_solve_the_compartments():
    """A gut that empties at ka, and a volume that is cleared at CL: solved step by step."""
    for rates in fm.Patients(n_clients=3).rates("training", 0):
        ka, volume, clearance = rates.tolist()
        hours = np.array(patients.HOURS)
        solved = solve_ivp(
            lambda t, a, ka=ka, v=volume, cl=clearance: [-ka * a[0], ka * a[0] - cl / v * a[1]],
            (0, 24), [1.0, 0.0], t_eval=hours, rtol=1e-10, atol=1e-12,
        )  # fmt: skip
        found = patients.concentration(rates[None], torch.from_numpy(hours)[None])[0]
        assert_close(found, torch.from_numpy(solved.y[1] / volume), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("h", [0.0, 0.5, 1.0])
def test_logarithms_of_the_rates_spread_with_h(h):
    logs = fm.Patients(n_clients=20_000, heterogeneity=h).rates("training", 0).log()
    assert_close(logs.mean(0), torch.tensor(patients.USUAL).log(), atol=0.02, rtol=0)
    assert_close(logs.std(0), h * torch.tensor(patients.SPREAD), atol=0.01, rtol=0)


def test_early_samples_stay_and_later_ones_are_fresh():
    clients = fm.Patients(n_clients=50, noise=0.0)
    training, scored = clients.draw("training", 0), clients.draw("participating", 0)
    assert training.support.x.max() < training.query.x.min()
    assert not torch.equal(training.query.y, scored.query.y)
    assert training.query.x.shape == scored.query.x.shape == (1, 50, 6, 1)


def test_the_twelve_real_subjects():
    """Subject 1 had 4.02 mg/kg, and 2.84 mg/l after a quarter of an hour (R's Theoph, rows 1 and 2)."""
    for seed, h in ((0, 1.0), (3, 0.2)):
        real = fm.Patients(real=True, heterogeneity=h).draw("unseen", seed)
        assert real.number == 12
        assert real.support.x[0, 0, 0, 0] == np.log2(0.25)
        level = real.support.y[0, 0, 0, 0] * patients.UNIT + patients.MIDDLE
        assert level == pytest.approx(2.84 / 4.02)
    assert fm.Patients(real=True, n_unseen=5).draw("unseen", 0).number == 5
    drawn = (fm.Patients(n_clients=5, real=real).draw("training", 0).query.y for real in (False, True))
    assert torch.equal(*drawn), "training knows nothing of them"


# --- Bearings -------------------------------------------------------------------------------------------------------


def test_impacts_of_a_known_bearing():
    """SKF 6205 of Case Western's machine: 9 balls of 0.3126 inch on 1.537 inch; multiples of the shaft's turns as its
    data sheet has them (the ball strikes twice a turn of its own)."""
    one = torch.ones(1, dtype=torch.float64)
    found = bearings.impacts(one, 9 * one, 0.3126 / 1.537 * one)[0]
    assert_close(found, torch.tensor([3.5848, 5.4152, 4.7135], dtype=torch.float64), atol=2e-3, rtol=0)


def test_ringing_is_a_sum_of_decays():
    t, tau = torch.arange(64, dtype=torch.float64) / bearings.RATE, torch.tensor([0.004], dtype=torch.float64)
    times = torch.tensor([[[0.0, 0.0103, 0.02, 0.5]]], dtype=torch.float64)
    strength = torch.tensor([[[1.0, 2.0, 0.5, 9.0]]], dtype=torch.float64)
    wanted = [
        sum(s * np.exp(-(now - at) / 0.004) for at, s in zip(times[0, 0].tolist(), strength[0, 0].tolist(), strict=True)
            if at <= now)
        for now in t.tolist()
    ]  # fmt: skip
    assert_close(bearings._ringing(t, times, strength, tau)[0, 0], torch.tensor(wanted), atol=1e-12, rtol=1e-9)


def test_a_spectrum_shows_the_rate_of_the_fault_and_no_gain():
    """Without noise, outer race and ball of the machine that all have at h = 0 stand out at their own rates."""
    quiet = fm.Bearings(n_clients=4, heterogeneity=0.0, noise=0.0)
    spectra = quiet._spectra("training", "support", 0, 3)
    ratio = torch.full((1,), 0.2, dtype=torch.float64)
    rates = bearings.impacts(torch.full_like(ratio, 29.0), torch.full_like(ratio, 9.0), ratio)[0]
    for fault in (1, 3):
        peak = spectra[:, fault].argmax(-1)
        band = int(rates[fault - 1] / (bearings.RATE / 4 / bearings.BANDS))
        assert ((peak - band).abs() <= 1).all() or ((peak - 2 * band).abs() <= 2).all()
    wave = uniform((3, bearings.SAMPLES), 0.0, 1.0, "wave")
    assert_close(bearings.bands(7 * wave + 2), bearings.bands(wave))


def recording(rate, hertz, seconds=6, seed=0):
    """A vibration at 3.5 kHz whose impacts come so often."""
    t = np.arange(int(rate * seconds)) / rate
    since = t % (1 / hertz)
    return np.exp(-since / 0.002) * np.sin(2 * np.pi * 3500 * t) + 0.01 * np.random.default_rng(seed).normal(
        size=len(t)
    )


@pytest.fixture
def machine(tmp_path):
    """Case Western's first machine: outer race, inner race, ball at 107, 162 and 141 impacts a second."""
    for number, hertz, rate in ((97, 31, 48_000), (130, 107, 12_000), (105, 162, 12_000), (118, 141, 12_000)):
        signal = recording(rate, hertz, 20 if number == 97 else 6)
        savemat(tmp_path / f"{number}.mat", {f"X{number:03}_DE_time": signal[:, None], f"X{number:03}RPM": 1797})
    bearings._machines.cache_clear()
    return tmp_path


def test_machines_are_read_from_their_files(machine):
    clients = fm.Bearings(n_clients=5, root=machine, shots=2, test=5)
    assert clients.n_unseen == 1
    drawn = clients.draw("unseen", 0)
    assert (drawn.number, drawn.support.y.shape[2], drawn.query.y.shape[2]) == (1, 8, 20)
    for fault, hertz in ((1, 107), (2, 162), (3, 141)):
        spectra = drawn.query.x[0, 0][drawn.query.y[0, 0] == fault]
        assert ((spectra.argmax(-1) - int(hertz / 4)).abs() <= 1).all(), fault
    assert torch.equal(drawn.query.x, clients.draw("unseen", 1).query.x), "real machines are the same for every seed"


def test_files_that_are_no_machines(machine, tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        fm.Bearings(root=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"shots \+ Bearings\.test = 9 \+ 8"):
        fm.Bearings(root=machine, shots=9).draw("unseen", 0)
    savemat(machine / "118.mat", {"other": np.zeros(5)})
    bearings._machines.cache_clear()
    with pytest.raises(ValueError, match=r"118\.mat holds \['other'\], and no signal"):
        fm.Bearings(root=machine)
    (machine / "118.mat").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"118\.mat is no \.mat file"):
        fm.Bearings(root=machine)
    (machine / "118.mat").unlink()
    with pytest.raises(ValueError, match=r"no machine with all four .* 97\.mat, 130\.mat, 105\.mat, 118\.mat"):
        fm.Bearings(root=machine)


# --- Ratings --------------------------------------------------------------------------------------------------------


@pytest.fixture
def movielens(tmp_path):
    (tmp_path / "movies.csv").write_text(
        "movieId,title,genres\n1,Toy Story (1995),Adventure|Comedy\n"
        '2,"Nobody, Never",(no genres listed)\n9,Heat (1995),Crime\n'
    )
    lines = [(u, m, s, t) for u in (1, 2, 3) for m, s, t in ((9, 4.5, 30 * u), (1, 3.0 + u / 2, 10), (2, 2.0, 20))]
    lines += [(4, 1, 5.0, 1), (1, 77, 5.0, 1)]
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n" + "\n".join(",".join(map(str, line)) for line in lines) + "\n"
    )
    return tmp_path


def test_movielens_is_read_as_it_is_published(movielens):
    clients = fm.Ratings(root=movielens)
    rows = clients.rows
    assert rows.names == ("user 1", "user 2", "user 3"), "user 4 has one rating; film 77 is in no list"
    assert rows.y[:3, 0].tolist() == [3.5, 2.0, 4.5], "in the order of time"
    flags = dict(zip(rows.columns, rows.x[0].tolist(), strict=True))
    assert (flags["Adventure"], flags["Comedy"], flags["Crime"], flags["year"]) == (1, 1, 0, 1995)
    assert rows.x[1, :-1].sum() == 0
    assert rows.x[1, -1].isnan(), "no year: missing"
    assert clients.draw("unseen", 0).everyone()[0].x.isfinite().all()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("ratings.csv", None, "is not there"),
        ("ratings.csv", "a,b\n1,2\n", "no column 'userId'"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,1,good,3\n", "'rating' holds 'good', no number"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,1,2,3\n", "0 users with two or more ratings"),
        ("movies.csv", "", "is no table"),
    ],
)
def test_files_that_are_not_movielens(movielens, name, text, says):
    (movielens / name).unlink() if text is None else (movielens / name).write_text(text)
    from fmlab.populations import ratings

    ratings._movielens.cache_clear()
    with pytest.raises(ValueError, match=says):
        fm.Ratings(root=movielens)


def test_drawn_ratings_are_half_stars_of_chosen_films():
    rows = fm.Ratings().rows
    assert set(rows.y.flatten().tolist()) <= {s / 2 for s in range(1, 11)}
    assert 20 <= int(rows.counts.min()) <= int(rows.counts.max()) <= 120
    first = rows.x[: rows.counts[0]]
    assert len(first.unique(dim=0)) > 0.9 * len(first)


# --- How the data came ----------------------------------------------------------------------------------------------


def test_the_script_takes_what_ships(tool):
    """On a triangle of two years, and on a series of eleven samples."""
    extract = tool("extract_clients")
    text = (
        "GRCODE,LOB,AccidentYear,DevelopmentLag,CumPaidLoss,EarnedPremNet\n7,med,1988,1,10,100\n7,med,1988,2,15,100\n"
    )
    made = extract.insurers(text.encode())
    assert made["paid"].shape == (1, 10, 10)
    assert made["paid"][0, 0].tolist() == [10, 15] + [-1] * 8
    assert made["premium"][0].tolist() == [100] + [0] * 9
    for members in extract.SOURCES.values():
        assert all(len(bytes.fromhex(digest)) == 32 for digest in members.values())
    with pytest.raises(SystemExit, match="has sha256"):
        extract.member(type("Wheel", (), {"filename": "w", "read": lambda self, name: b""})(), "a", "0" * 64)
