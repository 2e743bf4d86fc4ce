"""Which files are DICOM, by their first bytes. Loads nothing, so that asking costs nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether a file is DICOM; its name says nothing."""
    try:
        with Path(path).open("rb") as stream:
            return starts_as_dicom(stream)
    except OSError:
        return False


def is_certainly_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether a file says that it is DICOM; voxels alone can look like files that don't say it."""
    try:
        with Path(path).open("rb") as stream:
            return _says_so(stream.read(132))
    except OSError:
        return False


def starts_as_dicom(stream: BinaryIO) -> bool:
    """Whether what is read from the beginning of a file is DICOM."""
    start = stream.read(132)
    if _says_so(start):
        return True
    # Files from before 1993, and from some programs still, begin with their first element: a
    # group 0002 or 0008, a low element, and a kind of value in letters or a short length.
    group, element, kind = start[:2], start[2:4], start[4:8]
    is_first = group in (b"\x02\x00", b"\x08\x00") and element[1:] == b"\0"
    return is_first and len(start) == 132 and (kind[:2].isalpha() or kind[1:] == b"\0\0\0")


def _says_so(start: bytes) -> bool:
    return start[128:] == b"DICM"
