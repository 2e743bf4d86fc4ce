"""What is measured of each structure: volume, surface, largest diameter, intensity."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from segone_napari.exports.content import NOT_FOR_DIAGNOSIS, Content, Segment
from segone_napari.exports.meshes import surface_of
from segone_napari.volume import Volume

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

    The volume is that of the voxels. The surface and the largest diameter, the greatest distance
    of any two of its points, are those of the mask's surface (`segone_napari.exports.meshes`).
    Intensities are the image's own values, of all voxels inside; None without an image or a voxel.

    Parameters
    ----------
    image : on the segments' grid.
    """
    return [_measure(segment, label, image) for label, segment in enumerate(segments, start=1)]


def write_csv(content: Content, path: Path) -> None:
    """Write one line a segment."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(measure(content.segments, content.image))
    path.write_text(text.getvalue(), encoding="utf-8")


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
        "surface_mm2": round(surface.area_mm2, 2),
        "largest_diameter_mm": round(_largest_distance(surface.vertices), 2),
        "mean_intensity": round(float(values.mean()), 4) if values.size else None,
        "sd_intensity": round(float(values.std()), 4) if values.size else None,
    }


def _largest_distance(points: NDArray[np.float64]) -> float:
    """Return the greatest distance between two of the points (n, 3): two corners of their hull."""
    if not len(points):
        return 0.0
    corners = points[ConvexHull(points).vertices]
    return float(pdist(corners).max())
