"""The visual language: colours that every eye tells apart, a look for each method, short numbers, calm limits."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

import fmlab as fm
from lab.plots import style

# Viénot-type simulation of complete colour blindness: Machado, Oliveira and Fernandes 2009, table 1, severity 1.0.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color):
    c = np.array(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def cielab(rgb):
    t = XYZ @ np.clip(rgb, 0, 1) / XYZ.sum(1)
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(a, b):
    low, high = sorted(float(XYZ[1] @ linear(c)) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [style.LIGHT, style.DARK], ids=["light", "dark"])
def test_colours_are_told_apart_and_stand_out_from_the_paper(theme):
    colors = {name: look.color(theme) for name, look in style.LOOKS.items()}
    assert min(contrast(c, theme.paper) for c in colors.values()) >= 3  # WCAG 2.2, 1.4.11, graphics
    assert min(contrast(c, theme.paper) for c in (theme.ink, theme.middle)) >= 4.5  # 1.4.3, text
    for sight, matrix in SIGHT.items():
        seen = {name: cielab(np.array(matrix) @ linear(c)) for name, c in colors.items()}
        near = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(seen, 2)}
        assert min(near.values()) > 10, (sight, min(near, key=near.get))
        assert near["FedMAML", "FedAvg"] > 40, sight  # the two in every plot


def test_every_algorithm_has_a_look_and_no_two_share_anything():
    assert {a.__name__ for a in fm.ALGORITHMS} <= set(style.LOOKS)
    for part in ("light", "dark", "dashes", "marker"):
        values = [getattr(look, part) for look in style.LOOKS.values()]
        assert len(set(values)) == len(values), part


def test_a_method_looks_the_same_everywhere():
    for names in (["FedMAML"], ["FedProx", "FedMAML"], ["mine", "FedMAML", "FedAvg"]):
        assert style.looks(names)["FedMAML"] == style.LOOKS["FedMAML"]
    assert style.looks(["FedAvg, 5 steps"])["FedAvg, 5 steps"] == style.LOOKS["FedAvg"]


@pytest.mark.parametrize(
    "names",
    [["FedMAML, 1", "FedMAML, 5", "FedMAML"], list("abcdefgh"), [*style.LOOKS][::-1], ["FedAvg tuned", "FedAvg"]],
)
def test_methods_of_one_study_differ(names):
    given = style.looks(names)
    assert list(given) == names
    assert len(set(given.values())) == len(names)


def test_more_methods_than_looks_still_draw():
    assert len(style.looks(map(str, range(20)))) == 20


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1e-16, "0"), (0.25, "0.25"), (-5, "−5"), (1500, "1.5k"), (2e7, "20M"), (3.2e9, "3.2G")],
)
def test_short_numbers(value, text):
    assert style.short(value) == text


def test_nice_limits_hold_their_value():
    values = np.geomspace(1e-7, 1e9, 400)
    assert all(v * (1 - 1e-9) <= style.nice(v) <= 1.67 * v for v in values)
    assert [style.nice(v) for v in (0.0, -1.0, float("nan"), float("inf"))] == [1.0] * 4
