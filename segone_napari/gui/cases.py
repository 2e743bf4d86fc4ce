"""Finding and opening the work on an image: reads files, so it belongs in a worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segone_napari.data import formats
from segone_napari.gui.layers import LayerImage
from segone_napari.project import Case, EditHistory, ImageRef, NotSaved, Project
from segone_napari.runtime import SegOneError
from segone_napari.volume import Volume


@dataclass(frozen=True, eq=False)
class Found:
    """What is known of the work on an image.

    Attributes
    ----------
    reference : which image it is.
    case : where its work is kept; None if the project's folder can't be used.
    history : open, if there was nothing to ask about.
    problem : why nothing can be saved; empty if all is well.
    """

    reference: ImageRef
    case: Case | None
    history: EditHistory | None
    problem: str = ""


OnProblem = Callable[[NotSaved], None]


def find(
    folder: Path, image: LayerImage, path: str | None, on_problem: OnProblem, *, go_on: bool
) -> Found:
    """Look for earlier work; open it if there is none to ask about, or `go_on` is already said.

    Raises
    ------
    BadInput
        If the image can't be used.
    """
    reference = ImageRef.of(
        image.volume, path, volume_index=image.volume_index, series=image.series
    )
    try:
        case = Project(folder).case(reference)
        if case.exists and not go_on and not case.is_open:
            return Found(reference, case, None)
    except (SegOneError, OSError) as error:
        return in_memory(reference, str(error))
    return open_case(case, on_problem)


def read_again(reference: ImageRef) -> Volume:
    """Read the image that earlier work belongs to, with what was chosen when it was opened.

    Raises
    ------
    BadInput
        If it is not there any more, or can't be read.
    """
    assert reference.path is not None
    image = formats.read(reference.path, series=reference.series, volume=reference.volume_index)
    if formats.says_orientation(image) or image.grid.shape != reference.grid.shape:
        return image
    same = Volume(image.data, reference.grid, image.name, image.warnings)
    return formats.as_chosen(same) if formats.says_orientation(same) else same


def open_case(case: Case, on_problem: OnProblem) -> Found:
    """Go on with a case, or work in memory if it can't be opened."""
    try:
        return Found(case.image, case, EditHistory.open(case, on_problem=on_problem))
    except SegOneError as error:
        return in_memory(case.image, str(error))


def begin_anew(case: Case, on_problem: OnProblem) -> Found:
    """Put a case aside, where it stays, and begin a new one."""
    try:
        case.set_aside()
    except SegOneError as error:
        return in_memory(case.image, str(error))
    return open_case(case, on_problem)


def in_memory(reference: ImageRef, problem: str) -> Found:
    """Work that is not saved."""
    return Found(reference, None, EditHistory(reference.grid.shape), problem)


def interrupted(folder: Path) -> Case | None:
    """The case that was worked on last when the program died, if its image is still there."""
    try:
        cases = Project(folder).cases()
    except (SegOneError, OSError):
        return None
    for case in cases:
        if case.was_interrupted and case.image.path is not None and case.image.path.exists():
            return case
    return None


def ago(seconds: float) -> str:
    """A time span in words: "3 s ago", "2 min ago", "5 h ago", "4 days ago"."""
    if seconds < 1.5:
        return "just now"
    for limit, unit, words in ((90, 1, "s"), (5400, 60, "min"), (129600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {words} ago"
    return f"{seconds / 86400:.0f} days ago"


def offer_words(case: Case) -> str:
    """What to say of earlier work on an image."""
    when = ago(time.time() - case.changed_at)
    if case.was_interrupted:
        return (
            f"SegOne was cut off in the middle of work on {case.image.name}, {when}. "
            "All that was shown as saved is still there."
        )
    return f"You worked on {case.image.name} before, {when}."
