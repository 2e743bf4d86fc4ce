"""What a project's corrections say, by image."""

from __future__ import annotations

import numpy as np
import pytest

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.project import ImageRef, Project
from segone_napari.training.cases import names_in, read_cases, with_terms
from segone_napari.volume import Volume

SIDES = ("left hippocampus", "right hippocampus")


@pytest.mark.parametrize("terms", [(SIDES[0], SIDES[0]), SIDES])
def test_the_same_voxels_in_another_place_are_another_image(tmp_path, terms):
    voxels = np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32)
    mirrored = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirrored[0, 3] = 11
    mask = np.zeros(voxels.shape, np.uint8)
    mask[2:4, 4:7, 4:7] = 1
    project = Project(tmp_path)
    for term, affine in zip(terms, (np.eye(4), mirrored), strict=True):
        image = Volume.from_affine(voxels, affine)
        project.keep_image(image, ImageRef.of(image))
        project.add_correction(term, ImageRef.of(image), mask)
    cases, remarks = read_cases(project, Vocabulary.packaged())
    assert [set(case.told) for case in cases] == [{term} for term in terms]
    assert [case.image.affine[0, 0] for case in cases] == [1.0, -1.0]
    assert remarks == []


def test_what_was_corrected_after_a_version_learnt_is_told_apart(tmp_path):
    image = Volume.from_affine(np.arange(1000.0).reshape(10, 10, 10), np.eye(4))
    project, ref = Project(tmp_path), ImageRef.of(image)
    project.keep_image(image, ref)
    for slice_, hour in ((2, 10), (5, 12)):
        mask = np.ones(image.grid.shape)
        kept = project.add_correction(SIDES[0], ref, mask, axis=2, slices=[slice_])
        file = kept.folder / "correction.json"
        file.write_text(file.read_text().replace(kept.created, f"2024-01-01T{hour}:00:00+00:00"))
    for learnt_at, slices in (("", [2, 5]), ("2024-01-01T11:00:00+00:00", [5])):
        (case,), _ = read_cases(project, Vocabulary.packaged(), learnt_at)
        assert np.flatnonzero(case.told[SIDES[0]].known.any((0, 1))).tolist() == [2, 5]
        assert np.flatnonzero(case.new[SIDES[0]].known.any((0, 1))).tolist() == slices


@pytest.fixture
def corrected(tmp_path):
    """Adds corrections of one image, each of a slice of its own, to a project."""
    image = Volume.from_affine(np.arange(1000.0).reshape(10, 10, 10), np.eye(4))
    project, ref = Project(tmp_path), ImageRef.of(image)
    project.keep_image(image, ref)

    def correct(*terms: tuple[str, tuple[str, ...]]) -> Project:
        for slice_, (term, synonyms) in enumerate(terms):
            mask = np.ones(image.grid.shape)
            project.add_correction(term, ref, mask, axis=2, slices=[slice_], synonyms=synonyms)
        return project

    return correct


@pytest.mark.parametrize(
    ("terms", "learnt"),
    [
        ((("Cyst", ()), ("cysts", ())), ["Cyst"]),
        ((("sac", ("abscess",)), ("abscess", ())), ["sac"]),
        ((("abscess", ()), ("sac", ("abscess",))), ["abscess", "sac"]),
        ((("T1 black hole", ()), ("T2 black hole", ())), ["T1 black hole", "T2 black hole"]),
        ((("optic rim", ()), ("opticc rim", ())), ["optic rim", "opticc rim"]),
    ],
)
def test_what_is_taken_for_one_term_is_learnt_as_one_and_each_is_reached(corrected, terms, learnt):
    project = corrected(*terms)
    ((case,), _) = read_cases(project, Vocabulary.packaged())
    assert list(case.told) == learnt
    vocabulary = with_terms(Vocabulary.packaged(), names_in(project.corrections().usable))
    assert [entry.name for entry in vocabulary.learnt] == learnt
    assert {vocabulary.match(term).term.name for term, _ in terms} == set(learnt)


def test_a_correction_of_the_opposite_does_not_change_what_was_learnt(corrected):
    superior, inferior = (f"{which} longitudinal fasciculus" for which in ("superior", "inferior"))
    ((case,), _) = read_cases(
        corrected((superior, ()), (inferior, ())), Vocabulary.packaged().with_term(superior)
    )
    for slice_, term in enumerate((superior, inferior)):
        assert np.flatnonzero(case.told[term].known.any((0, 1))).tolist() == [slice_]
