"""Predictions: what they keep, what they say, and what they never say."""

import pytest

from lab.lessons import predicting
from lab.lessons.predicting import predict

QUESTION = "Which ends lower?"


@pytest.fixture(autouse=True)
def fresh_kernel(monkeypatch):
    monkeypatch.setattr(predicting, "_guesses", {})


def test_a_guess_is_committed_once():
    asked = predict(QUESTION, ["FedAvg", "FedMAML"])
    assert asked.guess is None
    assert asked.button.disabled
    asked.commit()  # nothing chosen: nothing kept
    assert asked.guess is None
    asked.options[0].click()
    assert (asked.chosen, asked.guess) == ("FedAvg", None)
    asked.options[1].click()  # until it is committed to, a choice may change
    assert [o.icon for o in asked.options] == ["circle-o", "dot-circle-o"]
    assert not asked.button.disabled
    asked.button.click()
    assert asked.guess == "FedMAML"
    assert all(b.disabled for b in (*asked.options, asked.button))
    assert "FedMAML" in asked.said.value
    asked.options[0].click()  # a front end that is late
    asked.commit()
    assert (asked.chosen, asked.guess) == ("FedMAML", "FedMAML")
    with pytest.raises(ValueError, match="'FedSGD' is not one of"):
        asked.choose("FedSGD")


def test_what_follows_is_hidden_until_then():
    import ipywidgets

    panel = ipywidgets.HTML("the result")
    asked = predict(QUESTION, ["a", "b"], then=panel)
    assert panel not in asked.children
    asked.choose("a")
    asked.button.click()
    assert asked.children[-1] is panel


def test_a_cell_run_again_keeps_the_guess_and_another_question_does_not():
    first = predict(QUESTION, ["a", "b"])
    first.choose("b")
    first.button.click()
    again = predict(QUESTION, ["a", "b"])
    assert again.guess == "b"
    assert again.chosen == "b"
    assert again.button.disabled
    assert predict("Another?", ["a", "b"]).guess is None


def test_the_text_of_a_prediction_is_the_same_before_and_after():
    asked = predict(
        "A question that is longer than the hundred and ten characters at which ipywidgets cuts text " * 2, "ab"
    )
    before = asked._repr_mimebundle_()["text/plain"]
    asked.choose("a")
    asked.commit()
    assert asked._repr_mimebundle_()["text/plain"] == before == repr(asked)
    assert before.endswith("  ( ) a\n  ( ) b")
    assert "application/vnd.jupyter.widget-view+json" in asked._repr_mimebundle_()


def test_a_question_is_shown_as_text_not_as_html():
    asked = predict("Is eta < 1 & K > 2?", ["<b>yes</b>", "no"])
    assert "&lt; 1 &amp; K &gt; 2" in asked.children[0].value
    asked.choose("<b>yes</b>")
    asked.commit()
    assert "&lt;b&gt;yes" in asked.said.value


@pytest.mark.parametrize("choices", [[], ["one"], ["same", "same"]])
def test_choices_must_differ(choices):
    with pytest.raises(ValueError, match="two or more"):
        predict(QUESTION, choices)
