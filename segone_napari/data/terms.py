"""What can be asked for, and what a prompt was understood as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from segone_napari.data.lexicon import How
from segone_napari.data.prompts import Side

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""


@dataclass(frozen=True)
class Structure:
    """One entry of the vocabulary.

    Attributes
    ----------
    name : the canonical name, without a side.
    sides : whether it exists left and right.
    colour : the base colour; left is lighter, right is darker.
    synonyms : other names, unique in the whole vocabulary.
    synonyms_with_side : names that mean this only when a side is named ("left ventricle").
    also : more names, abbreviations above all, that a text model is not trained on.
    descriptions : what it is, does, or lies beside, as people say it; never trained on. Either of
        "(fluid|cavity) behind the pons" is meant.
    parts : known anatomy inside it that is not told apart.
    volume_ml : the usual range in an adult, one side.
    labels : FreeSurfer values: side ("left", "right", "midline", or "split": both sides under one
        value, told apart by the midline) to values.
    members : names of the structures that a group consists of; empty for a structure.
    """

    name: str
    sides: bool
    colour: Colour
    synonyms: tuple[str, ...]
    synonyms_with_side: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    volume_ml: tuple[float, float] = (0.0, 0.0)
    labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    members: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The canonical name and all synonyms that need no side."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True)
class Term:
    """What a prompt can be understood as.

    Attributes
    ----------
    name : the canonical name without a side ("hippocampus").
    side : "left", "right", "both", or None for what has no side.
    classes : the classes whose union it is.
    colour : for display.
    """

    name: str
    side: Side | None
    classes: tuple[str, ...]
    colour: Colour

    @property
    def canonical(self) -> str:
        """The name with its side: "left hippocampus"; both sides are just "hippocampus"."""
        return f"{self.side} {self.name}" if self.side in ("left", "right") else self.name


@dataclass(frozen=True)
class Match:
    """What a prompt was understood as.

    Attributes
    ----------
    term : None when the prompt is refused.
    how : "exact" (the canonical name), "synonym", "typo" or "description" ("almond of the temporal
        lobe"); None when refused.
    suggestions : up to three prompts that would be understood, nearest first; empty when matched.
    reason : one clause that says why it is refused; empty when matched.
    """

    term: Term | None
    how: How | None
    suggestions: tuple[str, ...] = ()
    reason: str = ""

    @property
    def named(self) -> Term | None:
        """The term, unless the prompt only describes it: a description may be another's name."""
        return None if self.how == "description" else self.term
