"""Image files to volumes and back.

Read: NIfTI (.nii, .nii.gz, .hdr/.img), FreeSurfer (.mgz, .mgh), NRRD (.nrrd, .nhdr), and DICOM
files and folders, by their content. Written: NIfTI and FreeSurfer.

A file that can't be used ends in `BadInput`, whose one sentence says what came and what to do.
What is written appears under its name only when it is complete. Knows nothing of models.
"""

from __future__ import annotations

import errno
import gzip
import math
import os
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from segone_napari.data.choices import choose_volume
from segone_napari.data.dicom import signature
from segone_napari.data.doubts import doubts_about_size, doubts_about_values
from segone_napari.runtime import BadInput, silenced
from segone_napari.volume import Affine, Grid, Volume

READABLE = (".nii", ".nii.gz", ".mgz", ".mgh", ".img", ".hdr", ".nrrd", ".nhdr")
WRITABLE = (".nii", ".nii.gz", ".mgz", ".mgh")

# No scanner makes a volume of more voxels (1024 x 1024 x 1024).
_MOST_VOXELS = 1 << 30
# Deflate can't shrink anything more than this: a header that claims more is wrong.
_MOST_COMPRESSION = 1032
# A header takes up to this many bytes more than the voxels, extensions and footers included.
_HEADER_SLACK = 1 << 20
# The file's affines are float32: what differs by less than this, in mm, is the same.
_SAME_MM = 1e-2
# An Analyze or NIfTI header begins with its size; other programs' .hdr files begin with words.
_HEADER_SIZES = (348, 540)
_OTHER_HEADERS = {
    b"ENVI": "an ENVI header",
    b"#?": "a picture (Radiance HDR)",
    b"!INTERFILE": "an Interfile header",
}
_SIDES_UNKNOWN = (
    "does not say how it lies in the patient: left and right can't be known from the file and may "
    "be swapped"
)
_MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}
_DAMAGED = (
    nib.spatialimages.HeaderDataError,
    nib.wrapstruct.WrapStructError,
    EOFError,
    OSError,
    OverflowError,
    ValueError,
    zlib.error,
)


def read(
    path: str | os.PathLike[str],
    *,
    volume: int | None = None,
    series: int | str | None = None,
    may_be_empty: bool = False,
) -> Volume:
    """Read an image file, or a folder of DICOM files.

    Integer voxels keep their dtype unless the file scales them; other numbers become float32.

    Parameters
    ----------
    path : a file ending in one of `READABLE`, or a DICOM file or folder of any name. A DICOM file
        stands for the whole series that it and the files beside it belong to.
    volume : which volume of a 4-D file or series, counted from 0.
    series : of a folder of several DICOM series, the number in the list or the UID of one.
    may_be_empty : whether every voxel may have the same value, as in an empty mask.

    Raises
    ------
    ManySeries, ManyVolumes
        If there is more than one to choose from.
    BadInput
        If the file is missing, damaged, or not one 3-D image of real numbers.
    """
    file = Path(path).expanduser()
    if is_dicom(file):
        return _read_dicom(file, volume, series)
    if series is not None:
        raise BadInput(f"{file} is not DICOM and has no series; leave out --series")
    _check_is_readable(file)
    if _ending(file, READABLE) in (".nrrd", ".nhdr"):
        from segone_napari.data import nrrd

        data, grid, warnings = nrrd.read(file, volume)
        if not _is_usable(grid.affine):
            raise BadInput(_bad_affine(file))
    else:
        data, grid, warnings = _read_with_nibabel(file, volume)
    if not _is_oriented(grid):
        warnings = (*warnings, f"{file.name} {_SIDES_UNKNOWN}")
    data, more_warnings = _without_non_finite(file, data)
    if not may_be_empty:
        _check_shows_something(file, data)
        more_warnings = (*more_warnings, *doubts_about_size(file.name, grid))
        more_warnings += doubts_about_values(data)
    return Volume(data, grid, file.name, (*warnings, *more_warnings))


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether a path is to be read as DICOM: a folder, or a file that begins as DICOM does."""
    file = Path(path).expanduser()
    if os.path.isdir(file):
        return True
    ending = _ending(file, READABLE)
    if ending in (".hdr", ".img"):
        return signature.is_certainly_dicom(file)
    return ending is None and signature.is_dicom(file)


def says_orientation(volume: Volume) -> bool:
    """Whether the file that a volume came from said how it lies in the patient."""
    return _is_oriented(volume.grid)


def oriented(volume: Volume, directions: str) -> Volume:
    """Lay a volume whose file didn't say how it lies as a person says; its centre stays.

    Parameters
    ----------
    directions : where the array's axes grow to, such as ``"LPS"``.
    """
    affine = np.eye(4)
    for axis, direction in enumerate(directions):
        toward = "RAS".find(direction)
        world, sign = (toward, 1.0) if toward >= 0 else ("LPI".index(direction), -1.0)
        affine[:3, axis] = 0.0
        affine[world, axis] = sign * volume.grid.spacing[axis]
    centre = (np.array(volume.grid.shape) - 1) / 2
    affine[:3, 3] = nib.affines.apply_affine(volume.affine, centre) - affine[:3, :3] @ centre
    grid = Grid(volume.grid.shape, affine)
    return as_chosen(Volume(volume.data, grid, volume.name, volume.warnings))


def as_chosen(volume: Volume) -> Volume:
    """Say of a volume whose file didn't say how it lies that a person did."""
    others = [words for words in volume.warnings if not words.endswith(_SIDES_UNKNOWN)]
    directions = volume.grid.orientation
    words = f"{volume.name} doesn't say how it lies in the patient; {directions} was chosen"
    return Volume(volume.data, volume.grid, volume.name, (*others, words))


def _is_oriented(grid: Grid) -> bool:
    return grid.sform_code > 0 or grid.qform_code > 0


def _read_dicom(path: Path, volume: int | None, series: int | str | None) -> Volume:
    from segone_napari.data.dicom.study import open_study, read_series

    study = open_study(path)
    return read_series(study, study.choose(series), volume)


def write(volume: Volume, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write a volume as NIfTI or MGH, by the ending of its name, and return the path.

    The affine is written as sform and qform with the codes of the volume's grid, in mm. Booleans
    become uint8, other floats float32.

    Raises
    ------
    BadInput
        If the file exists and `force` is not given, or if it can't be written.
    """
    file = Path(path).expanduser()
    ending = _ending(file, WRITABLE)
    if ending is None:
        raise BadInput(
            f"{file} has an ending that can't be written; use one of {', '.join(WRITABLE)}"
        )
    make = _make_mgh if ending in (".mgz", ".mgh") else _make_nifti

    def write_image(stream: BinaryIO) -> None:
        if ending in (".nii", ".mgh"):
            make(volume).to_stream(stream)
            return
        # Without a name and a time inside, equal volumes give equal files.
        with gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=6, mtime=0) as gz:
            make(volume).to_stream(gz)

    return write_atomically(file, write_image, force=force)


def check_output(path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Raise `BadInput` if a file can't be written there; else return its path.

    For commands that work long before they write.
    """
    file = Path(path).expanduser()
    if os.path.isdir(file):  # Path's own way raises on a name that is too long
        raise BadInput(f"{file} is a folder; name a file to write")
    if os.path.exists(file) and not force:
        raise BadInput(
            f"{file} already exists; use --force to overwrite it, or choose another name"
        )
    if not os.path.isdir(file.parent):
        raise BadInput(f"the folder {file.parent} does not exist; make it first, or choose another")
    if not os.access(file.parent, os.W_OK):
        raise BadInput(f"{file} can't be written: no permission; choose another folder")
    return file


def write_atomically(
    path: str | os.PathLike[str], writer: Callable[[BinaryIO], None], *, force: bool = False
) -> Path:
    """Let `writer` fill a file that appears under its name only when it is complete.

    It is written under a temporary name in the same folder, then renamed. Whatever goes wrong,
    the temporary file is gone and a former file of that name is untouched.

    Raises
    ------
    BadInput
        If the file exists and `force` is not given, if it can't be written, or the disk is full.
    """
    file = check_output(path, force=force)
    part = file.with_name(f".{uuid.uuid4().hex[:12]}.part")
    try:
        with part.open("xb") as stream:
            writer(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
    except OSError as error:
        raise BadInput(why_not_written(file, error)) from error
    finally:
        part.unlink(missing_ok=True)
    return file


def why_not_written(file: Path, error: OSError) -> str:
    """Say in one sentence why a file could not be written, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {file} was not written; free some space or choose another folder"
    reason = error.strerror or str(error)
    return f"{file} can't be written ({reason}); choose another folder or name"


def _ending(file: Path, endings: tuple[str, ...]) -> str | None:
    fitting = [ending for ending in endings if file.name.lower().endswith(ending)]
    return max(fitting, key=len) if fitting else None


def _check_is_readable(file: Path) -> None:
    """Say what is wrong with a file before any library looks into it."""
    if not os.path.exists(file):
        raise BadInput(f"no such file: {file}; check the path")
    ending = _ending(file, READABLE)
    if ending is None:
        raise BadInput(
            f"{file} is not an image that can be read; use a DICOM file or folder, or a file that "
            f"ends in {', '.join(READABLE)}"
        )
    start = _start_of(file)
    if not start:
        raise BadInput(f"{file} is empty (0 bytes); copy or download it again")
    is_gzip = start.startswith(b"\x1f\x8b")
    if ending == ".nii" and is_gzip:
        raise BadInput(f"{file} is compressed although its name says otherwise; rename it .nii.gz")
    if ending in (".nii.gz", ".mgz") and not is_gzip:
        raise BadInput(
            f"{file} is not an image: it is not compressed as its name says; "
            "if it is an uncompressed image, take the .gz or z off its name, else export it again"
        )
    if ending in (".hdr", ".img"):
        _check_is_pair(file)


def _start_of(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(16)
    except OSError as error:
        raise BadInput(f"{file} can't be read ({error.strerror}); check its permissions") from error


def _check_is_pair(file: Path) -> None:
    """Refuse the .hdr and .img files of other formats, and half a pair."""
    halves = {}
    for half in (".hdr", ".img"):
        named = (file.with_suffix(half), file.with_suffix(half.upper()))
        halves[half] = next((one for one in named if one.is_file()), None)
    header = halves[".hdr"]
    if header is not None:
        start = _start_of(header)
        sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
        if not sizes.intersection(_HEADER_SIZES):
            kinds = [kind for words, kind in _OTHER_HEADERS.items() if start.startswith(words)]
            raise BadInput(
                f"{header} is {kinds[0] if kinds else 'no header'} and not one of NIfTI or "
                "Analyze; convert the image to .nii.gz"
            )
    if None in halves.values():
        raise BadInput(f"{file} needs its other half (.hdr and .img) beside it; copy both")


def _read_with_nibabel(
    file: Path, volume: int | None
) -> tuple[NDArray[Any], Grid, tuple[str, ...]]:
    # What nibabel would print is said here in our own words.
    with silenced(nib.imageglobals.logger.name):
        image = _open(file)
        shape = _choose_shape(file, image)
        _check_claimed_size(file, image)
        index = _choose_volume(file, image.shape, volume)
        grid, warnings = _read_grid(file, image, shape)
    return _read_voxels(file, image, index).reshape(shape), grid, warnings


def _open(file: Path) -> Any:
    """Read the header alone."""
    try:
        image = nib.load(file, mmap=False)
    except nib.filebasedimages.ImageFileError as error:
        if not _first_bytes(file, 348):
            raise BadInput(_truncated(file)) from error
        raise BadInput(
            f"{file} is not an image, or its header is damaged; export it again as .nii.gz"
        ) from error
    except np.linalg.LinAlgError as error:
        raise BadInput(_bad_affine(file)) from error
    except _DAMAGED as error:
        raise BadInput(_truncated(file)) from error
    if not isinstance(image, (nib.AnalyzeImage, nib.MGHImage)):
        raise BadInput(f"{file} is a {type(image).__name__}; convert it to .nii.gz")
    return image


def _first_bytes(file: Path, count: int) -> bytes:
    """Return the first bytes of the content, none where it can't be decompressed so far."""
    try:
        with gzip.open(file) if _is_compressed(file) else file.open("rb") as stream:
            return stream.read(count)
    except (EOFError, OSError, zlib.error):
        return b""


def _is_compressed(file: Path) -> bool:
    return file.name.lower().endswith((".gz", ".mgz"))


def _choose_shape(file: Path, image: Any) -> tuple[int, int, int]:
    """Return the shape of one volume, after refusing what isn't a 3-D image of real numbers."""
    dtype = image.get_data_dtype()
    if dtype.fields is not None:
        raise BadInput(f"{file} holds RGB colours; an MRI with one grey value a voxel is wanted")
    if dtype.kind == "c":
        raise BadInput(f"{file} holds complex numbers; save its magnitude and use that")
    sizes = [int(size) for size in image.shape]
    text = "×".join(str(size) for size in sizes)
    if any(size < 1 for size in sizes):
        raise BadInput(f"the header of {file} is damaged: it says {text} voxels; export it again")
    if len(sizes) < 3 or min(sizes[:3]) == 1:
        raise BadInput(f"{file} is a 2-D image ({text}); a 3-D volume of several slices is wanted")
    if math.prod(sizes[4:]) > 1:
        raise BadInput(
            f"{file} has {len(sizes)} dimensions ({text}); save one 3-D volume of it and use that"
        )
    return sizes[0], sizes[1], sizes[2]


def _check_claimed_size(file: Path, image: Any) -> None:
    """Refuse a header that claims more voxels than the file can hold, before any allocation."""
    text = "×".join(str(int(size)) for size in image.shape)
    if math.prod(int(size) for size in image.shape[:3]) > _MOST_VOXELS:
        raise BadInput(
            f"the header of {file} claims {text} voxels, more than any scan has; "
            "the file is damaged, export it again"
        )
    claimed = math.prod(int(size) for size in image.shape) * image.get_data_dtype().itemsize
    stored = Path(image.file_map["image"].filename).stat().st_size
    if claimed > stored * (_MOST_COMPRESSION if _is_compressed(file) else 1):
        raise BadInput(
            f"{file} is truncated or its header is damaged: the header claims {text} voxels, "
            f"{claimed} bytes, but the file has {stored}; copy or export it again"
        )


def _choose_volume(file: Path, shape: tuple[int, ...], volume: int | None) -> int | None:
    """Return which volume of a 4-D file to take, None for a 3-D file."""
    if len(shape) < 4:
        choose_volume(str(file), 1, volume)
        return None
    return choose_volume(str(file), int(shape[3]), volume)


def _read_grid(file: Path, image: Any, shape: tuple[int, int, int]) -> tuple[Grid, tuple[str, ...]]:
    """Return where the voxels lie, and what a person should know about how that was found."""
    affine = np.asarray(image.affine, dtype=np.float64)
    sform_code, qform_code, warnings = 1, 1, []
    if isinstance(image, nib.Nifti1Pair):
        header = image.header
        sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
        qform = _qform(header)
        if sform_code > 0 and qform is not None and not _is_usable(affine):
            affine = qform
            warnings.append(f"the sform of {file.name} is unusable; its qform is used instead")
            sform_code = 0
        elif sform_code > 0 and qform is not None and _distance_mm(affine, qform, shape) > 1.0:
            warnings.append(
                f"the sform and qform of {file.name} disagree by "
                f"{_distance_mm(affine, qform, shape):.0f} mm; the sform is used"
            )
        affine, more_warnings = _in_mm(file, header, affine)
        warnings += more_warnings
    if not _is_usable(affine):
        raise BadInput(_bad_affine(file))
    if not _says_orientation(file, image):
        sform_code, qform_code = 0, 0
    return Grid(shape, affine, sform_code, qform_code), tuple(warnings)


def _qform(header: Any) -> Affine | None:
    """Return the qform where the header has a usable one."""
    try:
        qform = header.get_qform(coded=True)[0]
    except _DAMAGED:
        return None
    return np.asarray(qform, dtype=np.float64) if qform is not None and _is_usable(qform) else None


def _is_usable(affine: Affine) -> bool:
    if not np.all(np.isfinite(affine)):
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() < 1e-4 or lengths.max() > 1e4:
        return False
    # The volume of a voxel relative to its edges: near 0, its axes lie in one plane.
    return bool(abs(np.linalg.det(affine[:3, :3] / lengths)) > 1e-3)


def _distance_mm(affine: Affine, other: Affine, shape: tuple[int, int, int]) -> float:
    """Return how far the two affines are apart at the corner where they differ most."""
    ends = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners = ends * (np.array(shape) - 1)
    difference = nib.affines.apply_affine(affine, corners) - nib.affines.apply_affine(
        other, corners
    )
    return float(np.linalg.norm(difference, axis=1).max())


def _in_mm(file: Path, header: Any, affine: Affine) -> tuple[Affine, list[str]]:
    unit = header.get_xyzt_units()[0] if int(header["xyzt_units"]) % 8 in (1, 2, 3) else "mm"
    factor = _MM_PER_UNIT.get(unit, 1.0)
    scaled = np.diag([factor, factor, factor, 1.0]) @ affine
    # Some programs write the wrong unit: believe it only if voxels come out of a sensible size.
    sizes = nib.affines.voxel_sizes(scaled)
    if factor == 1.0 or not np.all((sizes > 0.01) & (sizes < 50.0)):
        return affine, []
    return scaled, [f"{file.name} is measured in {unit}; it was converted to mm"]


def _says_orientation(file: Path, image: Any) -> bool:
    if isinstance(image, nib.MGHImage):
        # nibabel overwrites this flag ("good RAS") when it fills in a default direction.
        return _first_bytes(file, 30)[28:] != b"\0\0"
    if isinstance(image, nib.Nifti1Pair):
        return bool(image.header["sform_code"] > 0 or image.header["qform_code"] > 0)
    return False


def _read_voxels(file: Path, image: Any, index: int | None) -> NDArray[Any]:
    try:
        where = ... if index is None else (slice(None), slice(None), slice(None), index)
        data = np.asarray(image.dataobj[where])
        _check_checksum(file, image)
    except MemoryError as error:
        text = "×".join(str(size) for size in image.shape)
        raise BadInput(
            f"{file} ({text} voxels) does not fit into memory; crop it or use a larger machine"
        ) from error
    except _DAMAGED as error:
        raise BadInput(_truncated(file)) from error
    if data.dtype.kind in "iub":
        return data.astype(data.dtype.newbyteorder("="), copy=False)
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is looked for
        return data.astype(np.float32, copy=False)


def _check_checksum(file: Path, image: Any) -> None:
    """Raise as a damaged file does if a compressed file's checksum is wrong.

    nibabel stops reading before the checksum at the end, and so takes flipped bits as voxels.
    """
    if not _is_compressed(file):
        return
    claimed = math.prod(int(size) for size in image.shape) * image.get_data_dtype().itemsize
    left = claimed + _HEADER_SLACK
    with gzip.open(file, "rb") as stream:
        while left > 0 and (chunk := stream.read(1 << 20)):
            left -= len(chunk)


def _without_non_finite(file: Path, data: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Replace NaN and infinity by the lowest value, which is the background's in an MRI."""
    if data.dtype.kind != "f":
        return data, ()
    is_finite = np.isfinite(data)
    count = data.size - int(np.count_nonzero(is_finite))
    if count == 0:
        return data, ()
    if count == data.size:
        raise BadInput(f"{file} has no voxel with a finite value; export it again")
    lowest = data[is_finite].min()
    share = f"{count} voxels ({100 * count / data.size:.2g} %)"
    return np.where(is_finite, data, lowest), (
        f"{share} of {file.name} are NaN or infinite; they count as background",
    )


def _check_shows_something(file: Path, data: NDArray[Any]) -> None:
    lowest, highest = data.min(), data.max()
    if lowest == highest:
        raise BadInput(
            f"{file} shows nothing: every voxel is {float(lowest):g}; check that it is the image "
            "and not an empty mask"
        )


def _truncated(file: Path) -> str:
    return f"{file} is truncated or corrupt; copy, download or export it again"


def _bad_affine(file: Path) -> str:
    return (
        f"{file} does not say where its voxels lie: its affine is singular or not finite; "
        "convert it again from the scanner's files"
    )


def _make_nifti(volume: Volume) -> Any:
    data = _storable(volume.data)
    grid = volume.grid
    image = nib.Nifti1Image(data, grid.affine)
    if max(data.shape) > np.iinfo(np.int16).max:
        image = nib.Nifti2Image(data, grid.affine)
    image.header.set_xyzt_units(xyz="mm", t="sec")
    image.set_sform(grid.affine, _sform_code(image, grid), update_affine=False)
    image.set_qform(grid.affine, grid.qform_code, strip_shears=True, update_affine=False)
    return image


def _sform_code(image: Any, grid: Grid) -> int:
    """Keep the sform code, unless readers would then place the voxels elsewhere."""
    if grid.sform_code > 0:
        return grid.sform_code
    header = image.header.copy()
    header.set_sform(grid.affine, 0)
    header.set_qform(grid.affine, grid.qform_code, strip_shears=True)
    if _distance_mm(header.get_best_affine(), grid.affine, grid.shape) < _SAME_MM:
        return 0
    return grid.qform_code or 1


def _make_mgh(volume: Volume) -> Any:
    data = _storable(volume.data)
    if data.dtype == np.uint16:
        data = data.astype(np.int32)
    return nib.MGHImage(data, volume.affine)


def _storable(data: NDArray[Any]) -> NDArray[Any]:
    """Bring voxels to a dtype that every reader of these formats knows."""
    if data.dtype.kind == "b" or data.dtype == np.uint8:
        return data.astype(np.uint8)
    if data.dtype.kind == "f":
        return data.astype(np.float32)
    for dtype in (np.int16, np.uint16, np.int32):
        if np.can_cast(data.dtype, dtype) or _fits(data, np.dtype(dtype)):
            return data.astype(dtype)
    return data.astype(np.float32)


def _fits(data: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether wide integers can be stored as 32 bits; narrow ones keep their own width."""
    if dtype.itemsize < 4:
        return False
    limits = np.iinfo(dtype)
    return bool(data.size == 0 or (data.min() >= limits.min and data.max() <= limits.max))
