"""The course to hand out: `make course` writes dist/student/, dist/instructor/ and dist/handout.html.

From one source: the lessons in notebooks/, the solutions and the notes in course/. The student's folder is the lab with
the exercises open and without the two. The instructor's has, in every lesson, each note beside the section that it
names, and each solution folded under its exercise. The handout is for paper (tools/handout.py). Nothing is run:
outputs are those that are stored. Every file is a function of the source, so that building twice gives the same.
"""

import ast
import re
import shutil
import sys
from pathlib import Path

import handout
import nbformat
import parts
from nbformat.v4 import new_markdown_cell

ROOT = Path(__file__).resolve().parent.parent
LESSON = re.compile(r"(?m)^## (?=\d\d )")
SECTION = re.compile(r"(?m)^### (.+), (\d+) minutes?$")
ROW = re.compile(r"(?m)^\| (\d\d) \| (\d+) \| (.+?) \| (.+?) \|$")
CHECK = re.compile(r'lab\.check\("(\w+)"')
PARTS = ("fmlab", "lab", "notebooks", "share", "tools", "lock", "docs", "Makefile", "pyproject.toml", "environment.yml")
LEGAL = ("LICENSE", "NOTICE")
LEFT_OUT = ("__pycache__", ".*", "*.ipynb", "my_answers.json", "README.md", "course.py", "handout.py")
README = """# {title}

    make lab     # installs once, then opens JupyterLab on notebooks/00_start_here.ipynb

Python 3.11 or newer and make are needed; no GPU, and once installed no network. Where the install goes wrong, it says
what to do, and `lab.doctor()` in a notebook looks at everything. {more}
"""
STUDENT = (
    "The course: from federated averaging to federated meta-learning",
    "`lab.report()` prints which exercises you have solved and what you predicted: a text to hand in.",
)
INSTRUCTOR = (
    "The course, as its instructor has it",
    "Notes stand beside the sections that they speak of, solutions folded under the exercises; "
    "[notes.md](notes.md) has all notes in one piece.",
)


def notes(text):
    """{number of the lesson: {title of a section, "" for the top: (minutes or None, text)}} of course/README.md."""
    found = {}
    for row in ROW.finditer(text):
        number, minutes, stop, keep = row.groups()
        top = f"Stop at, if time is short: {stop}. The one thing to keep: {keep}."
        found[number] = {"": (int(minutes), top)}
    for lesson in LESSON.split(text)[1:]:
        lesson = lesson.partition("\n## ")[0]
        number = lesson[:2]
        first, *rest = SECTION.split(lesson.partition("\n")[2])
        minutes, top = found[number][""]
        found[number][""] = minutes, f"{top}\n\n{first.strip()}".strip()
        for title, m, said in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
            found[number][title] = int(m), said.strip()
    return found


def note(name, minutes, said):
    """A cell with a note, set off from the lesson."""
    quoted = "\n".join(f"> {line}".rstrip() for line in said.splitlines())
    first = f"> **For the instructor, {minutes} minutes.**"
    cell = new_markdown_cell(f"{first}\n>\n{quoted}" if said else first, metadata={"tags": ["instructor"]})
    cell["id"] = name
    return cell


def solutions(text):
    """{exercise: code that solves it} of a file in course/solutions/: the function, and what it needs of the file."""
    tree = ast.parse(text)
    pieces = {}  # name -> source, of imports and functions
    for node in tree.body:
        source = "".join(text.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno]).rstrip()
        if isinstance(node, ast.Import | ast.ImportFrom):
            pieces.update({alias.asname or alias.name: source for alias in node.names})
        elif isinstance(node, ast.FunctionDef):
            pieces[node.name] = source
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            given = len(node.args.args) > len(node.args.defaults)
            answer = f"answer = {node.name}{'' if given else '()'}"
            found[node.name] = "\n\n\n".join([*needed(node.name, pieces), answer])
    return found


def needed(name, pieces):
    """Sources of what this function uses, and its own, in the order of the file."""
    met, waiting = set(), [name]
    while waiting:
        one = waiting.pop()
        if one in pieces and one not in met:
            met.add(one)
            waiting += [n.id for n in ast.walk(ast.parse(pieces[one])) if isinstance(n, ast.Name)]
    return list(dict.fromkeys(source for key, source in pieces.items() if key in met))


def solution(name, code):
    folded = f"<details><summary>Solution of {name}</summary>\n\n```python\n{code}\n```\n\n</details>"
    cell = new_markdown_cell(folded, metadata={"tags": ["instructor"]})
    cell["id"] = f"solution-{name.replace('_', '-')}"
    return cell


def instructors(notebook, said, solved):
    """The lesson with its notes and solutions. KeyError where a note names a section that the lesson does not have,
    or an exercise has no solution."""
    notebook = parts.split(notebook)
    said = dict(said)
    cells = []
    for number, (name, section) in enumerate(parts.sections(notebook)):
        first, *rest = section
        cells.append(first)
        if name in said:
            cells.append(note(f"note-{number}", *said.pop(name)))
        for cell in rest:
            cells.append(cell)
            if cell.cell_type == "code" and (asked := CHECK.search(cell.source)):
                cells.append(solution(asked[1], solved[asked[1]]))
    if said:
        raise KeyError(f"no section of the lesson is named {[*said]}; the notes in course/README.md speak of it")
    notebook.cells = cells
    return notebook


def lessons():
    """(name, notebook) in reading order."""
    return [(path.name, nbformat.read(path, as_version=4)) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]


def the_lab(folder, words):
    """A copy of the lab without its notebooks."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
        else:
            shutil.copy(ROOT / name, folder / name)
    for name in LEGAL:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    title, more = words
    (folder / "README.md").write_text(README.format(title=title, more=more), encoding="utf-8")


def build(out):
    """Write all three below ``out``; what an earlier build left there goes."""
    everything = lessons()
    the_lab(out / "student", STUDENT)
    for name, notebook in everything:
        nbformat.write(notebook, out / "student" / "notebooks" / name)
    the_lab(out / "instructor", INSTRUCTOR)
    text = (ROOT / "course" / "README.md").read_text(encoding="utf-8")
    shutil.copy(ROOT / "course" / "README.md", out / "instructor" / "notes.md")
    said = notes(text)
    for name, notebook in everything:
        path = ROOT / "course" / "solutions" / f"{Path(name).stem}.py"
        solved = solutions(path.read_text(encoding="utf-8")) if path.exists() else {}
        whole = instructors(notebook, said.get(name[:2], {}), solved)
        nbformat.write(whole, out / "instructor" / "notebooks" / name)
    (out / "handout.html").write_text(handout.paper([n for _, n in everything]), encoding="utf-8")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist"
    build(target)
    print(f"{target / 'student'}, {target / 'instructor'} and {target / 'handout.html'} are written.")
