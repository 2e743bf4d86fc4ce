"""The working grid: every storage order gives the same head, and masks go back where they were."""

import itertools
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from segone_napari.data.resample import through_plane_axis, to_native, to_working, working_grid
from segone_napari.volume import EMPTY_BOX, Grid, Volume

ORDERS = [
    (order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]
AFFINES = {
    "1 mm": np.diag([1.0, 1.0, 1.0, 1.0]),
    "nearly 1 mm": np.diag([0.98, 1.0, 1.03, 1.0]),
    "thick slices": np.diag([0.9, 0.9, 3.0, 1.0]),
    "half a millimetre": np.diag([0.5, 0.5, 0.5, 1.0]),
    "coarse": np.diag([1.4, 1.3, 1.2, 1.0]),
}


def rotation(degrees: float, axis: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> np.ndarray:
    affine = np.eye(4)
    unit = np.array(axis) / np.linalg.norm(axis)
    affine[:3, :3] = nib.quaternions.angle_axis2mat(np.deg2rad(degrees), unit)
    return affine


def shifted(affine: np.ndarray, offset: tuple[float, float, float]) -> np.ndarray:
    result = affine.copy()
    result[:3, 3] = offset
    return result


def smooth_volume(shape: tuple[int, int, int], affine: np.ndarray, seed: int = 0) -> Volume:
    noise = np.random.default_rng(seed).normal(size=shape)
    return Volume.from_affine(ndimage.gaussian_filter(noise, 1.5).astype(np.float32), affine)


def stored(volume: Volume, order: tuple[int, ...], flips: tuple[int, ...]) -> Volume:
    """The same head with its axes in another order and direction, as a file would hold it."""
    orientation = np.stack([order, flips], axis=1).astype(float)
    data = nib.orientations.apply_orientation(volume.data, orientation)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(orientation, volume.data.shape)
    return Volume.from_affine(data, affine.astype(np.float32))


def paint(box: tuple[slice, ...], values: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    result = np.zeros(shape, dtype=np.float16)
    result[box] = values
    return result


def world_points(mask: np.ndarray, affine: np.ndarray) -> set[tuple[float, ...]]:
    points = nib.affines.apply_affine(affine, np.argwhere(mask)).round(2) + 0.0
    return {tuple(point) for point in points.tolist()}


@pytest.mark.parametrize("kind", AFFINES)
def test_every_storage_order_gives_the_same_working_tensor(kind: str) -> None:
    volume = smooth_volume((22, 19, 11), shifted(AFFINES[kind], (-31.7, 12.3, 5.9)))
    working = working_grid(volume.grid)
    expected = to_working(volume, working, "cpu")
    for order, flips in ORDERS:
        other = stored(volume, order, flips)
        its_grid = working_grid(other.grid)
        assert its_grid.is_same_as(working)
        assert torch.equal(to_working(other, its_grid, "cpu"), expected), (order, flips)


def test_storage_order_of_a_tilted_scan_does_not_move_it() -> None:
    volume = smooth_volume((22, 19, 17), rotation(20) @ np.diag([1.0, 1.1, 1.2, 1.0]))
    expected = to_working(volume, working_grid(volume.grid), "cpu")
    for order, flips in ORDERS:
        other = stored(volume, order, flips)
        values = to_working(other, working_grid(other.grid), "cpu")
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", AFFINES)
def test_mask_comes_back_at_the_same_place_in_every_storage_order(kind: str) -> None:
    affine = shifted(AFFINES[kind], (-31.7, 12.3, 5.9))
    volume = smooth_volume((22, 19, 11), affine)
    mask = volume.with_data((volume.data > 0.02).astype(np.uint8))
    returned = set()
    for order, flips in ORDERS[::5]:
        other = stored(mask, order, flips)
        working = working_grid(other.grid)
        box, values = to_native(to_working(other, working, "cpu"), working, other.grid)
        back = paint(box, values, other.data.shape) > 0.5
        agreement = 2 * np.sum(back & (other.data > 0)) / (back.sum() + other.data.sum())
        assert agreement > (0.999 if "1 mm" in kind else 0.85)
        returned.add(frozenset(world_points(back, other.affine)))
    assert len(returned) == 1


def test_millimetre_scan_is_copied_voxel_by_voxel() -> None:
    data = np.random.default_rng(1).integers(-900, 3000, (12, 14, 16)).astype(">i2")
    affine = np.array([[0, 0, -1, 9], [-1, 0, 0, 8], [0, 1, 0, -7], [0, 0, 0, 1.0]])
    volume = Volume.from_affine(data, affine)
    working = working_grid(volume.grid)
    values = to_working(volume, working, "cpu")
    assert working.orientation == "RAS"
    expected = data.transpose(2, 0, 1)[::-1, ::-1, :]
    np.testing.assert_array_equal(values.numpy(), expected)
    assert values.is_contiguous()
    assert values.dtype == torch.float32


def test_slightly_tilted_scan_is_copied_and_keeps_its_tilt() -> None:
    volume = smooth_volume((12, 14, 16), rotation(4, (0, 0, 1)))
    working = working_grid(volume.grid)
    np.testing.assert_array_equal(to_working(volume, working, "cpu").numpy(), volume.data)
    np.testing.assert_allclose(working.affine, volume.affine)


@pytest.mark.parametrize(
    ("affine", "is_along_world"),
    [
        (rotation(20), True),
        (rotation(20) @ np.diag([0.8, 0.8, 4.0, 1.0]), False),
        (rotation(3), False),
    ],
)
def test_working_axes_follow_thick_slices_and_else_the_world(
    affine: np.ndarray, is_along_world: bool
) -> None:
    working = working_grid(Grid((40, 40, 30), affine))
    directions = working.affine[:3, :3]
    expected = (
        np.eye(3) if is_along_world else affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    )
    np.testing.assert_allclose(directions / working.spacing, expected, atol=1e-6)


@pytest.mark.parametrize(
    "affine",
    [
        rotation(25) @ np.diag([0.7, 1.3, 1.5, 1.0]),
        rotation(70, (1, 0, 0)) @ np.diag([0.9, 3.0, 0.9, 1.0]),
        AFFINES["half a millimetre"],
        np.array([[1.2, 0.05, 0, 3], [0, 1.1, 0.04, 2], [0, 0, 1.3, 1], [0, 0, 0, 1.0]]),
    ],
)
def test_working_grid_covers_every_voxel_and_is_isotropic(affine: np.ndarray) -> None:
    grid = Grid((23, 18, 9), affine)
    working = working_grid(grid)
    assert working.orientation == "RAS"
    np.testing.assert_allclose(working.spacing, 1.0, rtol=0.05)
    corners = list(itertools.product(*[(0, n - 1) for n in grid.shape]))
    inside = nib.affines.apply_affine(np.linalg.inv(working.affine) @ affine, corners)
    assert np.all(inside >= -0.5)
    assert np.all(inside <= np.array(working.shape) - 0.5)


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((0.9, 0.9, 3.0), 2), ((1, 1, 1.2), None), ((0.5, 0.5, 1.0), None), ((1.6, 1.6, 1.6), None)],
)
def test_through_plane_axis_is_that_of_the_working_grid(
    spacing: tuple[float, float, float], axis: int | None
) -> None:
    volume = smooth_volume((9, 8, 7), np.diag([*spacing, 1.0]))
    for order, flips in ORDERS:
        assert through_plane_axis(stored(volume, order, flips).grid) == axis


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1.3, 1.2, 1.1, 1.0]),
        np.diag([1.3, 1.2, 4.0, 1.0]),
        rotation(30) @ np.diag([1.3, 1.2, 1.1, 1.0]),
        rotation(30) @ np.diag([1.0, 1.0, 3.5, 1.0]),
        np.array([[1.2, 0.05, 0, 3], [0, 1.1, 0.04, 2], [0, 0, 1.3, 1], [0, 0, 0, 1.0]]),
    ],
)
def test_sampling_agrees_with_scipy_in_both_directions(affine: np.ndarray) -> None:
    volume = smooth_volume((24, 20, 18), shifted(affine, (4.2, -9.1, 3.3)))
    working = working_grid(volume.grid)
    values = to_working(volume, working, "cpu").numpy()
    to_source = np.linalg.inv(volume.affine) @ working.affine
    expected = ndimage.affine_transform(
        volume.data, to_source, output_shape=working.shape, order=1, mode="nearest"
    )
    index = np.moveaxis(np.indices(working.shape), 0, -1)
    source_index = nib.affines.apply_affine(to_source, index)
    outside = np.max(
        np.abs(source_index - (np.array(volume.data.shape) - 1) / 2)
        - np.array(volume.data.shape) / 2,
        axis=-1,
    )
    np.testing.assert_allclose(values[outside < -1e-3], expected[outside < -1e-3], atol=1e-4)
    assert np.all(values[outside > 1e-2] == 0)

    probability = torch.from_numpy(expected.clip(0, None))
    box, back = to_native(probability, working, volume.grid, threshold=1e-3)
    to_back = np.linalg.inv(working.affine) @ volume.affine
    expected_back = ndimage.affine_transform(
        probability.numpy(), to_back, output_shape=volume.data.shape, order=1, mode="nearest"
    )
    np.testing.assert_allclose(back, expected_back[box], atol=1e-3)
    outside_box = paint(box, np.ones_like(back), volume.data.shape) == 0
    assert not np.any(expected_back[outside_box] > 2e-3)


def test_finer_scan_is_averaged_so_that_noise_shrinks() -> None:
    data = np.random.default_rng(3).normal(size=(40, 36, 32)).astype(np.float32)
    # working voxels lie at whole millimetres: pairs of these voxels are theirs exactly
    fine = shifted(np.diag([0.5, 0.5, 0.5, 1.0]), (-0.25, -0.25, -0.25))
    volume = Volume.from_affine(data, fine)
    values = to_working(volume, working_grid(volume.grid), "cpu").numpy()
    expected = data.reshape(20, 2, 18, 2, 16, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(values, expected, atol=1e-5)
    tilted = Volume.from_affine(data, rotation(20) @ np.diag([0.5, 0.5, 0.5, 1.0]))
    oblique = to_working(tilted, working_grid(tilted.grid), "cpu")
    assert float(oblique[oblique != 0].std()) < 0.4


@pytest.mark.parametrize("start", [(0, 0, 0), (0.3, -0.8, 5.45)])
def test_two_files_of_one_head_are_sampled_at_the_same_places(start) -> None:
    first = working_grid(Grid((40, 36, 32), np.diag([1.0, 1.0, 1.0, 1.0])), 2.0)
    tilted = shifted(rotation(20) @ np.diag([0.9, 0.9, 1.3, 1.0]), start)
    for other in (
        working_grid(Grid((33, 31, 20), shifted(np.diag([0.9, 0.9, 1.3, 1.0]), start)), 2.0),
        working_grid(Grid((33, 31, 20), tilted), 2.0),
    ):
        between = np.linalg.inv(first.affine) @ other.affine
        np.testing.assert_allclose(between[:3, :3], np.eye(3), atol=1e-9)
        np.testing.assert_allclose(between[:3, 3], np.rint(between[:3, 3]), atol=1e-6)


@pytest.mark.parametrize("affine", [np.eye(4), rotation(25), np.diag([0.9, 0.9, 3.0, 1.0])])
def test_sub_box_gives_the_same_as_the_whole_working_grid(affine: np.ndarray) -> None:
    native = Grid((40, 36, 20), affine)
    working = working_grid(native)
    whole = torch.zeros(working.shape)
    whole[12:20, 14:19, 9:15] = torch.rand((8, 5, 6), generator=torch.Generator().manual_seed(0))
    box, values = to_native(whole, working, native)
    part = whole[10:24, 11:22, 7:17]
    sub_box, sub_values = to_native(part, working, native, origin=(10, 11, 7))
    assert sub_box == box
    np.testing.assert_allclose(sub_values, values, atol=1e-3)


def test_nothing_above_the_threshold_is_an_empty_box() -> None:
    native = Grid((10, 11, 12), rotation(25))
    working = working_grid(native)
    for probability in (torch.zeros(working.shape), torch.full(working.shape, 0.01)):
        box, values = to_native(probability, working, native)
        assert box == EMPTY_BOX
        assert values.shape == (0, 0, 0)
        assert values.dtype == np.float16


def test_structure_outside_the_native_grid_is_an_empty_box() -> None:
    native = Grid((10, 10, 10), np.eye(4))
    far = Grid((10, 10, 10), shifted(np.eye(4), (100, 0, 0)))
    assert to_native(torch.ones(far.shape), far, native)[0] == EMPTY_BOX


def test_autocast_of_the_caller_does_not_blur_the_result() -> None:
    volume = smooth_volume((20, 18, 16), np.diag([1.3, 1.2, 1.1, 1.0]))
    working = working_grid(volume.grid)
    expected = to_working(volume, working, "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(to_working(volume, working, "cpu"), expected)


def test_small_structure_comes_back_within_a_fraction_of_a_second() -> None:
    native = Grid((256, 256, 180), rotation(20))
    working = working_grid(native)
    probability = torch.zeros(working.shape)
    probability[120:150, 100:140, 90:120] = 1.0
    started = time.perf_counter()
    to_native(probability, working, native)
    assert time.perf_counter() - started < 2.0
