"""One worker a panel: the newest job wins, a running one ends between two rounds, and nothing queues up.

A callback of a widget hands over a job and returns at once. The thread starts when there is work and ends when there
is none left, so a panel that nobody uses, or that was closed, holds no thread.

A job is called with ``checkpoint``, and calls it between rounds. There the newest wish is met: a newer job or a closed
panel raises ``Superseded``, a paused panel waits, and short calls handed over by ``soon`` (another client, another
step of adaptation) run without ending the training.

Synchronous mode runs every job where it is submitted, and raises its errors there: for tests, for stored notebooks,
and for Colab, which does not show what other threads send (colabtools 3373).
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Callable

Checkpoint = Callable[[], None]
Job = Callable[[Checkpoint], None]


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """A thread inside torch while Python ends would abort the process."""
    for worker in list(_workers):
        worker.close()
    for worker in list(_workers):
        thread = worker._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(10.0)


class Superseded(Exception):
    """Raised in a job by its checkpoint: a newer one waits, or the panel is closed."""


def without_code() -> bool:
    """Whether the page is Voila's: there are no cells to run."""
    return os.environ.get("SERVER_SOFTWARE", "").startswith("voila") or any(v.startswith("VOILA_") for v in os.environ)


def synchronous() -> bool:
    """Whether panels compute in the calling thread when they are not told.

    The environment's ``FMLAB_SYNCHRONOUS`` (1 or 0) decides first. Then: yes on Colab; no under a notebook server,
    which names its sessions, and under Voila; yes under pytest and nbval; no elsewhere.
    """
    told = os.environ.get("FMLAB_SYNCHRONOUS")
    if told is not None:
        return told not in ("0", "")
    if "google.colab" in sys.modules:
        return True
    if "JPY_SESSION_NAME" in os.environ or without_code():
        return False
    return "PYTEST_VERSION" in os.environ


class Worker:
    """``submit(job)``, ``soon(key, call)``, ``pause()``, ``resume()``, ``wait()``, ``close()``, from any thread."""

    def __init__(self, on_error: Callable[[BaseException], None], synchronous: bool = False) -> None:
        self._on_error = on_error
        self._synchronous = synchronous
        self._changed = threading.Condition()
        self._job: tuple[Job, Job | None] | None = None
        self._soon: dict[str, Callable[[], None]] = {}
        self._thread: threading.Thread | None = None
        self._busy = False  # in a job's foreground part
        self._drawing = False  # in calls handed over by soon()
        self._steps = 0
        self._halted = False  # a job waits at its checkpoint, paused
        self._error: BaseException | None = None
        self.paused = False
        self.closed = False
        _workers.add(self)

    # --- from the callbacks' thread -----------------------------------------------------------------

    def submit(self, job: Job, background: Job | None = None) -> None:
        """Run ``job`` instead of all earlier ones, then ``background`` while nothing newer comes."""
        if self._synchronous:
            self._run_here(job)
            return
        with self._changed:
            if self.closed:
                return
            self._job = (job, background)
            self._error = None
            self._halted = False
            self._start()

    def soon(self, key: str, call: Callable[[], None]) -> None:
        """Run ``call`` at the next checkpoint, or now where no job runs; a later call of the same key replaces it."""
        if self._synchronous:
            call()
            return
        with self._changed:
            if self.closed:
                return
            self._soon[key] = call
            self._start()

    def pause(self) -> None:
        """The running job stops at its next checkpoint, until ``resume``. No effect in synchronous mode."""
        with self._changed:
            self.paused = not self._synchronous

    def resume(self) -> None:
        with self._changed:
            self.paused = self._halted = False
            self._changed.notify_all()

    def step(self) -> None:
        """Let a paused job pass one checkpoint."""
        with self._changed:
            self._steps += 1
            self._halted = False
            self._changed.notify_all()

    def rest(self, seconds: float) -> None:
        """From a job: wait that long for something newer, and raise Superseded if it comes."""
        with self._changed:
            if self._changed.wait_for(self._overtaken, seconds):
                raise Superseded

    def wait(self, timeout: float | None = None, background: bool = False) -> bool:
        """Until the newest job is done (``background``: and what follows it), or paused; False after ``timeout``
        seconds. Raises the error that ended it."""

        def settled() -> bool:
            if self._job is not None or self._soon or self._drawing:
                return False
            return self._halted or not (self._busy or (background and self._thread is not None))

        with self._changed:
            done = self._changed.wait_for(settled, timeout)
            error, self._error = self._error, None
        if error is not None:
            raise error
        return done

    def close(self) -> None:
        """End the thread at its next checkpoint and take no more jobs."""
        with self._changed:
            self.closed = True
            self._job = None
            self._soon.clear()
            self._changed.notify_all()

    @property
    def busy(self) -> bool:
        """Whether a job waits or runs; what follows it in the background does not count."""
        return self._busy or self._job is not None

    @property
    def alive(self) -> bool:
        return self._thread is not None

    # --- in the worker's thread ---------------------------------------------------------------------

    def _run_here(self, job: Job) -> None:
        def checkpoint() -> None:
            if self.closed:
                raise Superseded

        try:
            job(checkpoint)
        except Superseded:
            pass
        except BaseException as error:
            self._on_error(error)
            raise

    def _start(self) -> None:
        """With the lock held: wake the thread, or make one."""
        self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="fmlab panel", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        background: Job | None = None
        while True:
            with self._changed:
                job, self._job = self._job, None
                soon, self._soon = self._soon, {}
                if job is None and background is None and not soon:
                    self._thread = None
                    self._changed.notify_all()
                    return
                self._busy = job is not None
                self._drawing = bool(soon)
            try:
                for call in soon.values():
                    call()
                self._drawing = False
                if job is not None:
                    background = None
                    job[0](self._checkpoint)
                    background = job[1]
                elif background is not None and not soon:
                    todo, background = background, None
                    todo(self._checkpoint)
            except Superseded:
                pass
            except BaseException as error:  # shown in the panel, and raised by wait()
                with self._changed:
                    stale = self._overtaken()
                    self._error = None if stale else error
                if not stale:
                    self._on_error(error)
            with self._changed:
                self._busy = self._drawing = self._halted = False
                self._changed.notify_all()

    def _overtaken(self) -> bool:
        return self.closed or self._job is not None

    def check(self) -> None:
        """From a job, often: raises Superseded where something newer waits; never blocks on a pause."""
        if self._overtaken():
            raise Superseded

    def _checkpoint(self) -> None:
        while True:
            with self._changed:
                self.check()
                soon, self._soon = self._soon, {}
                if not soon:
                    if not self.paused:
                        self._steps = 0
                        return
                    if self._steps:
                        self._steps -= 1
                        return
                    self._halted = True
                    self._changed.notify_all()  # wait() returns while paused
                    self._changed.wait()
                    continue
                self._drawing = True
            try:
                for call in soon.values():
                    call()
            finally:
                with self._changed:
                    self._drawing = False
                    self._changed.notify_all()
