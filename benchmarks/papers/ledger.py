"""What was measured so far, run by run, in benchmarks/out/papers/: an interrupted table goes on where it was."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "out" / "papers"
Found = dict[str, Any]


class Ledger:
    """The runs of one paper, by their settings. A run that is known is not run again: delete the file to start anew."""

    def __init__(self, paper: str, folder: Path = OUT) -> None:
        self.path = folder / f"{paper}.json"
        self.known: dict[str, Found] = json.loads(self.path.read_text("utf-8")) if self.path.exists() else {}
        self.used: set[str] = set()

    def __call__(self, setting: str, run: Callable[[], Found]) -> Found:
        """What ``run()`` finds, a dict for JSON, and the ``seconds`` that it took."""
        if setting not in self.known:
            began = time.perf_counter()
            found = run()
            self.known[setting] = found | {"seconds": time.perf_counter() - began}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            half = self.path.with_suffix(".part")  # an interrupted write leaves the old file whole
            half.write_text(json.dumps(self.known, indent=1), "utf-8")
            half.replace(self.path)
            print(f"{self.path.stem}: {setting} ({self.known[setting]['seconds']:.0f} s)", flush=True)
        self.used.add(setting)
        return self.known[setting]

    @property
    def seconds(self) -> float:
        """Of the runs that the table at hand took."""
        return sum(self.known[setting]["seconds"] for setting in self.used)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation over seeds."""
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def markdown(rows: Sequence[Sequence[object]]) -> str:
    """A table; the first row is its head."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
