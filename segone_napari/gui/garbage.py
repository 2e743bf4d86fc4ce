"""Keeps Python's garbage collector from looking through all libraries while a person works.

napari collects garbage whenever a layer is removed, and with torch, napari and SAM2 loaded that
holds the window up for a quarter of a second. Whatever is there when `spare` is called is left
alone from then on, until `give_back` looks through all of it. Loading a library makes so many
objects that Python looks through everything several times, and no thread runs meanwhile:
`while_loading` puts that off.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def spare() -> None:
    """Leave alone what there is now: for the moments when libraries have been loaded."""
    gc.freeze()


@contextmanager
def while_loading() -> Iterator[None]:
    """Look for no garbage while libraries or a model are loaded, and then leave them alone."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
        spare()


def give_back() -> None:
    """Free what an image or a panel that was closed has left, and then leave the rest alone."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def look_at_all_again() -> None:
    """Let the next collection look through everything, when nobody is left to call `give_back`."""
    gc.unfreeze()
