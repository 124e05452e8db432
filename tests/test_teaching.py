"""What checks say and never say, and what is recorded of them."""

import json

import pytest

from lab.lessons import exercises
from lab.lessons import record as records
from lab.lessons.record import Record
from lab.lessons.teaching import check, names, report, verdict


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """A reader's folder without a record."""
    monkeypatch.setattr(records, "record", Record(tmp_path / records.NAME))
    return tmp_path


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

    monkeypatch.setitem(exercises.LESSONS, "07 Sums", (sum_of_two,))


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


def test_a_solved_exercise_is_kept_and_a_failed_one_is_not(folder, sum_of_two, capsys):
    check("sum_of_two", 3)
    assert not (folder / records.NAME).exists()
    check("sum_of_two", 2)
    stored = json.loads((folder / records.NAME).read_text())
    assert list(stored["solved"]) == ["sum_of_two"]
    check("sum_of_two", 3)  # solved is solved
    capsys.readouterr()
    report()
    said = capsys.readouterr().out
    assert said.startswith(f"1 of {len(names())} exercises solved\n")
    assert f"  [x] sum_of_two               {stored['solved']['sum_of_two']}\n" in said
    assert "  [ ] megabytes\n" in said
    assert records.NAME in said


def test_a_report_of_nothing_names_every_exercise(capsys):
    report()
    said = capsys.readouterr().out
    assert all(f"[ ] {name}\n" in said for name in names())
    assert all(lesson in said for lesson in exercises.LESSONS)
    assert "0 predictions made" in said


def test_a_report_has_the_predictions_and_what_was_measured(folder, capsys):
    for question, choice in (("Which?", "this"), ("How many?", "two"), ("Why?", "because")):
        records.record.keep_guess(question, choice)
    records.record.keep_measured("Which?", "that")
    records.record.keep_measured("How many?", "two")
    report()
    said = capsys.readouterr().out
    assert "3 predictions made, 2 compared with what was measured: 1 alike\n" in said
    assert "  Which?\n      guessed:  this\n      measured: that\n" in said
    assert said.count("measured: ") == 3
    assert Record(folder / records.NAME).read()["measured"] == {"Which?": "that", "How many?": "two"}


def test_the_record_outlives_the_kernel_and_takes_others_in(folder):
    one, other = Record(folder / records.NAME), Record(folder / records.NAME)
    one.keep_guess("Which?", "this")
    other.keep_solved("megabytes")  # another notebook's kernel, at the same time
    one.keep_solved("interval")
    later = Record(folder / records.NAME)
    assert later.guess("Which?") == "this"
    assert set(later.read()["solved"]) == {"megabytes", "interval"}
    assert [p.name for p in folder.iterdir()] == [records.NAME]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"guesses": 3}', '{"solved": null}'])
def test_a_broken_record_is_an_empty_one(folder, text):
    (folder / records.NAME).write_text(text)
    found = Record(folder / records.NAME)
    assert found.read() == {"guesses": {}, "measured": {}, "solved": {}}
    found.keep_guess("Which?", "this")
    assert Record(folder / records.NAME).guess("Which?") == "this"


def test_a_folder_that_cannot_be_written_to(folder, capsys, monkeypatch):
    monkeypatch.setattr(records, "record", Record(folder / "none" / records.NAME))
    records.record.keep_solved("megabytes")
    report()
    said = capsys.readouterr().out
    assert "[x] megabytes" in said
    assert "this kernel alone" in said


def test_a_page_for_many_keeps_nothing(monkeypatch):
    monkeypatch.setenv("VOILA_REQUEST_URL", "http://here/")
    assert records.for_this_kernel().path is None
    monkeypatch.delenv("VOILA_REQUEST_URL")
    assert records.for_this_kernel().path is not None
