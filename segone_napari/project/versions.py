"""The versions of the model in a project: one checkpoint folder a number, and which is in use.

::

    PROJECT/checkpoints/1/             a checkpoint, with card.json, card.md and pictures
    PROJECT/checkpoints/in_use.json    which number `segment` uses; 0 is what comes with the package
    PROJECT/checkpoints/last_number.json   the highest number given so far
    PROJECT/training/version_N/        pictures of what it changed: of patients, so never exported

Knows nothing of what is inside a checkpoint but its ``card.json``.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import lzma
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from segone_napari.project.journal import sync_folder, why_not_saved, write_whole
from segone_napari.runtime import BadInput

CARD = "card.json"
LAST = "last_number.json"
_ALLOWED = (".json", ".md", ".png", ".safetensors", ".txt")
"""What a version holds; anything else isn't taken from an archive."""
_MOST_BYTES = 4 << 30
_DAMAGED = (
    zipfile.BadZipFile,
    lzma.LZMAError,
    EOFError,
    FileNotFoundError,
    RuntimeError,  # it is encrypted, or packed in an unknown way
    ValueError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class Version:
    """One version.

    Attributes
    ----------
    number : 0 is the checkpoint that comes with the package.
    folder : None for number 0.
    card : what was measured when it was made; empty where nobody did.
    is_used : whether `segment` uses it in this project.
    """

    number: int
    folder: Path | None
    card: Mapping[str, Any]
    is_used: bool


class Versions:
    """The versions in a project's folder. It is made when something is first written."""

    def __init__(self, project: str | Path) -> None:
        self.folder = Path(project).expanduser().absolute() / "checkpoints"

    def numbers(self) -> tuple[int, ...]:
        """The numbers of the versions there are, without 0."""
        found = [p for p in self.folder.glob("[0-9]*") if p.name.isdigit() and p.is_dir()]
        return tuple(sorted(int(p.name) for p in found if (p / "checkpoint.json").is_file()))

    def all(self) -> tuple[Version, ...]:
        """All versions, 0 first."""
        used = self.used()
        return tuple(
            Version(n, self.folder_of(n), self._card(n), n == used) for n in (0, *self.numbers())
        )

    def used(self) -> int:
        """Number of the version in use; 0 where none was chosen, or the chosen one is gone."""
        try:
            number = int(json.loads((self.folder / "in_use.json").read_bytes())["use"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return number if number in self.numbers() else 0

    def folder_of(self, number: int) -> Path | None:
        """The checkpoint folder of a version; None for 0.

        Raises
        ------
        BadInput
            If there is no such version.
        """
        if number == 0:
            return None
        if number not in self.numbers():
            there = ", ".join(str(n) for n in (0, *self.numbers()))
            raise BadInput(f"there is no version {number} in {self.folder}; there are: {there}")
        return self.folder / str(number)

    def use(self, number: int) -> None:
        """Let `segment` use a version from now on. 0 goes back to the package's own.

        Raises
        ------
        BadInput
            If there is no such version.
        NotSaved
            If that can't be written.
        """
        self.folder_of(number)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / "in_use.json", json.dumps({"use": number}).encode())
        except OSError as error:
            raise why_not_saved(self.folder, error) from error

    def add(self, folder: Path) -> int:
        """Move a checkpoint folder from the same disk in as the next version; return its number.

        Raises
        ------
        NotSaved
            If the disk refuses.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            number = self._last_given() + 1
            while True:
                # said before the version is there: what could fail afterwards would deny it
                write_whole(self.folder / LAST, json.dumps({"last": number}).encode())
                try:
                    folder.rename(self.folder / str(number))
                except OSError:
                    # another program may take the number first
                    if not (self.folder / str(number)).exists():
                        raise
                    number += 1
                else:
                    break
            sync_folder(self.folder)
        except OSError as error:
            raise why_not_saved(self.folder, error) from error
        return number

    def _last_given(self) -> int:
        """The highest number that any version had, also one that was removed: none comes twice."""
        there = [int(p.name) for p in self.folder.glob("[0-9]*") if p.name.isdigit()]
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            there.append(int(json.loads((self.folder / LAST).read_bytes())["last"]))
        return max([0, *there])

    def pictures_of(self, number: int) -> Path:
        """Where the pictures of what a version changed are, if there are any."""
        return self.folder.with_name("training") / f"version_{number}"

    def remove(self, number: int) -> None:
        """Throw a version away, with its pictures; if it was in use, the package's own is used."""
        folder = self.folder_of(number)
        if folder is None:
            raise BadInput("version 0 comes with the package and can't be removed")
        if self.used() == number:
            self.use(0)
        shutil.rmtree(folder)
        shutil.rmtree(self.pictures_of(number), ignore_errors=True)

    def export(self, number: int, archive: Path, *, force: bool = False) -> Path:
        """Write a version into a ``.zip`` file, to import it elsewhere.

        Raises
        ------
        BadInput
            If there is no such version, or the file exists and `force` isn't set.
        NotSaved
            If the disk refuses; then no file is left behind.
        """
        folder = self.folder_of(number)
        if folder is None:
            raise BadInput("version 0 comes with the package; there is nothing to export")
        if archive.suffix.lower() != ".zip":
            raise BadInput(f"can't export to {archive}; use a name that ends in .zip")
        if archive.exists() and not force:
            raise BadInput(f"{archive} exists; use --force to overwrite it, or another name")
        part = archive.with_name(f".{archive.name}.part")
        try:
            with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as stream:
                for path in sorted(folder.rglob("*")):
                    if path.is_file():
                        stream.write(path, path.relative_to(folder).as_posix())
            part.replace(archive)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise why_not_saved(archive, error) from error
        return archive

    def import_from(self, source: Path) -> int:
        """Take in a version that was exported, or any checkpoint folder; return its number.

        Raises
        ------
        BadInput
            If it is no version, holds what none may hold, or is here already.
        NotSaved
            If the disk refuses.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=".import-", dir=self.folder))
        except OSError as error:
            raise why_not_saved(self.folder, error) from error
        try:
            inside = part / "version"
            if source.is_dir():
                _check_names(source, [p.relative_to(source).as_posix() for p in _files(source)])
                for path in _files(source):
                    copy = inside / path.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
            else:
                _unpack(source, inside)
            for number in self.numbers():
                if _are_same(self.folder / str(number), inside):
                    raise BadInput(f"{source} is here already, as version {number}; choose that")
            return self.add(inside)
        except OSError as error:
            raise why_not_saved(self.folder, error) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _card(self, number: int) -> Mapping[str, Any]:
        try:
            card = json.loads((self.folder / str(number) / CARD).read_bytes())
        except (OSError, ValueError):
            return {}
        return card if isinstance(card, dict) else {}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _are_same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    names = {path.relative_to(one) for path in _files(one)}
    return names == {path.relative_to(other) for path in _files(other)} and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in names
    )


def _unpack(archive: Path, folder: Path) -> None:
    if not archive.is_file():
        raise BadInput(f"no such file: {archive}; check the path")
    if not os.access(archive, os.R_OK):
        raise BadInput(f"{archive} may not be read; ask for the permission, or for another copy")
    try:
        with zipfile.ZipFile(archive) as stream:
            entries = [entry for entry in stream.infolist() if not entry.is_dir()]
            _check_names(archive, [entry.filename for entry in entries])
            if sum(entry.file_size for entry in entries) > _MOST_BYTES:
                raise BadInput(f"{archive} is larger than a version can be; ask for it anew")
            for entry in entries:
                path = folder / entry.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with stream.open(entry) as packed, path.open("xb") as out:
                    shutil.copyfileobj(packed, out)
    except _DAMAGED as error:
        raise BadInput(
            f"{archive} is no exported version ({error}); give the .zip that a version was "
            "exported to, or a checkpoint folder"
        ) from error


def _check_names(source: Path, names: list[str]) -> None:
    """Refuse what isn't a version, or would be written outside of its folder."""
    if "checkpoint.json" not in names:
        raise BadInput(f"{source} holds no checkpoint.json; give an exported version")
    for name in names:
        path = PurePosixPath(name)
        is_inside = not path.is_absolute() and ".." not in path.parts and "\\" not in name
        if not is_inside or ":" in name or path.suffix.lower() not in _ALLOWED:
            raise BadInput(f"{source} holds {name!r}, which no version has; it was not imported")
