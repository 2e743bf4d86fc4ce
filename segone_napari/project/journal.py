"""A file that only grows: records with their length and checksum.

Knows nothing of masks. A record that was torn when the machine died is dropped when the file is
opened again; damage further in is told, and what follows it is set aside rather than lost.
"""

from __future__ import annotations

import errno
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segone_napari.runtime import SegOneError

MAGIC = b"SEGONE-JOURNAL-1\n"
_ID_BYTES = 8
START = len(MAGIC) + _ID_BYTES
"""Where the first record begins."""

_HEAD = struct.Struct("<QIB")  # length of the content, its CRC-32, kind
_CRC = struct.Struct("<I")  # CRC-32 of the head, so that a wrong length is noticed
_HEAD_BYTES = _HEAD.size + _CRC.size


class NotSaved(SegOneError):
    """Something could not be written: a full or read-only disk, a folder that is gone."""


@dataclass(frozen=True)
class Record:
    """One entry: what kind of thing it is, its bytes, and where in the file it ends."""

    kind: int
    content: bytes
    end: int


@dataclass(frozen=True)
class Contents:
    """What a journal's file holds.

    Attributes
    ----------
    id : a random name of this file, so that a snapshot can't be taken for another journal's.
    records : all whole records from the start.
    end : where they end.
    damaged_bytes : how much follows that can't be read, other than one torn record.
    """

    id: str
    records: tuple[Record, ...]
    end: int
    damaged_bytes: int


def packed_record(kind: int, content: bytes) -> bytes:
    """Make a record's bytes."""
    head = _HEAD.pack(len(content), zlib.crc32(content), kind)
    return head + _CRC.pack(zlib.crc32(head)) + content


def records_in(data: bytes, start: int) -> Iterator[Record]:
    """Yield whole records from `start` until the first that isn't."""
    at = start
    while (head := _head(data, at)) is not None:
        length, crc, kind = head
        end = at + _HEAD_BYTES + length
        content = data[at + _HEAD_BYTES : end]
        if end > len(data) or crc != zlib.crc32(content):
            return
        yield Record(kind, content, end)
        at = end


def read_journal(path: Path) -> Contents | None:
    """Read a journal's file; None if there is none, or its first bytes were never written.

    Raises
    ------
    OSError
        If it can't be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) < START or not data.startswith(MAGIC):
        return None
    records = tuple(records_in(data, START))
    end = records[-1].end if records else START
    is_torn = _is_torn(data, end)
    journal_id = data[len(MAGIC) : START].hex()
    return Contents(journal_id, records, end, 0 if is_torn else len(data) - end)


class Journal:
    """An open journal, ready for more records.

    Every method raises OSError if the disk refuses; then nothing of the record is left behind
    and the same call can be tried again.
    """

    def __init__(self, path: Path, descriptor: int, journal_id: str, end: int) -> None:
        self.path = path
        self.id = journal_id
        self.end = end
        self._descriptor = descriptor

    @classmethod
    def create(cls, path: Path) -> Journal:
        """Make a new file, which must not be there yet."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        journal_id = secrets.token_bytes(_ID_BYTES)
        try:
            _write_all(descriptor, MAGIC + journal_id)
            os.fsync(descriptor)
            sync_folder(path.parent)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return cls(path, descriptor, journal_id.hex(), START)

    @classmethod
    def go_on(cls, path: Path, contents: Contents) -> Journal:
        """Open a file for more; a torn last record is cut off."""
        descriptor = os.open(path, os.O_RDWR | _BINARY)
        try:
            os.ftruncate(descriptor, contents.end)
            os.lseek(descriptor, contents.end, os.SEEK_SET)
        except OSError:
            os.close(descriptor)
            raise
        return cls(path, descriptor, contents.id, contents.end)

    def append(self, kind: int, content: bytes) -> None:
        """Hand one record to the system; it outlives this program."""
        record = packed_record(kind, content)
        self._check_still_there()
        try:
            # A former call may have failed after some bytes, and even cutting them off again.
            os.lseek(self._descriptor, self.end, os.SEEK_SET)
            _write_all(self._descriptor, record)
        except OSError:
            self._cut()
            raise
        self.end += len(record)

    def sync(self) -> None:
        """Wait until all records are on the disk; they outlive the machine's power."""
        self._check_still_there()
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _check_still_there(self) -> None:
        """A deleted file still takes all that is written, and is gone when it is closed."""
        if not os.path.samestat(os.stat(self.path), os.fstat(self._descriptor)):
            raise FileNotFoundError(errno.ENOENT, "was replaced by another file", str(self.path))

    def _cut(self) -> None:
        try:
            os.ftruncate(self._descriptor, self.end)
        except OSError:
            return  # the torn record is dropped when the file is opened, or written over


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears under its name only when it is complete and on the disk.

    Raises
    ------
    OSError
        If the disk refuses; a former file of that name is then untouched.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except OSError:
        _remove_if_possible(part)
        raise
    sync_folder(path.parent)


def append_lines(path: Path, lines: bytes) -> None:
    """Add whole lines to a file on the disk; one that was torn there is ended first.

    Raises
    ------
    OSError
        If the disk refuses; a part of the lines may then be there.
    """
    with path.open("ab+") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                lines = b"\n" + lines
        stream.write(lines)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk, where the system can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def why_not_saved(path: Path, error: OSError) -> NotSaved:
    """Turn the system's error into a sentence."""
    reasons = {
        errno.ENOSPC: "the disk is full; free some space",
        errno.EDQUOT: "your quota on this disk is used up; free some space",
        errno.EFBIG: "the file may not grow any further; free some space or use another disk",
        errno.EROFS: "the disk is read-only; choose a project folder on another disk",
        errno.EACCES: "the folder may not be written to; choose another project folder",
        errno.EPERM: "the folder may not be written to; choose another project folder",
        errno.ENOENT: "the folder is gone; put its disk back in, or make it again",
    }
    reason = reasons.get(error.errno or 0, f"{error.strerror or error}; choose another folder")
    return NotSaved(f"can't save to {path}: {reason}")


_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def _head(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Length, CRC-32 and kind of the record that begins here, if its head is whole."""
    if at + _HEAD_BYTES > len(data):
        return None
    head = data[at : at + _HEAD.size]
    if _CRC.unpack_from(data, at + _HEAD.size)[0] != zlib.crc32(head):
        return None
    length, crc, kind = _HEAD.unpack(head)
    return length, crc, kind


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _is_torn(data: bytes, end: int) -> bool:
    """Whether what follows `end` is just the beginning of one record, or space never filled."""
    if len(data) - end < _HEAD_BYTES or not any(data[end:]):
        return True
    head = _head(data, end)
    return head is not None and end + _HEAD_BYTES + head[0] >= len(data)


def _remove_if_possible(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
