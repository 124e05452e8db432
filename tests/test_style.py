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
    eight = {"FedMAML": style.LOOKS["FedMAML"], "FedAvg": style.LOOKS["FedAvg"]}
    eight |= {str(i): style.numbered(i) for i in range(2, 8)}
    colors = {name: look.color(theme) for name, look in eight.items()}
    assert min(contrast(c, theme.paper) for c in colors.values()) >= 3  # WCAG 2.2, 1.4.11, graphics
    assert min(contrast(c, theme.paper) for c in (theme.ink, theme.middle)) >= 4.5  # 1.4.3, text
    for sight, matrix in SIGHT.items():
        seen = {name: cielab(np.array(matrix) @ linear(c)) for name, c in colors.items()}
        near = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(seen, 2)}
        assert min(near.values()) > 10, (sight, min(near, key=near.get))
        assert near["FedMAML", "FedAvg"] > 40, sight  # the two in every plot


def strokes(dashes):
    """(how many strokes to a period, the longest stroke in line widths, the period, the inked share)."""
    if not dashes:
        return 1, np.inf, np.inf, 1.0
    return len(dashes) // 2, max(dashes[::2]), sum(dashes), sum(dashes[::2]) / sum(dashes)


def test_sixteen_looks_share_neither_dashes_nor_marker_and_colours_come_again_with_other_ones():
    sixteen = [style.numbered(i) for i in range(16)]
    for part in ("dashes", "marker"):
        assert len({getattr(look, part) for look in sixteen}) == 16, part
    for part in ("light", "dark"):
        assert len({getattr(look, part) for look in sixteen[:8]}) == 8, part
    for one, other in itertools.combinations(sixteen, 2):
        if one.light == other.light:  # told apart by the line alone: another rhythm, or strokes half as long
            (n, length, *_), (m, width, *_) = strokes(one.dashes), strokes(other.dashes)
            assert n != m or max(length, width) >= 1.6 * min(length, width), (one, other)
    for look in sixteen:
        assert not look.dashes or sum(look.dashes) <= 14  # a legend's sample holds a whole period


def test_every_look_can_be_drawn():
    figure = style.figure()
    for i in range(16):
        figure.axes[0].plot([0, 1], [i, i], **style.numbered(i).marked())
    assert figure.png()


def test_fedavg_and_fedmaml_look_the_same_everywhere():
    for names in (["FedMAML"], ["FedProx", "FedMAML"], ["mine", "FedMAML", "FedAvg"]):
        assert style.looks(names)["FedMAML"] == style.LOOKS["FedMAML"]
    assert style.looks(["FedAvg, 5 steps"])["FedAvg, 5 steps"] == style.LOOKS["FedAvg"]


@pytest.mark.parametrize(
    "names",
    [
        ["FedMAML, 1", "FedMAML, 5", "FedMAML"],
        list("abcdefgh"),
        [a.__name__ for a in fm.ALGORITHMS],
        [*map(str, range(14)), "FedAvg", "FedMAML"],
        ["FedAvg tuned", "FedAvg"],
    ],
)
def test_methods_of_one_study_differ(names):
    given = style.looks(names)
    assert list(given) == names
    for part in ("dashes", "marker", *(("light", "dark") if len(names) <= 8 else ())):
        assert len({getattr(look, part) for look in given.values()}) == len(names), part


def test_an_algorithm_that_nobody_knew_has_a_look():
    """By its order: no table has to learn of it."""
    given = style.looks(["FedAvg", "FedMAML", "FedNew"])
    assert given["FedNew"] == style.looks(["FedAvg", "FedMAML", "FedOther"])["FedOther"]
    assert given["FedNew"].light not in {look.light for look in style.LOOKS.values()}


def test_a_hundred_methods_still_differ_and_three_hundred_still_draw():
    assert len(set(style.looks(map(str, range(100))).values())) == 100
    assert len(style.looks(map(str, range(300)))) == 300


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
