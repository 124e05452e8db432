"""Open the lab (`lab`) or the page without code (`app`) on the first notebook, or the one that is named.

python tools/start.py lab|app [notebook] [options for JupyterLab or Voila]

python tools/start.py app playground --room=12
python tools/start.py app panel/heterogeneity
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER, FIRST = "notebooks", "00_start_here"
PORT = {"lab": 8888, "app": 8866}


def free(port):
    with socket.socket() as s:
        # As the servers do: a port that a server has just left is free.
        if os.name != "nt":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def asked_port(args):
    """The port that the options name, or None."""
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in ("--port", "--ServerApp.port", "--Voila.port"):
            value = value if equals else "".join(args[i + 1 : i + 2])
            return int(value) if value.isdigit() else None
    return None


def choose_port(kind, args):
    """Options that set the port. A port asked for is taken or refused; the usual one may move on."""
    port = asked_port(args)
    if port is not None:
        if port and not free(port):
            sys.exit(
                f"fmlab: port {port} is in use, perhaps by a lab that is already open. Close that "
                f'one, or name another port: make {kind} ARGS="--port={port + 1}"'
            )
        return []
    usual = PORT[kind]
    port = next((p for p in range(usual, usual + 50) if free(p)), 0)
    if port != usual:
        print(f"Port {usual} is in use, perhaps by a lab that is already open: this one takes {port}.")
    return [f"--port={port}"]


def without_display():
    names = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform.startswith("linux") and not any(os.environ.get(n) for n in names)


def choose_notebook(args):
    """(path of the notebook, the other arguments); a name may be the number or a part of it."""
    if not args or args[0].startswith("-"):
        return f"{FOLDER}/{FIRST}.ipynb", args
    names = sorted(path.stem for path in (ROOT / FOLDER).glob("*.ipynb"))
    found = [name for name in names if args[0].removesuffix(".ipynb") in name]
    if len(found) != 1:
        sys.exit(f"fmlab: {args[0]!r} names {len(found)} of the notebooks; name one of: {', '.join(names)}")
    return f"{FOLDER}/{found[0]}.ipynb", args[1:]


def choose_panel(kind, args):
    """The arguments with a panel's own page, "panel/name", as the option that it is."""
    if kind == "app" and args and args[0].startswith("panel/"):
        return [f"--alone={args[0].removeprefix('panel/')}", *args[1:]]
    return args


def command(kind, args):
    notebook, args = choose_notebook(choose_panel(kind, args))
    options = choose_port(kind, args)
    if without_display():
        options.append("--no-browser")
    if kind == "app":
        return [sys.executable, str(ROOT / "tools" / "app.py"), notebook, *options, *args]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")  # containers; JupyterLab would refuse to start
    options += [f"--ServerApp.root_dir={ROOT}", f"--LabApp.default_url=/lab/tree/{notebook}"]
    return [sys.executable, "-m", "jupyterlab", *options, *args]


def main(kind, args):
    os.chdir(ROOT)
    # A kernel of the same name in the user's home must not win over the environment's.
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    line = command(kind, args)
    sys.stdout.flush()
    if os.name == "nt":
        sys.exit(subprocess.call(line))
    os.execv(line[0], line)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
