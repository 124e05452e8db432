"""The lab: all that a reader sees and touches. It imports fmlab, never the reverse.

Names load on first use, so that `import lab` stays quick and works in a broken environment, where
`lab.doctor()` is needed most.
"""

import importlib
from typing import Any

_HOME = {
    "check": "lab.lessons.teaching",
    "doctor": "lab.install.checkup",
    "drift": "lab.lessons.drifting",
    "federation": "lab.panel.realnodes",
    "heterogeneity": "lab.panel.panels",
    "inner_steps": "lab.panel.panels",
    "leak": "lab.lessons.leaking",
    "liars": "lab.lessons.lying",
    "one_client": "lab.panel.panels",
    "playground": "lab.panel.panels",
    "predict": "lab.lessons.predicting",
    "question": "lab.lessons.questions",
    "report": "lab.lessons.teaching",
}

__all__ = [
    "check",
    "doctor",
    "drift",
    "federation",
    "heterogeneity",
    "inner_steps",
    "leak",
    "liars",
    "one_client",
    "playground",
    "predict",
    "question",
    "report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lab' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
