"""What a person can choose when segmenting: each option's name, default and words, written once.

The words of a field are its help on the command line and its tooltip in the widget. Knows nothing
of argparse, Qt or models; which systems there are is the registry's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from segone_napari.runtime import BadInput

DEVICES = ("auto", "cpu", "cuda", "mps")
PRESETS = ("fast", "balanced", "best")


def words(
    help_text: str, *, metavar: str | None = None, choices: tuple[str, ...] | None = None
) -> Mapping[str, Any]:
    """Make the metadata of a config's field: its help, how its value is called, what it can be."""
    return {"help": help_text, "metavar": metavar, "choices": choices}


@dataclass(frozen=True)
class SegmentOptions:
    """How to segment. Checked when made."""

    system: str = field(
        default="segone",
        metadata=words(
            "which system answers the prompts; 'segone doctor' lists them", metavar="NAME"
        ),
    )
    checkpoint: str | Path | None = field(
        default=None,
        metadata=words(
            "trained weights: the name of a bundled checkpoint, or a checkpoint folder "
            "(default: the one that comes with the system)",
            metavar="NAME|DIR",
        ),
    )
    device: str = field(
        default="auto",
        metadata=words(
            "where to compute: auto takes a GPU if there is one", metavar="|".join(DEVICES)
        ),
    )
    preset: str = field(
        default="balanced",
        metadata=words(
            "fast answers soonest, best takes longest and is the most accurate", choices=PRESETS
        ),
    )
    seed: int = field(
        default=0,
        metadata=words(
            "for systems that draw random numbers: the same seed gives the same masks again",
            metavar="N",
        ),
    )

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise BadInput(f"unknown preset {self.preset!r}; use {_listed(PRESETS)}")
        kind, colon, _ = self.device.partition(":")
        if kind not in DEVICES or (colon and kind != "cuda"):
            raise BadInput(f"unknown device {self.device!r}; use {_listed(DEVICES)}")
        if not 0 <= self.seed < 2**63:
            raise BadInput(f"the seed {self.seed} can't be used; give a whole number of 0 or more")


def help_of(config: type[Any], name: str) -> str:
    """Give the words for the field `name` of a config class: its CLI help and its tooltip."""
    return next(str(f.metadata["help"]) for f in fields(config) if f.name == name)


def _listed(options: tuple[str, ...]) -> str:
    return f"{', '.join(options[:-1])} or {options[-1]}"
