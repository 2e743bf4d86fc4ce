"""Keeps Python's garbage collector from looking through all libraries while a person works.

napari collects garbage whenever a layer is removed, and with torch, napari and SAM2 loaded that
holds the window up for a quarter of a second. Whatever is there when `spare` is called is left
alone from then on, until `give_back` looks through all of it.
"""

from __future__ import annotations

import gc


def spare() -> None:
    """Leave alone what there is now: for the moments when libraries have been loaded."""
    gc.freeze()


def give_back() -> None:
    """Free what an image or a panel that was closed has left, and then leave the rest alone."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def look_at_all_again() -> None:
    """Let the next collection look through everything, when nobody is left to call `give_back`."""
    gc.unfreeze()
