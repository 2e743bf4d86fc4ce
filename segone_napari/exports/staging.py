"""Files that appear under their names together and complete, or not at all.

Knows nothing of what is in them.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from segone_napari.data.dicom import signature
from segone_napari.data.formats import is_dicom, why_not_written
from segone_napari.runtime import BadInput

PREFIX = ".segone-"


class Occupied(BadInput):
    """A file exists, and nobody said that it may be overwritten.

    Attributes
    ----------
    path : the file.
    """

    def __init__(self, path: Path, target: Path) -> None:
        words = "" if path == target else f", and is written together with {target.name}"
        super().__init__(
            f"{path} already exists{words}; use --force to overwrite it, or choose another name"
        )
        self.path = path


def write_together(
    writers: Mapping[Path, Callable[[Path], None]],
    *,
    target: Path,
    force: bool = False,
    shared: Collection[Path] = (),
    former: Iterable[Path] = (),
) -> list[Path]:
    """Let writers fill empty folders, then move every file in these to its place.

    A temporary folder lies beside its files' later place, so that moving is renaming. Whatever
    goes wrong, it is gone, and all files are as they were before.

    Parameters
    ----------
    writers : by the folder where the files shall be, what writes them into an empty one. The
        folder is made, with its parents, if it is missing.
    target : what to call all of it in a message, such as the main file.
    force : whether files that exist are overwritten.
    shared : files that are left as they are where they exist.
    former : files in these folders that go with `force`, where they aren't overwritten; asked for
        when the writers are done.

    Returns
    -------
    The files that were written, folder by folder in the order of their names.

    Raises
    ------
    Occupied
        If another file exists and `force` is not given.
    BadInput
        If a folder can't be written, or the disk is full.
    """
    with ExitStack() as stack:
        try:
            stagings = {folder: stack.enter_context(_staging(folder)) for folder in writers}
            for folder, writer in writers.items():
                writer(stagings[folder])
            moves = _moves(stagings, shared)
            for to, path in moves.items():
                _check_free(to, path, target=target, force=force)
                _sync(path)
            replaced = dict.fromkeys([*moves, *(former if force else ())])
            asides = {path: _aside(path, stagings) for path in replaced if path.is_file()}
            _publish(moves, asides)
        except OSError as error:
            raise BadInput(why_not_written(target, error)) from error
        except BadInput as error:
            # A writer of `segone_napari.data` names the temporary file, of no use to anyone.
            if isinstance(error.__cause__, OSError) and PREFIX in str(error):
                raise BadInput(why_not_written(target, error.__cause__)) from error
            raise
    return list(moves)


def check_not_read(outputs: Iterable[Path], inputs: Collection[Path]) -> None:
    """Refuse outputs that would replace what is read.

    Parameters
    ----------
    inputs : files, and DICOM folders. A DICOM file stands for those beside it.

    Raises
    ------
    BadInput
        If an output is one of these files, or a DICOM image among them.
    """
    for path in outputs:
        if path.is_file() and any(_is_part_of(path, one) for one in inputs):
            raise BadInput(f"{path} would overwrite what is read; choose another name")


def _is_part_of(path: Path, one: Path) -> bool:
    if one.is_file() and path.samefile(one):
        return True
    folder = (one if one.is_dir() else one.parent).resolve()
    is_inside = folder in (path.parent.resolve() / path.name).parents
    if not is_inside or not is_dicom(one) or not signature.is_dicom(path):
        return False
    from segone_napari.exports.dicom_seg import is_segmentation

    return not is_segmentation(path)


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Make a hidden folder beside the place of `folder`; whatever is left in it goes at the end."""
    made = _make_staging(_nearest_existing(folder))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


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


def _moves(stagings: Mapping[Path, Path], shared: Collection[Path]) -> dict[Path, Path]:
    """Say of each file where it is now, by where it shall be."""
    moves = {
        folder / path.relative_to(staging): path
        for folder, staging in stagings.items()
        for path in sorted(staging.rglob("*"))
        if path.is_file()
    }
    return {to: path for to, path in moves.items() if to not in shared or not to.exists()}


def _check_free(path: Path, made: Path, *, target: Path, force: bool) -> None:
    """Refuse to put what was made where something else is; the same once more does no harm."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder; choose another name")
    if path.exists() and not path.is_file():
        # Renaming a file over /dev/null would replace it.
        raise BadInput(f"{path} is not a file; choose another name to write to")
    if path.exists() and not force and not filecmp.cmp(path, made, shallow=False):
        raise Occupied(path, target)


def _aside(path: Path, stagings: Mapping[Path, Path]) -> Path:
    """Name the place in a staging folder where a file waits until what replaces it is there."""
    folder = next(parent for parent in path.parents if parent in stagings)
    return Path(tempfile.mkdtemp(dir=stagings[folder])) / path.name


def _publish(moves: Mapping[Path, Path], asides: Mapping[Path, Path]) -> None:
    made = _make_folders({to.parent for to in moves})
    try:
        for path, aside in asides.items():
            os.replace(path, aside)
        for to, path in moves.items():
            os.replace(path, to)
    except BaseException:
        for to, path in moves.items():
            if not path.exists():
                to.unlink(missing_ok=True)
        for path, aside in asides.items():
            if aside.exists():
                os.replace(aside, path)
        for folder in reversed(made):
            folder.rmdir()
        raise


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
