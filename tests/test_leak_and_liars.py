"""The panels of lesson 8: what is read of a message is what was in it, and what hides it does."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import fmlab as fm
import lab
from lab.lessons import leaking, lying
from lab.lessons.leaking import CLIP, Setting, by_closed_form, held, message, model, read, sent


@pytest.mark.parametrize("setting", [Setting(), Setting(local_steps=7)], ids=["one gradient", "seven steps"])
def test_one_picture_comes_back_exactly(setting):
    x, _ = held(setting)
    assert (by_closed_form(sent(setting)) - x[0, 0]).abs().max() < 1e-12
    found = read(setting)
    assert found.quality.min() > 200
    assert found.recognised.all()


@pytest.mark.parametrize(
    "setting",
    [Setting(), Setting(3, 4), Setting(2, inner_steps=1), Setting(1, inner_steps=2, together=3)],
    ids=["one gradient", "local steps", "meta-gradient", "sum"],
)
def test_the_servers_replica_is_what_the_library_sends(setting):
    """Its search would fit another message otherwise."""
    own = message(setting, model(), *held(setting))
    clipped = own / (own.norm(dim=-1, keepdim=True) / CLIP).clamp(min=1.0)
    assert torch.allclose(clipped.mean(1)[0], sent(setting), rtol=1e-9, atol=1e-12)


def test_a_meta_gradient_shows_support_and_query():
    found = read(Setting(inner_steps=1))
    assert len(found.truth) == 2
    assert (found.quality > found.by_label + 6).all()  # an error of a quarter
    assert found.recognised.all()


def test_clipping_alone_hides_nothing_and_noise_does():
    """Clipped messages were read above; noise is worth as much as its size."""
    quality = [float(read(Setting(noise=sigma)).quality.mean()) for sigma in (0.0, 0.05, 0.5, 10.0)]
    assert quality == sorted(quality, reverse=True)
    assert quality[-1] < read(Setting()).by_label


def test_more_pictures_and_clients_in_a_sum_are_read_worse():
    quality = [float(read(s).quality.mean()) for s in (Setting(), Setting(4), Setting(4, together=8))]
    assert quality == sorted(quality, reverse=True)
    assert math.isclose(read(Setting(4)).quality.mean(), read(Setting(1, together=4)).quality.mean(), abs_tol=0.5)


@pytest.fixture(params=["leak", "liars"])
def panel(request, monkeypatch):
    monkeypatch.setattr(lying, "ROUNDS", 3)
    monkeypatch.setattr(leaking.by_search, "__defaults__", (0, 3))  # steps of the search
    panel = getattr(lab, request.param)(synchronous=True)
    yield panel
    panel.close()
    lying.lost.cache_clear()


def test_every_slider_reaches_both_ends_and_says_something(panel):
    for f in dataclasses.fields(panel.setting):
        h, before = f.metadata["hyper"], getattr(panel.setting, f.name)
        for end in (h.low, h.high):
            panel.set(**{f.name: end})
            assert panel._error.value == ""
            assert panel.sentence.endswith(".")
        panel.set(**{f.name: before})


def test_bad_values_are_said_and_change_nothing(panel):
    before, picture = panel.setting, panel._canvas.image.value
    field = dataclasses.fields(before)[0]
    with pytest.raises(ValueError, match="is outside"):
        panel.set(**{field.name: 99})
    with pytest.raises(TypeError, match="momentum"):
        panel.set(momentum=0.9)
    assert panel.setting == before
    assert panel._canvas.image.value == picture


def test_a_moved_slider_changes_picture_and_sentence(panel):
    seen = panel._canvas.image.value, panel.sentence
    name, value = ("noise", 8.0) if panel.name != "liars" else ("share", 0.45)
    panel._controls[name].slider.value = value
    assert (panel._canvas.image.value != seen[0], panel.sentence != seen[1]) == (True, True)
    assert panel.result is not None


def test_without_liars_and_differences_all_means_lose_nothing():
    for how in lying.HOW:
        found = lying.run(lying.Setting(share=0.0, heterogeneity=0.0), how)
        assert all(np.abs(values).max() < 1e-9 for values in found.here.values())
    lying.lost.cache_clear()


def test_what_liars_and_differences_cost():
    lies = lying.run(lying.Setting(share=0.2, heterogeneity=0.3, factor=100.0))
    here = {name: values.mean() for name, values in lies.here.items()}
    assert here["median"] < here["mean"] / 10
    assert lies.lost["mean"][0].mean() < 1e-6 < lies.lost["median"][0].mean()  # nobody lies: the mean is best
    lying.lost.cache_clear()


def test_how_is_checked():
    with pytest.raises(ValueError, match=r"how = 'silence' is not one of \('noise', 'opposite', 'scaled'\)"):
        lab.liars(how="silence", synchronous=True)
    with pytest.raises(ValueError, match="share"):
        lab.liars(share=0.9, synchronous=True)
    assert fm.Krum(6) == lying.MEANS["Krum (6 liars)"]
