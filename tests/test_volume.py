"""What a volume and its grid say about themselves."""

import numpy as np
import pytest

from segone_napari.volume import EMPTY_BOX, Grid, Volume, bounding_box, joined

OBLIQUE = np.array([[0, 0, -3, 9], [-0.6, 0.8, 0, 8], [0.8, 0.6, 0, -7], [0, 0, 0, 1.0]])


def test_spacing_and_orientation_follow_the_array_axes() -> None:
    grid = Grid((4, 5, 6), OBLIQUE)
    np.testing.assert_allclose(grid.spacing, (1, 1, 3))
    assert grid.orientation == "SAL"


def test_voxel_volume_is_in_millilitres_whatever_the_direction() -> None:
    assert Grid((4, 5, 6), OBLIQUE).voxel_volume_ml == pytest.approx(0.003)
    assert Grid((4, 5, 6), np.diag([-2.0, 1, 1, 1])).voxel_volume_ml == pytest.approx(0.002)


def test_grids_are_the_same_only_with_equal_shape_and_place() -> None:
    grid = Grid((4, 5, 6), OBLIQUE)
    moved = OBLIQUE.copy()
    moved[0, 3] += 0.5
    assert grid.is_same_as(Grid((4, 5, 6), OBLIQUE + 1e-6))
    assert not grid.is_same_as(Grid((4, 5, 7), OBLIQUE))
    assert not grid.is_same_as(Grid((4, 5, 6), moved))


def test_data_must_fit_the_grid() -> None:
    with pytest.raises(ValueError, match="shape"):
        Volume(np.zeros((4, 5, 7)), Grid((4, 5, 6), OBLIQUE))


def test_other_voxels_keep_the_grid_and_the_name() -> None:
    volume = Volume.from_affine(np.zeros((4, 5, 6)), OBLIQUE, name="scan.nii")
    mask = volume.with_data(np.ones((4, 5, 6), np.uint8))
    assert mask.grid is volume.grid
    assert mask.name == "scan.nii"


def test_box_of_a_mask_holds_all_of_it_and_a_margin_inside_the_array() -> None:
    mask = np.zeros((6, 7, 8), np.uint8)
    mask[1, 2, 7] = mask[3, 4, 5] = 2
    assert bounding_box(mask) == np.s_[1:4, 2:5, 5:8]
    assert bounding_box(mask, margin=(2, 1, 1)) == np.s_[0:6, 1:6, 4:8]
    assert bounding_box(0 * mask, margin=(1, 1, 1)) == EMPTY_BOX


def test_joined_boxes_are_held_whatever_is_empty() -> None:
    assert joined(np.s_[1:2, 3:4, 5:6], EMPTY_BOX, np.s_[0:1, 5:6, 5:9]) == np.s_[0:2, 3:6, 5:9]
    assert joined(EMPTY_BOX) == joined() == EMPTY_BOX
