"""What drawn slices let expect between them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from segone_napari.models.learnt import LessonConfig, LessonNetwork
from segone_napari.systems import lessons as taught
from segone_napari.systems.base import Told
from segone_napari.volume import Volume

SHAPE = (40, 48, 21)
CPU = torch.device("cpu")


def _disc(row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.indices(SHAPE[:2])
    return np.hypot(rows - row, columns - column) < radius


def _drawn(slices: dict[int, np.ndarray]) -> taught.Drawn:
    truth, known = (torch.zeros(1, *SHAPE, dtype=torch.bool) for _ in range(2))
    for index, mask in slices.items():
        truth[0, ..., index] = torch.from_numpy(mask)
        known[0, ..., index] = True
    return taught.drawn_slices(truth, known, "axial")


def _expected(drawn: taught.Drawn, index: int) -> torch.Tensor:
    return taught.expected_outlines(drawn, index, torch.ones(len(drawn.indices), dtype=torch.bool))


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def test_an_object_that_moves_is_expected_between_its_places():
    # the two outlines don't even touch: their mean would be nothing
    drawn = _drawn({5: _disc(10, 10, 4), 15: _disc(28, 34, 6)})
    halfway = _expected(drawn, 10)[0, 0].numpy() > 0
    assert _dice(halfway, _disc(19, 22, 5)) > 0.9


def test_a_bent_course_is_followed_through_three_slices():
    def place(z: int) -> np.ndarray:
        return _disc(12 + 0.16 * (z - 10) ** 2, 10 + 1.2 * z, 5)

    drawn = _drawn({z: place(z) for z in (3, 10, 17)})
    assert _dice(_expected(drawn, 6)[0, 0].numpy() > 0, place(6)) > 0.9
    assert _dice(_expected(drawn, 14)[0, 0].numpy() > 0, place(14)) > 0.9


def test_beyond_the_last_slice_it_tapers_off_and_far_away_says_less():
    drawn = _drawn({8: _disc(20, 20, 6), 10: _disc(20, 20, 6)})
    near, far = _expected(drawn, 12), _expected(drawn, 20)
    assert (near[0, 0] > 0).sum() > (far[0, 0] > 0).sum() == 0
    assert near[0, 1].max() > far[0, 1].max() > 0


def test_an_empty_slice_ends_an_object():
    drawn = _drawn({5: _disc(20, 20, 5), 9: np.zeros(SHAPE[:2], dtype=bool)})
    sizes = [int((_expected(drawn, z)[0, 0] > 0).sum()) for z in (5, 6, 7, 9, 12)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-2:] == [0, 0]


@pytest.mark.parametrize("is_known", [False, True])
def test_an_untrained_lesson_says_what_was_drawn_and_else_what_the_base_says(is_known):
    config = LessonConfig(
        ("thing",), (is_known,), (), ("axial",), 1.0, in_head=False, box_mm=((-20, 20),) * 3
    )
    network = LessonNetwork(config).eval()
    outline = _expected(_drawn({5: _disc(20, 20, 5), 9: _disc(20, 20, 5)}), 7)
    inputs = torch.rand(1, config.inputs, *SHAPE[:2])
    base = torch.full((1, 1, *SHAPE[:2]), 3.0)
    with torch.inference_mode():
        inputs[:, -2:] = outline[0]
        inside = network(inputs, 0 * base)[0, 0] > 0
        inputs[:, -2:] = 0
        nothing_drawn = network(inputs, base)[0, 0]
    assert _dice(inside.numpy(), _disc(20, 20, 5)) > 0.95
    assert bool((nothing_drawn == (3.0 if is_known else -2.0)).all())


@pytest.mark.parametrize("tilt_deg", [0.0, 20.0])
def test_a_corrected_slice_of_a_tilted_scan_is_a_whole_slice_of_a_scene(tilt_deg):
    angle = np.radians(tilt_deg)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    affine = nib.affines.from_matvec(turn @ np.diag([-0.9, 0.9, 1.2]), [9.0, -4.0, 30.0])
    image = Volume.from_affine(
        np.random.default_rng(0).random(SHAPE).astype(np.float32), affine, "tilted"
    )
    config = LessonConfig(
        terms=("new",), is_known=(False,), context=(), planes=("axial",), pixel_mm=0.9,
        in_head=False, box_mm=((-99.0, 99.0),) * 3,
    )  # fmt: skip
    scene = taught.make_scene(config, image, None, lambda *_: pytest.fail("asked"), CPU)
    known = np.zeros(SHAPE, dtype=bool)
    known[:, :, [5, 12]] = True
    told = {"new": Told(known.astype(np.uint8), known)}
    outlines = taught.drawn_slices(*taught.told_on(scene, image.grid, ("new",), told), "axial")
    assert bool(outlines.is_known.all())
    assert 2 <= len(outlines.indices) <= 4
    assert bool((outlines.outlines > 0).all())
