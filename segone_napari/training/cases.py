"""What a project's corrections say, read by image: the cases that a training learns from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from segone_napari.data import formats
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.project import Correction, Project, merge_corrections
from segone_napari.project.values import ImageRef
from segone_napari.runtime import BadInput
from segone_napari.systems.base import Told
from segone_napari.volume import Volume


@dataclass(frozen=True, eq=False)
class Case:
    """All that a project's corrections say about one image.

    Attributes
    ----------
    image : its voxels.
    told : by canonical term, what a person corrected.
    new : of that, what the version in use hasn't learnt from.
    synonyms : by canonical term.
    patient : whose image it is, as its last correction says; else the image's checksum.
    axes : the array axes along which slices were corrected; empty where all voxels were.
    """

    image: Volume
    told: Mapping[str, Told]
    new: Mapping[str, Told]
    synonyms: Mapping[str, tuple[str, ...]]
    patient: str
    axes: tuple[int, ...]


def read_cases(
    project: Project, vocabulary: Vocabulary, learnt_at: str = ""
) -> tuple[list[Case], list[str]]:
    """Read all corrections, by image; what can't be used is said in sentences and left out.

    Parameters
    ----------
    learnt_at : ISO time, UTC, when the version in use learnt; empty if it never did.
    """
    found = project.corrections()
    remarks = list(found.problems)
    vocabulary = with_terms(vocabulary, names_in(found.usable))
    cases = []
    for corrections in _by_image(found.usable):
        try:
            image = _read_image(project, corrections[0].image)
        except BadInput as error:
            remarks.append(str(error))
            continue
        case = _case(image, corrections, vocabulary, remarks, learnt_at)
        if case is not None:
            cases.append(case)
    return cases, remarks


def canonical(term: str, vocabulary: Vocabulary) -> str:
    """The name that corrections of a term are collected under."""
    known = vocabulary.named(term)
    return term if known is None else known.canonical


def check_synonym(synonym: str, term: str, vocabulary: Vocabulary) -> None:
    """Raise `BadInput` if another word for a canonical term is a name of something else."""
    meant = vocabulary.match(synonym).named
    if meant and meant.canonical != term:
        raise BadInput(
            f"{synonym!r} means the {meant.canonical} and can't mean {term!r} too; leave it "
            "out, or choose another word"
        )


def told_about(project: Project, image: Volume, vocabulary: Vocabulary) -> Mapping[str, Told]:
    """What a project's corrections say of one image, by canonical term; damaged ones left out."""
    usable = project.corrections().usable
    if not any(one.image.grid.is_same_as(image.grid) for one in usable):
        return {}
    ref = ImageRef.of(image)
    case = _case(image, [c for c in usable if c.image.is_same_as(ref)], vocabulary, [])
    return {} if case is None else case.told


def image_in_file(ref: ImageRef) -> Volume:
    """Read the image that was corrected from its file.

    Raises
    ------
    BadInput
        If it has none, or the file is gone or holds another image.
    """
    again = "open the image again and correct it there"
    if ref.path is None:
        raise BadInput(f"the image {ref.name!r} of a correction was not kept; {again}")
    try:
        image = formats.read(ref.path, volume=ref.volume_index, series=ref.series)
    except (BadInput, OSError) as error:
        raise BadInput(f"a corrected image can't be read: {error}") from error
    if not ImageRef.of(image).is_same_as(ref):
        raise BadInput(f"{ref.path} is another image than the one that was corrected; {again}")
    return image


def nothing_to_learn(project: Project) -> str:
    """What to say where there is no correction that can be used."""
    return (
        f"{project.folder} has no corrections to learn from; correct some slices in the app, "
        "or give a mask with 'segone correct'."
    )


def terms_of(cases: Sequence[Case]) -> set[str]:
    """The terms that were corrected."""
    return {term for case in cases for term in case.told}


def names_in(corrections: Iterable[Correction]) -> list[tuple[str, tuple[str, ...]]]:
    """The terms of corrections, each with the synonyms that it was given."""
    return [(one.term, one.synonyms) for one in corrections]


def with_terms(vocabulary: Vocabulary, named: Iterable[tuple[str, Sequence[str]]]) -> Vocabulary:
    """Let a vocabulary know the terms that are new, and their synonyms.

    Parameters
    ----------
    named : terms with their synonyms, the oldest first: a word stays with what it named first.
    """
    for name, synonyms in named:
        term = canonical(name, vocabulary)
        is_learnt = any(entry.name == term for entry in vocabulary.learnt)
        if is_learnt or vocabulary.named(term) is None:
            vocabulary = vocabulary.with_term(term, synonyms)
    return vocabulary


def group_by_image(cases: Sequence[Case]) -> list[set[str]]:
    """Terms that were corrected on the same images, directly or by way of others."""
    groups: list[set[str]] = []
    for case in cases:
        joined = set(case.told)
        apart = []
        for group in groups:
            if group & joined:
                joined |= group
            else:
                apart.append(group)
        groups = [*apart, joined]
    return groups


def _by_image(corrections: Sequence[Correction]) -> list[list[Correction]]:
    """The same voxels in another place are another image."""
    groups: list[list[Correction]] = []
    for correction in corrections:
        same = next((g for g in groups if g[0].image.is_same_as(correction.image)), None)
        if same is None:
            groups.append([correction])
        else:
            same.append(correction)
    return groups


def _read_image(project: Project, ref: ImageRef) -> Volume:
    kept = project.kept_image(ref)
    return image_in_file(ref) if kept is None else kept


def _case(
    image: Volume,
    corrections: Sequence[Correction],
    vocabulary: Vocabulary,
    remarks: list[str],
    learnt_at: str = "",
) -> Case | None:
    by_term: dict[str, list[Correction]] = {}
    for correction in corrections:
        by_term.setdefault(canonical(correction.term, vocabulary), []).append(correction)
    told, new, synonyms = {}, {}, {}
    for term, same in by_term.items():
        readable = [replace(c, term=term) for c in same if _is_readable(c, remarks)]
        if not readable:
            continue
        told[term] = Told(*merge_corrections(readable))
        if since := [c for c in readable if c.created > learnt_at]:
            new[term] = Told(*merge_corrections(since))
        remarks.extend(_contradictions(readable))
        synonyms[term] = tuple(dict.fromkeys(s for c in readable for s in c.synonyms))
    if not told:
        return None
    axes = {c.axis for c in corrections if c.axis is not None}
    said = [c.patient for c in corrections if c.patient]
    patient = said[-1] if said else corrections[0].image.checksum
    return Case(image, told, new, synonyms, patient, tuple(sorted(axes)))


def _is_readable(correction: Correction, remarks: list[str]) -> bool:
    try:
        correction.mask()
    except BadInput as error:
        remarks.append(str(error))
        return False
    return True


def _contradictions(corrections: Sequence[Correction]) -> list[str]:
    """Say where corrections of one term and image disagree; the later one counts."""
    sentences = []
    for earlier, later in pairwise(corrections):
        both = earlier.known() & later.known()
        voxels = int(np.count_nonzero((earlier.mask() != later.mask()) & both))
        if voxels:
            sentences.append(
                f"corrections {earlier.id} and {later.id} of {later.term!r} differ in {voxels} "
                f"voxels; the later one counts"
            )
    return sentences
