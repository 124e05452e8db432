"""Predictions and exercise checks: what they keep, what they say, and what they never say."""

import pytest

from lab.lessons import exercises, teaching
from lab.lessons.teaching import check, names, predict, verdict

QUESTION = "Which ends lower?"


@pytest.fixture(autouse=True)
def fresh_kernel(monkeypatch):
    monkeypatch.setattr(teaching, "_guesses", {})


@pytest.fixture
def sum_of_two(monkeypatch):
    """An exercise that yields its hints in order."""

    def sum_of_two(answer):
        """A number: one and
        one.

        More that nobody needs.
        """
        yield isinstance(answer, int), "A whole number is wanted."
        yield answer > 0, "Both are positive."
        yield answer == 2, "Count."

    sum_of_two.__module__ = exercises.__name__
    monkeypatch.setattr(exercises, "sum_of_two", sum_of_two, raising=False)


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


def test_hints_come_in_order(sum_of_two, capsys):
    said = [verdict("sum_of_two", a) for a in (None, 2.0, -1, 3, 2)]
    assert [passed for passed, _ in said] == [False, False, False, False, True]
    assert "A number: one and one." in said[0][1]
    assert "nobody needs" not in said[0][1]
    assert [text for _, text in said[1:4]] == [
        "sum_of_two: not yet. A whole number is wanted.",
        "sum_of_two: not yet. Both are positive.",
        "sum_of_two: not yet. Count.",
    ]
    check("sum_of_two", 2)
    assert capsys.readouterr().out == "sum_of_two: yes.\n"


def test_an_unknown_exercise_names_those_there_are(sum_of_two):
    with pytest.raises(ValueError, match="did you mean 'sum_of_two'") as error:
        check("sum_of_too", 1)
    assert all(name in str(error.value) for name in names())


@pytest.mark.parametrize("name", names())
def test_exercises_say_what_is_wanted_and_survive_any_answer(name):
    """A string, a list of nothing, a broken function: words, never a traceback, never a yes."""

    def broken(*_, **__):
        raise KeyError("mine")

    solved, asked = verdict(name, None)
    assert not solved
    assert len(asked.split("Wanted: ")[1]) > 20
    for answer in ("fish", [], {}, float("nan"), float("inf"), broken, object()):
        solved, said = verdict(name, answer)
        assert not solved
        assert said.startswith(f"{name}: ")


def test_helpers_are_no_exercises():
    assert not {"_near", "fm", "torch", "Any"} & set(names())


@pytest.mark.parametrize(
    ("answer", "says"),
    [(5.0 * 1761 * 4 * 25 * 300 / 5e6, "one way only"), (2 * 1761 * 4 * 25 * 300, "bytes"), (7.0, "Multiply")],
)
def test_megabytes_meets_the_usual_slips(answer, says):
    """1,761 parameters, counted by hand: (1 + 1) 40 + (40 + 1) 40 + 40 + 1."""
    assert says in verdict("megabytes", answer)[1]
    assert verdict("megabytes", 2 * 1761 * 4 * 25 * 300 / 1e6)[0]


def test_where_fedavg_settles_agrees_with_a_plain_loop():
    w = 3.0
    for _ in range(500):
        ends = []
        for a, m in ((1.0, 0.0), (4.0, 1.0)):
            v = w
            for _ in range(10):
                v -= 0.1 * a * (v - m)
            ends.append(v)
        w = sum(ends) / 2
    assert verdict("where_fedavg_settles", w)[0]
    assert verdict("where_fedavg_settles", round(w, 3))[0]
    assert "minimum of the mean" in verdict("where_fedavg_settles", 0.8)[1]


def test_no_message_holds_the_answer():
    for wrong in (None, 0.0, 1.0, 1e9, "x"):
        assert "105" not in verdict("megabytes", wrong)[1]
        assert "0.6" not in verdict("where_fedavg_settles", wrong)[1]
