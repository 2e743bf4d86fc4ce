"""The one type for an image or a mask: voxels and where they lie in the patient.

World coordinates are RAS+ in mm everywhere: x grows to the patient's right, y to the front
(anterior), z to the head (superior). Knows nothing of files, torch or napari.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]

Box = tuple[slice, slice, slice]
"""A box of voxels in a grid: half-open slices along i, j, k."""

EMPTY_BOX: Box = (slice(0, 0), slice(0, 0), slice(0, 0))


def bounding_box(mask: NDArray[Any], margin: Sequence[int] = (0, 0, 0)) -> Box:
    """The smallest box that holds all of a mask (i, j, k) that isn't 0; empty if nothing is.

    Parameters
    ----------
    margin : by how many voxels it is larger on both sides of each axis, inside of the array.
    """
    box = [slice(None)] * 3
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        hit = np.flatnonzero(mask[tuple(box)].any(axis=others))
        if not len(hit):
            return EMPTY_BOX
        box[axis] = slice(int(hit[0]), int(hit[-1]) + 1)
    i, j, k = (
        slice(max(0, side.start - more), min(size, side.stop + more))
        for side, more, size in zip(box, margin, mask.shape, strict=True)
    )
    return i, j, k


def joined(*boxes: Box) -> Box:
    """The smallest box that holds boxes; empty ones don't count."""
    filled = [box for box in boxes if all(side.stop > side.start for side in box)]
    if not filled:
        return EMPTY_BOX
    i, j, k = (
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*filled, strict=True)
    )
    return i, j, k


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie: a shape and an affine, without the voxels.

    Attributes
    ----------
    shape : (i, j, k), the number of voxels along each array axis.
    affine : (4, 4) float64, voxel index (i, j, k) to RAS+ mm.
    sform_code, qform_code : the NIfTI codes of the file the grid came from; 0 is "unknown".
    """

    shape: tuple[int, int, int]
    affine: Affine
    sform_code: int = 1
    qform_code: int = 1

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxels along each array axis."""
        return tuple(float(s) for s in nib.affines.voxel_sizes(self.affine))  # type: ignore[return-value]

    @property
    def orientation(self) -> str:
        """Closest anatomical direction in which each array axis grows, such as ``"RAS"``."""
        return "".join(nib.aff2axcodes(self.affine))

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def is_same_as(self, other: "Grid", tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have the same shape and place every voxel at the same point."""
        return self.shape == other.shape and np.allclose(
            self.affine, other.affine, rtol=0.0, atol=tolerance_mm
        )


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D image or mask.

    Attributes
    ----------
    data : (i, j, k) array of any real dtype.
    grid : where the voxels lie.
    name : what to call it in messages and tables, usually the file's name.
    warnings : what a reader had to say about it ("3 voxels were not finite ...").
    """

    data: NDArray[Any]
    grid: Grid
    name: str = "image"
    warnings: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.data.shape != self.grid.shape:
            raise ValueError(f"data of shape {self.data.shape} on a grid of {self.grid.shape}")

    @classmethod
    def from_affine(cls, data: NDArray[Any], affine: Affine, name: str = "image") -> "Volume":
        """Make a volume from an array (i, j, k) and its affine (4, 4) to RAS+ mm."""
        i, j, k = data.shape
        return cls(data, Grid((i, j, k), np.asarray(affine, dtype=np.float64)), name)

    @property
    def affine(self) -> Affine:
        """(4, 4) voxel index to RAS+ mm."""
        return self.grid.affine

    def with_data(self, data: NDArray[Any]) -> "Volume":
        """Return other voxels on the same grid."""
        return replace(self, data=data)
