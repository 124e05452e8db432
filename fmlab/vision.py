"""The one place that imports torchvision, which fmlab needs for nothing but the download of Omniglot.

torchvision's pip package on Linux is linked to CUDA. Beside a CPU-only torch its compiled operators cannot be loaded,
and its import fails at the first mention of one: "operator torchvision::nms does not exist". Only box detection uses
them. Declaring the two that the import mentions is enough for all the rest.
"""

from __future__ import annotations

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


def import_torchvision() -> ModuleType:
    """Return the module ``torchvision``, also beside a torch that it was not linked to."""
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
