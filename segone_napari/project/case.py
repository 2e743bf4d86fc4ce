"""The folder of one image's work, and how it is found again after a crash.

::

    case.json    format version and the image
    journal      every edit, in turn
    snapshot     rows and masks as of some record of the journal, so that opening is fast
    open         there while a program works on the case, or when it has died
    lock         held while a program works on the case
"""

from __future__ import annotations

import errno
import json
import shutil
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from segone_napari.project.journal import (
    START,
    Contents,
    Journal,
    NotSaved,
    Record,
    packed_record,
    read_journal,
    records_in,
    why_not_saved,
    write_whole,
)
from segone_napari.project.records import RecordKind, Work, unpacked
from segone_napari.project.values import ImageRef
from segone_napari.runtime import BadInput

FORMAT = 1
SNAPSHOT_RECORDS = 100
"""How many records are read again at most when a case is opened."""
LOOKS_TAKE_S = 1.0
"""Whoever asks whether a case or a training is open holds its lock, at most so long."""

_SNAPSHOT_MAGIC = b"SEGONE-SNAPSHOT-1\n"
_UNREADABLE = (ValueError, KeyError, IndexError, TypeError, struct.error, zlib.error)


@dataclass(frozen=True, eq=False)
class Case:
    """Where the work on one image is kept. Nothing is written before the first edit.

    Attributes
    ----------
    folder : the case's folder, which may not exist yet.
    image : the image.
    """

    folder: Path
    image: ImageRef

    @property
    def exists(self) -> bool:
        """Whether there is work on disk."""
        return (self.folder / "journal").exists() or (self.folder / "snapshot").exists()

    @property
    def is_open(self) -> bool:
        """Whether a window or program is working on it right now."""
        if not self.exists:
            return False
        try:
            with FileLock(self.folder / "lock", timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False  # a disk that may only be read: nobody works on it

    @property
    def was_interrupted(self) -> bool:
        """Whether the program that last worked on it died; then offer to go on."""
        return (self.folder / "open").exists() and not self.is_open

    @property
    def changed_at(self) -> float:
        """When it was last written to, in seconds since 1970; 0 if never."""
        files = [self.folder / name for name in ("journal", "snapshot")]
        return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)

    def set_aside(self) -> Path | None:
        """Move what there is out of the way, to begin anew; nothing is deleted.

        Returns
        -------
        Where it is now; None if there was nothing.

        Raises
        ------
        BadInput
            If it is open elsewhere.
        NotSaved
            If the disk refuses.
        """
        if not self.folder.exists():
            return None
        if self.is_open:
            raise _is_open_elsewhere(self)
        aside = self.folder.parents[1] / "set_aside"
        try:
            aside.mkdir(exist_ok=True)
            target = _free_name(aside, self.folder.name)
            self.folder.rename(target)
        except OSError as error:
            raise why_not_saved(aside, error) from error
        return target


def read_case(folder: Path) -> Case | None:
    """The case in a folder, or None if it doesn't say whose it is."""
    try:
        values = json.loads((folder / "case.json").read_bytes())
        return Case(folder, ImageRef.from_json(values["image"]))
    except (OSError, *_UNREADABLE):
        return None


class OpenCase:
    """A case that an `EditHistory` reads once and then writes to.

    Methods that write raise OSError if the disk refuses, and can then be called again.

    Raises
    ------
    BadInput
        If the case is open elsewhere.
    """

    def __init__(self, case: Case) -> None:
        self.folder = case.folder
        self.records_since_snapshot = 0
        self._case = case
        self._journal: Journal | None = None
        self._contents: Contents | None = None
        self._first_state: bytes | None = None  # for a new journal in the place of a damaged one
        self._lock: FileLock | None = None
        if case.exists:
            try:
                self._take_lock(timeout=LOOKS_TAKE_S)
            except Timeout as error:
                raise _is_open_elsewhere(case) from error
            except OSError:
                self._lock = None  # a disk that may only be read; told at the first edit

    def restore(self) -> tuple[Work, tuple[str, ...]]:
        """Read everything as it was left.

        Returns
        -------
        work : rows, masks, prompts, notes and undo history.
        warnings : sentences on what could not be restored.

        Raises
        ------
        BadInput
            If the files can't be read, or a later version of this program wrote them.
        """
        work = Work(self._case.image.grid.shape)
        try:
            self._contents = read_journal(self.folder / "journal")
            snapshot = _read_snapshot(self.folder / "snapshot")
            self._check_format()
        except OSError as error:
            raise BadInput(
                f"can't read {self.folder}: {error.strerror or error}; "
                "close other programs that use it, or copy the folder elsewhere"
            ) from error
        try:
            warnings = self._restore_into(work, self._contents, snapshot)
        except _UNREADABLE as error:
            raise BadInput(
                f"{self.folder} holds work that this program can't read ({error}); "
                "update segone-napari, or set the case aside and begin anew"
            ) from error
        return work, warnings

    def append(self, kind: RecordKind, content: bytes) -> None:
        """Write one record to the journal; it outlives this program.

        Raises
        ------
        NotSaved
            If another window has begun work on the same image meanwhile.
        """
        if self._journal is None:
            self._journal = self._start()
        self._journal.append(kind, content)
        self.records_since_snapshot += 1

    def sync(self) -> None:
        """Wait until all records are on the disk."""
        if self._journal is not None:
            self._journal.sync()

    def snapshot_due(self) -> int | None:
        """Where the journal ends, if a good many records have come since the last snapshot."""
        if self._journal is None or self.records_since_snapshot < SNAPSHOT_RECORDS:
            return None
        self.records_since_snapshot = 0
        return self._journal.end

    def write_snapshot(self, end: int) -> None:
        """Write rows and masks as of the record that ends at `end`, which is on the disk.

        They are read from the journal, not from the masks in memory: somebody may be in the
        middle of a stroke. So nobody has to wait for it either.
        """
        contents = read_journal(self.folder / "journal")
        if contents is None or contents.end < end:
            raise OSError(errno.EIO, "what was written to the journal can't be read again")
        work = Work(self._case.image.grid.shape)
        records = [record for record in contents.records if record.end <= end]
        snapshot = _read_snapshot(self.folder / "snapshot")
        if snapshot is not None and (snapshot.journal != contents.id or snapshot.end > end):
            snapshot = None
        _read_records(work, records, snapshot)
        state = work.state(journal=contents.id, end=end)
        content = _SNAPSHOT_MAGIC + packed_record(RecordKind.STATE, state)
        write_whole(self.folder / "snapshot", content)

    def close(self, *, is_saved: bool) -> None:
        """Let the case go, after a last snapshot if everything is saved."""
        try:
            if is_saved and self._journal is not None and self.records_since_snapshot:
                self.write_snapshot(self._journal.end)
            if is_saved and self._lock is not None:
                (self.folder / "open").unlink(missing_ok=True)
        except OSError:
            pass  # all edits are in the journal: opening will only be slower, and offer to go on
        finally:
            if self._journal is not None:
                self._journal.close()
            if self._lock is not None:
                self._lock.release()
            self._journal = self._lock = None

    def _restore_into(
        self, work: Work, contents: Contents | None, snapshot: _Snapshot | None
    ) -> tuple[str, ...]:
        if contents is None:
            if snapshot is not None:
                return self._restore_from_snapshot(work, contents, snapshot)
            return self._warn_of_unknown_journal()
        if snapshot is not None and snapshot.journal != contents.id:
            snapshot = None  # of a journal that was set aside
        if snapshot is not None and snapshot.end > contents.end:
            return self._restore_from_snapshot(work, contents, snapshot)
        self.records_since_snapshot = _read_records(work, contents.records, snapshot)
        if not contents.damaged_bytes:
            return ()
        return (
            f"The journal of {self._case.image.name} is damaged near its end: "
            f"{contents.damaged_bytes} bytes of the last edits could not be read. "
            f"They are kept in a copy beside it, in {self.folder}",
        )

    def _warn_of_unknown_journal(self) -> tuple[str, ...]:
        journal = self.folder / "journal"
        if not journal.exists() or journal.stat().st_size <= START:
            return ()  # it had not been begun yet
        return (
            f"The journal of {self._case.image.name} is damaged and could not be read at all. "
            f"It is kept in {self.folder}",
        )

    def _restore_from_snapshot(
        self, work: Work, contents: Contents | None, snapshot: _Snapshot
    ) -> tuple[str, ...]:
        """Restore where the journal is damaged before the place of the snapshot."""
        work.set_state(snapshot.state)
        if contents is not None and contents.id == snapshot.journal:
            data = (self.folder / "journal").read_bytes()
            for record in records_in(data, snapshot.end):
                try:
                    work.read(record.kind, record.content)
                except IndexError:
                    break  # it takes back an edit that can't be read any more
        work.done, work.undone = [], []
        self._first_state = work.state()
        return (
            f"The journal of {self._case.image.name} is damaged: masks and rows were restored "
            f"from a snapshot, but the earlier edits can't be undone. It is kept in {self.folder}",
        )

    def _start(self) -> Journal:
        """Begin to write: take the lock, say what the case is, open the journal."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._take_lock(timeout=0)
        except Timeout as error:
            raise _begun_elsewhere(self._case) from error
        self._describe()
        path = self.folder / "journal"
        if self._contents is None or self._first_state is not None:
            if self._first_state is None and read_journal(path) is not None:
                raise _begun_elsewhere(self._case)
            if path.exists():
                path.rename(_free_name(self.folder, "journal.damaged"))
            journal = Journal.create(path)
            if self._first_state is not None:
                journal.append(RecordKind.STATE, self._first_state)
            self._first_state = None
            return journal
        if self._contents.damaged_bytes:
            shutil.copyfile(path, _free_name(self.folder, "journal.damaged"))
        return Journal.go_on(path, self._contents)

    def _take_lock(self, *, timeout: float) -> None:
        if self._lock is None:
            lock = FileLock(self.folder / "lock", timeout=timeout)
            lock.acquire()
            self._lock = lock

    def _describe(self) -> None:
        description = {"format": FORMAT, "image": self._case.image.as_json()}
        content = (json.dumps(description, indent=2) + "\n").encode("utf-8")
        file = self.folder / "case.json"
        if not file.exists() or file.read_bytes() != content:
            write_whole(file, content)
        (self.folder / "open").touch()

    def _check_format(self) -> None:
        file = self.folder / "case.json"
        if not file.exists():
            return
        try:
            version = json.loads(file.read_bytes())["format"]
        except _UNREADABLE:
            return  # it is written anew with the first edit
        if version != FORMAT:
            raise BadInput(
                f"{self.folder} has format version {version!r} and this program reads {FORMAT}; "
                "update segone-napari"
            )


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """A state, and the end of the last record that it covers in which journal."""

    state: bytes
    journal: str
    end: int


def _read_records(work: Work, records: Sequence[Record], snapshot: _Snapshot | None) -> int:
    """Do what the records say, the earlier ones in the short cut; the number of the others."""
    covered = 0 if snapshot is None else snapshot.end
    if snapshot is not None:
        for record in records:
            if record.end <= covered:
                work.read_steps_only(record.kind, record.content)
        done, undone = work.done, work.undone
        work.set_state(snapshot.state)
        work.done, work.undone = done, undone
    others = [record for record in records if record.end > covered]
    for record in others:
        work.read(record.kind, record.content)
    return len(others)


def _read_snapshot(path: Path) -> _Snapshot | None:
    if not path.exists():
        return None
    data = path.read_bytes()
    if not data.startswith(_SNAPSHOT_MAGIC):
        return None
    record = next(records_in(data, len(_SNAPSHOT_MAGIC)), None)
    if record is None:
        return None
    header: dict[str, Any] = unpacked(record.content)[0]
    return _Snapshot(record.content, header["journal"], int(header["end"]))


def _free_name(folder: Path, name: str) -> Path:
    return next(path for n in count(1) if not (path := folder / f"{name}-{n}").exists())


def _is_open_elsewhere(case: Case) -> BadInput:
    return BadInput(
        f"the work on {case.image.name} is open in another window or program; close it there first"
    )


def _begun_elsewhere(case: Case) -> NotSaved:
    return NotSaved(
        f"another window has begun to work on {case.image.name}, so nothing more is saved here; "
        "close one of them. Work goes on in memory only"
    )
