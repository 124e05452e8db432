"""The server of the page without code: its kernels end with their pages, it has room for so many, it serves nobody
whom it cannot read. No browser."""

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar
from pathlib import Path

import nbformat
import psutil
import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

ROOT = Path(__file__).resolve().parents[1]
PROTOCOL = "v1.kernel.websocket.jupyter.org"
WAIT = 60  # seconds at most; what is waited for takes a few
SAID = "six times seven"  # by the page's one cell


def ran(coroutine):
    """What it returns, or its error. In a thread of its own: in this one a browser of other tests keeps a loop."""

    async def awaited():
        return await coroutine

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(awaited())).result()


def until(holds):
    end = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < end, holds
        time.sleep(0.1)


@pytest.fixture
def app(tmp_path):
    """Starts the server on a notebook of these cells; the answer has ``get``, ``kernels`` and the address."""
    servers = []

    def start(*options, cells=("print('six', 'times', 'seven')",), **more):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / "page.ipynb")
        servers.append(Server(tmp_path, *options, **more))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


class Server:
    def __init__(self, home, *options, alone=3):
        places = {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
        quick = [f"--Kernels.cull_idle_timeout={alone}", "--Kernels.cull_interval=1"]
        line = [sys.executable, str(ROOT / "tools" / "app.py"), str(home / "page.ipynb"), "--no-browser", *quick]
        self.log = home / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*line, *options],
                env=os.environ | places,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.jar = CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))
        until(lambda: self.process.poll() is not None or "is running at" in self.said())
        assert self.process.poll() is None, self.said()
        port = re.search(r"running at:\s*http://[^:/]+:(\d+)/", self.said()).group(1)
        self.where = f"127.0.0.1:{port}"

    def said(self):
        return self.log.read_text()

    def get(self, path="/"):
        """(status, text)"""
        try:
            with self.opener.open(f"http://{self.where}{path}", timeout=WAIT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def kernels(self):
        children = psutil.Process(self.process.pid).children()
        return [p for p in children if p.status() != psutil.STATUS_ZOMBIE and "ipykernel_launcher" in p.cmdline()]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def kernel_of(page):
    return re.search(r'"kernelId": ?"([0-9a-f-]+)"', page).group(1)


async def connected(server, kernel, protocols):
    cookies = "; ".join(f"{c.name}={c.value}" for c in server.jar)
    request = HTTPRequest(f"ws://{server.where}/api/kernels/{kernel}/channels", headers={"Cookie": cookies})
    return await websocket_connect(request, subprotocols=protocols)


def test_a_kernel_ends_with_its_page_and_not_before(app):
    """Of two pages one stays connected: its kernel stays, the one of a plain request ends."""
    server = app("--room=2")
    kept, left = server.get()[1], server.get()[1]
    assert SAID in kept
    assert len(server.kernels()) == 2

    async def stay():
        connection = await connected(server, kernel_of(kept), [PROTOCOL])
        while len(server.kernels()) > 1:
            await asyncio.sleep(0.1)
        await asyncio.sleep(6)  # twice the time without a page
        alive = server.get(f"/api/kernels/{kernel_of(kept)}")[0], server.get(f"/api/kernels/{kernel_of(left)}")[0]
        connection.close()
        return alive

    assert ran(asyncio.wait_for(stay(), WAIT)) == (200, 404)
    until(lambda: not server.kernels())


def test_a_kernel_that_trains_for_nobody_ends_too(app):
    """Messages without end are no page: Jupyter's own rule would take them for one."""
    talk = (
        "import threading, time\nfrom IPython.display import display\nfrom ipywidgets import IntText\nw = IntText()\n"
    )
    talk += "def run():\n    while True:\n        w.value += 1\n        time.sleep(0.1)\n"
    server = app(cells=[talk + "threading.Thread(target=run, daemon=True).start()\nw"])
    assert server.get()[0] == 200
    until(lambda: not server.kernels())


def test_a_page_closed_before_it_was_complete(app):
    """The cells that are left are not run for nobody."""
    server = app(cells=["print('begun')", "import time\ntime.sleep(600)"])
    with urllib.request.urlopen(f"http://{server.where}/", timeout=WAIT) as answer:
        while "begun" not in answer.readline().decode():
            pass
        assert len(server.kernels()) == 1
    until(lambda: not server.kernels())
    assert "Uncaught exception" not in server.said()


def test_the_goodbye_of_a_page_ends_its_kernel(app):
    """As the page says it: a form with the token that it has as a cookie. Without the token it is refused."""
    server = app(alone=600)
    kernel = kernel_of(server.get()[1])
    address = f"http://{server.where}/voila/api/shutdown/{kernel}"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(address, data=b"_xsrf="), timeout=WAIT)
    (token,) = (c.value for c in server.jar if c.name == "_xsrf")
    with server.opener.open(urllib.request.Request(address, data=f"_xsrf={token}".encode()), timeout=WAIT) as answer:
        assert answer.status == 204
    until(lambda: not server.kernels())


def test_a_full_room_says_so_and_has_room_again(app):
    server = app("--room=1")
    assert server.get()[0] == 200
    status, page = server.get()
    assert status == 503
    for words in ("The room is full", "1 page is open", "Close a page", "--room=2"):
        assert words in page
    assert len(server.kernels()) == 1
    until(lambda: server.get()[0] == 200)


def test_visitors_at_once_are_no_more_than_the_room(app):
    """Also while the first kernels only start."""
    server = app("--room=2")

    async def all_at_once():
        return await asyncio.gather(*[asyncio.to_thread(server.get) for _ in range(5)])

    assert sorted(status for status, _ in ran(all_at_once())) == [200, 200, 503, 503, 503]


def test_a_connection_that_voila_cannot_read_is_refused(app):
    server = app()
    kernel = kernel_of(server.get()[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # tornado's client leaves the socket of a refusal open
        with pytest.raises(HTTPClientError, match="400"):
            ran(connected(server, kernel, []))
        gc.collect()
    assert server.get()[0] == 200


def test_away_from_home_a_token_is_needed(app):
    server = app("--ip=0.0.0.0")
    token = re.search(r"\?token=([0-9a-f]{20,})", server.said()).group(1)
    _, page = server.get()
    assert SAID not in page
    assert server.kernels() == []
    assert server.get("/?token=wrong")[0] == 200
    assert server.kernels() == []
    status, page = server.get(f"/?token={token}")
    assert status == 200
    assert SAID in page


def test_no_page_names_another_host(app):
    server = app("--room=1")
    pages = [server.get()[1], server.get()[1], server.get("/voila/static/none")[1]]
    for page in pages:
        assert re.findall(r"""(?:href|src)=["'](?:https?:)?//""", page) == []


LESSON = """## Findings

We see [another](other.ipynb).

## Exercises

### Exercise 1"""


@pytest.fixture
def lessons(tmp_path):
    """Two lessons beside the page."""
    for name, text in (("other", LESSON), ("last", "## The last")):
        cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("print('an exercise' if 1 else 0)")]
        cells.append(nbformat.v4.new_markdown_cell("## What to take away"))
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")


def test_links_between_lessons_work_and_exercises_are_left_out(app, lessons):
    server = app("--room=9")
    status, page = server.get("/other.ipynb")
    assert status == 200
    assert 'href="other.ipynb"' in page
    assert "a cell to write in" in page
    assert "Exercise 1" not in page
    assert "an exercise" not in page
    assert "What to take away" in page
    assert "an exercise" in server.get("/last.ipynb")[1]
    for gone in ("/none.ipynb", "/../page.ipynb", "/panel/none"):
        assert server.get(gone)[0] in (403, 404), gone


def test_a_panel_has_a_page_of_its_own_and_the_address_sets_it(app):
    server = app("--room=9", "--alone=drift", cells=["print('of the', 'notebook')"])
    status, page = server.get("/panel/one_client?heterogeneity=0.5&rounds=10&seeds=1&shots=99&colour=red")
    assert status == 200
    assert page.count("fmlab panel: one client") == 1
    assert "of the notebook" not in page
    assert "The address asks for shots = 99, which is left out" in page
    assert "The address asks for colour = red" in page
    assert "heterogeneity =" not in page
    assert "fmlab panel: client drift" in server.get("/?theme=dark")[1]
    assert "theme-dark" in server.get("/?theme=dark")[1]


def test_the_panels_of_the_page_are_those_of_the_lab(module):
    import lab

    panels_at = {"lab.panel.panels", *(f"lab.lessons.{name}" for name in ("drifting", "leaking", "lying"))}
    made = {name for name in lab.__all__ if lab._HOME[name] in panels_at}
    assert {*module.PANELS} == made


@pytest.fixture
def module(tool):
    return tool("app")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('<link rel="stylesheet" href="https://cdn.example/a.css" type="text/css" />', ""),
        ('<script src="//cdn.example/a.js"></script>', ""),
        ('<link href="/voila/static/a.css">', '<link href="/voila/static/a.css">'),
        ('<a href="https://example.org">a paper</a>', '<a href="https://example.org">a paper</a>'),
    ],
)
def test_at_home(module, text, kept):
    assert module.at_home(f"<p>{text}</p>") == f"<p>{kept}</p>"


def test_the_room_is_what_the_machine_has_memory_for(module, monkeypatch, tmp_path):
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: type("m", (), {"available": 6e9}))
    monkeypatch.setattr(module, "LIMITS", (str(tmp_path / "none"),))
    assert module.App().room == 10
    (tmp_path / "max").write_text("900000000\n")
    monkeypatch.setattr(module, "LIMITS", (str(tmp_path / "max"),))
    assert module.App().room == 1
