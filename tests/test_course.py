"""What `make course` hands out: to students no answer, to instructors every one that is right, and a page for paper."""

import html
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lab.lessons import teaching
from lab.lessons.questions import QUESTIONS

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
NOTES = (ROOT / "course" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def course():
    import course

    return course


@pytest.fixture(scope="module")
def built(course, tmp_path_factory):
    out = tmp_path_factory.mktemp("course")
    course.build(out)
    return out


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def read(path):
    return nbformat.read(path, as_version=4)


def test_students_have_the_lessons_and_nothing_of_the_instructors(course, built):
    student = files(built / "student")
    for path in LESSONS:
        assert read(built / "student" / "notebooks" / path.name) == read(path)
    assert {"Makefile", "README.md", "tools/start.py", "lab/__init__.py", "fmlab/__init__.py"} <= student.keys()
    assert [name for name in student if "solution" in name or "notes" in name or name.startswith("course")] == []
    text = b"\n".join(student.values())
    assert b"For the instructor" not in text
    solved = [course.solutions(p.read_text()) for p in (ROOT / "course" / "solutions").glob("*.py")]
    functions = {name: code for found in solved for name, code in found.items()}
    assert sorted(functions) == sorted(teaching.names())
    for name in functions:
        assert f"answer = {name}".encode() not in text


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_folded_solution_stands_under_its_exercise_and_is_right(built, path):
    cells = read(built / "instructor" / "notebooks" / path.name).cells
    for cell, after in zip(cells, [*cells[1:], None], strict=True):
        if "lab.check(" in cell.source and cell.cell_type == "code":
            (name,) = re.findall(r'lab\.check\("(\w+)"', cell.source)
            assert f"<details><summary>Solution of {name}</summary>" in after.source
            names = {}
            exec(re.search(r"```python\n(.*)\n```", after.source, re.DOTALL)[1], names)
            solved, says = teaching.verdict(name, names["answer"])
            assert solved, says


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_without_notes_and_solutions_the_instructors_lesson_is_the_students(built, path):
    theirs, ours = read(path), read(built / "instructor" / "notebooks" / path.name)
    nbformat.validate(ours)
    kept = [c for c in ours.cells if "instructor" not in c.metadata.get("tags", [])]
    words = ["".join(c.source for c in cells).replace("\n", "") for cells in (theirs.cells, kept)]
    assert words[0] == words[1]
    assert [c.get("outputs") for c in kept if c.cell_type == "code"] == [
        c.outputs for c in theirs.cells if c.cell_type == "code"
    ]


def test_notes_stand_beside_what_they_speak_of_and_their_minutes_add_up(course, built):
    said = course.notes(NOTES)
    for number, found in said.items():
        (path,) = (built / "instructor" / "notebooks").glob(f"{number}_*.ipynb")
        cells = read(path).cells
        for title, (minutes, text) in found.items():
            first = cells[0] if not title else next(c for c in cells if c.source.startswith(f"## {title}"))
            note = cells[cells.index(first) + 1].source
            assert f"{minutes} minutes" in note, title
            for line in text.splitlines():
                assert line.rstrip() in note
        assert sum(m for title, (m, _) in found.items() if title) == found[""][0], number


def test_the_plan_for_90_minutes_takes_90_minutes(course):
    plan = next(c.source for c in read(LESSONS[0]).cells if "In a class of 90 minutes" in c.source)
    minutes = [int(m) for m in re.findall(r"\((\d+)(?: minutes)?\)", plan.partition("In a class of 90 minutes")[2])]
    assert sum(minutes) == 90


def test_a_note_on_a_section_that_is_gone_is_an_error(course):
    lesson = new_notebook(cells=[new_markdown_cell("# A lesson"), new_markdown_cell("## One\n\nText.")])
    with pytest.raises(KeyError, match="Another"):
        course.instructors(lesson, {"": (5, ""), "Another": (2, "")}, {})
    asked = new_notebook(cells=[new_markdown_cell("# A"), new_code_cell('lab.check("unsolved", None)')])
    with pytest.raises(KeyError, match="unsolved"):
        course.instructors(asked, {}, {})


def test_building_twice_gives_the_same(course, built, tmp_path):
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "left.txt").write_text("by an earlier build")
    course.build(tmp_path)
    assert files(tmp_path) == files(built)


def test_a_solution_brings_what_it_needs_and_no_more(course):
    text = "import math\nimport torch\n\n\ndef _half(x):\n    return x / 2\n\n\ndef one(x):\n    return _half(math.pi)"
    text += "\n\n\ndef two(n=3):\n    return n\n"
    found = course.solutions(text)
    assert (
        found["one"] == text.partition("\n\n\ndef two")[0].replace("import torch\n\n\n", "\n\n") + "\n\n\nanswer = one"
    )
    assert found["two"] == "def two(n=3):\n    return n\n\n\nanswer = two()"


# --- on paper ----------------------------------------------------------------------------------------


def test_the_handout_has_every_lesson_and_needs_nothing_else(built):
    page = (built / "handout.html").read_text()
    for path in LESSONS:
        assert read(path).cells[0].source.splitlines()[0].removeprefix("# ") in page
    assert re.findall(r"<script|<link|src=\"(?!data:)", page) == []
    asked = page.partition("Answers to the questions")[0]
    assert asked.count('class="write"') == len(teaching.names()) + len(QUESTIONS)
    for question in QUESTIONS:
        assert question.asks in asked
        assert html.escape(question.answer) not in asked
        assert html.escape(question.answer) in page
    for code in ("import torch", "answer = None", "fm.compare([", "torch.set_default_dtype"):
        assert code not in page
    alts = re.findall(r'<img alt="([^"]*)"', page)
    assert len(alts) > 20
    assert min(map(len, alts)) > 10


def test_no_formula_is_left_as_tex(built):
    page = re.sub(
        r'<code>.*?</code>|<pre>.*?</pre>|<svg.*?</svg>|"data:[^"]*"',
        "",
        (built / "handout.html").read_text(),
        flags=re.S,
    )
    assert re.findall(r"\$[^$]{1,80}\$|\\(?:nabla|alpha|frac)", page) == []


@pytest.fixture
def handout():
    import handout

    return handout


def test_formulas_stand_on_the_line(handout):
    deep, flat = handout.drawn(r"f_i"), handout.drawn("x")
    below = [float(re.search(r"vertical-align:(-[\d.]+)em", svg)[1]) for svg in (deep, flat)]
    assert below[0] < -0.05 < -0.01 < below[1]
    for tex in (r"\tfrac12", r"\tfrac{a}{2}", r"\underbrace{\nabla f(v_j)}_{g_{\mathrm{A}}(j)}", r"\big(x\big)"):
        assert f'aria-label="{tex}"' in handout.drawn(tex)
    with pytest.raises(ValueError, match="undefined"):
        handout.drawn(r"\undefined")


def test_prose_keeps_code_and_sets_formulas(handout):
    page = handout.prose("Cost `$5` and $x$.\n\n$$y$$\n")
    assert "<code>$5</code>" in page
    assert page.count("<svg") == 2
    assert page.count('class="formula"') == 1
