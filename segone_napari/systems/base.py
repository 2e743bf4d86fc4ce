"""The protocol that every system follows, and what it answers with.

A *system* is anything that turns a volume and prompts into masks. `encode` is called once a
volume and may take long; `segment` is cheap for every further prompt on what was encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.runtime import Progress, no_progress
from segone_napari.volume import EMPTY_BOX, Box, Grid, Volume

__all__ = ["EMPTY_BOX", "Box", "Encoded", "Result", "Side", "System", "Teachable", "Told"]

Side = Literal["left", "right", "both"]


@dataclass(frozen=True, eq=False)
class Result:
    """The answer to one prompt, on the grid of the image that was asked about.

    Attributes
    ----------
    prompt : the words as typed.
    resolved : the canonical name they were understood as ("left hippocampus"), or None.
    side : "left", "right", "both", or None for what has no side.
    grid : the input image's grid.
    box : the part of the grid outside of which the probability is zero.
    probability : float16, the probability of each voxel inside `box`, 0 to 1.
    found : whether the image shows it. When False, `mask` is empty; `draft_mask` is not.
    confidence : 0 to 1, how sure the system is of its answer for the whole structure; None where
        the answer is a person's alone.
    seconds : time for this prompt alone, without encoding the image.
    uncertainty : float16 inside `box`, 0 to 1, where the system has one.
    colour : suggested display colour, three values 0 to 255.
    warnings : sentences a person must see ("the mask lies on the other side ...").
    suggestions : nearest known terms, when the prompt was not understood.
    """

    prompt: str
    resolved: str | None
    side: Side | None
    grid: Grid
    box: Box
    probability: NDArray[np.float16]
    found: bool
    confidence: float | None
    seconds: float
    uncertainty: NDArray[np.float16] | None = None
    colour: tuple[int, int, int] = (255, 85, 0)
    warnings: tuple[str, ...] = field(default=())
    suggestions: tuple[str, ...] = field(default=())

    @property
    def mask(self) -> Volume:
        """uint8 (i, j, k) on the input's grid: 1 where found and probability > 0.5."""
        return self._paint(self.probability > 0.5 if self.found else None, np.dtype(np.uint8))

    @property
    def draft_mask(self) -> Volume:
        """Like `mask`, also for what was judged not to be there ("show anyway")."""
        return self._paint(self.probability > 0.5, np.dtype(np.uint8))

    @property
    def probability_volume(self) -> Volume:
        """float16 (i, j, k) on the input's grid."""
        return self._paint(self.probability, np.dtype(np.float16))

    @property
    def volume_ml(self) -> float:
        """Volume of `mask` in millilitres."""
        voxels = int(np.count_nonzero(self.probability > 0.5)) if self.found else 0
        return voxels * self.grid.voxel_volume_ml

    def _paint(self, values: NDArray[Any] | None, dtype: np.dtype[Any]) -> Volume:
        data = np.zeros(self.grid.shape, dtype=dtype)
        if values is not None:
            data[self.box] = values
        return Volume(data, self.grid, self.resolved or self.prompt)


class Encoded(Protocol):
    """An image that a system has looked at. What is inside is the system's own business."""

    @property
    def grid(self) -> Grid:
        """The grid of the image."""
        ...


@runtime_checkable
class System(Protocol):
    """Turns (volume, prompts) into masks."""

    name: str
    checkpoint: str
    has_uncertainty: bool

    def encode(self, image: Volume, *, progress: Progress = no_progress) -> Encoded:
        """Look at an image once. Raises `Cancelled` when `progress` does."""
        ...

    def segment(
        self, encoded: Encoded, prompts: Sequence[str], *, progress: Progress = no_progress
    ) -> list[Result]:
        """Answer each prompt, in order, on the image's grid."""
        ...

    def preview(
        self,
        image: Volume,
        prompts: Sequence[str],
        axis: int,
        index: int,
        *,
        progress: Progress = no_progress,
    ) -> list[Result]:
        """Answer quickly for slice `index` of array axis `axis` alone, to be seen at once.

        Each result's `box` is one voxel thick along `axis`. May return an empty list. Raises
        `Cancelled` when `progress` does.
        """
        ...

    def forget(self, image: Volume | None = None) -> None:
        """Give back what is kept of one image, or of all, beside its `Encoded`."""
        ...


class Told(NamedTuple):
    """What a person corrected of a term in an image: `mask` 0 or 1 and `known`, (i, j, k)."""

    mask: NDArray[np.uint8]
    known: NDArray[np.bool_]


@runtime_checkable
class Teachable(Protocol):
    """A system that takes what a person corrected in an image into account."""

    vocabulary: Vocabulary

    def tell(self, image: Volume, corrections: Mapping[str, Told]) -> None:
        """Say what is right in an image, by canonical term."""
        ...

    def taken_over(self, encoded: Encoded, former: object) -> Encoded | None:
        """What another version has seen of an image, or None if this one would see it otherwise."""
        ...
