"""A prediction in the page: chosen and committed to while the kernel works, kept when it starts anew."""

import json

import nbformat
import pytest

from lab.lessons.record import NAME

pytestmark = pytest.mark.browser
ASK = """import lab
def panel():
    return lab.drift()
guess = lab.predict("Which ends lower?", ["FedAvg", "FedMAML"], then=panel)
guess"""
ANSWER = 'guess.answer("FedAvg", "1 against 2.", ["It is lower.", "It is higher."])'
BUSY = "import time\ntime.sleep(8)\nprint('slept')"
CONNECTED = """async () => {
  await window.jupyterapp.restored;
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
}"""
OPEN = "() => document.querySelector('.fmlab-held .fmlab-panel').checkVisibility()"


def put(servers, name, cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    servers.put(name, nbformat.writes(notebook))
    return name


def choose(page, picture):
    """With keys alone. Nothing is shown before; all of it at once."""
    asked = page.locator(".fmlab-predict")
    commit = asked.get_by_role("button", name="Commit to this guess")
    page.locator(".fmlab-held .fmlab-panel").wait_for(state="attached")
    assert commit.count() == 0  # neither seen nor reached by Tab
    assert not page.evaluate(OPEN)
    assert page.get_by_text("appears here once").is_visible()
    asked.get_by_role("radio").nth(0).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert asked.get_by_role("radio", name="FedMAML").is_checked()
    asked.screenshot(path=picture)
    commit.focus()
    page.keyboard.press("Space")
    page.wait_for_function(OPEN, timeout=2_000)
    assert asked.get_by_role("radio", name="FedAvg").is_disabled()
    assert asked.get_by_text("Your guess is kept").is_visible()


def test_it_works_while_cells_run(servers, notebook, tmp_path):
    shown = notebook(put(servers, "predict.ipynb", [ASK, BUSY, ANSWER]))
    page = shown.page
    page.evaluate(CONNECTED)
    page.evaluate("() => { window.ran = window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    choose(page, tmp_path / "chosen.png")
    assert page.get_by_text("slept", exact=True).count() == 0
    page.evaluate("() => window.ran")
    answer = page.locator(".fmlab-answer")
    answer.get_by_text("You guessed").wait_for()
    assert "FedMAML. Measured: 1 against 2. So it is another one: FedAvg." in answer.inner_text()
    kept = json.loads((servers.tmp / "lab-disabled" / "notebooks" / NAME).read_text())
    assert kept["guesses"] == {"Which ends lower?": "FedMAML"}
    assert kept["measured"] == {"Which ends lower?": "FedAvg"}
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    shown.run_all()
    page.wait_for_function(OPEN)
    assert page.locator(".fmlab-predict").get_by_role("radio", name="FedMAML").is_checked()
    answer.get_by_text("You guessed").wait_for()
    assert shown.errors() == []


def test_it_works_as_a_page_without_code(servers, voila, tmp_path):
    shown = voila(put(servers, "predict.ipynb", [ASK, ANSWER]))
    choose(shown.page, tmp_path / "chosen.png")
    shown.page.locator(".fmlab-answer").get_by_text("You guessed").wait_for()
    assert not (servers.tmp / "voila-predict" / "notebooks" / NAME).exists()  # one server, many visitors
