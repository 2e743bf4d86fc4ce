"""What is measured of each structure: volume, surface, largest diameter, intensity."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from segone_napari.exports.content import NOT_FOR_DIAGNOSIS, Content, Segment
from segone_napari.exports.meshes import Surface, level_surface, surface_of
from segone_napari.exports.tables import csv_text
from segone_napari.volume import Volume

_BLUR_VOXELS = 1.0
_MARGIN = 6
# How many times finer a thick slice is looked at, at most.
_MOST_BETWEEN = 6

COLUMNS = (
    "label",
    "name",
    "voxels",
    "volume_ml",
    "surface_mm2",
    "largest_diameter_mm",
    "mean_intensity",
    "sd_intensity",
)


def measure(segments: Sequence[Segment], image: Volume | None = None) -> list[dict[str, Any]]:
    """Measure each segment; the keys are `COLUMNS`.

    The volume is that of the voxels. The surface is `area_mm2`. The largest diameter is the
    greatest distance of any two points of the mask's mesh (`segone_napari.exports.meshes`).
    Intensities are the image's own values, of all voxels inside; None without an image or a voxel.

    Parameters
    ----------
    image : on the segments' grid.
    """
    return [_measure(segment, label, image) for label, segment in enumerate(segments, start=1)]


def area_mm2(segment: Segment) -> float:
    """Find the area of a mask's surface, without the steps that voxels make of a smooth one.

    Each part that hangs together is blurred by one voxel, and the area is that of the level that
    encloses the part's own volume: within 3 % of a ball of that volume. Sharp edges are rounded,
    and what is thinner than two voxels and hangs on something larger is lost.
    """
    parts, _ = ndimage.label(segment.inside, np.ones((3, 3, 3)))
    boxes = ndimage.find_objects(parts)
    spacing = np.array(segment.grid.spacing)
    axes = segment.grid.affine[:3, :3] / spacing
    # A noisy mask has tens of thousands of specks, of a few hundred shapes.
    alike: Counter[tuple[tuple[int, ...], bytes]] = Counter()
    for n, box in enumerate(boxes, start=1):
        inside = parts[box] == n
        alike[inside.shape, inside.tobytes()] += 1
    areas = (
        count * _area_of_part(np.frombuffer(voxels, bool).reshape(shape), spacing, axes)
        for (shape, voxels), count in alike.items()
    )
    return sum(areas, start=0.0)


def write_csv(content: Content, path: Path) -> None:
    """Write one line a segment."""
    rows = measure(content.segments, content.image)
    path.write_text(csv_text(COLUMNS, rows), encoding="utf-8")


def write_json(content: Content, path: Path) -> None:
    """Write the same numbers with their voxel size."""
    document = {
        "remark": NOT_FOR_DIAGNOSIS,
        "voxel_mm": [round(size, 6) for size in content.grid.spacing],
        "segments": measure(content.segments, content.image),
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _measure(segment: Segment, label: int, image: Volume | None) -> dict[str, Any]:
    surface = surface_of(segment)
    values = np.zeros(0) if image is None else image.data[segment.inside].astype(np.float64)
    return {
        "label": label,
        "name": segment.name,
        "voxels": int(np.count_nonzero(segment.inside)),
        "volume_ml": round(segment.volume_ml, 4),
        "surface_mm2": round(area_mm2(segment), 2),
        "largest_diameter_mm": round(_largest_distance(surface.vertices), 2),
        "mean_intensity": round(float(values.mean()), 4) if values.size else None,
        "sd_intensity": round(float(values.std()), 4) if values.size else None,
    }


def _area_of_part(
    inside: NDArray[np.bool_], spacing: NDArray[np.float64], directions: NDArray[np.float64]
) -> float:
    """Find the area of a part (i, j, k) with axes along `directions`, columns of length 1."""
    field: NDArray[Any] = np.pad(inside.astype(np.float32), _MARGIN)
    field = ndimage.gaussian_filter(field, _BLUR_VOXELS)
    # Triangles as long as a slice is thick would cut through the bends of the field.
    steps = np.clip(np.rint(spacing / spacing.min()), 1, _MOST_BETWEEN).astype(int)
    for axis, count in enumerate(steps):
        field = _finer(field, axis, int(count))
    vertices, faces = level_surface(field, float(inside.sum() * steps.prod()))
    return Surface((vertices * (spacing / steps)) @ directions.T, faces).area_mm2


def _finer(field: NDArray[Any], axis: int, count: int) -> NDArray[Any]:
    """Put `count` - 1 values between any two along an axis."""
    if count == 1:
        return field
    length = field.shape[axis]
    between = np.linspace(0, length - 1, (length - 1) * count + 1)
    finer: NDArray[Any] = CubicSpline(np.arange(length), field, axis=axis)(between)
    return finer.astype(np.float32)


def _largest_distance(points: NDArray[np.float64]) -> float:
    """Return the greatest distance between two of the points (n, 3): two corners of their hull."""
    if not len(points):
        return 0.0
    corners = points[ConvexHull(points).vertices]
    return float(pdist(corners).max())
