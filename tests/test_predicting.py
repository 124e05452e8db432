"""Predictions: what they keep, what they say, and what they never say. The page's own part is a browser's test."""

import html
import json
import re

import ipywidgets
import pytest
from IPython.core.interactiveshell import InteractiveShell

import lab
from lab.lessons import predicting
from lab.lessons import record as records
from lab.lessons.predicting import predict
from lab.lessons.record import Record

QUESTION = "Which ends lower?"
CHOICES = ["FedAvg", "FedMAML", "neither"]
WHY = {"FedAvg": "It averages.", "FedMAML": "It adapts.", "neither": "They are apart."}


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """A reader's folder without a record."""
    monkeypatch.setattr(records, "record", Record(tmp_path / records.NAME))
    return tmp_path


def restart(monkeypatch, folder):
    monkeypatch.setattr(records, "record", Record(folder / records.NAME))


def text(answer):
    return re.sub(r"<[^>]*>", " ", answer.text.value)


def test_a_guess_is_committed_once(folder):
    asked = predict(QUESTION, CHOICES)
    assert asked.guess is None
    asked.button.value = True  # nothing chosen: nothing kept
    assert (asked.guess, asked.button.value) == (None, False)
    asked.options.value = "FedAvg"
    asked.options.value = "FedMAML"  # until it is committed to, a choice may change
    assert asked.guess is None
    assert not (folder / records.NAME).exists()
    asked.button.value = True
    assert asked.guess == "FedMAML"
    assert asked.options.disabled
    assert asked.button.disabled
    assert json.loads((folder / records.NAME).read_text())["guesses"] == {QUESTION: "FedMAML"}
    asked.commit("FedAvg")
    assert asked.guess == "FedMAML"
    with pytest.raises(ValueError, match="'FedSGD' is not one of"):
        predict(QUESTION, CHOICES).commit("FedSGD")


def test_it_outlives_the_kernel(monkeypatch, folder):
    predict(QUESTION, CHOICES).commit("neither")
    restart(monkeypatch, folder)
    again = predict(QUESTION, CHOICES)
    assert (again.guess, again.options.value, again.button.value) == ("neither", "neither", True)
    assert again.options.disabled
    assert again.button.disabled
    assert predict("Another?", CHOICES).guess is None
    assert predict(QUESTION, ["now", "others"]).guess is None  # a choice that is no longer there


def test_the_page_locks_and_opens_by_itself():
    """What needs no kernel: links from the button to all that it changes."""
    asked = predict(QUESTION, CHOICES, then=ipywidgets.HTML("the result"))
    mirror = asked.held.children[0]
    targets = {(link.source[0], link.source[1], *link.target) for link in asked._links}
    wanted = {(asked.options, "disabled"), (mirror, "value")}
    assert targets == {(asked.button, "value", *target) for target in wanted}


def test_then_is_made_when_asked_and_stands_below():
    made = []

    def then():
        made.append(ipywidgets.HTML("the result"))
        return made[-1]

    asked = predict(QUESTION, CHOICES, then=then)
    assert asked.held.children[-1] is made[0]
    assert made[0] not in asked.children
    with pytest.raises(TypeError, match="no widget"):
        predict(QUESTION, CHOICES, then=lambda: 3)


def test_guessing_right_and_wrong(folder):
    for guess, says, never in (
        ("FedMAML", "So it is. It adapts.", "Your guess:"),
        ("FedAvg", "So it is another one: FedMAML. It adapts. Your guess: It averages.", "So it is."),
    ):
        asked = predict(f"{QUESTION} {guess}", CHOICES)
        answer = asked.answer("FedMAML", "0.75 against 1.20.", WHY)
        assert "Commit to a guess first" in text(answer)
        asked.commit(guess)
        said = " ".join(text(answer).split())
        assert f"You guessed: {guess} . Measured: 0.75 against 1.20." in said
        assert says in said
        assert never not in said
        assert "neither : They are apart." in said
        assert asked.answer("FedMAML", "0.75 against 1.20.", WHY).text.value == answer.text.value  # run again
    assert set(json.loads((folder / records.NAME).read_text())["measured"].values()) == {"FedMAML"}


def test_an_answer_has_a_reason_for_every_choice():
    asked = predict(QUESTION, CHOICES)
    assert asked.answer("FedAvg", "1.", list(WHY.values())).because == WHY
    for because in ({"FedAvg": "a"}, ["a", "b"], ["a", "b", "c", "d"], []):
        with pytest.raises(ValueError, match="a reason for each"):
            asked.answer("FedAvg", "1.", because)
    with pytest.raises(ValueError, match="right = 'Fed' is not one of"):
        asked.answer("Fed", "1.", WHY)


def test_what_is_stored_does_not_depend_on_the_guess():
    asked = predict(f"{QUESTION} " + "A question longer than the text that ipywidgets shows. " * 3, CHOICES)
    answer = asked.answer("FedMAML", "0.75 against 1.20.", WHY)

    def stored():
        return [{k: v for k, v in w._repr_mimebundle_().items() if k.startswith("text/")} for w in (asked, answer)]

    before = stored()
    asked.commit("FedAvg")
    assert stored() == before
    assert before[0]["text/plain"].endswith("  ( ) FedAvg\n  ( ) FedMAML\n  ( ) neither")
    assert before[1]["text/html"].startswith("<details>")  # folded where there is no kernel
    assert "so it is: FedMAML" in before[1]["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in asked._repr_mimebundle_()


def test_what_a_notebook_gets(monkeypatch):
    """The question, then what is held back with the text and the picture of its own."""
    shown = []
    monkeypatch.setattr(predicting, "display", lambda bundle, raw: shown.append(bundle))
    panel = lab.drift(synchronous=True)
    predict(QUESTION, CHOICES, then=panel)._ipython_display_()
    question, held = shown
    assert question["text/plain"].startswith(QUESTION)
    assert held["text/plain"] == "<fmlab panel: client drift>"
    assert held["image/png"] == panel._repr_mimebundle_()["image/png"]
    assert f'alt="{html.escape(panel.sentence)}"' in held["text/html"]
    view = held["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert view != panel.model_id  # the box that waits
    panel.close()


def test_ipython_shows_it(capsys):
    InteractiveShell.instance().display_formatter.format(predict(QUESTION, CHOICES))
    assert QUESTION in capsys.readouterr().out
    InteractiveShell.clear_instance()


def test_a_question_is_shown_as_text_not_as_html():
    asked = predict("Is eta < 1 & K > 2?", ["<b>yes</b>", "no"])
    assert "&lt; 1 &amp; K &gt; 2" in asked.children[1].value
    answer = asked.answer("no", "1 < 2.", ["<i>", "so"])
    asked.commit("<b>yes</b>")
    assert "&lt;b&gt;yes" in answer.text.value
    assert "<i>" not in answer.text.value.replace("<i>no", "")


@pytest.mark.parametrize("choices", [[], ["one"], ["same", "same"]])
def test_choices_must_differ(choices):
    with pytest.raises(ValueError, match="two or more"):
        predict(QUESTION, choices)
