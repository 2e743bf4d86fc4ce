"""Finding the brain."""

import numpy as np
import pytest
import torch

from segone_napari.data.slices import Head
from segone_napari.data.synthetic import CEREBRUM_MM
from segone_napari.systems.finding import centred_on, largest_piece, with_air_at_zero
from segone_napari.volume import Volume

SPACING = (2.0, 2.0, 2.0)
TIMES = 0.95
"""How large the cerebrum of these tests is, as a share of the standard one."""
MIDDLE = (50.0, 60.0, 45.0)


def test_what_lies_apart_from_the_brain_is_left_out():
    mask = torch.zeros(20, 20, 30, dtype=torch.bool)
    mask[4:16, 4:16, 15:28] = True
    brain = mask.clone()
    mask[8:11, 8:11, 0:6] = True
    assert torch.equal(largest_piece(mask), brain)


def test_a_single_piece_and_nothing_at_all_stay_as_they_are():
    mask = torch.zeros(5, 5, 5, dtype=torch.bool)
    assert torch.equal(largest_piece(mask), mask)
    mask[1:3, 1:3, 1:3] = True
    assert torch.equal(largest_piece(mask), mask)


@pytest.fixture
def cerebrum() -> torch.Tensor:
    """An ellipsoid of about a cerebrum's shape, in voxels of 2 mm."""
    places = np.indices((100, 120, 90)).astype(float)
    radii = [TIMES * mm / 2 / 2 for mm in CEREBRUM_MM]
    away = sum(((p - c) / r) ** 2 for p, c, r in zip(places, MIDDLE, radii, strict=True))
    return torch.from_numpy(away < 1)


def found(mask: torch.Tensor, box: tuple[slice, slice, slice]) -> Head:
    """The head that is found where only `box` of it is in the image."""
    seen = Head(mask.float(), SPACING, (0.0, 0.0, 0.0), box)
    return centred_on(seen, mask[box], mask[box], box)


WHOLE = (slice(0, 100), slice(0, 120), slice(0, 90))
CUTS = {
    "a whole one": WHOLE,
    "its left two fifths missing": (slice(44, 100), WHOLE[1], WHOLE[2]),
    "one half": (slice(0, 50), WHOLE[1], WHOLE[2]),
    "its back missing": (WHOLE[0], slice(50, 120), WHOLE[2]),
    "its top missing": (WHOLE[0], WHOLE[1], slice(0, 55)),
    "left and back missing": (slice(40, 100), slice(40, 120), WHOLE[2]),
}


@pytest.mark.parametrize("cut", CUTS)
def test_the_middle_of_a_cerebrum_is_found_though_the_image_cuts_it(cerebrum, cut):
    head = found(cerebrum, CUTS[cut])
    assert np.abs(np.subtract(head.centre, MIDDLE)).max() * 2 < 5
    assert np.allclose(head.to_standard, 1 / TIMES, rtol=0.06)


def test_of_what_is_cut_at_both_ends_the_middle_that_is_seen_counts(cerebrum):
    head = found(cerebrum, (WHOLE[0], slice(30, 70), WHOLE[2]))
    assert abs(head.centre[1] - 49.5) < 1
    assert np.allclose(head.to_standard, 1 / TIMES, rtol=0.06)


def test_a_brain_that_just_fills_its_image_is_whole(cerebrum):
    lines = [np.flatnonzero(cerebrum.numpy().any(axis=o)) for o in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(int(each[0]), int(each[-1]) + 1) for each in lines)
    head = found(cerebrum, (box[0], box[1], box[2]))
    assert np.abs(np.subtract(head.centre, MIDDLE)).max() <= 1
    assert np.allclose(head.to_standard, 1 / TIMES, rtol=0.04)


def test_a_piece_that_is_cut_everywhere_is_of_a_head_of_standard_size(cerebrum):
    inner = found(cerebrum, (slice(40, 60), slice(50, 70), slice(40, 60)))
    assert np.allclose(inner.centre, (49.5, 59.5, 49.5), atol=1)
    assert np.allclose(inner.to_standard, 1)
    corner = found(cerebrum, (slice(40, 100), slice(40, 120), slice(36, 90)))
    assert np.abs(np.subtract(corner.centre, MIDDLE)).max() * 2 < 7


def test_an_image_that_ends_below_a_whole_cerebrum_cuts_nothing_of_it(cerebrum):
    neck = cerebrum.clone()
    neck[40:60, 50:70, :20] = True
    box = (WHOLE[0], WHOLE[1], slice(4, 90))
    seen = Head(neck.float(), SPACING, (0.0, 0.0, 0.0), box)
    head = centred_on(seen, neck[box], cerebrum[box], box)
    assert np.abs(np.subtract(head.centre, MIDDLE)).max() <= 1


@pytest.mark.parametrize("air", [0, -1024, -1.0])
def test_air_is_moved_to_zero_only_where_it_is_not(air):
    data = np.full((12, 12, 12), air, dtype=np.float32)
    data[3:9, 3:9, 3:9] += 7
    data[4, 4, 4] = air - 1  # as interpolation leaves beside an edge
    image = Volume.from_affine(data, np.eye(4), "head")
    moved = with_air_at_zero(image)
    assert (moved is image) == (air == 0)
    if air:
        assert moved.data.min() == 0
        assert moved.data.max() == pytest.approx(7)


@pytest.mark.parametrize("filled", [slice(0, 4), slice(0, 12)])
def test_what_fills_the_outside_of_the_field_of_view_is_no_air(filled):
    generator = np.random.default_rng(0)
    data = generator.uniform(0, 5, (12, 12, 12)).astype(np.float32)
    data[3:9, 3:9, 3:9] += 1000 * generator.random((6, 6, 6))
    faces = np.ones(data.shape, dtype=bool)
    faces[1:-1, 1:-1, 1:-1] = False
    faces[:, filled.stop :] = False
    data[faces] = -1024
    image = Volume.from_affine(data, np.eye(4), "head")
    assert with_air_at_zero(image) is image
