"""What is written down: named masks on one grid, and where they come from.

Knows nothing of file formats, models or napari.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segone_napari.data.vocabulary import Term, Vocabulary
from segone_napari.runtime import BadInput
from segone_napari.volume import Box, Grid, Volume

if TYPE_CHECKING:
    from segone_napari.systems.base import Result

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

Piece = tuple[Box, NDArray[np.bool_], Any]
"""A box of a grid, where a mask is inside it, and how probable it is there, 0 to 1."""

BY_HAND = "by hand"
"""What made a mask that a person drew from nothing."""

NOT_FOR_DIAGNOSIS = "For research only, not for diagnosis or treatment."


@dataclass(frozen=True, eq=False)
class Segment:
    """One structure: its name, its colour and where it is.

    Attributes
    ----------
    name : the canonical name with its side ("left hippocampus"), or what was typed.
    colour : for display.
    mask : (i, j, k), inside where not zero.
    prompt : the words as typed, where it was asked for in words.
    confidence : 0 to 1, where a system gave one.
    probability : (i, j, k) float, 0 to 1, on the mask's grid, where a system gave one.
    checkpoint : the weights that made this mask, where the content's masks differ in that.
    preset : how it was made, where that is known of each mask.
    system : what made this mask: a system's name, or `BY_HAND`; where it is empty, what made all
        of the content.
    is_edited : whether a person has changed the mask by hand; None where nobody knows.
    edited_with : by what it was changed, in order: "brush" (also the eraser and the
        fill), "sam2", "spread", "repair", "interpolation", and "confirmed" where slices were said
        to be right as they are; empty where nobody knows.
    made_at, edited_at : ISO 8601 times in UTC; empty where nobody knows.
    """

    name: str
    colour: Colour
    mask: Volume
    prompt: str = ""
    confidence: float | None = None
    probability: Volume | None = None
    checkpoint: str = ""
    preset: str = ""
    system: str = ""
    is_edited: bool | None = None
    edited_with: tuple[str, ...] = ()
    made_at: str = ""
    edited_at: str = ""

    @property
    def grid(self) -> Grid:
        """Where the mask's voxels lie."""
        return self.mask.grid

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """(i, j, k), True inside the structure."""
        return np.asarray(self.mask.data != 0)

    @property
    def volume_ml(self) -> float:
        """Volume of the mask in millilitres."""
        return int(np.count_nonzero(self.inside)) * self.grid.voxel_volume_ml


@dataclass(frozen=True, eq=False)
class Content:
    """All that one export writes: at least one segment, all of them on the same grid.

    Attributes
    ----------
    segments : in the order in which they are numbered, from 1.
    image : the MRI on the segments' grid, for its intensities.
    image_files : the file that the MRI was read from, or the folder or files of its DICOM series.
    image_checksum : of the image's voxels, as a project knows the image by.
    system, checkpoint : what made the masks; empty where nobody knows.
    options : how they were made (preset, seed), as names and values.
    subject : the label of the person in BIDS ("01"); taken from the image's name if empty.
    deidentify : whether a DICOM file leaves out who the patient is.

    Raises
    ------
    BadInput
        If there is no segment, or segments or image lie on different grids.
    """

    segments: tuple[Segment, ...]
    image: Volume | None = None
    image_files: tuple[Path, ...] = ()
    image_checksum: str = ""
    system: str = ""
    checkpoint: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    subject: str = ""
    deidentify: bool = False

    def __post_init__(self) -> None:
        if not self.segments:
            raise BadInput("there is nothing to export; outline a structure first")
        for segment in self.segments:
            if not segment.grid.is_same_as(self.grid):
                raise BadInput(
                    f"{segment.name} and {self.segments[0].name} lie on different grids; "
                    "export the masks of one image at a time"
                )
        if self.image is not None and not self.image.grid.is_same_as(self.grid, 1e-2):
            raise BadInput(
                f"the masks do not lie on the grid of {self.image.name}; "
                "name the image that they were made on"
            )

    @property
    def grid(self) -> Grid:
        """The grid of all masks."""
        return self.segments[0].grid

    @property
    def names(self) -> list[str]:
        """The names of all segments, in order."""
        return [segment.name for segment in self.segments]

    def only(self, segment: Segment) -> Content:
        """Return the same content with one of its segments alone."""
        return replace(self, segments=(segment,))


def remarks_on(content: Content) -> list[str]:
    """Say in sentences what a person must know of a content before it is relied on."""
    empty = [segment.name for segment in content.segments if not segment.inside.any()]
    return [f"{name} is empty: no voxel belongs to it" for name in empty]


def segments_of(results: Sequence[Result], *, made_at: str = "") -> list[Segment]:
    """Turn a system's results into segments; what was not found is an empty one.

    Parameters
    ----------
    made_at : ISO 8601 time in UTC at which the results were made.
    """
    return [
        Segment(
            name=result.resolved or result.prompt,
            colour=result.colour,
            mask=result.mask,
            prompt=result.prompt,
            confidence=result.confidence,
            probability=result.probability_volume,
            is_edited=False,
            made_at=made_at,
        )
        for result in results
    ]


def labels_of(segments: Sequence[Segment]) -> Volume:
    """Put all masks into one image: label *i* is the *i*-th segment, 0 is none of them.

    Where masks overlap, one that was edited by hand wins, then the more probable one, then the
    earlier one. A mask without a probability is certain.

    Returns
    -------
    Volume of uint8, or uint16 above 255 segments.
    """
    pieces = [(_EVERYWHERE, one.inside, _probability(one)) for one in segments]
    return labels_in(segments[0].grid, pieces)


def labels_in(grid: Grid, pieces: Sequence[Piece]) -> Volume:
    """Put masks of parts of a grid into one image: where they overlap, the more probable wins.

    Parameters
    ----------
    pieces : of each mask its box, where it is inside, (i, j, k) of the box, and how probable it is
        there, a number or an array of the same shape. Of equal ones the earlier one wins.

    Returns
    -------
    Volume of uint8, or uint16 above 255 masks.
    """
    labels = np.zeros(grid.shape, dtype=np.uint8 if len(pieces) <= 255 else np.uint16)
    best = np.zeros(grid.shape, dtype=np.float16)
    for label, (box, inside, probability) in enumerate(pieces, start=1):
        wins = inside & ((labels[box] == 0) | (probability > best[box]))
        labels[box][wins] = label
        best[box] = np.where(wins, probability, best[box])
    return Volume(labels, grid, "label map")


def without_overlaps(content: Content) -> Content:
    """Return the same content as a label map holds it: no voxel belongs to two segments."""
    labels = labels_of(content.segments).data
    segments = tuple(
        replace(segment, mask=segment.mask.with_data((labels == label).astype(np.uint8)))
        for label, segment in enumerate(content.segments, start=1)
    )
    return replace(content, segments=segments)


@cache
def known_term(name: str) -> Term | None:
    """Look a name with its side up in the vocabulary; None for anything else.

    A description is no name: what a person calls "cyst behind the pons" is no ventricle.
    """
    return _vocabulary().match(name).named


def known_colour(name: str, number: int) -> Colour:
    """Give a structure of the vocabulary its own colour, and anything else one of a few.

    Parameters
    ----------
    number : counted from 0; neighbours get different colours.
    """
    term = known_term(name)
    return term.colour if term else _OTHER_COLOURS[number % len(_OTHER_COLOURS)]


def file_name(name: str) -> str:
    """Turn a name into a part of a file name: ``Left hippocampus`` to ``left-hippocampus``.

    Where no letter or digit is left, it is ``structure``.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:60] or "structure"


def numbered_names(names: Sequence[str]) -> list[str]:
    """Name a file for each structure, in order: ``01_left-hippocampus``."""
    width = max(2, len(str(len(names))))
    return [f"{n:0{width}}_{file_name(name)}" for n, name in enumerate(names, start=1)]


_EVERYWHERE: Box = (slice(None), slice(None), slice(None))
_OTHER_COLOURS: tuple[Colour, ...] = (
    (255, 85, 0),
    (0, 170, 255),
    (120, 200, 0),
    (230, 60, 160),
    (250, 200, 40),
    (130, 110, 255),
)


@cache
def _vocabulary() -> Vocabulary:
    return Vocabulary.packaged()


def _probability(segment: Segment) -> Any:
    if segment.is_edited:
        return np.float16(2.0)
    if segment.probability is None:
        return np.float16(1.0)
    return segment.probability.data
