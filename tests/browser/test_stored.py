"""Yesterday's notebook: saved in JupyterLab, opened again without its kernel, exported; picture and words are there."""

from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter

pytestmark = pytest.mark.browser
RESULTS = Path(__file__).resolve().parents[2] / "test-results"
NAME = "stored.ipynb"
CELLS = [
    "import lab\nlab.one_client(rounds=10, seeds=1)",
    "import lab\nlab.predict('Which ends lower?', ['FedAvg', 'FedMAML'])",
]
SESSION = "window.jupyterapp.shell.currentWidget.sessionContext"


@pytest.fixture
def put(servers):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    servers.put(NAME, nbformat.writes(notebook))


def test_a_notebook_that_was_saved_shows_what_was_seen(put, servers, notebook):
    shown = notebook(NAME)
    shown.run_all()
    page = shown.page
    page.wait_for_function("document.querySelector('.fmlab-summary').innerText.length > 20")
    page.wait_for_function("!document.querySelector('.fmlab-status').innerText.includes('...')")
    before = page.locator(".fmlab-summary").inner_text()
    page.locator(".fmlab-heterogeneity .noUi-handle").focus()
    page.keyboard.press("PageDown")
    page.wait_for_function("said => document.querySelector('.fmlab-summary').innerText !== said", arg=before)
    page.wait_for_function("document.querySelector('.fmlab-status').innerText.startsWith('round 10 of 10')")
    sentence = page.locator(".fmlab-summary").inner_text()
    panel = page.locator(".fmlab-panel").element_handle()
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    assert panel.evaluate("e => e.isConnected")  # what is stored is new, what is shown has stayed
    page.evaluate(f"{SESSION}.shutdown()")
    page.close()

    again = notebook(NAME)
    page = again.page
    page.evaluate(f"{SESSION}.ready")
    notes = page.locator(".fmlab-stored")
    notes.nth(1).wait_for()
    assert all("Run the cell again" in text for text in notes.all_inner_texts())
    assert page.get_by_text("model not found").count() == 0
    picture = page.locator("img[alt*='unseen clients']")
    assert picture.evaluate("e => e.complete && e.naturalWidth") == 1120
    assert picture.get_attribute("alt") == f"{sentence} (round 10 of 10, 1 seed)"
    RESULTS.mkdir(exist_ok=True)
    page.screenshot(path=RESULTS / "stored.png")
    page.get_by_text("( ) FedMAML").wait_for()

    saved = nbformat.read(servers.tmp / "lab-disabled" / "notebooks" / NAME, as_version=4)
    assert "widgets" not in saved.metadata  # GitHub shows no notebook that has half of a widget's state
    exported, _ = HTMLExporter().from_notebook_node(saved)
    (stored,) = saved.cells[0].outputs
    assert f"data:image/png;base64,{stored.data['image/png'].strip()}" in exported.replace("\n", "")
    assert f'alt="{sentence}' in exported
    assert "( ) FedMAML" in exported
    assert stored.data["application/vnd.jupyter.widget-view+json"]["model_id"] not in exported

    again.run_all()  # and it can be moved again
    page.locator(".fmlab-panel").wait_for()
    assert page.locator(".fmlab-stored").count() == 0
