"""A project's folder: which cases there are, what was corrected, what was learnt.

::

    PROJECT/project.json             format version
    PROJECT/cases/NAME-CHECKSUM/     the work on one image, see `segone_napari.project.case`
    PROJECT/set_aside/               cases that a person didn't want to go on with
    PROJECT/corrections/0001/        one correction: its facts and its voxels
    PROJECT/salt                     random bytes that go into patients' pseudonyms
    PROJECT/images/CHECKSUM.npz      images that were corrected and have no file of their own
    PROJECT/checkpoints/             versions of the model
    PROJECT/log.jsonl                when which version learnt what, and whether it is used
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segone_napari.project import corrections
from segone_napari.project.case import Case, read_case
from segone_napari.project.corrections import Correction, Corrections
from segone_napari.project.journal import append_lines, why_not_saved, write_whole
from segone_napari.project.values import ImageRef
from segone_napari.runtime import BadInput
from segone_napari.volume import Volume

FORMAT = 1

_ROUNDS = 200_000  # a tenth of a second


class Project:
    """A folder with a person's work. It is made when something is first written into it.

    Raises
    ------
    BadInput
        If the path is a file, or a later version of this program made the project.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().absolute()
        if self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"{self.folder} is a file; a project is a folder, choose another name")
        self._check_format()

    def case(self, image: ImageRef) -> Case:
        """The case of this image, whether there was work on it before or not."""
        name = f"{_slug(image.name)}-{image.checksum.rpartition(':')[2][:12]}"
        known = next((case for case in self.cases() if case.image.is_same_as(image)), None)
        if known is not None:
            return Case(known.folder, image)
        # The same voxels in another place are another case.
        names = (name if n == 1 else f"{name}-{n}" for n in count(1))
        free = next(n for n in names if not (self.folder / "cases" / n).exists())
        return Case(self.folder / "cases" / free, image)

    def cases(self) -> tuple[Case, ...]:
        """The cases that there are, the one worked on last first."""
        found = [read_case(path.parent) for path in self.folder.glob("cases/*/case.json")]
        there = [case for case in found if case is not None]
        return tuple(sorted(there, key=lambda case: case.changed_at, reverse=True))

    def add_correction(
        self,
        term: str,
        image: ImageRef,
        mask: NDArray[Any],
        *,
        axis: int | None = None,
        slices: Sequence[int] | None = None,
        synonyms: Sequence[str] = (),
        patient: str = "",
        author: str = "person",
    ) -> Correction:
        """Keep what a person says is right, to learn from. An empty mask says "it is not there".

        Parameters
        ----------
        term : what the mask is of: a canonical name, or a new one.
        mask : (i, j, k) on the image's grid; anything but 0 is inside.
        axis, slices : the slices along this array axis that were corrected; without them the
            whole mask is right.
        synonyms : other words for a new term.
        patient : whose image it is; images of nobody in particular count as different patients.
        author : who corrected it.

        Raises
        ------
        BadInput
            If the term is empty, the mask is on another grid, or a slice is outside of it.
        NotSaved
            If it can't be written; then nothing is left behind.
        """
        chosen = None if slices is None else tuple(slices)
        facts = Correction(term, image, axis, chosen, tuple(synonyms), patient, author)
        facts = corrections.checked(facts, mask)
        try:
            self._begin()
            return corrections.write(self.folder / "corrections", facts, mask)
        except OSError as error:
            raise why_not_saved(self.folder / "corrections", error) from error

    def corrections(self, term: str | None = None) -> Corrections:
        """All corrections, or those of one term, the oldest first."""
        found = corrections.read_all(self.folder / "corrections")
        if term is None:
            return found
        usable = tuple(one for one in found.usable if one.term == term)
        return Corrections(usable, found.problems)

    def pseudonym(self, name: str) -> str:
        """A word for somebody, always the same in this project and another one in any other.

        Raises
        ------
        NotSaved
            If the project's salt can't be written.
        """
        path = self.folder / "salt"
        try:
            self._begin()
            if not path.exists():
                write_whole(path, secrets.token_bytes(16))
            salt = path.read_bytes()
        except OSError as error:
            raise why_not_saved(path, error) from error
        # slow and short: who has the folder tries all patients' numbers in vain
        return hashlib.pbkdf2_hmac("sha256", name.encode(), salt, _ROUNDS, dklen=3).hex()

    def keep_image(self, volume: Volume, image: ImageRef) -> Path:
        """Keep the voxels of an image that has no file, so that its corrections can be used.

        Raises
        ------
        NotSaved
            If it can't be written.
        """
        path = self._kept_image(image)
        try:
            self._begin()
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                write_whole(path, corrections.packed_arrays(voxels=volume.data))
        except OSError as error:
            raise why_not_saved(path, error) from error
        return path

    def kept_image(self, image: ImageRef) -> Volume | None:
        """The image that `keep_image` kept, or None.

        Raises
        ------
        BadInput
            If its file is damaged.
        """
        path = self._kept_image(image)
        if not path.exists():
            return None
        arrays = corrections.read_arrays(path, "remove it and open the image again")
        return Volume(arrays["voxels"], image.grid, image.name)

    def log(self, event: str, **facts: Any) -> None:
        """Add a line to ``log.jsonl``: the time, what happened, and JSON values about it.

        Raises
        ------
        NotSaved
            If it can't be written.
        """
        path = self.folder / "log.jsonl"
        entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **facts}
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8") + b"\n"
        try:
            self._begin()
            append_lines(path, line)
        except OSError as error:
            raise why_not_saved(path, error) from error

    def log_entries(self) -> list[dict[str, Any]]:
        """The log's entries, the oldest first; a line that was torn is left out."""
        path = self.folder / "log.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        entries = []
        for line in lines:
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        return entries

    def _kept_image(self, image: ImageRef) -> Path:
        return self.folder / "images" / f"{image.checksum.rpartition(':')[2]}.npz"

    def _begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "project.json"
        if not file.exists():
            write_whole(file, json.dumps({"format": FORMAT}).encode())

    def _check_format(self) -> None:
        file = self.folder / "project.json"
        if not file.exists():
            return
        try:
            version = json.loads(file.read_bytes())["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f'{file} is damaged; if this is your project, write {{"format": {FORMAT}}} into it'
            ) from error
        if version != FORMAT:
            raise BadInput(
                f"{self.folder} has format version {version!r} and this program reads {FORMAT}; "
                "update segone-napari"
            )


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:40] or "image"
