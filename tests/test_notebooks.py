"""What each lesson must be before anyone runs it. That its outputs are reproduced is nbval's part (`make test`)."""

import ast
import copy
import importlib.util
import inspect
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lab.lessons import teaching

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
QUESTIONS = FOLDER / "11_twelve_questions.ipynb"  # tests/test_questions.py has its own
LESSONS = [path for path in NOTEBOOKS if path != QUESTIONS and path.name != "playground.ipynb"]
LINES = 12
PANELS = {"playground", "heterogeneity", "inner_steps", "one_client", "drift", "leak", "liars", "federation"}
MACHINE = re.compile(r"(?<![\w.~}>])/(?:work|opt|root|home|Users|tmp|mnt|var)/\w|[A-Z]:\\+Users")
WARNING = re.compile(r"\b\w*Warning\b|\bdeprecated\b", re.IGNORECASE)
COLLAPSED = "jp-MarkdownHeadingCollapsed"  # JupyterLab's name for a section that shows as its title
PICTURE = re.compile(r"base64,[^\"]*")
IN_TEXT = (
    "**Goals**",
    "**Time**",
    "## Predict before you look",
    "## Exercises",
    "## What to take away",
    "## References",
)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = load(ROOT / "tools" / "notebooks.py")


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def lab_calls(notebook, name=None):
    """(cell, call) for every `lab.<name>(...)` in the code."""
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id == "lab" and name in (None, node.func.attr):
                    yield cell, node


def output_faults(number, cell):
    for output in cell.outputs:
        text = "".join(str(v) for k, v in output.get("data", {}).items() if not k.startswith("image/"))
        text = PICTURE.sub("", text) + output.get("text", "")
        if output.output_type == "error":
            yield f"cell {number} failed: {output.ename}"
        if output.get("name") == "stderr":
            yield f"cell {number} writes to stderr"
        if WARNING.search(text):
            yield f"cell {number} shows a warning"
        if MACHINE.search(text):
            yield f"cell {number} shows a folder of one machine"
        if TOOL.WIDGET in output.get("data", {}):
            yield f"cell {number} stores a widget, which is empty without its kernel"


def source_faults(number, cell):
    lines = len(cell.source.splitlines())
    if lines > LINES:
        yield f"cell {number} has {lines} lines"
    if MACHINE.search(cell.source):
        yield f"cell {number} names a folder of one machine"
    if any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(cell.source))):
        yield f"cell {number} defines a class"


def faults(notebook):
    """Everything that a lesson must not have, as sentences."""
    cells = code_cells(notebook)
    for number, cell in enumerate(cells, 1):
        if cell.execution_count is None:
            yield f"cell {number} was not executed"
        yield from source_faults(number, cell)
        yield from output_faults(number, cell)
    counts = [c.execution_count for c in cells]
    if None not in counts and counts != list(range(1, len(cells) + 1)):
        yield f"cells were executed in the order {counts}"
    if not any(c.outputs for c in cells):
        yield "no cell has an output, so nothing is compared"
    if "widgets" in notebook.metadata:
        yield "the state of widgets is stored"
    if notebook.metadata.get("fmlab", {}).get("executed") != TOOL.digest(notebook):
        yield "the outputs are stale: a cell was edited after `make notebooks`"


def good():
    """A small lesson without faults."""
    cells = [
        new_markdown_cell("# A lesson"),
        new_code_cell("x = 1", execution_count=1),
        new_code_cell("print(x)", execution_count=2, outputs=[new_output("stream", name="stdout", text="1\n")]),
    ]
    return TOOL.tidy(new_notebook(cells=cells))


def change(**fields):
    def apply(notebook):
        notebook.cells[2].update(copy.deepcopy(fields))
        return notebook

    return apply


def executed_again(notebook):
    """As edited by hand and then passed off as executed: only the rule in question is left to find it."""
    notebook.metadata.fmlab.executed = TOOL.digest(notebook)
    return notebook


def with_state(notebook):
    notebook.metadata["widgets"] = {}
    return notebook


def swapped(notebook):
    notebook.cells[1].execution_count, notebook.cells[2].execution_count = 2, 1
    return notebook


def show(text, mime="text/plain"):
    return new_output("display_data", {mime: text})


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (change(source="\n".join(["x = 1"] * (LINES + 1))), "13 lines"),
        (change(source="class A:\n    pass"), "defines a class"),
        (change(source="open('/home/me/data')"), "names a folder of one machine"),
        (change(execution_count=None), "was not executed"),
        (swapped, "in the order"),
        (change(outputs=[new_output("stream", name="stderr", text="hm")]), "writes to stderr"),
        (change(outputs=[new_output("stream", name="stdout", text="UserWarning: hm")]), "shows a warning"),
        (change(outputs=[new_output("error", ename="ValueError")]), "failed: ValueError"),
        (change(outputs=[show("at /tmp/x/y.py")]), "shows a folder of one machine"),
        (change(outputs=[show("{}", TOOL.WIDGET)]), "stores a widget"),
        (change(outputs=[]), "nothing is compared"),
        (with_state, "state of widgets"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_a_fault_is_found(harm, found):
    assert list(faults(good())) == []
    (fault,) = faults(executed_again(harm(good())))
    assert found in fault


def test_an_edit_after_the_run_is_found():
    (fault,) = faults(change(source="print(x + 0)")(good()))
    assert "stale" in fault


def test_what_make_notebooks_stores():
    """The author's cells stay; what differs from run to run, or is empty without a kernel, goes."""
    panel = new_output("display_data", {TOOL.WIDGET: {"model_id": "a1"}, "image/png": "", "text/plain": "panel"})
    cell = new_code_cell("panel", outputs=[panel], metadata={"execution": {"at": "noon"}, "tags": ["keep"]})
    notebook = TOOL.tidy(
        new_notebook(cells=[cell], metadata={"widgets": {}, "language_info": {"name": "python", "version": "3.11.2"}})
    )
    assert set(notebook.cells[0].outputs[0].data) == {"image/png", "text/plain"}
    assert notebook.cells[0].metadata == {"tags": ["keep"]}
    assert set(notebook.metadata) == {"kernelspec", "language_info", "fmlab"}
    assert notebook.metadata.language_info == {"name": "python"}


@pytest.mark.parametrize(
    ("source", "folded"),
    [
        ("picture = style.figure(2)\npicture", True),
        ("fig = figure()\nfig", True),
        ("def draw(ax, K):\n    ax.plot(K)", True),
        ("figures = 3\nprint(figures)", False),
        ("def one_round(w):\n    return w.mean(0)", False),
        ("lab.playground()", False),
    ],
)
def test_only_cells_that_draw_are_folded(source, folded):
    """Whatever else the author wrote there stays."""
    cell = new_code_cell(source, metadata={"jupyter": {"source_hidden": not folded, "outputs_hidden": True}})
    (cell,) = TOOL.tidy(new_notebook(cells=[cell])).cells
    assert cell.metadata.jupyter == {"outputs_hidden": True} | ({"source_hidden": True} if folded else {})


def test_one_text_however_the_kernel_cut_it():
    pieces = [new_output("stream", name=n, text=t) for n, t in (("stdout", "a"), ("stdout", "b\n"), ("stderr", "c"))]
    (cell,) = TOOL.tidy(new_notebook(cells=[new_code_cell("x", outputs=[*pieces, show("d"), show("e")])])).cells
    assert [o.get("text") for o in cell.outputs] == ["ab\n", "c", None, None]


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_notebook_is_fit_to_be_read(notebook):
    nbformat.validate(notebook)
    assert list(faults(notebook)) == []


def test_lesson_has_its_parts(lesson):
    text = "\n".join(c.source for c in lesson.cells if c.cell_type == "markdown")
    assert [part for part in IN_TEXT if part not in text] == []
    assert any(lab_calls(lesson, "predict"))
    assert lesson.cells[0].source.startswith("# ")


def test_a_prediction_is_answered_further_down(lesson):
    """And what gives the answer away is folded: outputs, or the section that has them."""
    calls = [[c.func.attr for c in method_calls(cell)] for cell in code_cells(lesson)]
    asked = next(i for i, names in enumerate(calls) if "predict" in names)
    answered = next(i for i, names in enumerate(calls) if "answer" in names)
    assert asked < answered
    cells = lesson.cells[
        lesson.cells.index(code_cells(lesson)[asked]) : lesson.cells.index(code_cells(lesson)[answered])
    ]
    assert any(c.metadata.get("jupyter", {}).get("outputs_hidden") or c.metadata.get(COLLAPSED) for c in cells)


def method_calls(cell):
    calls = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
    return [c for c in calls if isinstance(c.func, ast.Attribute)]


def checked(lesson):
    return [call.args[0].value for _, call in lab_calls(lesson, "check")]


def solutions(path):
    """name -> answer. A function whose parameters all have defaults returns the answer; any other is the answer."""
    module = load(ROOT / "course" / "solutions" / f"{path.stem}.py")
    found = {n: f for n, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__}
    return {n: f if needs(f) else f() for n, f in found.items() if not n.startswith("_")}


def needs(function):
    return any(p.default is p.empty for p in inspect.signature(function).parameters.values())


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_exercises_are_unanswered_here_and_solved_elsewhere(path):
    lesson = nbformat.read(path, as_version=4)
    for cell, _ in lab_calls(lesson, "check"):
        assert "not answered yet" in cell.outputs[0].text
    names = checked(lesson)
    assert 1 <= len(names) <= (5 if path.stem == "09_why_it_works" else 3)  # there one for each claim
    answers = solutions(path)
    assert sorted(answers) == sorted(names)
    for name, answer in answers.items():
        solved, says = teaching.verdict(name, answer)
        assert solved, says


def test_no_exercise_is_left_over():
    used = [name for path in LESSONS for name in checked(nbformat.read(path, as_version=4))]
    assert used == teaching.names()


def test_links_lead_somewhere(notebook):
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [t for t in targets if not (FOLDER / t).exists()] == []


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p != QUESTIONS], ids=lambda path: path.stem)
def test_panels_can_be_seen_without_a_kernel(path):
    shown = [cell for cell, call in lab_calls(nbformat.read(path, as_version=4)) if call.func.attr in PANELS]
    assert shown
    for cell in shown:
        assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source


def test_cells_that_draw_are_folded_and_no_others(notebook):
    for cell in code_cells(notebook):
        assert cell.metadata.get("jupyter", {}).get("source_hidden", False) == TOOL.draws(cell.source), cell.source


def test_figures_have_words_for_who_cannot_see_them(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert re.match('<img alt="[^"]{15,}" src=', output.data["text/html"]), cell.source


def test_figures_have_words_beside_them(notebook):
    """A figure's cell prints what it shows, or text follows it; the answer to a prediction may stand between."""
    cells = [c for c in notebook.cells if c.cell_type == "markdown" or "guess.answer(" not in c.source]
    for cell, after in zip(cells, [*cells[1:], None], strict=True):
        if cell.cell_type == "code" and any("image/png" in o.get("data", {}) for o in cell.outputs):
            printed = any(o.get("name") == "stdout" for o in cell.outputs)
            assert printed or (after is not None and after.cell_type == "markdown"), cell.source
