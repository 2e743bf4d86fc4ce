"""The pixels of planes: decoded, rescaled, and put together to a volume."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from segone_napari.data.dicom.headers import Plane, group, listed, number
from segone_napari.data.dicom.stacks import NotAVolume, Stack, arrange, assemble
from segone_napari.runtime import BadInput

EXTRA = "dicom"
"""The extra of this package that brings decoders for compressed images."""

# What pydicom and its plugins raise on data that is cut off, or isn't what the header says.
_DAMAGED = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_PIXEL_TAGS = [
    *(0x00080016, 0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011),
    *(0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00281052, 0x00281053),
    *(0x52009229, 0x52009230, 0x7FE00001, 0x7FE00002, 0x7FE00008, 0x7FE00009, 0x7FE00010),
]
# A few damaged slices are left out; of more than this share, nothing is made.
_MOST_DAMAGED = 0.1


def read_stack(stack: Stack, volume: int) -> tuple[NDArray[Any], Stack]:
    """Read one volume of a stack.

    Integer pixels keep their dtype unless the file rescales them; other numbers become float32.

    Returns
    -------
    (columns, rows, slices) array, and the stack that it fills: another one with more warnings
    where slices turned out to be damaged.

    Raises
    ------
    BadInput
        If the pixels can't be decoded, or too many are damaged.
    """
    planes = stack.volumes[volume]
    images = _read_planes(planes)
    if len(images) < len(planes):
        stack = _without_damaged(stack, planes, images)
    elif volume > 0:
        # The patient may have been moved since the first.
        stack = replace(arrange(planes), warnings=stack.warnings)
    found = [images[plane] for plane in stack.volumes[0]]
    dtype = np.result_type(*{image.dtype for image in found})
    return assemble(stack, [image.astype(dtype, copy=False) for image in found]), stack


def _read_planes(planes: Sequence[Plane]) -> dict[Plane, NDArray[Any]]:
    """Read each plane, as (rows, columns), file by file; damaged ones are left out."""
    by_file: dict[Path, list[Plane]] = defaultdict(list)
    for plane in planes:
        by_file[plane.path].append(plane)
    images: dict[Plane, NDArray[Any]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of padding and other harmless habits
        for path, group in by_file.items():
            try:
                images.update(_read_file(path, group))
            except _DAMAGED as error:
                _raise_if_undecodable(path, error)
    return images


def _read_file(path: Path, planes: Sequence[Plane]) -> Iterator[tuple[Plane, NDArray[Any]]]:
    data = pydicom.dcmread(path, force=True, specific_tags=list(_PIXEL_TAGS))
    if "PixelRepresentation" not in data:
        data.PixelRepresentation = 0  # `headers` has said so
    if not data.file_meta.get("TransferSyntaxUID"):
        implicit = data.original_encoding[0]
        data.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        )
    if planes[0].size != (data.Rows, data.Columns):
        yield from _read_tiles(data, planes)
        return
    frames = sorted(planes, key=lambda plane: plane.frame)
    decoded = iter_pixels(data, indices=[plane.frame for plane in frames])
    for plane, pixels in zip(frames, decoded, strict=True):
        yield plane, _rescaled(_upright_grey(pixels, data), data, plane.frame)


def _read_tiles(data: Dataset, planes: Sequence[Plane]) -> Iterator[tuple[Plane, NDArray[Any]]]:
    """Cut a mosaic into its slices, which follow one another row by row."""
    whole = _rescaled(next(iter(iter_pixels(data))), data, 0)
    rows, columns = planes[0].size
    across = whole.shape[1] // columns
    for plane in planes:
        down, right = divmod(plane.frame, across)
        tile = whole[down * rows : (down + 1) * rows, right * columns : (right + 1) * columns]
        yield plane, tile


def _upright_grey(pixels: NDArray[Any], data: Dataset) -> NDArray[Any]:
    """Turn images whose low values are white, so that bright is high."""
    if data.get("PhotometricInterpretation") != "MONOCHROME1":
        return pixels
    bits = int(data.BitsStored)
    lowest = -(1 << (bits - 1)) if data.PixelRepresentation else 0
    turned = (2 * lowest + (1 << bits) - 1) - pixels.astype(np.int64)
    return turned.astype(pixels.dtype)


def _rescaled(pixels: NDArray[Any], data: Dataset, frame: int) -> NDArray[Any]:
    """Apply the slope and intercept, a multi-frame file's own for each frame."""
    own = listed(data.get("PerFrameFunctionalGroupsSequence"))
    shared = listed(data.get("SharedFunctionalGroupsSequence"))
    where = data
    if own or shared:
        where = group(
            "PixelValueTransformationSequence",
            own[frame] if frame < len(own) else Dataset(),
            shared[0] if shared else Dataset(),
        )
    slope = number(where.get("RescaleSlope"), 1.0)
    intercept = number(where.get("RescaleIntercept"), 0.0)
    if slope == 0 or (slope, intercept) == (1.0, 0.0):
        return pixels if pixels.dtype.kind in "iu" else pixels.astype(np.float32)
    return (pixels * slope + intercept).astype(np.float32)


def _raise_if_undecodable(path: Path, error: Exception) -> None:
    """Raise in our own words if it is the coding that can't be read, and not this one file."""
    meta = pydicom.dcmread(path, force=True, specific_tags=[0x00080016]).file_meta
    syntax = UID(str(meta.get("TransferSyntaxUID", "")))
    if not syntax or (not syntax.is_transfer_syntax and not syntax.is_private):
        return
    if syntax.is_private and not isinstance(error, OSError):
        raise BadInput(
            f"these images are in a private coding ({syntax}) that only the maker's programs "
            "read; export them again as 'Explicit VR Little Endian' (uncompressed)"
        ) from error
    if syntax.is_compressed and not syntax.is_deflated:
        _raise_if_no_decoder(syntax, error)


def _raise_if_no_decoder(syntax: UID, error: Exception) -> None:
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise BadInput(
            f"these images are compressed as '{syntax.name}', which can't be read; export them "
            "again uncompressed or as JPEG 2000"
        ) from error
    if not decoder.is_available:
        raise BadInput(
            f"these images are compressed as '{syntax.name}'; to read them: "
            f"python -m pip install 'segone-napari[{EXTRA}]'"
        ) from error


def _without_damaged(
    stack: Stack, planes: Sequence[Plane], images: dict[Plane, NDArray[Any]]
) -> Stack:
    """Arrange what could be read, and say what could not."""
    damaged = [n for n, plane in enumerate(planes, start=1) if plane not in images]
    numbers = ", ".join(str(n) for n in damaged[:5]) + (" ..." if len(damaged) > 5 else "")
    if len(damaged) > max(1, _MOST_DAMAGED * len(planes)) or len(images) < 2:
        raise BadInput(
            f"the pixels of {len(damaged)} of {len(planes)} slices are truncated or damaged "
            f"(slice {numbers}); copy or export the series again"
        )
    try:
        rest = arrange([plane for plane in planes if plane in images])
    except NotAVolume as error:
        raise BadInput(
            f"slice {numbers} is truncated or damaged and the others are no volume: {error}; "
            "copy or export the series again"
        ) from error
    words = f"the pixels of slice {numbers} are truncated or damaged and were left out"
    return replace(rest, warnings=(*stack.warnings, words, *rest.warnings))
