"""Makes torchvision importable beside a torch that it wasn't built for.

sam2 needs torchvision, and transformers imports it when it is there. torchvision's wheels are often
built for a CUDA torch; beside a CPU torch their compiled operators can't be loaded, and then
``import torchvision`` ends with "operator torchvision::nms does not exist", though nothing here
needs those operators. Call `mend_torchvision` before importing sam2 or transformers.

This can go once https://github.com/pytorch/vision checks for its operators before it registers
their shapes.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from functools import cache

import torch

SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
"""Operators whose shapes torchvision registers even when it could not load them."""


_MENDING = threading.Lock()


def mend_torchvision() -> bool:
    """Import torchvision where it is installed; returns whether it had to be mended for that.

    With a pair that matches, or without torchvision, nothing is changed. Any thread may call it.
    """
    with _MENDING:
        return _mend()


@cache
def _mend() -> bool:
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return False
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _define_operators()
    importlib.import_module("torchvision")
    return True


def _define_operators() -> None:
    """Name the operators without an implementation: calling one still says that it is missing."""
    for name, schema in SCHEMAS.items():
        torch.library.define(f"torchvision::{name}", schema)
