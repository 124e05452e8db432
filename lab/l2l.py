"""The one place that imports learn2learn.

learn2learn 0.2.0 is the library that fmlab is compared with. It is optional: `fmlab` never needs
it, and its import needs help in two places.

1. It imports torchvision, whose pip package on Linux is linked to CUDA. Beside a CPU-only torch
   torchvision's compiled operators cannot be loaded, and its import fails at the first mention of
   one: "operator torchvision::nms does not exist". Only box detection uses them. Declaring the two
   that the import mentions is enough for all the rest.
2. It imports gym 0.26, which prints a paragraph about NumPy 2 to stderr. A notebook would show
   it under the cell.
"""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: Any = None  # torch forgets the operators when this object goes


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


def import_torchvision() -> ModuleType:
    """Return the module `torchvision`, also beside a torch that it was not linked to."""
    global _declared
    if _declared is None and not _operators_load():
        import torch

        _declared = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _declared.define(schema)
    return importlib.import_module("torchvision")


def _operators_load() -> bool:
    """Whether torchvision's compiled operators fit this torch; finding out loads them."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # nothing to mend: the import itself will say that it is missing
    for library in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return False
        return True
    return False


def _silence_gym() -> None:
    # The notices alone are emptied: a real warning on stderr still shows.
    if importlib.util.find_spec("gym_notices") is not None:
        importlib.import_module("gym_notices.notices").notices.clear()
