"""What a reader has guessed and solved, in one small file beside the notebooks: it outlives the kernel.

The file is JSON and made to be read: ``{"guesses": {question: choice}, "measured": {question: choice}, "solved":
{exercise: date}}``; to guess anew, delete the question's line. It is the
reader's own: nothing reads it but this module, and nothing is sent. On the page without code, which one server shows
to many, and where the folder cannot be written to, the record is kept in the kernel alone.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

NAME = "my_answers.json"
PARTS = ("guesses", "measured", "solved")


class Record:
    """path: the file, or None for a record that ends with the kernel. Raises nothing for a file that is missing, broken
    or not writable: ``kept`` then says False."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.kept = path is not None
        self._own: dict[str, dict[str, str]] = {part: {} for part in PARTS}

    def read(self) -> dict[str, dict[str, str]]:
        """Everything that is known: what stands in the file, and what this kernel has added."""
        stored: Any = {}
        if self.path is not None:
            with suppress(OSError, ValueError):
                stored = json.loads(self.path.read_text(encoding="utf-8"))
        found = {}
        for part, own in self._own.items():
            there = stored.get(part) if isinstance(stored, dict) else None
            found[part] = (there if isinstance(there, dict) else {}) | own
        return found

    def guess(self, question: str) -> str | None:
        return self.read()["guesses"].get(question)

    def keep_guess(self, question: str, choice: str) -> None:
        self._own["guesses"][question] = choice
        self._write()

    def keep_measured(self, question: str, choice: str) -> None:
        """The choice that the measurement bore out, beside the guess."""
        if self.read()["measured"].get(question) != choice:
            self._own["measured"][question] = choice
            self._write()

    def keep_solved(self, exercise: str) -> None:
        """The day of the first time stays."""
        if exercise not in self.read()["solved"]:
            self._own["solved"][exercise] = date.today().isoformat()
            self._write()

    def _write(self) -> None:
        """Into a file of its own first, so that another kernel never reads half of it."""
        if self.path is None:
            return
        half = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            half.write_text(json.dumps(self.read(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            half.replace(self.path)
        except OSError:
            self.kept = False
            with suppress(OSError):
                half.unlink()


def for_this_kernel() -> Record:
    """In the folder that the kernel was started in, which is the notebook's."""
    shared = "VOILA_REQUEST_URL" in os.environ or os.environ.get("SERVER_SOFTWARE", "").startswith("voila")
    return Record(None if shared else Path.cwd() / NAME)


record = for_this_kernel()
