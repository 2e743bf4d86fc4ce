"""The table of systems: one row a system, loaded when it is first asked for."""

import difflib
from importlib import import_module
from pathlib import Path

from segone_napari.runtime import BadInput
from segone_napari.systems.base import System

SYSTEMS: dict[str, str] = {
    "segone": "segone_napari.systems.segone:SegOne",
    "unet": "segone_napari.systems.unet:UNet",
}
"""Name of a system: the module and class that make it."""


def names() -> tuple[str, ...]:
    """The names of all systems, the default one first."""
    return tuple(SYSTEMS)


def check_name(name: str) -> None:
    """Raise `BadInput`, with suggestions, if there is no such system."""
    if name in SYSTEMS:
        return
    near = difflib.get_close_matches(name.lower(), SYSTEMS, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]!r}? " if near else ""
    raise BadInput(f"unknown system {name!r}; {advice}there are: {', '.join(SYSTEMS)}")


def create(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    preset: str = "balanced",
    seed: int = 0,
) -> System:
    """Make a system.

    Raises
    ------
    BadInput
        If there is no such system or device.
    BadCheckpoint
        If the checkpoint can't be used.
    """
    check_name(name)
    module, _, attribute = SYSTEMS[name].partition(":")
    made: System = getattr(import_module(module), attribute).create(
        checkpoint, device, preset, seed
    )
    return made
