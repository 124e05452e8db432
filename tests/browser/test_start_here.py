"""The first notebook as a reader meets it: the page opens, its kernel runs it, it shows a plot."""

import json
import sys
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
NAME = "00_start_here.ipynb"
# A plot that has arrived, not an icon or a broken image.
SHOWN = "() => [...document.querySelectorAll('.jp-OutputArea-output img')].some(e => e.naturalWidth > 100)"


def get(shown, path):
    with urllib.request.urlopen(f"{shown.where}{path}?token=test", timeout=30) as answer:
        return json.load(answer)


def test_it_runs_in_jupyterlab(notebook):
    """With the environment's setting of comms; panels under the reader's own against it: test_panels.py."""
    shown = notebook(NAME)
    plugin = get(shown, "/lab/api/settings/@jupyterlab/apputils-extension:kernels-settings")
    assert plugin["schema"]["properties"]["commsOverSubshells"]["default"] == "disabled"
    assert json.loads(plugin["raw"] or "{}") == {}
    shown.run_all()
    assert shown.errors() == []
    shown.page.wait_for_function(SHOWN)


def test_its_kernel_is_the_environment(notebook):
    shown = notebook(NAME)
    spec = get(shown, "/api/kernelspecs")["kernelspecs"]["python3"]["spec"]
    assert Path(spec["argv"][0]).parent == Path(sys.executable).parent


def test_no_news_pop_up(notebook):
    shown = notebook(NAME)
    plugin = get(shown, "/lab/api/settings/@jupyterlab/apputils-extension:notification")
    assert plugin["schema"]["properties"]["fetchNews"]["default"] == "false"


def test_it_shows_as_a_page_without_code(voila):
    shown = voila(NAME)
    shown.page.wait_for_function(SHOWN)
    assert shown.errors() == []
    assert shown.page.locator(".jp-InputArea-editor:visible").count() == 0
