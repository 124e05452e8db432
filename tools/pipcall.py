"""Calling pip so that only what belongs here decides what it does, and saying in one line what went wrong.

Standard library only.
"""

import os
import re
import subprocess
import sys

from lockfile import VARIABLE

# Where packages come from, how they are reached and what is printed is the user's business; all other PIP_*
# variables change what lands in .venv or whether it lands there (PIP_USER, PIP_TARGET, PIP_NO_BINARY, ...).
KEPT = {
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_TRUSTED_HOST", "PIP_CONSTRAINT",
    "PIP_CERT", "PIP_CLIENT_CERT", "PIP_PROXY", "PIP_KEYRING_PROVIDER", "PIP_TIMEOUT", "PIP_DEFAULT_TIMEOUT",
    "PIP_RETRIES", "PIP_RESUME_RETRIES", "PIP_CACHE_DIR", "PIP_NO_CACHE_DIR", "PIP_CONFIG_FILE", "PIP_LOG",
    "PIP_PROGRESS_BAR", "PIP_NO_COLOR", "PIP_NO_INPUT", "PIP_DISABLE_PIP_VERSION_CHECK", "PIP_ROOT_USER_ACTION",
}  # fmt: skip
# In a file of pip's settings these cannot be overruled from here without losing its indexes as well.
ELSEWHERE = {
    "target", "prefix", "root", "python", "platform", "python-version", "implementation", "abi",
    "only-binary", "no-binary", "dry-run", "ignore-installed", "report",
}  # fmt: skip


class Stop(Exception):
    """The install cannot go on; the text says what to do, after `details` where there are some."""

    def __init__(self, text, details=""):
        super().__init__(text)
        self.details = details


def left_out(environ):
    """The variables that pip and the Python that runs it do not get to see."""
    return sorted(
        name
        for name, value in environ.items()
        if value and (name in ("PYTHONPATH", "PYTHONHOME") or (name.startswith("PIP_") and name not in KEPT))
    )


def surroundings(environ):
    """The environment variables for pip."""
    ours = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0", "PIP_REQUIRE_HASHES": "0"}
    gone = left_out(environ)
    return {**{name: value for name, value in environ.items() if name not in gone}, **ours}


def refuse(settings):
    """Stop where pip's settings (`pip config list`) would make it install something else, or elsewhere."""
    keys = re.findall(r"^((?:global|install)\.([\w-]+))=", settings, re.MULTILINE)
    bad = [key for key, name in keys if name in ELSEWHERE]
    if bad:
        raise Stop(
            f"a file of pip's settings sets {', '.join(bad)}, with which .venv does not get what it needs. `pip config "
            "debug` shows the file; without it: PIP_CONFIG_FILE=/dev/null make lab (Windows: nul)"
        )


def call(python, arguments, cwd, **more):
    """(exit code, what pip printed)."""
    done = subprocess.run(
        [str(python), "-m", "pip", *arguments], env={**surroundings(os.environ), **more}, cwd=cwd,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def explain(step, output, log):
    """One line for a failed pip: what to do about it."""
    if "No space left" in output:
        return f"{step}: the disk is full; the lab needs 2 GB, and as much again while it installs."
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"{step}: the package index gave a file that is not the one that was locked; {log} names it. It may have "
            f"been tampered with. If you trust that index all the same: {VARIABLE}=1 make lab"
        )
    if any(s in output for s in ("Retrying (Retry(", "NewConnectionError", "NameResolutionError")):
        return (
            f"{step}: the package index cannot be reached. Check the network (behind a proxy: set "
            "HTTPS_PROXY), then run the same command again."
        )
    if "(constraint)" in output:
        return (
            f"{step}: a constraints file of your own (PIP_CONSTRAINT, or pip's settings: `pip config list`) forbids "
            "what the lab needs; without it: PIP_CONFIG_FILE=/dev/null make lab"
        )
    if "No matching distribution found for torch=" in output:
        return (
            f"{step}: torch 2.13 has no build for Python {sys.version.split()[0]} on this system. "
            "Name another Python (make lab PYTHON=python3.12) or use conda (environment.yml)."
        )
    if missing := re.search(r"No matching distribution found for (\S+)", output):
        return (
            f"{step}: the package index that pip asks has no {missing[1]} for this system and Python. Other versions "
            f"within the bounds of pyproject.toml: {VARIABLE}=1 make lab"
        )
    return f"{step}: failed; the reason stands at the end of {log}. Mend it and run the same command again."
