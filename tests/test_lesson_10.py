"""The lesson on real nodes is run, on real nodes, and prints what is stored. nbval, which runs all others, leaves it
out: it needs Flower, and some minutes on a busy machine."""

import importlib.util
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("flwr", reason="needs Flower: the extra nodes, which make test and make federation install")

ROOT = Path(__file__).resolve().parents[1]
LESSON = ROOT / "notebooks" / "10_real_nodes.ipynb"


def texts(path):
    """What each cell prints; an answer's words stand in its text/plain."""
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
            found.append(output.get("text", output.get("data", {}).get("text/plain")))
    return found


def test_the_lesson_prints_what_is_stored(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("notebooks_tool", ROOT / "tools" / "notebooks.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setenv("FMLAB_SYNCHRONOUS", "1")
    copy = tmp_path / LESSON.name
    copy.write_bytes(LESSON.read_bytes())
    tool.execute(copy)
    assert texts(copy) == texts(LESSON)
