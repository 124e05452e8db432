"""The page without code, on a machine that reaches no other: it comes up whole, and its kernel ends with it."""

import re
from urllib.parse import urlsplit

import nbformat
import psutil
import pytest

pytestmark = pytest.mark.browser
NAME = "at_home.ipynb"
CELLS = [
    "import lab\npanel = lab.one_client(rounds=10, seeds=1)\npanel",
    "import ipywidgets\nipywidgets.Button(description='ears', icon='stethoscope')",
    "import ipywidgets\nipywidgets.HTMLMath(r'$\\frac{1}{2}$')",
]


@pytest.fixture
def asked(pages):
    """What the browser asks other hosts for; none of it is ever answered."""
    found = []

    def elsewhere(url):
        return urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).hostname != "127.0.0.1"

    pages.route(elsewhere, lambda route: found.append(route.request.url))
    return found


@pytest.fixture
def at_home(servers):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("A formula: $w - \\eta \\nabla f(w)$"))
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    servers.put(NAME, nbformat.writes(notebook))


def kernels(servers):
    found = [
        c for p in servers.processes for c in psutil.Process(p.pid).children() if "ipykernel_launcher" in c.cmdline()
    ]
    return {c.pid for c in found}


def test_it_asks_no_other_host(at_home, voila, asked):
    page = voila(NAME).page
    page.locator(".fmlab-picture").first.wait_for()
    page.get_by_text("ears").wait_for()
    page.locator("mjx-container").nth(1).wait_for()
    # The icon is a letter of a font: what is shown must be that font's, and it must have come.
    icon = page.locator(".fa-stethoscope")
    family = icon.evaluate("e => getComputedStyle(e, '::before').fontFamily || getComputedStyle(e).fontFamily")
    assert re.search("awesome", family, re.IGNORECASE)
    page.wait_for_function(
        "f => [...document.fonts].some(x => f.includes(x.family.replace(/\"/g, '')) && x.status === 'loaded')",
        arg=family,
    )
    assert asked == []


def test_a_closed_page_takes_its_kernel_along(at_home, voila, servers, pages):
    voila(NAME).page.locator(".fmlab-picture").first.wait_for()
    before = kernels(servers)
    second = pages.new_page()
    second.goto(servers.voila(NAME))
    second.locator(".fmlab-picture").first.wait_for()
    (new,) = kernels(servers) - before
    second.close(run_before_unload=True)
    psutil.wait_procs([psutil.Process(new)] if psutil.pid_exists(new) else [], timeout=60)
    assert not psutil.pid_exists(new)
    assert before <= kernels(servers)
