"""The panels of lesson 8: what is read of a message is what was in it, and what hides it does."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import fmlab as fm
import lab
from lab.lessons import leaking, lying, private
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
    assert torch.allclose(clipped.mean(1)[0], sent(setting), rtol=1e-9, atol=1e-9)  # of the fixed point


def test_a_meta_gradient_shows_support_and_query():
    found = read(Setting(inner_steps=1))
    assert len(found.truth) == 2
    assert (found.quality > found.by_label + 6).all()  # an error of a quarter
    assert found.recognised.all()


def test_clipping_hides_nothing_and_noise_does(monkeypatch):
    """Every message is longer than CLIP. Clipping scales a message, and a picture is a ratio of its parts."""
    clipped = sent(Setting())
    assert clipped.norm().item() == pytest.approx(CLIP)
    monkeypatch.setattr(leaking, "CLIP", 1e3)
    assert sent(Setting(), 0).norm() > 1.5 * CLIP
    assert torch.allclose(by_closed_form(sent(Setting())), by_closed_form(clipped), atol=1e-12)
    monkeypatch.undo()
    found = [read(Setting(noise=sigma)) for sigma in (0.0, 0.1, 1.0, 5.0)]
    quality = [float(f.quality.mean()) for f in found]
    assert quality == sorted(quality, reverse=True)
    assert found[1].picked.all()
    assert not found[-1].picked.any()
    assert quality[-1] < found[-1].by_label


def test_more_pictures_and_clients_in_a_sum_are_read_worse():
    found = [read(s) for s in (Setting(), Setting(4), Setting(16), Setting(16, together=8))]
    quality, picked = [float(f.quality.mean()) for f in found], [f.picked.mean() for f in found]
    assert quality == sorted(quality, reverse=True)
    assert picked[0] == 1 > picked[2] > picked[3]
    assert quality[3] < found[3].by_label


def test_the_sum_is_the_secure_one():
    """Of the mean of what the clients send, to the fixed point's resolution; not one of them alone."""
    alone = [sent(Setting(2), 0)]
    x, y = held(Setting(2, together=3))
    w, each = model(), []
    for i in range(3):
        one = message(Setting(2), w, x[:, [i]], y[:, [i]])[0, 0]
        each.append(one * (CLIP / one.norm()).clamp(max=1.0))
    assert torch.allclose(each[0], alone[0], atol=1e-12)
    assert (sent(Setting(2, together=3)) - sum(each) / 3).abs().max() < 2.0**-32


def test_what_a_message_spends():
    assert leaking.epsilon(Setting()) == math.inf
    assert leaking.epsilon(Setting(noise=10.0, together=4)) == fm.privacy.spent(0.1, 1, leaking.DELTA)
    found = read(Setting(noise=10.0))
    assert "which spends epsilon = " in leaking.sentence(found, Setting(noise=10.0))
    assert "epsilon" not in leaking.sentence(read(Setting()), Setting())


@pytest.fixture(params=["leak", "liars"])
def panel(request, monkeypatch):
    monkeypatch.setattr(lying, "ROUNDS", 3)
    monkeypatch.setattr(leaking.by_search, "__defaults__", (0, 3))  # steps of the search
    lying.lost.cache_clear()
    panel = getattr(lab, request.param)(synchronous=True)
    yield panel
    panel.close()
    lying.lost.cache_clear()


def test_every_control_reaches_both_ends_and_says_something(panel):
    for f in dataclasses.fields(panel.setting):
        before = getattr(panel.setting, f.name)
        h = f.metadata.get("hyper")
        for end in (h.low, h.high) if h else f.metadata["options"]:
            panel.set(**{f.name: end})
            assert panel._error.value == ""
            assert panel.sentence.endswith(".")
        panel.set(**{f.name: before})


def test_bad_values_are_said_and_change_nothing(panel):
    before, picture = panel.setting, panel._png
    field = dataclasses.fields(before)[0]
    with pytest.raises(ValueError, match="is outside"):
        panel.set(**{field.name: 99})
    with pytest.raises(TypeError, match="momentum"):
        panel.set(momentum=0.9)
    assert panel.setting == before
    assert panel._png == picture
    with pytest.raises(ValueError, match=f"{field.name} = -1"):
        getattr(lab, panel.name if panel.name == "liars" else "leak")(**{field.name: -1}, synchronous=True)


def test_a_moved_slider_changes_picture_and_sentence(panel):
    seen = panel._png, panel.sentence
    name, value = ("noise", 8.0) if panel.name != "liars" else ("share", 0.45)
    panel._controls[name].slider.value = value
    assert (panel._png != seen[0], panel.sentence != seen[1]) == (True, True)
    assert panel.result is not None


def test_a_word_is_chosen_by_hand_and_by_set(monkeypatch):
    monkeypatch.setattr(lying, "ROUNDS", 2)
    lying.lost.cache_clear()
    panel = lab.liars(synchronous=True, how="opposite")
    try:
        control = panel._controls["how"]
        assert control.slider.value == "opposite"
        control.slider.value = "scaled"
        assert panel.setting.how == "scaled"
        panel.set(how="noise")
        assert control.slider.value == panel.setting.how == "noise"
        with pytest.raises(ValueError, match=r"how = 'silence' is not one of \('noise', 'opposite', 'scaled'\)"):
            panel.set(how="silence")
    finally:
        panel.close()
        lying.lost.cache_clear()
    with pytest.raises(ValueError, match="'silence' is not one of"):
        lab.liars(how="silence", synchronous=True)


def test_without_liars_and_differences_all_means_lose_nothing():
    for name in lying.MEANS:
        assert np.abs(lying.lost(0.0, 0.0, 1.0, "noise", name)).max() < 1e-6


def test_what_liars_and_differences_cost():
    here = {name: np.mean(lying.lost(0.2, 0.3, 100.0, "noise", name)) for name in lying.MEANS}
    assert here["median"] < here["mean"] / 10
    honest = {name: np.mean(lying.lost(0.0, 0.3, 1.0, "noise", name)) for name in lying.MEANS}
    assert honest["mean"] < 1e-6 < min(value for name, value in honest.items() if name != "mean")
    more = {name: np.mean(lying.lost(0.0, 0.9, 1.0, "noise", name)) for name in lying.MEANS}
    assert all(more[name] > honest[name] for name in lying.MEANS if name != "mean")


def test_the_sentence_tells_who_is_best_and_what_it_costs():
    setting = lying.Setting(share=0.4, heterogeneity=0.5)
    some = {name: np.full(3, value) for name, value in zip(lying.MEANS, (9.0, 0.2, 0.4, 0.8), strict=True)}
    none = {name: np.full(3, value) for name, value in zip(lying.MEANS, (0.0, 0.2, 0.1, 0.7), strict=True)}
    assert lying.sentence(lying.Lies({}, {}, some, none), setting) == (
        "With 40% liars the mean ends 9 above the least loss; median is best here, with 0.2. If nobody lied, Krum "
        "would still end 0.7 above: who differs looks like a liar."
    )
    honest = dataclasses.replace(setting, share=0.0)
    assert lying.sentence(lying.Lies({}, {}, none, none), honest) == (
        "Nobody lies. Krum ends 0.7 above: who differs looks like a liar."
    )
    alike = {name: np.zeros(3) for name in lying.MEANS}
    assert "honest clients are alike" in lying.sentence(lying.Lies({}, {}, alike, alike), honest)
    worst = {name: np.full(3, np.inf if name == "mean" else 1.0) for name in lying.MEANS}
    assert "the mean ends without bound" in lying.sentence(lying.Lies({}, {}, worst, none), setting)


# --- the lesson's runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1.0, 10.0, 100.0])
def test_the_multiplier_spends_what_was_asked_for(epsilon):
    z = private.multiplier(epsilon, 50)
    assert fm.privacy.spent(z, 50, private.DELTA) == pytest.approx(epsilon, rel=1e-6)
    assert private.multiplier(math.inf, 50) == 0
    with pytest.raises(ValueError, match="epsilon = -1 is not above 0"):
        private.multiplier(-1, 50)


def test_the_lessons_study_has_the_epsilon_that_it_says_and_most_messages_are_clipped():
    clients = fm.Sines(n_clients=6, n_unseen=2, n_validation=2)
    seen = []

    def look(sent, batch):
        seen.append(sum(t.square().sum(-1) for t in sent.values()).sqrt())
        return sent

    study = private.train(clients, 5.0, rounds=4, seeds=2)
    assert fm.privacy.epsilon(study, private.DELTA) == pytest.approx(5.0, rel=1e-6)
    assert fm.privacy.epsilon(private.train(clients, rounds=2, seeds=1)) == math.inf
    fm.compare(**study.config | {"transforms": [look], "rounds": 3})
    assert (torch.cat([norms.flatten() for norms in seen]) > private.CLIP).double().mean() > 0.9


def test_untrained_is_the_fresh_model():
    clients = fm.Sines(n_clients=4, n_unseen=3, n_validation=2)
    setup = private.train(clients, rounds=1).setup
    w = setup.start[:, None].expand(-1, 3, -1)
    support, query = setup.unseen.everyone()
    u = w - private.RATE * fm.grad(lambda v: setup.objective(v, support), w)
    assert private.untrained(clients) == pytest.approx(float(setup.objective(u, query).mean()), rel=1e-5)


def test_amounts_in_words():
    leak = read(Setting())
    for picked, words in (([True] * 4, "all"), ([True, False], "some"), ([True] + [False] * 9, "hardly any")):
        assert dataclasses.replace(leak, picked=np.array(picked)).amount() == words
