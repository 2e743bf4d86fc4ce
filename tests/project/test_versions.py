"""Versions of the model: what comes from elsewhere is taken as it is, or refused in words."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from segone_napari.project import versions as module
from segone_napari.project.journal import NotSaved
from segone_napari.project.versions import Versions
from segone_napari.runtime import BadInput


def archive(path: Path) -> bytearray:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as stream:
        stream.writestr("checkpoint.json", "{}" * 5000)
    return bytearray(path.read_bytes())


def test_a_version_that_is_here_already_is_not_taken_in_again(tmp_path: Path) -> None:
    path = tmp_path / "version.zip"
    archive(path)
    versions = Versions(tmp_path / "project")
    assert versions.import_from(path) == 1
    with pytest.raises(BadInput, match=r"version\.zip is here already, as version 1; choose that"):
        versions.import_from(path)
    (versions.folder / "1" / "card.md").write_text("of another training")
    assert versions.import_from(path) == 2


def corrupt(data: bytearray, entry: int) -> None:
    start = data.index(b"checkpoint.json") + len("checkpoint.json")
    data[start : start + 6] = b"\xff" * 6


def encrypted(data: bytearray, entry: int) -> None:
    data[6] |= 1
    data[entry + 8] |= 1


def packed_in_an_unknown_way(data: bytearray, entry: int) -> None:
    data[8] = data[entry + 10] = 97


@pytest.mark.parametrize("damage", [corrupt, encrypted, packed_in_an_unknown_way])
def test_an_archive_that_can_not_be_unpacked_is_refused_in_words(
    tmp_path: Path, damage: Callable[[bytearray, int], None]
) -> None:
    path = tmp_path / "version.zip"
    data = archive(path)
    damage(data, data.index(b"PK\x01\x02"))
    path.write_bytes(data)
    versions = Versions(tmp_path / "project")
    with pytest.raises(BadInput, match="no exported version"):
        versions.import_from(path)
    assert list(versions.folder.iterdir()) == []


def test_an_archive_that_may_not_be_read_is_not_called_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "version.zip"
    archive(path)
    monkeypatch.setattr(os, "access", lambda asked, mode: asked != path)
    with pytest.raises(BadInput, match=r"version\.zip may not be read; ask for the permission"):
        Versions(tmp_path / "project").import_from(path)


def test_what_could_not_be_saved_is_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "checkpoint.json").write_text("{}")
    versions = Versions(tmp_path / "project")

    def refuse(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(module, "write_whole", refuse)
        with pytest.raises(NotSaved, match="the disk is full"):
            versions.add(made)
    assert versions.numbers() == ()
    assert versions.add(made) == 1, "the folder is still where it was"
