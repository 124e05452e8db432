"""Voila as `make app` runs it: one kernel for each open page, and no more pages than the machine has memory for.

python tools/app.py notebook.ipynb [--alone=panel] [--room=N] [Voila's own options]

Beside Voila 0.5 itself:

- all lessons beside the notebook are served, so that their links work: /04_heterogeneity.ipynb. Exercises, which need a
  cell to write in, are left out, and what gives away the answer to a prediction waits until there is a guess;
- a panel has a page of its own that runs no lesson: /panel/heterogeneity. With --alone=heterogeneity it is the first;
- the address sets what a panel starts from, and its look: ?heterogeneity=0.5&theme=dark&size=projector
  (lab/panel/address.py);
- a kernel ends with its page: at the page's goodbye, or where none came (a lost network, a request that is no
  browser's), once no page has been connected to it for 45 seconds and no cell of it runs;
- --room=N: how many kernels there are at most. A visitor for whom there is none left reads so;
- a connection to a kernel must speak the protocol that Voila can read: any other hangs Voila 0.5.13 for everybody;
- a page whose kernel ended (a laptop that slept, a server that was stopped) is marked as such, so that its panels can
  say so: Voila itself says nothing;
- nothing is fetched from another host: style sheets that Voila's templates name elsewhere are left out. Voila's own
  files bring the same icons along;
- where --ip is not this machine alone, a token is asked for.
"""

import contextvars
import re
import sys
import time
import uuid
from pathlib import Path
from typing import ClassVar

import jinja2
import parts
import psutil
from jupyter_core.utils import ensure_async
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from tornado.ioloop import IOLoop
from tornado.web import Finish, HTTPError
from traitlets import Integer, Unicode, default
from voila.app import Voila
from voila.tornado.handler import TornadoVoilaHandler
from voila.tornado.kernel_websocket_handler import VoilaKernelWebsocketHandler

PANELS = ("playground", "heterogeneity", "inner_steps", "one_client", "drift", "leak", "liars")
KERNEL = 450e6  # bytes that one lesson's kernel takes
PROTOCOL = "v1.kernel.websocket.jupyter.org"
AT_HOME = ("localhost", "127.0.0.1", "::1")
ELSEWHERE = re.compile(r"""<(?:link|script)\b[^>]*?\b(?:href|src)=["'](?:https?:)?//[^>]*>(?:\s*</script>)?""")
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def memory():
    """Bytes that are free on this machine, or at most in this container."""
    free = psutil.virtual_memory().available
    for path in map(Path, LIMITS):
        text = path.read_text().strip() if path.exists() else ""
        free = min(free, int(text)) if text.isdigit() else free
    return free


# A page has one kernel, and no connection to it is open for so long only where it ended or cannot be reached.
WATCH = """<script>
{
  const Plain = window.WebSocket;
  let open = 0, timer;
  const look = change => {
    open += change;
    clearTimeout(timer);
    if (open) delete document.documentElement.dataset.fmlabKernel;
    else timer = setTimeout(() => document.documentElement.dataset.fmlabKernel = "gone", 3000);
  };
  window.WebSocket = class extends Plain {
    constructor(...given) {
      super(...given);
      this.addEventListener("open", () => {
        look(1);
        this.addEventListener("close", () => look(-1));
      });
    }
  };
}
</script>"""


def at_home(page):
    """Without the style sheets and scripts of other hosts."""
    return ELSEWHERE.sub("", page)


def watched(page):
    """With the watch over its kernel, before any other script."""
    return page.replace("<head>", f"<head>{WATCH}", 1)


def main_part(page):
    """What is between Voila's own head and foot is the page's main part, to who asks for it by name."""
    return page.replace('<div id="rendered_cells"', '<div id="rendered_cells" role="main"', 1)


class AtHome(jinja2.BaseLoader):
    """The templates of a loader, without what they name elsewhere."""

    def __init__(self, loader):
        self.loader = loader

    def get_source(self, environment, template):
        source, *more = self.loader.get_source(environment, template)
        return at_home(source), *more


class Visit:
    """One request for the page, from its first moment to its last."""

    def __init__(self):
        self.kernel = str(uuid.uuid4())  # that is started for it
        self.gone = False  # closed before it was complete


VISIT = contextvars.ContextVar("visit")


class Kernels(AsyncMappingKernelManager):
    """No more than ``room``, counting those that visitors wait for, and none without a page.

    Jupyter's own rule for idle kernels would spare one that trains for a page that is closed.
    """

    room = 1

    def __init__(self, **given):
        super().__init__(**given)
        self.visits = set()
        self.alone = {}  # kernel -> since when no page is connected to it and no cell runs

    @default("cull_idle_timeout")
    def _alone(self):
        return 45  # seconds without a page after which a kernel ends; a slow tablet takes some to connect

    @default("cull_interval")
    def _look(self):
        return 10

    def full(self):
        return len({*self.list_kernel_ids(), *(v.kernel for v in self.visits if not v.gone)}) >= self.room

    async def start_kernel(self, **given):
        visit = VISIT.get()
        await super().start_kernel(**{**given, "kernel_id": visit.kernel})
        if visit.gone:
            await self.end(visit.kernel)
        return visit.kernel

    async def end(self, kernel):
        if kernel in self:
            await ensure_async(self.shutdown_kernel(kernel))

    async def cull_kernel_if_idle(self, kernel):
        busy = getattr(self.get_kernel(kernel), "execution_state", None) in ("busy", "starting")
        coming = any(v.kernel == kernel for v in self.visits)
        if busy or coming or self._kernel_connections.get(kernel, 0):
            self.alone.pop(kernel, None)
        elif time.monotonic() - self.alone.setdefault(kernel, time.monotonic()) >= self.cull_idle_timeout:
            self.log.info("No page has been open on kernel %s for %s s: it ends.", kernel, self.cull_idle_timeout)
            await self.end(kernel)
        self.alone = {k: since for k, since in self.alone.items() if k in self}


class Page(TornadoVoilaHandler):
    """The page, or the one that says that there is no room."""

    visit = None
    panel = None  # the panel that is shown alone

    async def get(self, path=None):
        if not path:
            self.panel = self.settings["alone"]
        elif path.startswith("panel/"):
            self.panel, path = path.removeprefix("panel/"), None
            if self.panel not in PANELS:
                raise HTTPError(404, f"there is no panel {self.panel!r}; there are: {', '.join(PANELS)}")
        elif path.endswith(".ipynb") and await ensure_async(self.contents_manager.file_exists(path)):
            self.notebook_path, path = path, None
        else:  # a file beside the notebook
            await super().get(path=path)
            return
        if self.current_user is not None and self.kernel_manager.full():
            self.say_full()
            return
        _ = self.xsrf_token  # as a cookie, without which the page's goodbye is refused
        self.visit = Visit()
        VISIT.set(self.visit)
        self.kernel_manager.visits.add(self.visit)
        try:
            await super().get(path=path)
        finally:
            self.kernel_manager.visits.discard(self.visit)

    def on_connection_close(self):
        """Closed before it was complete: Voila would run all the other cells for nobody."""
        super().on_connection_close()
        if self.visit is not None:
            self.visit.gone = True
            IOLoop.current().add_callback(self.kernel_manager.end, self.visit.kernel)

    def write(self, chunk):
        if self.visit is not None and self.visit.gone:
            raise Finish
        super().write(main_part(watched(at_home(chunk))) if isinstance(chunk, str) else chunk)

    def say_full(self):
        kernels = self.kernel_manager
        room, wait = kernels.room, kernels.cull_idle_timeout + kernels.cull_interval
        self.set_status(503, "The room is full")
        self.set_header("Retry-After", str(wait))
        self.set_header("Cache-Control", "no-store")
        self.write(FULL.format(room=room, wait=wait, pages="page is" if room == 1 else "pages are", more=room + 1))


class Channels(VoilaKernelWebsocketHandler):
    async def get(self, *args, **kwargs):
        asked = self.request.headers.get("Sec-WebSocket-Protocol", "")
        if PROTOCOL not in (name.strip() for name in asked.split(",")):
            raise HTTPError(400, f"a connection to a kernel asks for the subprotocol {PROTOCOL}")
        await super().get(*args, **kwargs)


class App(Voila):
    room = Integer(config=True, help="How many pages may be open at once; each has a kernel of its own.")
    alone = Unicode("", config=True, help="The panel that is shown alone, in place of the notebook.")
    classes: ClassVar = [*Voila.classes, Kernels]
    aliases: ClassVar = {**Voila.aliases, "room": "App.room", "alone": "App.alone", "ip": "Voila.ip"}

    @default("room")
    def _room(self):
        return max(1, int(0.75 * memory() / KERNEL))

    def initialize(self, argv=None):
        super().initialize(argv)
        if self.alone and self.alone not in PANELS:
            sys.exit(f"fmlab: --alone={self.alone} names no panel; name one of: {', '.join(PANELS)}")
        if self.room < 1:
            sys.exit(f"fmlab: --room={self.room} is not a whole number >= 1: how many pages may be open at once")
        if self.ip not in AT_HOME and not self.token:
            self.token, self.auto_token = None, True
        self.voila_configuration.multi_kernel_manager_class = Kernels
        self.voila_configuration.prelaunch_hook = arranged
        print(f"Up to {self.room} pages may be open at once (some 450 MB each; --room=N sets another number).")

    def init_settings(self):
        settings = super().init_settings()
        self.kernel_manager.room = self.room
        templates = settings["voila_jinja2_env"]
        templates.loader = AtHome(templates.loader)
        # A connection that no longer answers is closed, so that its kernel can end.
        return {**settings, "alone": self.alone, "ws_ping_interval": 10_000, "ws_ping_timeout": 10_000}

    def init_handlers(self):
        ours = {TornadoVoilaHandler: Page, VoilaKernelWebsocketHandler: Channels}
        return [(path, ours.get(handler, handler), *more) for path, handler, *more in super().init_handlers()]


def arranged(page, notebook, cwd):
    """What is run and shown for this request: the lesson without what needs a cell to write in, or a panel alone."""
    if page.panel:
        cells = [new_code_cell(f"import lab\n\nlab.{page.panel}()")]
        notebook = new_notebook(cells=cells, metadata=notebook.metadata)
    else:
        notebook = parts.tagged(parts.without_exercises(notebook, EXERCISES))
    large = page.get_argument("size", "") == "projector"
    notebook.cells.insert(0, new_markdown_cell(STYLE + PROJECTOR * large))
    return notebook


EXERCISES = "They need a cell to write in: `make lab` opens this lesson as a notebook, with its exercises."

# Lines that can be read; the answer to a prediction waits for a guess.
STYLE = """<style>
#rendered_cells > div > * { max-width: 1140px; margin: 0 auto; }
#rendered_cells .jp-RenderedMarkdown > :is(p, ul, ol, details) { max-width: 46em; }
#rendered_cells .jp-RenderedMarkdown a { text-decoration: underline; }
#rendered_cells:has(.fmlab-projector) > div > * { max-width: none; }
body:has(.fmlab-commit:not(.mod-active)) .celltag_answer > * { display: none; }
body:has(.fmlab-commit:not(.mod-active)) .celltag_answer::before { display: block; padding: 2px 10px;
  font-style: italic; content: "Shown once you have committed to a guess."; }
@media (max-width: 640px) { #rendered_cells .jp-Cell { padding-left: 2px; padding-right: 2px; } }
</style>"""
PROJECTOR = """<style>
#rendered_cells .jp-RenderedMarkdown, #rendered_cells .jp-OutputArea-output pre { font-size: clamp(18px, 1.5vw, 36px); }
</style>"""

FULL = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="{wait}">
<title>The room is full</title>
<style>body {{ font: 1.1em/1.5 sans-serif; max-width: 34em; margin: 12vh auto; padding: 0 1em; }}</style>
</head>
<body>
<h1>The room is full</h1>
<p>{room} {pages} open on this machine, and it has no memory for one more.</p>
<p>Close a page that nobody reads: its place is free within a minute. This page tries again by itself, every {wait}
seconds; nothing needs to be done here.</p>
<p>Whoever started the lab can make more room, on a machine that has it:
<code>make app ARGS="--room={more}"</code>. Each page takes some 450 MB.</p>
</body>
</html>
"""


if __name__ == "__main__":
    App.launch_instance()
