"""The last page's questions: each answer is proved by what a lesson stored, and gives no number of its own."""

import html
import json
import re
from pathlib import Path

import nbformat
import pytest

import lab
from lab.lessons.questions import QUESTIONS, Proof, Shown

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PROOFS = [proof for question in QUESTIONS for proof in question.proofs]


def test_there_are_twelve_and_the_page_asks_each_once():
    page = nbformat.read(FOLDER / "11_twelve_questions.ipynb", as_version=4)
    code = [c.source for c in page.cells if c.cell_type == "code"]
    assert code == ["import lab", *[f"lab.question({n})" for n in range(1, 13)]]
    assert len(QUESTIONS) == 12


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: f"{proof.lesson[:2]}-{proof.section[:20]}")
def test_a_proof_is_a_section_of_a_lesson_and_its_lines_are_there(proof):
    cells = nbformat.read(FOLDER / f"{proof.lesson}.ipynb", as_version=4).cells
    titles = [t for c in cells if c.cell_type == "markdown" for t in re.findall(r"(?m)^## (.*)$", c.source)]
    assert titles.count(proof.section) == 1
    quoted = proof.quoted(FOLDER)
    assert bool(quoted) == bool(proof.lines)
    assert len(quoted) <= 12


def test_every_question_is_proved_by_numbers():
    for number, question in enumerate(QUESTIONS, 1):
        lines = [line for proof in question.proofs for line in proof.quoted(FOLDER)]
        assert re.search(r"\d", " ".join(lines)), number


def test_no_number_of_a_result_is_typed_into_an_answer():
    for question in QUESTIONS:
        assert re.findall(r"\d[.,]\d|\d ?%", question.answer) == []


def test_the_answer_is_folded_with_what_proves_it():
    shown = Shown(2, FOLDER)._repr_html_()
    before, folded = shown.split("<details><summary>Answer</summary>")
    assert html.escape(QUESTIONS[1].asks) in before
    assert "mean of single steps" not in before
    assert "mean of single steps" in folded
    assert 'href="01_federated_averaging.ipynb#Many-local-steps-pull-the-mean-away"' in folded
    assert "distance from the star: 0.00 with K = 1" in folded


def lesson(tmp_path, *cells):
    text = [{"cell_type": "markdown", "source": "# L\n\n## One\n\nx\n\n## Two"}, *cells]
    (tmp_path / "l.ipynb").write_text(json.dumps({"cells": text}))
    return Proof("l", "Two", "loss")


def code(*outputs):
    return {"cell_type": "code", "source": "", "outputs": [*outputs]}


def test_lines_are_those_of_the_section(tmp_path):
    said = code({"text": ["loss 1\n", "other\n"]}, {"data": {"text/plain": "<Figure: the loss is 2>"}})
    another = [{"cell_type": "markdown", "source": "text\n\n## Three"}, code({"text": "loss 3"})]
    proof = lesson(tmp_path, said, {"cell_type": "markdown", "source": "more"}, code({"text": "loss 4"}), *another)
    assert proof.quoted(tmp_path) == ["loss 1", "the loss is 2", "loss 4"]
    assert Proof("l", "One", "loss").quoted(tmp_path) == []
    assert Proof("l", "Two").quoted(tmp_path) == []
    assert Proof("gone", "Two", "loss").quoted(tmp_path) == []


@pytest.mark.parametrize("number", [0, 13, "one", None])
def test_another_number_says_which_there_are(number):
    with pytest.raises(ValueError, match="they are 1 to 12"):
        lab.question(number)
