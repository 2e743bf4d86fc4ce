"""What a teacher may add to a person's corrections, and what it may not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from segone_napari.models.teacher import Proposal
from segone_napari.runtime import BadCheckpoint
from segone_napari.training import proposals
from segone_napari.training.lessons import Example, Slice
from segone_napari.training.proposals import TrustConfig, load_teacher, propose
from tests.training import phantoms

CORRECTED = 9


class ByBrightness:
    """Outlines what is neither dark nor bright, inside the box that it is asked about."""

    def __init__(self, *, is_right: bool = True, quality: float = 0.9) -> None:
        self.is_right, self.quality = is_right, quality
        self.asked = 0
        self.shown: list[tuple[int, ...]] = []

    def set_slice(self, image, spacing=(1.0, 1.0)) -> None:
        self.image = np.asarray(image)
        self.shown.append(self.image.shape)

    def predict(self, box=None, points=None, labels=None, mask=None) -> Proposal:
        self.asked += 1
        rows, columns = np.indices(self.image.shape)
        inside = (rows >= box[0]) & (rows <= box[2]) & (columns >= box[1]) & (columns <= box[3])
        found = (self.image > 0.3) & (self.image < 0.75) & inside
        return Proposal((found if self.is_right else ~found).astype(np.float32), self.quality)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Example:
    """A phantom with one corrected slice, and a student whose mask is a little too small."""
    made = phantoms.example(0, (CORRECTED,))
    student = torch.from_numpy(phantoms.phantom(0)[1][None]).float()
    student[:, :9] = 0
    monkeypatch.setattr(proposals, "look", lambda *_: student)
    return made


@pytest.fixture
def lesson():
    """An untrained lesson on the phantom's term."""
    return phantoms.lesson()


KEPT = [Slice(0, "axial", CORRECTED)]
BOXES = TrustConfig(jitter_px=0.3)


def test_a_good_teacher_adds_slices_near_the_corrected_one(example, lesson):
    added = propose(lesson, [example], KEPT, ByBrightness(), BOXES, 0)
    assert added.trust[phantoms.TERM] > 0.9
    places = {one.place for one in added.slices}
    assert {7, 8, 10, 11} <= places <= set(range(5, 14)) - {CORRECTED}
    truth = torch.from_numpy(phantoms.phantom(0)[1])
    for place in (7, 11):
        proposed = added.examples[0].truth[0, ..., place] > 0.5
        assert phantoms.dice(proposed.numpy(), truth[..., place].numpy() > 0) > 0.9
        assert 0 < added.examples[0].weight[0, ..., place].max() < 0.5


def test_what_the_person_drew_is_never_changed(example, lesson):
    added = propose(lesson, [example], KEPT, ByBrightness(), BOXES, 0)
    for before, after in (
        (example.truth, added.examples[0].truth),
        (example.weight, added.examples[0].weight),
    ):
        assert torch.equal(before[..., CORRECTED], after[..., CORRECTED])


def test_a_teacher_that_is_wrong_on_the_persons_slices_adds_nothing(example, lesson):
    added = propose(lesson, [example], KEPT, ByBrightness(is_right=False), BOXES, 0)
    assert added.slices == []
    assert torch.equal(added.examples[0].weight, example.weight)
    assert "was not trusted" in added.remarks[0]


def test_a_teacher_that_doubts_itself_adds_nothing(example, lesson):
    assert propose(lesson, [example], KEPT, ByBrightness(quality=0.3), BOXES, 0).slices == []


def test_an_answer_that_moves_with_the_box_is_not_taken(example, lesson):
    def places(least_stability: float) -> set[int]:
        trust = TrustConfig(
            jitter_px=4.0, least_trust=0.0, least_agreement=0.0, least_stability=least_stability
        )
        return {s.place for s in propose(lesson, [example], KEPT, ByBrightness(), trust, 0).slices}

    credulous, wary = places(0.0), places(0.85)
    assert wary < credulous
    assert len(credulous - wary) >= 3  # of slices where the boxes differ by half or more


def test_planes_are_asked_about_in_one_order_since_boxes_are_drawn_at_random(example, lesson):
    kept = [Slice(0, "sagittal", 13), Slice(0, "coronal", 19), Slice(0, "axial", CORRECTED)]
    teacher = ByBrightness()
    propose(lesson, [example], kept, teacher, replace(BOXES, least_trust=0.0), 0)
    i, j, k = phantoms.SHAPE
    assert list(dict.fromkeys(teacher.shown[len(kept) :])) == [(i, j), (i, k), (k, j)]


def test_without_a_bundled_teacher_it_says_so_and_a_named_one_must_be_there(monkeypatch):
    def missing(*_):
        raise BadCheckpoint("no checkpoint 'teacher'; give a checkpoint folder")

    monkeypatch.setattr(proposals.Teacher, "load", missing)
    teacher, why = load_teacher("", "cpu")
    assert teacher is None
    assert "learnt without a teacher" in why
    with pytest.raises(BadCheckpoint):
        load_teacher("nowhere", "cpu")
