"""What a person's edits say is right: read from the history of an image, kept in the project.

It reads masks and writes files, so it belongs in a worker; it touches no widget and no layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.gui.layers import LayerImage
from segone_napari.gui.origins import OPENED
from segone_napari.project import (
    Correction,
    EditHistory,
    ImageRef,
    Project,
    Row,
    merge_corrections,
)
from segone_napari.runtime import BadInput
from segone_napari.training.cases import (
    canonical,
    check_synonym,
    image_in_file,
    names_in,
    with_terms,
)
from segone_napari.training.patients import patient_of

_NUMBERED = re.compile(r" \(\d+\)$")  # a second mask of the same structure, opened from a file


@dataclass(frozen=True, eq=False)
class Source:
    """An image that is open, with the work on it."""

    reference: ImageRef
    values: LayerImage
    history: EditHistory


@dataclass(frozen=True, eq=False)
class Said:
    """What a person said of one structure of an image.

    Attributes
    ----------
    term : of what.
    mask : uint8 (i, j, k), 0 or 1.
    axis, slices : the slices along this array axis that they corrected; None where they accepted
        the whole mask.
    """

    term: str
    mask: NDArray[np.uint8]
    axis: int | None = None
    slices: tuple[int, ...] | None = None

    def region(self) -> tuple[slice | list[int], ...]:
        """The part of the mask that is spoken of."""
        where: list[slice | list[int]] = [slice(None)] * 3
        if self.axis is not None and self.slices is not None:
            where[self.axis] = list(self.slices)
        return tuple(where)


@dataclass
class OfTerm:
    """How much was corrected of one structure: slices, and images with a whole mask, by checksum.

    Attributes
    ----------
    slices : (image, axis, index) of slices that were corrected.
    whole : images whose whole mask was accepted.
    absent : images of which was said that it is not there.
    """

    slices: set[tuple[str, int, int]] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)

    @property
    def images(self) -> set[str]:
        """All images that say something of it."""
        return {image for image, _, _ in self.slices} | self.whole | self.absent


@dataclass(frozen=True, eq=False)
class Lore:
    """All that can be learnt from.

    Attributes
    ----------
    terms : by canonical name, how much was corrected.
    synonyms : by new term, other words for it; a known structure isn't listed.
    problems : a sentence for each correction that can't be used.
    """

    terms: Mapping[str, OfTerm] = field(default_factory=dict)
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.terms)


# --- what a history says ------------------------------------------------------------------------


def is_edited(history: EditHistory, row_id: int) -> bool:
    """Whether a person has changed a row's mask since its last result."""
    for edit in history.newest_edits(row_id):
        if edit.kind == "result":
            return False
        if edit.kind not in ("row", "confirmed"):
            return True
    return False


def is_to_keep(history: EditHistory, row_id: int) -> bool:
    """Whether a row's mask is a person's, so that a new result is only offered.

    They changed it, called a slice of it right, or opened it from a file.
    """
    for edit in history.newest_edits(row_id):
        if edit.kind == "result":
            return edit.words.startswith(f"{OPENED} ")
        if edit.kind != "row":
            return True
    return False


def said_in(history: EditHistory, first_axis: int = 2) -> list[Said]:
    """What the rows of an image say is right.

    An accepted row that a person changed, or that no model made, speaks of the whole image; an
    empty one says that it is not there. Otherwise slices count that were painted or confirmed.

    Parameters
    ----------
    first_axis : the array axis that a stroke is taken to lie across if it could be several.
    """
    said: dict[tuple[str, int | None], Said] = {}
    terms = {row.id: _term_of(history, row) for row in history.rows}
    for row in sorted(history.rows, key=lambda row: terms[row.id] != row.name):
        term = terms[row.id]
        if any(known == term for known, _ in said):
            continue
        for one in _said_of(history, row, term, first_axis):
            said[term, one.axis] = one
    return list(said.values())


def _term_of(history: EditHistory, row: Row) -> str:
    """What a row is of; only a mask that was opened beside another has a number of ours."""
    is_numbered = str(row.id) in history.notes.get(OPENED, {}) and row.prompt != row.name
    return _NUMBERED.sub("", row.name) if is_numbered else row.name


def _said_of(history: EditHistory, row: Row, term: str, first_axis: int) -> list[Said]:
    mask = history.masks.get(row.id)
    if mask is None or row.state == "not found":
        return []
    if row.state == "accepted" and (not row.checkpoint or is_edited(history, row.id)):
        return [Said(term, mask)]
    by_axis = history.corrected_by_axis(row.id, first_axis)
    return [Said(term, mask, axis, tuple(sorted(slices))) for axis, slices in by_axis.items()]


# --- keeping it ---------------------------------------------------------------------------------


def keep(folder: Path, source: Source, synonyms: Mapping[str, Sequence[str]] | None = None) -> int:
    """Keep in the project what an image's work says and the project doesn't know yet.

    Parameters
    ----------
    synonyms : by term, other words for it.

    Returns
    -------
    How many corrections were added.

    Raises
    ------
    BadInput
        If the folder can't be used.
    NotSaved
        If the disk refuses.
    """
    said = said_in(source.history, source.values.layout.axes[0])
    if not said:
        return 0
    project = Project(folder)
    here = [c for c in project.corrections().usable if c.image.is_same_as(source.reference)]
    new = [
        one
        for one in said
        if not _is_known(one, [c for c in here if c.term == one.term], (synonyms or {}))
    ]
    if not new:
        return 0
    if not _can_be_read_again(source.reference):
        project.keep_image(source.values.volume, source.reference)
    patient = patient_of(project, source.reference)
    for one in new:
        project.add_correction(
            one.term,
            source.reference,
            one.mask,
            axis=one.axis,
            slices=one.slices,
            synonyms=tuple((synonyms or {}).get(one.term, ())),
            patient=patient,
        )
    return len(new)


def keep_synonyms(folder: Path, synonyms: Mapping[str, Sequence[str]]) -> None:
    """Keep other words for terms whose images aren't open, with their last correction.

    Raises
    ------
    NotSaved
        If the disk refuses.
    """
    project = Project(folder)
    for term, words in synonyms.items():
        of_term = project.corrections(term).usable
        there = {word for one in of_term for word in one.synonyms}
        if of_term and not set(words) <= there:
            last = of_term[-1]
            project.add_correction(
                term,
                last.image,
                last.mask(),
                axis=last.axis,
                slices=last.slices,
                synonyms=tuple(words),
                patient=last.patient,
                author=last.author,
            )


def check_synonyms(
    folder: Path, sources: Iterable[Source], synonyms: Mapping[str, Sequence[str]]
) -> None:
    """Raise `BadInput` if another word for a term names something else, here or in the project."""
    found = Project(folder).corrections().usable
    said = [one for source in sources for one in said_in(source.history)]
    known = with_terms(Vocabulary.packaged(), [*names_in(found), *((one.term, ()) for one in said)])
    for term, words in synonyms.items():
        for word in words:
            check_synonym(word, canonical(term, known), known)


def _is_known(
    said: Said, corrections: Sequence[Correction], synonyms: Mapping[str, Sequence[str]]
) -> bool:
    if not corrections:
        return False
    words = {word for one in corrections for word in one.synonyms}
    if not set(synonyms.get(said.term, ())) <= words:
        return False
    try:
        mask, known = merge_corrections(corrections)
    except BadInput:
        return False  # one is damaged: it is said once more
    where = said.region()
    return bool(known[where].all() and np.array_equal(mask[where], said.mask[where] != 0))


def _can_be_read_again(image: ImageRef) -> bool:
    """Whether its file holds the image as it was corrected: a layer's voxels can be replaced."""
    try:
        image_in_file(image)
    except BadInput:
        return False
    return True


# --- counting it --------------------------------------------------------------------------------


class Counter:
    """Counts what a project and open images say; remembers which masks on disk are empty."""

    def __init__(self) -> None:
        self._is_empty: dict[Path, bool] = {}

    def count(self, folder: Path, sources: Iterable[Source]) -> Lore:
        """Count it; nothing is written.

        Raises
        ------
        BadInput
            If the folder can't be used.
        """
        terms: dict[str, OfTerm] = {}
        synonyms: dict[str, tuple[str, ...]] = {}
        found = Project(folder).corrections()
        known = with_terms(Vocabulary.packaged(), names_in(found.usable))
        for one in found.usable:
            term = canonical(one.term, known)
            image = one.image.checksum
            of_term = terms.setdefault(term, OfTerm())
            _add(of_term, image, one.axis, one.slices, is_empty=self._is_absent(one))
            synonyms[term] = tuple(dict.fromkeys((*synonyms.get(term, ()), *one.synonyms)))
        for source in sources:
            for said in said_in(source.history, source.values.layout.axes[0]):
                known = with_terms(known, [(said.term, ())])
                of_term = terms.setdefault(canonical(said.term, known), OfTerm())
                image = source.reference.checksum
                is_empty = said.slices is None and not said.mask.any()
                _add(of_term, image, said.axis, said.slices, is_empty=is_empty)
        base = Vocabulary.packaged()
        new = {term: synonyms.get(term, ()) for term in terms if base.named(term) is None}
        return Lore(terms, new, found.problems)

    def _is_absent(self, one: Correction) -> bool:
        if one.slices is not None:
            return False
        if one.folder not in self._is_empty:
            try:
                self._is_empty[one.folder] = not one.mask().any()
            except BadInput:
                self._is_empty[one.folder] = False
        return self._is_empty[one.folder]


def _add(
    of_term: OfTerm,
    image: str,
    axis: int | None,
    slices: Sequence[int] | None,
    *,
    is_empty: bool,
) -> None:
    if slices is not None and axis is not None:
        of_term.slices |= {(image, axis, index) for index in slices}
        return
    # what was said last counts
    (of_term.absent if is_empty else of_term.whole).add(image)
    (of_term.whole if is_empty else of_term.absent).discard(image)


# --- in words -----------------------------------------------------------------------------------


def in_short(lore: Lore) -> str:
    """How much there is, in as few words as can be: "7 corrected slices"."""
    slices = sum(len(one.slices) for one in lore.terms.values())
    others = sum(len(one.whole) + len(one.absent) for one in lore.terms.values())
    if slices and others:
        return f"{slices + others} corrections"
    return _many(slices, "corrected slice") if slices else _listed_all(lore)


def in_full(lore: Lore) -> str:
    """How much there is: "7 slices of 2 structures in 3 images"; empty if nothing."""
    if not lore:
        return ""
    images = len(set().union(*(one.images for one in lore.terms.values())))
    what = _listed_all(lore)
    return f"{what} of {_many(len(lore.terms), 'structure')} in {_many(images, 'image')}"


def in_words(lore: Lore, most: int = 4) -> list[str]:
    """A line for each structure, of those with most corrections; the rest are counted."""

    def weight(term: str) -> tuple[int, str]:
        one = lore.terms[term]
        return -len(one.slices) - 20 * len(one.whole) - len(one.absent), term

    ordered = sorted(lore.terms, key=weight)
    shown = ordered if len(ordered) <= most + 1 else ordered[:most]
    lines = []
    for term in shown:
        one = lore.terms[term]
        what = _listed(len(one.slices), len(one.whole), len(one.absent))
        new = " (your term)" if term in lore.synonyms else ""
        lines.append(f"{term}{new}: {what} in {_many(len(one.images), 'image')}")
    if len(shown) < len(ordered):
        lines.append(f"and {_many(len(ordered) - len(shown), 'more structure')}")
    return lines


def _listed_all(lore: Lore) -> str:
    every = lore.terms.values()
    return _listed(
        sum(len(one.slices) for one in every),
        sum(len(one.whole) for one in every),
        sum(len(one.absent) for one in every),
    )


def _listed(slices: int, whole: int, absent: int) -> str:
    parts = [
        _many(slices, "slice") if slices else "",
        _many(whole, "whole outline") if whole else "",
        f"{absent} × “not there”" if absent else "",
    ]
    return ", ".join(filter(None, parts))


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
