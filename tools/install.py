"""Make .venv and install the lab into it; do next to nothing when that is done already.

    python tools/install.py [extra ...]           extras of pyproject.toml: test, dev, bench, nodes, privacy, lock
    python tools/install.py --repair [extra ...]  compare every installed file with its checksum first
    python tools/install.py --here                no .venv: finish the environment of this Python (conda)

What it does stands in installing.py. This file only looks at the Python that it was given, in words that even
Python 2.7 can read.
"""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "fmlab needs Python 3.11 or newer; %s is %s. Install a newer one, or name one that you have: "
        "make lab PYTHON=python3.12" % (sys.executable, sys.version.split()[0])
    )

import installing

if __name__ == "__main__":
    installing.run(sys.argv[1:])
