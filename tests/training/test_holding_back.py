"""What is held back of corrections, and how the version in use and a new lesson do on it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from segone_napari.data import formats
from segone_napari.project import ImageRef, Project
from segone_napari.session import Session
from segone_napari.systems import lessons as taught
from segone_napari.systems.base import Told
from segone_napari.training import promotion, teaching
from segone_napari.training.cases import Case
from segone_napari.training.finetune import finetune
from segone_napari.training.holding_back import HeldBack, _picture, hold_back, measure, without
from segone_napari.training.lessons import Example, Slice, slices_of
from segone_napari.training.teaching import FineTuneConfig
from tests.training import phantoms
from tests.training.phantoms import TERM

QUICK = FineTuneConfig(minutes=10, steps=8, teacher=None, device="cpu")
SLICES = (5, 8, 10, 13)


class Silent:
    """A version in use that finds nothing."""

    def answer_in(self, seen, term, scene, told):
        return torch.zeros_like(scene.image)


def _patients(count: int) -> list[Example]:
    return [replace(phantoms.example(n, SLICES), patient=f"patient {n}") for n in range(count)]


def _slices(examples: list[Example]) -> list[Slice]:
    return slices_of(examples, ("axial",))


def _member(seed: int):
    image, mask = phantoms.phantom(seed)
    return Case(image, {TERM: Told(mask, np.ones(mask.shape, bool))}, {}, {}, "", ()), None


def test_what_the_version_in_use_has_not_learnt_from_is_held_back_first():
    one = [phantoms.example(0, SLICES)]
    slices = _slices(one)
    for new in slices:
        assert hold_back(one, slices, {new}, 0)[1] == [new]
    many = _patients(4)
    slices = _slices(many)
    for number in range(4):
        new = {s for s in slices if s.example == number}
        _, held, kind = hold_back(many, slices, new, 0)
        assert (set(held), kind) == (new, "patient")


def test_a_patient_who_shows_something_is_held_back():
    examples = _patients(3)
    empty = torch.zeros_like(examples[0].truth)
    for number in range(3):
        mixed = [
            replace(e, truth=e.truth if n == number else empty) for n, e in enumerate(examples)
        ]
        slices = _slices(mixed)
        assert {s.example for s in hold_back(mixed, slices, slices, 0)[1]} == {number}


def test_a_structure_painted_where_a_person_said_it_is_not_there_counts_as_wrong(monkeypatch):
    lesson = phantoms.lesson()
    lesson.network.eval()
    examples = _patients(3)
    examples[1] = replace(examples[1], truth=torch.zeros_like(examples[1].truth))
    held = [s for s in _slices(examples) if s.example == 1]
    members = [_member(n) for n in range(3)]
    after = {}
    for floor in (-9.0, 9.0):
        for member in lesson.network.members:
            member.floor.data.fill_(floor)
        shown = without(examples, held)
        (one,) = measure(Silent(), lesson, examples, shown, members, held, "patient")
        assert one.before == 1.0
        assert one.is_absent
        after[floor] = one.after
    assert after == {-9.0: 1.0, 9.0: 0.0}
    is_better, reason = promotion.judge([one], None)
    assert not is_better
    assert f"{TERM}, where it is not there: not found before, found now" in reason
    monkeypatch.setattr(promotion, "old_structures", lambda *_: None)
    card = promotion.make_card(Silent(), Silent(), [one], (), datetime.now(UTC))
    assert f"| {TERM}, not there | not found | found |" in promotion.as_markdown(card)


def test_the_version_in_use_is_shown_the_slices_that_were_not_held_back():
    shown_to = []

    class Watched(Silent):
        def answer_in(self, seen, term, scene, told):
            shown_to.append(np.flatnonzero(told[term].known.any((0, 1))).tolist())
            return super().answer_in(seen, term, scene, told)

    examples = [phantoms.example(0, SLICES)]
    case, seen = _member(0)
    known = np.zeros(case.image.grid.shape, bool)
    known[:, :, list(SLICES)] = True
    case = replace(case, told={TERM: Told(case.told[TERM].mask, known)})
    held = [Slice(0, "axial", 8)]
    shown = without(examples, held)
    measure(Watched(), phantoms.lesson(), examples, shown, [(case, seen)], held, "slice")
    assert shown_to == [[5, 10, 13]]


@pytest.mark.parametrize(
    ("plane", "top", "left"), [("axial", 1, 0), ("coronal", 2, 0), ("sagittal", 2, 1)]
)
def test_pictures_hang_as_radiologists_hang_them(plane, top, left):
    def bright_end(axis: int) -> np.ndarray:
        image = torch.zeros(12, 14, 16)
        image.narrow(axis, image.shape[axis] - 2, 2).fill_(1)
        mask = torch.zeros_like(image, dtype=torch.bool)
        slices = _picture(image, mask, mask, mask, mask, plane)
        drawn = promotion.draw_change(HeldBack(TERM, "somebody", "slice", 0.0, 0.0, False, *slices))
        return np.asarray(drawn.convert("L"))[:, : drawn.width // 3 - 4]

    up = bright_end(top)
    assert up[0].min() > 200
    assert up[-1].max() < 50
    aside = bright_end(left)
    assert aside[:, 0].min() > 200
    assert aside[:, -1].max() < 50


@pytest.fixture
def _old_structures_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "old_structures", lambda *_: None)


unmeasured = pytest.mark.usefixtures("_old_structures_unmeasured")


@unmeasured
@pytest.mark.slow
def test_a_known_structure_of_one_patient_is_compared_with_the_version_in_use(tmp_path):
    project = Project(tmp_path / "project")
    path, mask = phantoms.save(tmp_path, 0)
    ref = ImageRef.of(formats.read(path), path)
    project.add_correction("left hippocampus", ref, mask, axis=2, slices=(5, 7, 9, 11, 13))
    good = finetune(project, replace(QUICK, steps=60))
    assert good.is_used
    _answers_only_where_it_was_corrected(project, formats.read(path), mask)
    worse = finetune(project, replace(QUICK, steps=1))
    assert not worse.is_used
    assert worse.card["held_back"][0]["before"] > 0.8  # the base finds nothing


def _answers_only_where_it_was_corrected(project: Project, image, mask) -> None:
    """Of a structure that the base knows: that is what it would answer, so what it is judged by."""
    version = Session(project=project.folder, device="cpu").system
    seen = version.encode(image)
    scene = version.scene(seen, version.lessons[-1])
    told = {"left hippocampus": Told(mask, np.ones(mask.shape, dtype=bool))}
    nothing = {"left hippocampus": Told(0 * mask, np.zeros(mask.shape, dtype=bool))}
    by_base = taught.pasted(
        version.class_map(seen, "left hippocampus", scene.grid), scene.box, scene.image.device
    )
    for untold in ({}, nothing):
        answer = version.answer_in(seen, "left hippocampus", scene, untold)
        torch.testing.assert_close(answer, by_base.float())
    assert (version.answer_in(seen, "left hippocampus", scene, told) > 0.5).any()


@unmeasured
def test_what_stops_early_is_shown_no_outline_of_a_patient_held_back(tmp_path, monkeypatch):
    shown_to = []
    check = teaching.held_back_check

    def watched(lesson, shown, truth, held):
        shown_to.extend(shown[one.example].drawn[one.plane] for one in held)
        return check(lesson, shown, truth, held)

    monkeypatch.setattr(teaching, "held_back_check", watched)
    project = Project(tmp_path / "project")
    for seed in range(3):
        phantoms.correct(project, Path(tmp_path), seed)
    assert finetune(project, replace(QUICK, steps=1)).card["held_back_by"] == "patient"
    assert shown_to
    assert not any(len(drawn.indices) for drawn in shown_to)
