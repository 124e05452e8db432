"""Once installed, no network: every address but this machine's takes a connection and never answers, for the browser
and for the servers and their kernels. Nothing asks one, nothing waits, the pages are complete."""

import socket
import threading
from urllib.parse import urlsplit

import nbformat
import pytest
from playwright.sync_api import TimeoutError as Waited

pytestmark = pytest.mark.browser
NAME = "unanswered.ipynb"
CELL = "import lab\npanel = lab.heterogeneity(rounds=20, seeds=1, clients_per_round=3)\npanel"
IDLE = """before => {
  const said = document.querySelector(".fmlab-summary")?.innerText;
  return said && said !== before && /round (\\d+) of \\1\\b/.test(document.querySelector(".fmlab-status").innerText);
}"""


class Silent:
    """A proxy that takes every connection, reads what is asked, and never answers."""

    def __init__(self):
        self.door = socket.create_server(("127.0.0.1", 0))
        self.asked, self.held = [], []
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.door.getsockname()[1]}"

    def _listen(self):
        while True:
            try:
                held, _ = self.door.accept()
            except OSError:  # closed
                return
            self.held.append(held)
            threading.Thread(target=self._read, args=(held,), daemon=True).start()

    def _read(self, held):
        with held:
            while data := held.recv(4096):
                self.asked.append(data.split(b"\r\n")[0].decode("latin-1"))

    def close(self):
        self.door.close()
        for held in self.held:
            held.close()


@pytest.fixture
def proxy():
    made = []

    def make():
        made.append(Silent())
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def silent(proxy):
    """What the servers and their kernels ask is known to this one."""
    return proxy()


@pytest.fixture
def pages(chromium, proxy):
    """Chromium's own services ask its makers for this and that; what pages ask is in ``elsewhere``."""
    context = chromium.new_context(proxy={"server": proxy().address, "bypass": "127.0.0.1"})
    context.set_default_timeout(300_000)
    yield context
    context.close()


@pytest.fixture
def elsewhere(pages):
    found = []

    def note(asked):
        if urlsplit(asked.url).scheme in ("http", "https", "ws", "wss") and urlsplit(asked.url).hostname != "127.0.0.1":
            found.append(asked.url)

    pages.on("request", note)
    pages.on("page", lambda page: page.on("websocket", note))
    return found


@pytest.fixture
def servers(servers, silent, tmp_path):
    """Servers whose own requests, and those of their kernels, are not answered either."""
    variables = {f"{kind}_proxy": silent.address for kind in ("http", "https", "all")} | {"no_proxy": "127.0.0.1"}
    own = type(servers)(tmp_path, variables | {name.upper(): value for name, value in variables.items()})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    own.put(NAME, nbformat.writes(notebook))
    yield own
    own.stop()


def works(shown):
    """The panel answers a hand, and all that the page names is there."""
    page = shown.page
    page.wait_for_function(IDLE, arg="")
    said = page.locator(".fmlab-summary").inner_text()
    page.locator(".fmlab-heterogeneity .noUi-handle").focus()
    page.keyboard.press("Home")
    page.wait_for_function(IDLE, arg=said)
    assert shown.errors() == []
    assert page.locator(".fmlab-error").all_inner_texts() == [""]
    assert page.evaluate("document.readyState") == "complete"
    assert page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.outerHTML)") == []
    assert page.evaluate("[...document.fonts].filter(f => f.status === 'error').map(f => f.family)") == []


def test_such_an_address_is_asked_and_does_not_answer(pages, elsewhere):
    """Else the tests below would prove nothing."""
    page = pages.new_page()
    with pytest.raises(Waited):
        page.goto("http://elsewhere.example/", timeout=2000)
    assert elsewhere == ["http://elsewhere.example/"]


def test_the_lab_is_complete(notebook, silent, elsewhere):
    shown = notebook(NAME)
    shown.run_all()
    works(shown)
    assert elsewhere == silent.asked == []


def test_the_page_without_code_is_complete(voila, silent, elsewhere):
    works(voila(NAME))  # which waits until everything that the page names has been loaded
    assert elsewhere == silent.asked == []
