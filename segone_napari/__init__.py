"""Outline what a prompt names on an MRI, offline, in napari and from the command line.

Importing this package loads neither torch nor Qt: the public names below are loaded when
they are first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Volume": "segone_napari.volume",
    "read": "segone_napari.data.formats",
    "write": "segone_napari.data.formats",
    "Session": "segone_napari.session",
    "segment": "segone_napari.session",
}

__all__ = ["Session", "Volume", "__version__", "read", "segment", "write"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
