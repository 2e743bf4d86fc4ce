"""Following drawn slices: by the bundled network, and beside a lesson."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segone_napari.models.learnt import Lesson, LessonConfig, LessonNetwork
from segone_napari.systems import lessons as taught
from segone_napari.systems import looking, propagation
from segone_napari.systems.looking import look
from segone_napari.volume import Grid

SHAPE = (48, 56, 30)
DRAWN = (6, 14, 22)
OTHERS = [n for n in range(4, 26) if n not in DRAWN]
CPU = torch.device("cpu")
ONE_TERM = LessonConfig(
    terms=("thing",), is_known=(False,), context=(), planes=("axial",), pixel_mm=1.0,
    in_head=False, box_mm=((-9.0, 9.0),) * 3,
)  # fmt: skip


def bent_body() -> NDArray[np.bool_]:
    """A body (x, y, z) that moves, grows and shrinks from slice to slice."""
    x, y, z = np.indices(SHAPE).astype(float)
    course = 22 + 8 * np.sin(z / 7), 28 + 9 * np.cos(z / 9)
    radius = 6 + 3 * np.sin(z / 5)
    return np.asarray((np.hypot(x - course[0], y - course[1]) < radius) & (z > 3) & (z < 26))


def scene(body: NDArray[np.bool_], base: NDArray[np.float32] | None = None) -> taught.Scene:
    noise = np.random.default_rng(0).normal(0, 0.08, SHAPE)
    image = torch.from_numpy((0.35 + 0.3 * body + noise).astype(np.float32))
    logits = torch.zeros(1, *SHAPE) if base is None else torch.from_numpy(base)[None]
    x, y, z = SHAPE
    box = (slice(0, x), slice(0, y), slice(0, z))
    places = (torch.ones(x), torch.ones(y), torch.ones(z))
    return taught.Scene(
        Grid(SHAPE, np.eye(4)), box, image, torch.zeros(0, *SHAPE), logits.half(), places
    )


def drawn(body: NDArray[np.bool_], slices: tuple[int, ...] = DRAWN) -> taught.Drawn:
    known = torch.zeros(1, *SHAPE, dtype=torch.bool)
    known[..., list(slices)] = True
    return taught.drawn_slices(torch.from_numpy(body)[None] & known, known, "axial")


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_three_drawn_slices_of_something_unknown_are_followed_better_than_shapes_in_between():
    body = bent_body()
    truth = np.moveaxis(body, 2, 0)[OTHERS]
    outlines = drawn(body)
    (one,) = propagation.followed(scene(body), "axial", outlines)
    logits = propagation.propagated(propagation.bundled(CPU), one, "axial", OTHERS)
    use = torch.ones(len(DRAWN), dtype=torch.bool)
    between = np.stack([taught.expected_outlines(outlines, n, use)[0, 0] > 0 for n in OTHERS])
    followed = dice(logits.numpy() > 0, truth)
    assert followed > 0.85
    assert followed > dice(between, truth) + 0.03


def test_what_the_base_says_counts_as_far_as_it_is_right_on_drawn_slices():
    body = bent_body()
    right = np.where(body, 4, -4).astype(np.float32)
    wrong = np.roll(right, 15, axis=0)
    shown = []
    for base in (right, wrong):
        (one,) = propagation.followed(scene(body, base), "axial", drawn(body))
        shown.append(one.scene)
    agreement, said = shown[0].context[1:3].float()
    assert agreement.unique().tolist() == [1.0]
    assert torch.equal(shown[0].base[0].float(), torch.from_numpy(right))
    assert torch.allclose(said * taught.LOGIT_LIMIT, torch.from_numpy(right), atol=0.01)
    assert shown[1].context[1].max() < 0.3
    assert not shown[1].base.any()


def test_brightness_speaks_for_what_was_drawn_and_against_what_lies_around():
    body = bent_body()
    (one,) = propagation.followed(scene(body), "axial", drawn(body))
    ratio = one.scene.context[0].float()
    inside = torch.from_numpy(body)
    assert ratio[inside].median() > 0.3
    assert ratio[~inside].median() < -0.3
    assert ratio.abs().max() <= 1


def test_places_are_not_shown_so_that_they_do_not_matter():
    (one,) = propagation.followed(scene(bent_body()), "axial", drawn(bent_body()))
    assert not any(place.any() for place in one.scene.places)


@pytest.mark.parametrize("outlines", [None, drawn(np.zeros(SHAPE, dtype=bool))])
def test_where_nothing_was_drawn_nothing_is_followed(outlines):
    assert propagation.followed(scene(bent_body()), "axial", outlines) == []


@pytest.mark.parametrize(
    ("patients", "counts"), [(1, looking.FOLLOWED_COUNTS), (3, looking.OF_MANY_COUNTS)]
)
def test_what_is_followed_counts_beside_a_lesson_and_less_far_from_what_was_drawn(patients, counts):
    body = bent_body()
    own, outlines = scene(body), drawn(body)
    torch.manual_seed(0)
    config = replace(ONE_TERM, patients=patients)
    lesson = Lesson(config, LessonNetwork(config).eval())
    asked = [1, *OTHERS, 28]
    both = look(lesson, own, {"axial": outlines}, only=asked)
    (one,) = propagation.followed(own, "axial", outlines)
    with torch.inference_mode():
        alone = taught.slice_logits(lesson, own, "axial", asked, outlines)[:, 0]
        other = propagation.propagated(propagation.bundled(CPU), one, "axial", asked)
        untold = taught.slice_logits(lesson, own, "axial", asked, None)[:, 0]
    share = torch.full((len(asked), 1, 1), counts)
    share[[0, -1]] = looking.FAR_COUNTS
    expected = ((1 - share) * alone + share * other).sigmoid()
    assert torch.allclose(both[0, ..., asked].permute(2, 0, 1), expected, atol=1e-5)
    without = look(lesson, own, {}, only=asked)
    assert torch.allclose(without[0, ..., asked].permute(2, 0, 1), untold.sigmoid())
