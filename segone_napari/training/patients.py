"""Whose image it is, so that corrections are held back, and lessons counted, by patient.

What a file says of its patient is hashed at once: no name and no number comes into a project.
"""

from __future__ import annotations

import re
from pathlib import Path

from segone_napari.data import formats
from segone_napari.project import ImageRef, Project
from segone_napari.runtime import BadInput

_NAMED = re.compile(r"sub-([A-Za-z0-9]+)_")
_FOLDER = re.compile(r"sub-([A-Za-z]*[0-9][A-Za-z0-9]*)")  # not "sub-projects"


def patient_of(project: Project, image: ImageRef) -> str:
    """A word for the patient of an image; empty where nobody says whose it is.

    What the last correction of the image says counts, then the PatientID of a DICOM file with its
    issuer, then BIDS's ``sub-XX`` in the path, whatever folder the data set lies in.

    Raises
    ------
    NotSaved
        If the project's salt can't be written.
    """
    corrections = project.corrections().usable
    said = [c.patient for c in corrections if c.patient and c.image.is_same_as(image)]
    if said:
        return said[-1]
    name = "" if image.path is None else _in_header(image.path, image.series) or _bids(image.path)
    return project.pseudonym(name) if name else ""


def _in_header(path: Path, series: str | None) -> str:
    from segone_napari.data.dicom.headers import read_patient
    from segone_napari.data.dicom.study import open_study

    try:
        if not formats.is_dicom(path):
            return ""
        return read_patient(open_study(path).choose(series).files()[0])
    except (BadInput, OSError):
        return ""


def _bids(path: Path) -> str:
    found = [_NAMED.match(path.name), *(_FOLDER.fullmatch(part) for part in reversed(path.parts))]
    return next((f"sub-{one[1]}" for one in found if one), "")
