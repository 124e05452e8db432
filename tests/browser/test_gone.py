"""A kernel that is gone: everything live says so, and what to do; nothing jumps, and a run puts it right."""

import nbformat
import psutil
import pytest

pytestmark = pytest.mark.browser
NAME = "gone.ipynb"
CELLS = [
    "import lab\nlab.one_client(rounds=10, seeds=1)",
    "import lab\nlab.predict('Which ends lower?', ['FedAvg', 'FedMAML'])",
    "from lab.install.button import doctor_button\ndoctor_button()",
]
LIVE = 3  # a panel, a prediction, a button
SECONDS = 15_000  # ms; the page knows within one, or some four where it only finds nobody to connect to
# Where everything stands below the first cell, and whether each control is dim and out of reach.
PLACES = """() => {
  const top = document.querySelector(".jp-Cell").getBoundingClientRect().y;
  return [...document.querySelectorAll(".jp-Cell, .fmlab-live, .fmlab-picture, .fmlab-live button, .noUi-target")]
    .map(e => e.getBoundingClientRect()).map(({x, y, width, height}) => [x, y - top, width, height].map(Math.round));
}"""
DIM = """() => [...document.querySelectorAll(".fmlab-live :is(.noUi-target, input, button)")].map(e => {
  let opacity = 1, reached = true;
  for (let up = e; up.parentElement; up = up.parentElement) {
    const style = getComputedStyle(up);
    opacity *= style.opacity;
    reached &&= style.pointerEvents !== "none";
  }
  return opacity < 0.5 && !reached;
})"""


@pytest.fixture
def put(servers):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    servers.put(NAME, nbformat.writes(notebook))


def kernels(process):
    children = psutil.Process(process.pid).children(recursive=True)
    return [c for c in children if "ipykernel_launcher" in c.cmdline()]


def drawn(page):
    page.locator(".fmlab-picture").first.wait_for()
    page.wait_for_function("document.querySelector('.fmlab-summary').innerText.length > 20")
    page.wait_for_function("!document.querySelector('.fmlab-status').innerText.includes('...')")


def says(page, what):
    """All of it says so; everything stays where it is, dimmed."""
    words = page.locator(".fmlab-gone")
    assert words.count() == LIVE
    for number in range(LIVE):
        words.nth(number).wait_for(timeout=SECONDS)
        said = words.nth(number).inner_text()
        assert "kernel is gone" in said
        assert what in said
    assert all(page.evaluate(DIM))


def silent(page):
    page.wait_for_function("[...document.querySelectorAll('.fmlab-gone')].every(e => e.offsetParent === null)")
    assert not any(page.evaluate(DIM))


def test_a_kernel_that_died_and_one_that_was_shut_down(put, servers, notebook):
    shown = notebook(NAME)
    page = shown.page
    session = "window.jupyterapp.shell.currentWidget.sessionContext"

    def kill():
        found = page.evaluate(f"{session}.session.kernel.id")
        (kernel,) = (k for p in servers.processes for k in kernels(p) if any(found in part for part in k.cmdline()))
        kernel.kill()
        page.get_by_text("appears to have died").wait_for()
        page.keyboard.press("Escape")

    def culled():
        page.evaluate(
            f"fetch('/api/kernels/' + {session}.session.kernel.id + '?token=test', {{method: 'DELETE', "
            "headers: {Authorization: 'token test'}})"
        )

    for end in (kill, culled):
        shown.run_all()
        drawn(page)
        silent(page)
        before = page.evaluate(PLACES)
        end()
        says(page, "Run the cell again")
        assert page.evaluate(PLACES) == before
        if end is kill:
            page.evaluate(f"{session}.session.kernel.info")


def test_a_page_without_code_whose_kernel_died_or_whose_server_ended(put, servers, voila):
    page = voila(NAME).page
    drawn(page)
    silent(page)
    before = page.evaluate(PLACES)
    process = servers.processes[-1]
    (kernel,) = kernels(process)
    kernel.kill()
    says(page, "Reload the page")
    assert page.evaluate(PLACES) == before
    page.reload()
    drawn(page)
    silent(page)
    process.terminate()
    says(page, "Reload the page")
    assert page.evaluate(PLACES) == before
