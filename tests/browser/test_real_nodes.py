"""The panel of real nodes as a reader has it: a node is killed by its button during the run, and started again."""

import re
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("flwr", reason="needs Flower: the extra nodes, which make test and make federation install")
pytestmark = pytest.mark.browser
RESULTS = Path(__file__).resolve().parents[2] / "test-results"
NAME = "nodes.ipynb"
CELL = "import lab\npanel = lab.federation(nodes=3, rounds=2000, algorithm='FedAvg', patience=6.0)\npanel"
SECONDS = 600_000  # ms; three processes import torch, beside a browser, perhaps on a busy machine


@pytest.fixture
def put(servers):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    servers.put(NAME, nbformat.writes(notebook))


def test_a_node_is_killed_by_its_button_and_started_by_another(put, notebook):
    shown = notebook(NAME)
    page = shown.page
    complaints = []
    page.on("pageerror", lambda e: complaints.append(str(e)))
    shown.run_all()
    row, summary = page.locator(".fmlab-node-1"), page.locator(".fmlab-summary")

    def waits(where, text):
        where.filter(has_text=re.compile(text)).wait_for(timeout=SECONDS)

    def shot(name):
        RESULTS.mkdir(exist_ok=True)
        page.locator(".fmlab-panel").first.screenshot(path=RESULTS / f"nodes_{name}.png")

    waits(summary, r"After round [2-9]")
    shot("run")
    kill, start = (page.get_by_role("button", name=f"{what} node 1") for what in ("kill", "start"))
    assert kill.is_enabled()
    assert start.is_disabled()
    kill.click()
    page.locator("button:disabled", has_text="kill node 1").wait_for(timeout=SECONDS)
    waits(row, "did not answer in round")
    missed = int(re.search(r"round (\d+)", row.inner_text())[1])
    waits(summary, rf"After round ({missed + 1}|{missed + 2}|{missed + 3}|{missed + 4}|{missed + 5})\b")
    shot("killed")
    assert kill.is_disabled()
    start.click()
    waits(row, "(trains|answered) in round")
    shot("back")
    page.get_by_role("button", name="stop").click()
    waits(summary, "The run was stopped")
    assert page.locator(".fmlab-error").all_inner_texts() in ([], [""])
    assert shown.errors() == []
    assert complaints == []
