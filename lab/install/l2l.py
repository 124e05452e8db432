"""The one place that imports learn2learn.

learn2learn 0.2.0 is the library that fmlab is compared with. It is optional: `fmlab` never needs
it, and its import needs help in two places.

1. It imports torchvision, which needs the help described in fmlab/vision.py.
2. It imports gym 0.26, which prints a paragraph about NumPy 2 to stderr. A notebook would show
   it under the cell.
"""

import importlib
import importlib.util
from types import ModuleType

from fmlab.vision import import_torchvision

__all__ = ["import_torchvision", "load"]


def load() -> ModuleType:
    """Return the module `learn2learn`, imported without a word on stderr."""
    if importlib.util.find_spec("learn2learn") is None:
        raise ModuleNotFoundError(
            "learn2learn is not installed; everything but the comparisons with it works. "
            "`make lab` (conda: `python tools/install.py --here`) installs it where it finds a C "
            "compiler, and says what is missing.",
            name="learn2learn",
        )
    import_torchvision()
    _silence_gym()
    return importlib.import_module("learn2learn")


def _silence_gym() -> None:
    # The notices alone are emptied: a real warning on stderr still shows.
    if importlib.util.find_spec("gym_notices") is not None:
        importlib.import_module("gym_notices.notices").notices.clear()
