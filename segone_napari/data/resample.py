"""Between the grid of a file and the working grid on which the models look at a head.

The working grid is isotropic and ordered RAS: axis 0 grows to the patient's right, 1 to the
front, 2 to the head. A scan that already has about the working spacing is copied voxel by
voxel, whatever the order it is stored in. Knows nothing of files, models or prompts.

An *index map* here is a (4, 4) affine from the voxel indices of one grid to those of another.
"""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from segone_napari.volume import EMPTY_BOX, Affine, Box, Grid, Volume

# Thick slices: this many mm or more, and this many times the finest spacing.
_THICK_MM = 1.6
_THICK_RATIO = 1.6
# A scan tilted by no more than this keeps its own axes, so that it needn't be interpolated.
_TILT_DEGREES = 5.0
# A spacing this close (relative) to the working one is left as it is.
_SAME_SPACING = 0.05
# Tolerances, in voxels: rounding of affines in files (float32, quaternions) is below them.
_SAME_STEP = 1e-5
_SAME_START = 1e-3
_RAS = np.array([[0, 1], [1, 1], [2, 1]])
# How many points are interpolated at once away from the axes: bounds the memory.
_POINTS_AT_ONCE = 1 << 21


def working_grid(grid: Grid, spacing_mm: float = 1.0) -> Grid:
    """Choose the isotropic RAS-ordered grid that covers a file's grid.

    Its axes are those of the file, brought into RAS order, where the slices are thick or the
    axes lie within 5 degrees of the world's; else they are the world's. Along an axis of the
    file whose spacing is within 5 % of `spacing_mm`, the file's own voxels are kept.

    Parameters
    ----------
    grid : the grid of a file, axes in any order and direction.
    spacing_mm : distance between working voxels.
    """
    canonical = canonical_grid(grid)
    if through_plane_axis(grid) is not None or _is_along_world(canonical.affine):
        return _parallel_grid(canonical, spacing_mm)
    return _world_grid(canonical, spacing_mm)


def slice_grid(grid: Grid, spacing_mm: float) -> Grid:
    """As `working_grid`, but along the file's own axes however tilted: its slices stay slices."""
    return _parallel_grid(canonical_grid(grid), spacing_mm)


def through_plane_axis(grid: Grid) -> int | None:
    """Return the working axis (0, 1 or 2) across the slices of a thick-sliced file, else None."""
    spacing = canonical_grid(grid).spacing
    thickest = int(np.argmax(spacing))
    is_thick = spacing[thickest] >= _THICK_MM and spacing[thickest] >= _THICK_RATIO * min(spacing)
    return thickest if is_thick else None


def canonical_grid(grid: Grid) -> Grid:
    """Return the same voxels with their axes permuted and flipped to the closest RAS order."""
    orientation = nib.orientations.io_orientation(grid.affine)
    to_stored = nib.orientations.inv_ornt_aff(orientation, grid.shape)
    shape = [0, 0, 0]
    for stored, canonical in enumerate(orientation[:, 0].astype(int)):
        shape[canonical] = grid.shape[stored]
    return Grid((shape[0], shape[1], shape[2]), grid.affine @ to_stored)


def canonical_tensor(volume: Volume, device: torch.device) -> torch.Tensor:
    """Copy the voxels to a float32 tensor whose axes are in the closest RAS order."""
    orientation = nib.orientations.io_orientation(volume.affine)
    view = nib.orientations.apply_orientation(volume.data, orientation)
    return torch.from_numpy(np.array(view, dtype=np.float32, order="C")).to(device)


def to_stored(box: Box, values: NDArray[np.float16], grid: Grid) -> tuple[Box, NDArray[np.float16]]:
    """Bring a box of ``canonical_grid(grid)`` and what lies in it to the order of `grid`."""
    if not values.size:
        return box, values
    to_canonical = nib.orientations.io_orientation(grid.affine)
    sides = [slice(0)] * 3
    for stored, (canonical, flip) in enumerate(to_canonical.astype(int)):
        side, count = box[canonical], grid.shape[stored]
        sides[stored] = side if flip > 0 else slice(count - side.stop, count - side.start)
    back = nib.orientations.ornt_transform(_RAS, to_canonical)
    stored_values = nib.orientations.apply_orientation(values, back)
    return (sides[0], sides[1], sides[2]), np.ascontiguousarray(stored_values)


def to_working(volume: Volume, working: Grid, device: torch.device | str) -> torch.Tensor:
    """Sample a volume on a working grid.

    Trilinear where the file is coarser; a mean over the working voxel where it is finer; a
    plain copy where the voxels coincide. Zero outside the file's field of view.

    Parameters
    ----------
    volume : (i, j, k), any real dtype, finite.
    working : from `working_grid`, or any other grid.
    device : where the result should lie.

    Returns
    -------
    float32 tensor (x, y, z) of ``working.shape``, contiguous.
    """
    canonical = canonical_grid(volume.grid)
    source = canonical_tensor(volume, torch.device(device))
    to_source = _index_map(working, canonical)
    if not _is_axis_parallel(to_source):
        # Interpolating between points is blind to what lies between them: average first.
        coarser = _parallel_grid(canonical, max(working.spacing))
        if coarser.shape != canonical.shape and min(canonical.spacing) < min(working.spacing):
            source = _resample(source, _index_map(coarser, canonical), coarser.shape, average=True)
            to_source = _index_map(working, coarser)
    return _resample(source, to_source, working.shape, average=True)


def to_native(
    probability: torch.Tensor,
    working: Grid,
    native: Grid,
    threshold: float = 0.02,
    *,
    origin: tuple[int, int, int] = (0, 0, 0),
) -> tuple[Box, NDArray[np.float16]]:
    """Sample a probability map from the working grid on a file's grid, by trilinear interpolation.

    Parameters
    ----------
    probability : (x, y, z) of any float dtype, on `working` or on a box of it.
    working, native : the grids.
    threshold : what is not above it counts as nothing.
    origin : index in `working` of the tensor's first voxel; zero is assumed outside the tensor.

    Returns
    -------
    box : the smallest box of `native` outside of which nothing exceeds `threshold`.
    values : float16 (i, j, k) inside that box; (0, 0, 0) with `EMPTY_BOX` where nothing does.
    """
    nothing = EMPTY_BOX, np.zeros((0, 0, 0), dtype=np.float16)
    # 1. Only the part of the working grid that holds something.
    filled = _box_above(probability, threshold)
    if filled is None:
        return nothing
    crop = tuple(
        slice(max(0, s.start - 1), min(n, s.stop + 1))
        for s, n in zip(filled, probability.shape, strict=True)
    )
    source = probability[crop].to(torch.float32)
    # 2. The native voxels that can lie in it.
    first_working = [o + s.start for o, s in zip(origin, crop, strict=True)]
    to_source = _shifted(_index_map(native, working), source=first_working)
    box = _box_within(to_source, tuple(source.shape), native.shape)
    if box is None:
        return nothing
    # 3. Sample there, and cut off what turned out to be nothing.
    to_source = _shifted(to_source, destination=[s.start for s in box])
    values = _resample(source, to_source, tuple(s.stop - s.start for s in box))
    tight = _box_above(values, threshold)
    if tight is None:
        return nothing
    i, j, k = (
        slice(outer.start + inner.start, outer.start + inner.stop)
        for outer, inner in zip(box, tight, strict=True)
    )
    return (i, j, k), values[tight].to(torch.float16).contiguous().cpu().numpy()


def _is_along_world(affine: Affine) -> bool:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.all(np.diag(directions) >= math.cos(math.radians(_TILT_DEGREES)) - 1e-9))


def _parallel_grid(canonical: Grid, spacing_mm: float) -> Grid:
    """Lay a grid along a canonical grid's own axes that covers its field of view.

    Along each axis the voxels lie at multiples of the spacing from the world's origin, so that two
    files of one head are sampled at the same places.
    """
    directions = canonical.affine[:3, :3] / np.asarray(canonical.spacing)
    to_canonical = np.eye(4)
    shape = []
    for axis, (count, spacing) in enumerate(zip(canonical.shape, canonical.spacing, strict=True)):
        if abs(spacing - spacing_mm) <= _SAME_SPACING * spacing_mm:
            shape.append(count)
            continue
        first_mm = float(directions[:, axis] @ canonical.affine[:3, 3])
        start_mm, number = _multiples(
            first_mm - spacing / 2, first_mm + (count - 0.5) * spacing, spacing_mm
        )
        shape.append(number)
        to_canonical[axis, axis] = spacing_mm / spacing
        to_canonical[axis, 3] = (start_mm - first_mm) / spacing
    return Grid((shape[0], shape[1], shape[2]), canonical.affine @ to_canonical)


def _world_grid(grid: Grid, spacing_mm: float) -> Grid:
    """Lay a grid along the world's axes, at multiples of the spacing, over the field of view."""
    corners = _corners(grid.affine, grid.shape)
    low, high = corners.min(axis=0), corners.max(axis=0)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    shape = []
    for axis in range(3):
        affine[axis, 3], number = _multiples(float(low[axis]), float(high[axis]), spacing_mm)
        shape.append(number)
    return Grid((shape[0], shape[1], shape[2]), affine)


def _multiples(low: float, high: float, step: float) -> tuple[float, int]:
    """First multiple of a step, and how many, so that voxels of that size cover low to high."""
    # Without the tolerance, rounding in the affine could add a voxel to one storage order only.
    first = math.floor(low / step + 0.5 + 1e-2)
    last = math.ceil(high / step - 0.5 - 1e-2)
    return first * step, max(1, last - first + 1)


def _corners(affine: Affine, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the eight outer corners of a grid's field of view, (8, 3)."""
    edges = [(-0.5, count - 0.5) for count in shape]
    indices = np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(nib.affines.apply_affine(affine, indices), dtype=np.float64)


def _index_map(destination: Grid, source: Grid) -> Affine:
    """Return the index map from `destination` to `source`.

    Rounded well below what matters, so that equal grids stored in different orders, whose
    affines differ in their last digits, give the same map to the last bit.
    """
    to_source = np.linalg.solve(source.affine, destination.affine)
    to_source[:3, :3] = np.round(to_source[:3, :3], 7)
    to_source[:3, 3] = np.round(to_source[:3, 3], 4)
    return np.asarray(to_source, dtype=np.float64)


def _shifted(
    to_source: Affine,
    *,
    source: list[int] | None = None,
    destination: list[int] | None = None,
) -> Affine:
    """Return the index map between boxes that start at these voxels of the two grids."""
    shifted = to_source.copy()
    if destination is not None:
        shifted[:3, 3] += to_source[:3, :3] @ np.asarray(destination, dtype=np.float64)
    if source is not None:
        shifted[:3, 3] -= np.asarray(source, dtype=np.float64)
    return shifted


def _box_above(values: torch.Tensor, threshold: float) -> Box | None:
    """Return the smallest box that holds every value above the threshold."""
    above = values > threshold
    columns = above.any(dim=2)  # (x, y)
    slices = []
    for hits in (columns.any(dim=1), columns.any(dim=0), above.any(dim=0).any(dim=0)):
        indices = torch.nonzero(hits).flatten().tolist()
        if not indices:
            return None
        slices.append(slice(indices[0], indices[-1] + 1))
    return slices[0], slices[1], slices[2]


def _box_within(
    to_source: Affine, source_shape: tuple[int, ...], shape: tuple[int, int, int]
) -> Box | None:
    """Return the box of destination voxels whose centres may lie in the source's field of view."""
    from_source = np.linalg.inv(to_source).astype(np.float64)
    corners = _corners(from_source, source_shape)
    first = np.maximum(np.ceil(corners.min(axis=0) - _SAME_START), 0).astype(int).tolist()
    last = np.floor(corners.max(axis=0) + _SAME_START).astype(int).tolist()
    i, j, k = (slice(a, min(b + 1, n)) for a, b, n in zip(first, last, shape, strict=True))
    return None if any(s.stop <= s.start for s in (i, j, k)) else (i, j, k)


def _resample(
    source: torch.Tensor, to_source: Affine, shape: tuple[int, ...], *, average: bool = False
) -> torch.Tensor:
    """Sample `source` (a, b, c) at every voxel of a grid of `shape`, mapped by `to_source`.

    Within half a voxel of the border the border's value counts; beyond it, zero. `average`
    takes the mean over a destination voxel where that is larger than the source's.
    """
    # A caller's autocast would round the weights to bfloat16 and shift the mask.
    with torch.no_grad(), torch.autocast(source.device.type, enabled=False):
        if _is_axis_parallel(to_source):
            return _resample_along_axes(source, to_source, shape, average=average)
        return _resample_anywhere(source, to_source, shape)


def _is_axis_parallel(to_source: Affine) -> bool:
    linear = np.abs(to_source[:3, :3])
    largest = linear == linear.max(axis=0)
    is_permutation = bool(np.all(largest.sum(axis=0) == 1) and np.all(largest.sum(axis=1) == 1))
    return is_permutation and bool(np.all(linear[~largest] < _SAME_STEP))


def _resample_along_axes(
    source: torch.Tensor, to_source: Affine, shape: tuple[int, ...], *, average: bool
) -> torch.Tensor:
    order = [int(axis) for axis in np.argmax(np.abs(to_source[:3, :3]), axis=0)]
    values = source.permute(order)
    # The axis that shrinks most goes first: the others then have less to do.
    for axis in sorted(range(3), key=lambda axis: shape[axis] / values.shape[axis]):
        step = float(to_source[order[axis], axis])
        start = float(to_source[order[axis], 3])
        if abs(abs(step) - 1.0) < _SAME_STEP and abs(start - round(start)) < _SAME_START:
            values = _copy_axis(values, axis, round(start), shape[axis], is_reversed=step < 0)
        else:
            values = _blend_axis(values, axis, start, step, shape[axis], average=average)
    return values.contiguous()


def _copy_axis(
    values: torch.Tensor, axis: int, start: int, count: int, *, is_reversed: bool
) -> torch.Tensor:
    """Take `count` voxels along an axis from index `start` on, forwards or backwards."""
    size = values.shape[axis]
    if is_reversed:
        values = values.flip(axis)
        start = size - 1 - start
    low, high = max(0, start), min(size, start + count)
    if low >= high:
        return values.new_zeros([count if d == axis else n for d, n in enumerate(values.shape)])
    kept = values.narrow(axis, low, high - low)
    before, after = low - start, start + count - high
    if before == after == 0:
        return kept
    padding = [0] * 6
    padding[2 * (2 - axis) : 2 * (2 - axis) + 2] = [
        before,
        after,
    ]  # F.pad counts from the last axis
    return F.pad(kept, padding)


def _blend_axis(
    values: torch.Tensor, axis: int, start: float, step: float, count: int, *, average: bool
) -> torch.Tensor:
    """Sample along one axis at ``start + step * i``, as a product with a matrix of weights.

    A voxel's weight is its overlap with a window around the sample. A window of one voxel is
    linear interpolation; one of ``step`` voxels is the mean over the coarser voxel.
    """
    size = values.shape[axis]
    centres = start + step * np.arange(count)
    half = max(1.0, abs(step)) / 2 if average else 0.5
    edges = np.arange(size + 1) - 0.5
    low = np.maximum(edges[None, :-1], (centres - half)[:, None])
    high = np.minimum(edges[None, 1:], (centres + half)[:, None])
    overlap = np.maximum(high - low, 0.0)  # (count, size)
    overlap[(centres < -0.5 - _SAME_START) | (centres > size - 0.5 + _SAME_START)] = 0.0
    overlap /= np.maximum(overlap.sum(axis=1, keepdims=True), 1e-12)
    weights = torch.from_numpy(overlap.astype(np.float32)).to(values.device)
    # Any order of the axes multiplies without a copy when the two last ones are the matrix.
    if axis == 2:
        return values @ weights.T
    return (weights @ values.movedim(axis, 1)).movedim(1, axis)


def _resample_anywhere(
    source: torch.Tensor, to_source: Affine, shape: tuple[int, ...]
) -> torch.Tensor:
    device = source.device
    if device.type == "mps":  # has no 3-D grid_sample
        source = source.cpu()
    # grid_sample wants (c, b, a) coordinates, where -1 and 1 are the outer edges of the volume.
    sizes = np.array(source.shape, dtype=np.float64)
    matrix = 2.0 * to_source[:3] / sizes[:, None]
    matrix[:, 3] += 1.0 / sizes - 1.0
    along = [
        torch.from_numpy((matrix[::-1, axis] * np.arange(count)[:, None]).astype(np.float32)).to(
            source.device
        )
        for axis, count in enumerate(shape)
    ]
    offset = torch.from_numpy(matrix[::-1, 3].astype(np.float32)).to(source.device)
    plane = along[1][:, None] + along[2][None, :] + offset  # (j, k, 3)
    result = torch.empty(tuple(shape), dtype=torch.float32, device=source.device)
    slab = max(1, _POINTS_AT_ONCE // (shape[1] * shape[2]))
    for first in range(0, shape[0], slab):
        points = along[0][first : first + slab, None, None] + plane  # (i, j, k, 3)
        sampled = F.grid_sample(
            source[None, None], points[None], padding_mode="border", align_corners=False
        )[0, 0]
        is_inside = (points.abs() <= 1.0 + 1e-5).all(dim=-1)
        result[first : first + slab] = sampled * is_inside
    return result.to(device)
