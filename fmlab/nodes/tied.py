"""Flower's programs, tied to who started them: ``python -P tied.py flower-superlink --insecure ...``

Whatever ends the parent, be it a kernel that is killed, the program ends within a second or two.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from importlib.metadata import entry_points

LEASE = 150


def end_with(parent: int) -> None:
    """End this process when ``parent`` is no longer its parent; as by Ctrl-C first, so that it may tidy up."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(3)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def wait_longer() -> None:
    """In a SuperLink: a ServerApp's process has LEASE seconds from its start to its first word, in which it imports
    torch and Flower; of Flower's own thirty a busy machine needs more, and the run would never begin."""
    from flwr.supercore.corestate import in_memory_corestate, sql_corestate

    for states in (in_memory_corestate, sql_corestate):
        states.HEARTBEAT_DEFAULT_INTERVAL = LEASE


def main() -> None:
    end_with(os.getppid())
    name, *sys.argv[1:] = sys.argv[1:]
    sys.argv[0] = name
    if name == "flower-superlink":
        wait_longer()
    (program,) = entry_points(group="console_scripts", name=name)
    sys.exit(program.load()())


if __name__ == "__main__":
    main()
