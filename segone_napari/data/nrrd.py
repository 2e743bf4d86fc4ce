"""NRRD images (.nrrd, .nhdr, and the label maps in .seg.nrrd) to voxels and where they lie."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from numpy.typing import NDArray

from segone_napari.data.choices import choose_volume
from segone_napari.runtime import BadInput
from segone_napari.volume import Affine, Grid

ENDINGS = (".nrrd", ".nhdr")

# The directions in which a space's axes grow, as factors that turn them to RAS.
_TO_RAS = {
    "right-anterior-superior": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
}
_MM_PER_UNIT = {"m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3}
_COLOURS = ("rgb-color", "hsv-color", "xyz-color", "rgba-color")
DAMAGED = (
    nrrd.NRRDError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    TypeError,
    ValueError,
    zlib.error,
)
"""What reading a damaged file may raise."""

# A header that claims more than its file's bytes can be unpacked to is wrong. bzip2 packs a run of
# one value into a few dozen bytes a block of 45 MB.
_MOST_COMPRESSION = {"gzip": 1032, "gz": 1032, "bzip2": 1 << 21, "bz2": 1 << 21}
_MOST_VOXELS = 1 << 30


@dataclass(frozen=True)
class _Axes:
    """Which of a file's axes are the image's three, and which one, if any, is of volumes."""

    image: tuple[int, int, int]
    volumes: int | None


def read(file: Path, volume: int | None) -> tuple[NDArray[Any], Grid, tuple[str, ...]]:
    """Read one volume.

    Returns
    -------
    (i, j, k) voxels, their grid (codes 0 where the file doesn't say how it lies), and remarks.

    Raises
    ------
    BadInput
        If the file is damaged, or not one image of real numbers.
    """
    header = _header(file)
    axes = _axes(file, header)
    sizes = [int(size) for size in header["sizes"]]
    count = sizes[axes.volumes] if axes.volumes is not None else 1
    index = choose_volume(str(file), count, volume)
    shape = tuple(sizes[axis] for axis in axes.image)
    grid, remarks = _grid(file, header, axes, shape)  # type: ignore[arg-type]
    data = _voxels(file, header)
    if axes.volumes is not None:
        data = np.take(data, index, axis=axes.volumes)
    return data, grid, remarks


def _header(file: Path) -> Mapping[str, Any]:
    try:
        with file.open("rb") as stream:
            header: Mapping[str, Any] = nrrd.read_header(stream)
            sizes = [int(size) for size in header["sizes"]]
            _ = header["type"], header["encoding"]
    except DAMAGED as error:
        raise BadInput(
            f"{file} is not an NRRD image, or its header is damaged; export it again"
        ) from error
    if math.prod(sizes) > 64 * _MOST_VOXELS or min(sizes) < 1:
        text = "×".join(str(size) for size in sizes)
        raise BadInput(f"the header of {file} is damaged: it says {text} voxels; export it again")
    return header


def _axes(file: Path, header: Mapping[str, Any]) -> _Axes:
    """Tell the axes in space from an axis of volumes."""
    kinds = [str(kind).lower() for kind in header.get("kinds", [])]
    if any(kind in _COLOURS for kind in kinds):
        raise BadInput(f"{file} holds RGB colours; an MRI with one grey value a voxel is wanted")
    if "complex" in kinds:
        raise BadInput(f"{file} holds complex numbers; save its magnitude and use that")
    dimension = len(header["sizes"])
    spatial = _spatial(header, kinds, dimension)
    others = [axis for axis in range(dimension) if axis not in spatial]
    sizes = "×".join(str(int(size)) for size in header["sizes"])
    if len(spatial) != 3 or min(int(header["sizes"][axis]) for axis in spatial) < 2:
        raise BadInput(f"{file} is a 2-D image ({sizes}); a 3-D volume of several slices is wanted")
    if len(others) > 1:
        raise BadInput(
            f"{file} has {dimension} dimensions ({sizes}); save one 3-D volume of it and use that"
        )
    return _Axes((spatial[0], spatial[1], spatial[2]), others[0] if others else None)


def _spatial(header: Mapping[str, Any], kinds: list[str], dimension: int) -> list[int]:
    directions = header.get("space directions")
    if directions is not None:
        # A row of four says time too, as ITK and spaces "...-time" have it.
        known = [
            row is not None and np.isfinite(row).all() and (len(row) < 4 or np.any(row[:3]))
            for row in directions
        ]
        return [axis for axis, is_known in enumerate(known) if is_known]
    in_space = [axis for axis, kind in enumerate(kinds) if kind in ("domain", "space")]
    return in_space if len(in_space) == 3 else list(range(min(3, dimension)))


def _grid(
    file: Path, header: Mapping[str, Any], axes: _Axes, shape: tuple[int, int, int]
) -> tuple[Grid, tuple[str, ...]]:
    """Return where voxels lie, and what a person should know about how that was found."""
    affine = np.eye(4)
    factors = _space(header)
    if "space directions" in header:
        rows = [np.asarray(header["space directions"][axis], dtype=float) for axis in axes.image]
        affine[:3, :3] = np.stack(rows, axis=1)[:3]
        affine[:3, 3] = np.asarray(header.get("space origin", np.zeros(3)), dtype=float)[:3]
    else:
        spacings = np.asarray(header.get("spacings", np.ones(len(header["sizes"]))), dtype=float)
        affine[:3, :3] = np.diag([spacings[axis] for axis in axes.image])
        factors = None
    affine, remarks = _in_mm(file, header, affine)
    if factors is None:
        return Grid(shape, affine, 0, 0), tuple(remarks)
    return Grid(shape, np.diag([*factors, 1.0]) @ affine), tuple(remarks)


def _space(header: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Return what turns the file's space to RAS, None where it doesn't name one we know."""
    space = str(header.get("space", "")).removesuffix("-time")
    if space in ("RAS", "LAS", "LPS", "RAST", "LAST", "LPST"):
        space = next(name for name in _TO_RAS if _initials(name) == space[:3])
    return _TO_RAS.get(space.lower())


def _initials(name: str) -> str:
    return "".join(word[0].upper() for word in name.split("-"))


def _in_mm(file: Path, header: Mapping[str, Any], affine: Affine) -> tuple[Affine, list[str]]:
    units = {str(unit).strip('"') for unit in header.get("space units", []) if unit}
    factors = {_MM_PER_UNIT[unit] for unit in units if unit in _MM_PER_UNIT}
    if len(factors) != 1 or factors == {1.0}:
        return affine, []
    factor = factors.pop()
    scaled = np.diag([factor, factor, factor, 1.0]) @ affine
    return scaled, [f"{file.name} is measured in {units.pop()}; it was converted to mm"]


def _voxels(file: Path, header: Mapping[str, Any]) -> NDArray[Any]:
    _check_claimed_size(file, header)
    try:
        with warnings.catch_warnings(), file.open("rb") as stream:
            warnings.simplefilter("ignore")
            data: NDArray[Any] = nrrd.read_data(nrrd.read_header(stream), stream, str(file))
    except FileNotFoundError as error:
        raise BadInput(f"{file} needs the file with its voxels beside it; copy both") from error
    except MemoryError as error:
        raise BadInput(
            f"{file} does not fit into memory; crop it or use a larger machine"
        ) from error
    except DAMAGED as error:
        raise BadInput(
            f"{file} is truncated or corrupt; copy, download or export it again"
        ) from error
    if data.dtype.kind in "iub":
        return data.astype(data.dtype.newbyteorder("="), copy=False)
    with np.errstate(over="ignore"):
        return data.astype(np.float32, copy=False)


def _check_claimed_size(file: Path, header: Mapping[str, Any]) -> None:
    """Refuse a header that claims more voxels than its file can hold, before any allocation."""
    name = header.get("data file", header.get("datafile"))
    if isinstance(name, str) and (name.startswith("LIST") or "%" in name):
        raise BadInput(f"{file} has its slices in several files; save it as one .nrrd file")
    holder = file if name is None else file.parent / str(name)
    if not holder.is_file():
        raise BadInput(f"{file} needs the file with its voxels beside it; copy both")
    claimed = math.prod(int(size) for size in header["sizes"])
    most = _MOST_COMPRESSION.get(str(header["encoding"]), 8)
    if claimed > holder.stat().st_size * most:
        raise BadInput(
            f"{file} is truncated or its header is damaged: the header claims {claimed} voxels, "
            f"but the file has {holder.stat().st_size} bytes; copy or export it again"
        )
