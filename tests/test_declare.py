"""Declarations: what is refused and what the message says; sweeps, one value of a sweep, all values spread."""

from dataclasses import dataclass, fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fmlab as fm
from fmlab.declare import Declared, choice, hyper, lanes, pick, spread, sweep_length, sweeps


@dataclass(frozen=True)
class Inner(Declared):
    rate: float = hyper(0.5, symbol="r", low=0.0, high=1.0, text="inner rate")


@dataclass(frozen=True)
class Sample(Declared):
    rate: float = hyper(0.5, symbol="r", low=0.0, high=1.0, text="a rate")
    steps: int = hyper(2, symbol="K", low=1, high=10, whole=True, text="some steps")
    maybe: float | None = hyper(None, symbol="m", low=0.0, high=1.0, optional=True, text="may be left out")
    size: float = hyper(None, symbol="e", low=0.0, high=1.0, optional=True, step_size="training", text="a step size")
    shape: int = hyper(3, symbol="n", low=1, high=9, whole=True, sweepable=False, text="a shape")
    flag: bool = choice(False, (False, True), text="a flag")
    kind: str = choice("a", ("a", "b"), text="a kind")
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("rate", 1.5, r"Sample\.rate = 1\.5 is outside \[0, 1\]; give a number in \[0, 1\]: a rate"),
        ("rate", -0.1, r"Sample\.rate = -0\.1 is outside"),
        ("rate", float("nan"), r"Sample\.rate = nan is not a number in \[0, 1\]"),
        ("rate", float("inf"), r"Sample\.rate = inf is not"),
        ("rate", "0.5", r"Sample\.rate = '0\.5' is not a number"),
        ("rate", True, r"Sample\.rate = True is not a number"),
        ("rate", None, r"Sample\.rate = None is not a number"),
        ("rate", fm.sweep(0.1, 2.0), r"Sample\.rate = 2\.0 is outside"),
        ("steps", 0, r"Sample\.steps = 0 is outside \[1, 10\]; give a whole number"),
        ("steps", 2.5, r"Sample\.steps = 2\.5 is not a whole number"),
        ("maybe", 2.0, r"a number in \[0, 1\] or None: may be left out"),
        ("size", 2.0, r"or None \(the recorded value\)"),
        ("shape", fm.sweep(1, 2), r"Sample\.shape decides a tensor's shape.*run one study for each value"),
        ("flag", "yes", r"Sample\.flag = 'yes' is not one of \(False, True\)"),
        ("kind", "c", r"Sample\.kind = 'c' is not one of \('a', 'b'\)"),
        ("kind", fm.sweep("a", "b"), r"Sample\.kind.*name one algorithm each in a dict"),
    ],
)
def test_what_is_wrong_is_said_with_the_way_out(field, value, says):
    with pytest.raises(ValueError, match=says):
        Sample(**{field: value})


@pytest.mark.parametrize("value", [0.0, 1.0, 1, 0.3])
def test_the_range_is_closed(value):
    assert Sample(rate=value).rate == value


def test_an_empty_sweep_is_refused():
    with pytest.raises(ValueError, match="no values"):
        fm.sweep()


def test_sweeps_of_unequal_length_are_refused_by_name():
    with pytest.raises(ValueError, match=r"Sample differ in length.*'rate': 2, 'inner\.rate': 3"):
        sweep_length(Sample(rate=fm.sweep(0.1, 0.2), inner=Inner(rate=fm.sweep(0.1, 0.2, 0.3))))


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4), st.integers(1, 3), st.data())
def test_spread_repeats_each_value_for_all_seeds_and_pick_takes_one(values, seeds, data):
    steps = data.draw(st.lists(st.integers(1, 10), min_size=len(values), max_size=len(values)))
    s = Sample(rate=fm.sweep(*values[::-1]), inner=Inner(rate=fm.sweep(*values)))
    assert sweeps(s) == {"rate": tuple(values[::-1]), "inner.rate": tuple(values)}
    assert sweep_length(s) == len(values)
    assert lanes(s) == [s]
    wide = spread(s, seeds, torch.float64, torch.device("cpu"))
    assert wide.inner.rate.shape == (len(values) * seeds, 1, 1)
    assert wide.inner.rate.flatten().tolist() == [v for v in values for _ in range(seeds)]
    together = Sample(steps=fm.sweep(*steps), inner=Inner(rate=fm.sweep(*values)))
    alone = [Sample(steps=k, inner=Inner(rate=v)) for k, v in zip(steps, values, strict=True)]
    assert [pick(together, i) for i in range(len(values))] == alone
    assert lanes(together) == alone, "whole numbers train value by value"


def test_flags_train_value_by_value():
    assert lanes(Sample(flag=fm.sweep(True, False))) == [Sample(flag=True), Sample(flag=False)]


def test_without_a_sweep_nothing_is_spread():
    s = Sample()
    assert sweep_length(s) == 1
    assert spread(s, 3, torch.float64, torch.device("cpu")) == s
    assert pick(s, 0) == s


def test_a_sweeps_repr_is_how_it_was_made():
    assert repr(fm.sweep(0.1, 2)) == "sweep(0.1, 2)"


DECLARED = [*fm.ALGORITHMS, *fm.POPULATIONS, *fm.SCENARIOS, fm.SGD, fm.Adam, fm.Yogi]


@pytest.mark.parametrize("cls", DECLARED)
def test_every_number_is_declared_with_symbol_range_and_phrase(cls):
    for f in fields(cls):
        if f.name in ("server", "model", "root", "source"):
            continue
        h = f.metadata.get("hyper")
        if h is None:
            assert f.metadata["options"], f.name
            assert f.metadata["text"], f.name
            assert f.default in f.metadata["options"], f.name
        else:
            assert h.symbol, f.name
            assert h.text, f.name
            assert h.low < h.high, f.name
            assert (f.default is None and h.optional) or h.low <= f.default <= h.high, f.name
