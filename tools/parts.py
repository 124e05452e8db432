"""The parts of a lesson: what `make app` shows of it, and what `make course` makes of it."""

import copy
import re

from nbformat.v4 import new_markdown_cell

HEADING = re.compile(r"(?m)^(?=## )")
COLLAPSED = "jp-MarkdownHeadingCollapsed"  # JupyterLab's name for a section that shows as its title


def split(notebook):
    """A copy in which every section "## ..." begins with a cell of its own."""
    notebook = copy.deepcopy(notebook)
    cells = []
    for cell in notebook.cells:
        pieces = [p for p in HEADING.split(cell.source) if p.strip()] if cell.cell_type == "markdown" else []
        if len(pieces) < 2:
            cells.append(cell)
            continue
        for number, piece in enumerate(pieces):
            part = copy.deepcopy(cell)
            part.source = piece.rstrip("\n")
            part["id"] = f"{cell.get('id', 'cell')}-{number}" if number else cell.get("id", "cell")
            cells.append(part)
    notebook.cells = cells
    return notebook


def title(cell):
    """Of the section that begins with this cell; "" in the middle of one."""
    first = cell.source.partition("\n")[0]
    return first.removeprefix("## ").strip() if cell.cell_type == "markdown" and first.startswith("## ") else ""


def sections(notebook):
    """[(title, cells)] of a notebook that was split; what stands above the first section has the title ""."""
    found = [("", [])]
    for cell in notebook.cells:
        if title(cell):
            found.append((title(cell), []))
        found[-1][1].append(cell)
    return found


def gives_away(notebook):
    """The cells that show the answer to a prediction, which the lesson folds: outputs, or whole sections."""
    for _, cells in sections(notebook):
        folded = cells and cells[0].metadata.get(COLLAPSED, False)
        for cell in cells:
            if (folded and cell is not cells[0]) or cell.metadata.get("jupyter", {}).get("outputs_hidden", False):
                yield cell


def without_exercises(notebook, instead):
    """For a page in which nothing can be written: ``instead`` of the exercises and their cells."""
    notebook = split(notebook)
    cells = []
    for name, section in sections(notebook):
        if name == "Exercises":
            place = new_markdown_cell(f"## Exercises\n\n{instead}", metadata=section[0].metadata)
            cells.append(place)
        else:
            cells += section
    notebook.cells = cells
    return notebook


def tagged(notebook):
    """Every cell that gives an answer away has the tag "answer", for the page's style sheet."""
    for cell in gives_away(notebook):
        cell.metadata["tags"] = [*cell.metadata.get("tags", []), "answer"]
    return notebook
