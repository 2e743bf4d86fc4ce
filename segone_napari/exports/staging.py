"""Files that appear under their names together and complete, or not at all.

Knows nothing of what is in them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from segone_napari.data.formats import why_not_written
from segone_napari.runtime import BadInput

PREFIX = ".segone-"


def write_together(
    folder: Path,
    writer: Callable[[Path], None],
    *,
    target: Path,
    force: bool = False,
    shared: Sequence[str] = (),
) -> list[Path]:
    """Let `writer` fill an empty folder, then move every file in it to the same place in `folder`.

    The temporary folder lies beside the files' later place, so that moving is renaming. Whatever
    goes wrong, it is gone, and so are the files that had been moved before.

    Parameters
    ----------
    folder : where the files shall be; made, with its parents, if it is missing.
    target : what to call all of it in a message, such as the main file.
    force : whether files that exist are overwritten.
    shared : names of files that are left as they are where they exist.

    Returns
    -------
    The files that were written, in the order of their names.

    Raises
    ------
    BadInput
        If a file exists and `force` is not given, a folder can't be written, or the disk is full.
    """
    staging = _make_staging(_nearest_existing(folder))
    try:
        writer(staging)
        return _publish(staging, folder, force=force, shared=shared)
    except OSError as error:
        raise BadInput(why_not_written(target, error)) from error
    except BadInput as error:
        # A writer of `segone_napari.data` names the temporary file, which is of no use to anyone.
        if isinstance(error.__cause__, OSError) and staging.name in str(error):
            raise BadInput(why_not_written(target, error.__cause__)) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _make_staging(beside: Path) -> Path:
    if not beside.is_dir():
        raise BadInput(f"{beside} is not a folder; choose another")
    try:
        return Path(tempfile.mkdtemp(prefix=PREFIX, suffix=".part", dir=beside))
    except OSError as error:
        raise BadInput(
            f"can't write into the folder {beside}: {error.strerror or error}; "
            "choose another folder"
        ) from error


def _publish(staging: Path, folder: Path, *, force: bool, shared: Sequence[str]) -> list[Path]:
    files = sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file())
    files = [file for file in files if str(file) not in shared or not (folder / file).exists()]
    for file in files:
        _check_free(folder / file, force=force)
        _sync(staging / file)
    made = _make_folders({(folder / file).parent for file in files})
    moved: list[Path] = []
    try:
        for file in files:
            is_new = not (folder / file).exists()
            os.replace(staging / file, folder / file)
            if is_new:
                moved.append(folder / file)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        for path in reversed(made):
            path.rmdir()
        raise
    return [folder / file for file in files]


def _check_free(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise BadInput(f"{path} is a folder; choose another name")
    if path.exists() and not path.is_file():
        # Renaming a file over /dev/null would replace it.
        raise BadInput(f"{path} is not a file; choose another name to write to")
    if path.exists() and not force:
        raise BadInput(
            f"{path} already exists; use --force to overwrite it, or choose another name"
        )


def _make_folders(folders: set[Path]) -> list[Path]:
    """Make folders and their parents; return those that were missing, parents first."""
    missing = {
        path for folder in folders for path in (folder, *folder.parents) if not path.exists()
    }
    made = sorted(missing, key=lambda path: len(path.parts))
    for path in made:
        path.mkdir()
    return made


def _sync(path: Path) -> None:
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def _nearest_existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
