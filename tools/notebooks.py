"""Run every notebook in its own fresh kernel, in reading order, and store the outputs.

    python tools/notebooks.py [name ...]       only the notebooks whose file name contains a name

Nothing that differs from run to run is stored: no widget state (GitHub refuses half of it), no
reference to a widget that is gone, no times, no version of Python. A digest of the cells is stored with
the outputs, so that a test can tell when a cell was edited after it was run.
"""

import ast
import hashlib
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def digest(notebook):
    """Changes with the source of any code cell, or their order."""
    sources = [c.source for c in notebook.cells if c.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]


def tidy(notebook):
    """Keep what a reader sees and what the notebook's author wrote; drop the rest, in place."""
    notebook.metadata = nbformat.from_dict({**METADATA, "fmlab": {"executed": digest(notebook)}})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            fold(cell)
        if "outputs" in cell:
            cell.outputs = joined(cell.outputs)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            # A panel also carries a picture; without its kernel that is what can be shown.
            if len(data) > 1:
                data.pop(WIDGET, None)
    return notebook


def fold(cell):
    """JupyterLab shows a cell that only draws as a line to click on: what is drawn is the lesson, how is not."""
    jupyter = {k: v for k, v in cell.metadata.pop("jupyter", {}).items() if k != "source_hidden"}
    if draws(cell.source):
        jupyter["source_hidden"] = True
    if jupyter:
        cell.metadata["jupyter"] = jupyter


def draws(source):
    """Whether a cell makes a figure or draws on axes."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = {getattr(f, "attr", getattr(f, "id", "")) for f in calls}
    owners = {f.value.id for f in calls if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name)}
    return "figure" in names or "ax" in owners


def joined(outputs):
    """Texts of one stream that follow each other as one: where a kernel cuts them is chance."""
    kept = []
    for output in outputs:
        if kept and "name" in output and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def execute(path):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        store_widget_state=False,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    nbformat.write(tidy(notebook), path)


def main(names):
    # A panel finishes its training before it is stored.
    os.environ["FMLAB_SYNCHRONOUS"] = "1"
    # A kernel of the same name in the user's home must not win over the environment's.
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    for path in sorted(FOLDER.glob("*.ipynb")):
        if names and not any(name in path.name for name in names):
            continue
        start = time.monotonic()
        execute(path)
        print(f"{path.name:40} {time.monotonic() - start:6.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
