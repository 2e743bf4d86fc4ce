"""Planes to volumes: sorts slices by where they lie, and says what is irregular about them.

Works on positions and pixels alone; knows nothing of files. World coordinates of planes are
DICOM's (LPS: x to the patient's left, y to the back, z to the head); affines are RAS+ as
everywhere else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segone_napari.data.dicom.headers import Plane
from segone_napari.runtime import BadInput
from segone_napari.volume import Affine

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Directions that differ by less are the same plane, written with other digits.
_SAME_DIRECTION = 1e-3
# Two images nearer than this, in mm, lie at one place.
_SAME_PLACE_MM = 0.01
# How far, as a share of the slice distance, a slice may lie from where it should.
_EVEN = 0.05
# How far, in pixels, a stack may lean over before its slices are moved.
_UPRIGHT_PIXELS = 0.25
# More slices than this share of the real ones are not made up.
_MOST_INVENTED = 1.0
# A gap wider than this many usual ones, or than this in mm, parts two things.
_WIDEST_GAP = 6.0
_WIDEST_GAP_MM = 30.0


class NotAVolume(BadInput):
    """Planes that can't be put together to a volume."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes in order, and the regular grid that they fill.

    Attributes
    ----------
    volumes : one tuple of planes a volume, each sorted along the normal; all of one length.
    depths : (slices,) mm along the normal, where each plane lies; the first is 0.
    step : mm between the slices of the grid.
    count : how many slices the grid has.
    lean : pixels (columns, rows) by which a slice is shifted for every mm of depth.
    margin : ((before, after) of columns, of rows) pixels that the grid is larger for leaning.
    affine : (4, 4) voxel (column, row, slice) to RAS+ mm.
    warnings : sentences on what was irregular and what was done.
    """

    volumes: tuple[tuple[Plane, ...], ...]
    depths: NDArray[np.float64]
    step: float
    count: int
    lean: NDArray[np.float64]
    margin: tuple[tuple[int, int], tuple[int, int]]
    affine: Affine
    warnings: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(columns, rows, slices) of the grid."""
        rows, columns = self.volumes[0][0].size
        return columns + sum(self.margin[0]), rows + sum(self.margin[1]), self.count


def split(planes: Sequence[Plane]) -> list[tuple[str, list[Plane]]]:
    """Divide the planes of a series into parts that can each be one volume, or several in time.

    Returns
    -------
    list of (what the part is, such as "echo 2" or "coronal"; empty if it is all there is, planes).
    """
    parts = []
    shapes = _by_shape(planes)
    for shape, group in zip(_shape_names(shapes), shapes, strict=True):
        for mark, part in _by_mark(group):
            parts.append((", ".join(filter(None, (shape, mark))), part))
    return parts


def arrange(planes: Sequence[Plane]) -> Stack:
    """Sort the planes of one part and find the grid that they fill.

    Raises
    ------
    NotAVolume
        If there is only one slice, or the slices don't lie over one another.
    """
    first = planes[0]
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    volumes, warnings = _volumes(planes, normal)
    origins = np.array([plane.position for plane in volumes[0]])
    depths = (origins - origins[0]) @ normal
    if len(depths) < 2:
        raise NotAVolume("it has a single slice")
    step, count, more = _steps(depths)
    spacing = np.array([first.pixel_spacing[1], first.pixel_spacing[0]])
    lean, margin, lean_warnings = _leaning(origins, depths, np.stack([row, column]), spacing)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row * spacing[0], column * spacing[1], normal * step], axis=1)
    affine[:3, 3] = _origin(origins, depths, normal, upright=not lean.any())
    affine[:3, 3] -= affine[:3, :2] @ [margin[0][0], margin[1][0]]
    warnings += [*more, *lean_warnings]
    return Stack(volumes, depths, step, count, lean, margin, _TO_RAS @ affine, tuple(warnings))


def assemble(stack: Stack, images: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Put the pixels of one volume on the grid.

    Parameters
    ----------
    images : (rows, columns) arrays of one dtype, in the order of ``stack.volumes[n]``.

    Returns
    -------
    (columns, rows, slices) array of the same dtype; interpolated linearly where it must be.
    """
    dtype = images[0].dtype
    slices: NDArray[Any] = np.stack(images)
    if stack.lean.any():
        slices = _straightened(slices.astype(np.float32), stack)
    even: NDArray[np.float64] = np.arange(stack.count) * np.float64(stack.step)
    if stack.count != len(stack.depths) or not np.allclose(
        even, stack.depths, atol=_EVEN * stack.step + 0.01
    ):
        slices = _evened(slices.astype(np.float32), stack.depths, even)
    if dtype.kind in "iu" and slices.dtype.kind == "f":
        limits = np.iinfo(dtype)
        slices = np.clip(np.rint(slices), limits.min, limits.max)
    return slices.astype(dtype, copy=False).T


# --- one series, several things ------------------------------------------------------------------


def _by_shape(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Group planes of one size, spacing and direction; the largest group first."""
    groups: list[list[Plane]] = []
    for plane in planes:
        for group in groups:
            if _is_alike(plane, group[0]):
                group.append(plane)
                break
        else:
            groups.append([plane])
    return sorted(groups, key=len, reverse=True)


def _is_alike(plane: Plane, other: Plane) -> bool:
    return plane.size == other.size and all(
        abs(a - b) < _SAME_DIRECTION
        for a, b in zip(
            plane.orientation + plane.pixel_spacing,
            other.orientation + other.pixel_spacing,
            strict=True,
        )
    )


def _shape_names(groups: Sequence[Sequence[Plane]]) -> list[str]:
    """Name each group by its plane and, where that is not enough, by its matrix or a number."""
    if len(groups) == 1:
        return [""]
    names = [plane_name(group[0]) for group in groups]
    if len(set(names)) < len(names):
        names = [
            f"{name} {group[0].size[1]}×{group[0].size[0]}"
            for name, group in zip(names, groups, strict=True)
        ]
    return _numbered(names)


def plane_name(plane: Plane) -> str:
    """The anatomical plane that an image lies in, or nearest to: axial, coronal or sagittal."""
    normal = np.cross(plane.orientation[:3], plane.orientation[3:])
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(normal)))]


def _numbered(names: Sequence[str]) -> list[str]:
    """Tell equal names apart by a number."""
    counts, seen = Counter(names), Counter[str]()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name} ({seen[name]})" if counts[name] > 1 else name)
    return numbered


def _by_mark(planes: list[Plane]) -> list[tuple[str, list[Plane]]]:
    """Divide images at the same places by echo and by component (magnitude, phase ...)."""
    parts = [("", planes)]
    marks: tuple[Callable[[Plane], Hashable], ...] = (
        lambda plane: plane.echo,
        lambda plane: plane.component,
    )
    for mark, name in zip(marks, (_echo_name, _component_name), strict=True):
        parts = [
            (", ".join(filter(None, (before, after))), part)
            for before, group in parts
            for after, part in _divided(group, mark, name)
        ]
    names = _numbered([name for name, _ in parts])
    return [(name, part) for name, (_, part) in zip(names, parts, strict=True)]


def _divided(
    planes: list[Plane], mark: Callable[[Plane], Hashable], name: Callable[[Plane], str]
) -> list[tuple[str, list[Plane]]]:
    """Divide by a mark, if each of its values covers most of the places."""
    groups: dict[Hashable, list[Plane]] = defaultdict(list)
    for plane in planes:
        groups[mark(plane)].append(plane)
    places = len(_places(planes))
    if len(groups) == 1 or len(planes) <= places:
        return [("", planes)]
    if any(len(_places(group)) < places / 2 for group in groups.values()):
        return [("", planes)]
    ordered = sorted(groups.values(), key=lambda group: (group[0].echo, group[0].instance))
    return [(name(group[0]), group) for group in ordered]


def _places(planes: Sequence[Plane]) -> set[tuple[float, ...]]:
    return {tuple(round(value, 2) for value in plane.position) for plane in planes}


def _echo_name(plane: Plane) -> str:
    number, time_ms = plane.echo
    return f"echo {number} of {time_ms:g} ms" if number else f"echo of {time_ms:g} ms"


def _component_name(plane: Plane) -> str:
    known = {"M": "magnitude", "P": "phase", "R": "real", "I": "imaginary", "PHASE": "phase"}
    words = plane.component.split()
    return known.get(words[0], words[0].lower()) if words else "unnamed component"


# --- one place, several images -------------------------------------------------------------------


def _volumes(
    planes: Sequence[Plane], normal: NDArray[np.float64]
) -> tuple[tuple[tuple[Plane, ...], ...], list[str]]:
    """Sort planes along the normal, and images at one place into one volume each."""
    if planes[0].is_tile:
        return _mosaics(planes, normal), []
    places = _sorted_places(planes, normal)
    counts = Counter(len(place) for place in places)
    most, fewest = max(counts), min(counts)
    if most == 1:
        return (tuple(place[0] for place in places),), []
    if most == fewest:
        return _in_time(places, most), []
    # Most places have one image: the others were stored twice.
    if counts[1] > len(places) / 2:
        doubled = [n for n, place in enumerate(places, start=1) if len(place) > 1]
        they_lie = f"{_slices_named(doubled)} {'lies' if len(doubled) == 1 else 'lie'}"
        words = f"{they_lie} at the same place as another; the first of each is used"
        return (tuple(place[0] for place in places),), [words]
    return _complete_volumes(places, most)


def _mosaics(planes: Sequence[Plane], normal: NDArray[np.float64]) -> tuple[tuple[Plane, ...], ...]:
    """Make one volume of each mosaic; a patient may have been moved between them."""
    files: dict[object, list[Plane]] = defaultdict(list)
    for plane in sorted(planes, key=_order):
        files[plane.path].append(plane)
    return tuple(
        tuple(sorted(tiles, key=lambda plane: float(np.dot(plane.position, normal))))
        for tiles in files.values()
    )


def _sorted_places(planes: Sequence[Plane], normal: NDArray[np.float64]) -> list[list[Plane]]:
    """Return the images at each place, places sorted along the normal, images by their number."""
    depths = np.array([plane.position for plane in planes]) @ normal
    order = sorted(
        range(len(planes)), key=lambda n: (depths[n], planes[n].instance, planes[n].frame)
    )
    places: list[list[Plane]] = []
    last = -np.inf
    for n in order:
        if depths[n] - last > _SAME_PLACE_MM:
            places.append([])
            last = depths[n]
        places[-1].append(planes[n])
    return [sorted(place, key=lambda plane: (plane.instance, plane.frame)) for place in places]


def _in_time(places: list[list[Plane]], count: int) -> tuple[tuple[Plane, ...], ...]:
    """Make one volume of the first image of each place, of the second, and so on in time."""
    key = _time_key(places, count)
    ordered = [sorted(place, key=key) for place in places]
    return tuple(tuple(place[n] for place in ordered) for n in range(count))


def _complete_volumes(
    places: list[list[Plane]], most: int
) -> tuple[tuple[tuple[Plane, ...], ...], list[str]]:
    """Keep the volumes in time that have an image at every place."""
    key = _time_key(places, most)
    by_time: dict[Any, list[Plane]] = defaultdict(list)
    for place in places:
        for n, plane in enumerate(sorted(place, key=key)):
            by_time[key(plane) if key is not _order else n].append(plane)
    full = [tuple(by_time[t]) for t in sorted(by_time) if len(by_time[t]) == len(places)]
    total = sum(len(place) for place in places)
    if not full:
        full = [tuple(place[0] for place in places)]
    left_out = total - sum(len(group) for group in full)
    words = (
        f"{left_out} images belong to volumes that are not complete and are left out; "
        f"{len(full)} complete {'volume is' if len(full) == 1 else 'volumes are'} used"
    )
    return tuple(full), [words]


def _order(plane: Plane) -> Any:
    return plane.instance, plane.frame


def _time_key(places: list[list[Plane]], count: int) -> Callable[[Plane], Any]:
    """Return what tells the images of a place apart in the same way everywhere."""
    planes = [plane for place in places for plane in place]
    for n in range(min(len(plane.times) for plane in planes)):
        values = {plane.times[n] for plane in planes}
        is_unique = all(len({p.times[n] for p in place}) == len(place) for place in places)
        if None not in values and is_unique and len(values) == count:
            return lambda plane, n=n: plane.times[n]  # type: ignore[misc]
    return _order


# --- distances -----------------------------------------------------------------------------------


def _steps(depths: NDArray[np.float64]) -> tuple[float, int, list[str]]:
    """Return the slice distance of the grid, its number of slices, and what was irregular."""
    gaps = np.diff(depths)
    usual = float(np.median(gaps))
    if gaps.max() > min(_WIDEST_GAP * usual, _WIDEST_GAP_MM):
        raise NotAVolume(
            f"its slices lie {gaps.min():.1f} to {gaps.max():.1f} mm apart, which is no volume"
        )
    mean = float(depths[-1] / (len(depths) - 1))
    if np.abs(depths - mean * np.arange(len(depths))).max() <= max(0.02, _EVEN * mean):
        return mean, len(depths), []
    count = round(float(depths[-1]) / usual) + 1
    if count > (1 + _MOST_INVENTED) * len(depths):
        raise NotAVolume(f"more than half of its slices are missing ({count - len(depths)})")
    step = float(depths[-1]) / (count - 1)
    multiples = gaps / usual
    if np.abs(multiples - np.rint(multiples)).max() < 0.1 and count > len(depths):
        return step, count, [_missing(multiples)]
    return (
        step,
        count,
        [
            f"slices lie {gaps.min():.2f} to {gaps.max():.2f} mm apart; "
            f"they were interpolated to {count} slices every {step:.2f} mm"
        ],
    )


def _missing(multiples: NDArray[np.float64]) -> str:
    lacking = [(n, round(m) - 1) for n, m in enumerate(multiples, start=1) if round(m) > 1]
    count = sum(number for _, number in lacking)
    after = ", ".join(str(n) for n, _ in lacking[:5]) + (" ..." if len(lacking) > 5 else "")
    is_one = count == 1
    return (
        f"{count} {'slice is' if is_one else 'slices are'} missing (after slice {after}); "
        f"{'it was' if is_one else 'they were'} interpolated from the neighbours"
    )


def _slices_named(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(n) for n in numbers[:5]) + (" ..." if len(numbers) > 5 else "")
    return f"{len(numbers)} slice{'s' if len(numbers) > 1 else ''} ({shown})"


def _leaning(
    origins: NDArray[np.float64],
    depths: NDArray[np.float64],
    axes: NDArray[np.float64],
    spacing: NDArray[np.float64],
) -> tuple[NDArray[np.float64], tuple[tuple[int, int], tuple[int, int]], list[str]]:
    """Find how far slices are shifted against one another, as by a tilted gantry.

    Returns
    -------
    lean : (2,) pixels a mm of depth; margin : what the grid must grow; sentences.
    """
    shifts = (origins - origins[0]) @ axes.T / spacing  # (slices, 2) pixels
    lean = shifts[-1] / depths[-1]
    if np.abs(shifts - np.outer(depths, lean)).max() > 1.0:
        raise NotAVolume("its slices don't lie over one another")
    upright: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    if np.abs(shifts).max() <= _UPRIGHT_PIXELS:
        return np.zeros(2), upright, []
    ends = lean * depths[-1]
    before = [int(np.ceil(max(0.0, -end))) for end in ends]
    after = [int(np.ceil(max(0.0, end))) for end in ends]
    angle = np.degrees(np.arctan(np.linalg.norm(lean * spacing)))
    words = f"slices lean over by {angle:.1f}° (gantry tilt); they were shifted to stand upright"
    return lean, ((before[0], after[0]), (before[1], after[1])), [words]


def _origin(
    origins: NDArray[np.float64],
    depths: NDArray[np.float64],
    normal: NDArray[np.float64],
    *,
    upright: bool,
) -> NDArray[np.float64]:
    """Return where the first slice begins: for the whole stack at best, not for one slice."""
    if not upright:
        return np.asarray(origins[0])
    return np.asarray((origins - np.outer(depths, normal)).mean(axis=0))


def _straightened(slices: NDArray[np.float32], stack: Stack) -> NDArray[np.float32]:
    """Shift each slice (slices, rows, columns) by its lean into a larger grid."""
    (left, right), (top, bottom) = stack.margin
    lowest = float(slices.min())
    padded = np.pad(slices, ((0, 0), (top, bottom), (left, right)), constant_values=lowest)
    for n, depth in enumerate(stack.depths):
        columns, rows = stack.lean * depth
        padded[n] = ndimage.shift(padded[n], (rows, columns), order=1, cval=lowest)
    return padded


def _evened(
    slices: NDArray[np.float32], depths: NDArray[np.float64], even: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Interpolate slices (slices, rows, columns) from the depths where they are to even ones."""
    made = np.empty((len(even), *slices.shape[1:]), dtype=np.float32)
    upper = np.clip(np.searchsorted(depths, even), 1, len(depths) - 1)
    for n, (depth, right) in enumerate(zip(even, upper, strict=True)):
        weight = (depth - depths[right - 1]) / (depths[right] - depths[right - 1])
        weight = float(np.clip(weight, 0.0, 1.0))
        made[n] = (1 - weight) * slices[right - 1] + weight * slices[right]
    return made
