"""A real server and a real browser, for tests that see what a reader sees.

    def test_it(notebook):
        shown = notebook("00_start_here.ipynb")                 # JupyterLab as the lab sets it up
        shown.run_all()
        shown.page.locator(".fmlab-panel").wait_for()

`notebook(name, subshells="perCommTarget")` opens it under JupyterLab's own default for comms, as a
reader has it who starts another JupyterLab. `voila(name)` opens the page without code. Each is a copy of
`notebooks/` in a temporary folder, on a free port of this machine, with no user settings.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "test-results"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
READY = """async (limit) => {
  const late = new Promise((_, no) => setTimeout(() => no(new Error("cells still run")), limit));
  const run = async () => {
    const app = window.jupyterapp;
    await app.restored;
    const panel = app.shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
    await app.commands.execute("notebook:run-all-cells");
  };
  await Promise.race([run(), late]);
}"""


class Shown:
    """One notebook in one browser page."""

    def __init__(self, page, where):
        self.page = page
        self.where = where

    def run_all(self, seconds=300):
        """Run all cells and wait for the last."""
        self.page.evaluate(READY, seconds * 1000)

    def errors(self):
        """The text of every error output in the page."""
        mime = "application/vnd.jupyter.error"
        return self.page.locator(f'[data-mime-type="{mime}"]').all_inner_texts()


def find_chromium():
    return next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="package")
def chromium():
    """A launched browser; where none is installed the test is skipped, or fails if it is required."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        bundled = playwright.chromium.executable_path
        program = find_chromium() or (bundled if Path(bundled).exists() else None)
        if program is None:
            reason = "no Chromium on PATH (Debian: apt install chromium)"
            if os.environ.get("FMLAB_REQUIRE_BROWSER"):
                pytest.fail(reason)
            pytest.skip(reason)
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Servers:
    """The servers of one test run, each started when first asked for, with these variables beside the test's own."""

    def __init__(self, tmp, variables=None):
        self.tmp = tmp
        self.variables = variables or {}
        self.running = {}
        self.processes = []
        self.own = {}

    def put(self, name, text):
        """A test's own notebook, beside the copies of the lessons."""
        self.own[name] = text
        for folder in self.tmp.glob("*/notebooks"):
            (folder / name).write_text(text)

    def lab(self, subshells):
        """Address, with its token, of a JupyterLab on a copy of the notebooks."""
        if subshells not in self.running:
            home = self.home(f"lab-{subshells}")
            # `disabled` is what the environment ships: nothing is written, so that it is tested.
            if subshells != "disabled":
                folder = home / "settings" / "@jupyterlab" / "apputils-extension"
                folder.mkdir(parents=True)
                text = json.dumps({"commsOverSubshells": subshells})
                (folder / "kernels-settings.jupyterlab-settings").write_text(text)
            port = free_port()
            options = [
                "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
                "--ServerApp.port_retries=0", "--IdentityProvider.token=test",
                f"--ServerApp.root_dir={home / 'notebooks'}",
                # Lets a test run commands of the application instead of clicking through menus.
                "--LabApp.expose_app_in_browser=True",
            ]  # fmt: skip
            address = f"http://127.0.0.1:{port}"
            self.start(home, options, f"{address}/api/status?token=test")
            self.running[subshells] = address
        return self.running[subshells]

    def voila(self, name):
        if name not in self.running:
            home = self.home(f"voila-{Path(name).stem}")
            port = free_port()
            options = [str(ROOT / "tools" / "app.py"), str(home / "notebooks" / name), "--no-browser", f"--port={port}"]
            # Not the page itself, which would start a kernel; any answer will do.
            self.start(home, options, f"http://127.0.0.1:{port}/voila/static/none")
            self.running[name] = f"http://127.0.0.1:{port}"
        return self.running[name]

    def home(self, name):
        home = self.tmp / name
        shutil.copytree(
            ROOT / "notebooks",
            home / "notebooks",
            ignore=shutil.ignore_patterns(".*"),
        )
        for own, text in self.own.items():
            (home / "notebooks" / own).write_text(text)
        return home

    def start(self, home, options, probe):
        places = {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
        places["JUPYTERLAB_SETTINGS_DIR"] = str(home / "settings")
        places["JUPYTERLAB_WORKSPACES_DIR"] = str(home / "workspaces")
        # The test runner's backend must not reach the kernels, which show plots inline.
        environ = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"} | places | self.variables
        with (home / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *options],
                env=environ, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        deadline = time.monotonic() + 180
        while not answers(probe):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{options} did not start:\n{(home / 'log').read_text()[-2000:]}")
            time.sleep(0.2)

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def answers(url):
    """Whether a server is there, whatever it answers."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False


@pytest.fixture(scope="package")
def servers(tmp_path_factory):
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers
    servers.stop()


@pytest.fixture
def pages(chromium, request):
    """Opens pages; a failed test leaves a picture of each in test-results/."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(120_000)
    yield context
    if getattr(request.node, "failed", False):
        RESULTS.mkdir(exist_ok=True)
        for number, page in enumerate(context.pages):
            name = re.sub(r"\W+", "_", request.node.name)
            page.screenshot(path=RESULTS / f"{name}_{number}.png")
    context.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    item.failed = getattr(item, "failed", False) or report.failed
    return report


@pytest.fixture
def notebook(servers, pages):
    def open_notebook(name, subshells="disabled"):
        where = servers.lab(subshells)
        page = pages.new_page()
        page.goto(f"{where}/doc/tree/{name}?token=test")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        return Shown(page, where)

    return open_notebook


@pytest.fixture
def voila(servers, pages):
    def open_page(name):
        where = servers.voila(name)
        page = pages.new_page()
        page.goto(where, timeout=300_000)
        return Shown(page, where)

    return open_page
