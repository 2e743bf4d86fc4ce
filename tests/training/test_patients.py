"""Whose image a corrected image is taken to be, and that a project doesn't tell whose it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segone_napari import cli
from segone_napari.data import formats
from segone_napari.project import ImageRef, Project
from segone_napari.training.patients import patient_of
from segone_napari.volume import Volume

from .. import scanner

NUMBER = "HOSP-4711-0815"


def _series(folder: Path, number: int, patient: str = NUMBER, issuer: str = "") -> Path:
    volume = scanner.head()
    changed = volume.with_data(volume.data + number)

    def issued(data, _):
        data.IssuerOfPatientID = issuer

    made = scanner.images(changed, number=number, patient=patient, change=issued)
    return scanner.save(made, folder / f"series_{number}")


def _correct(project: Path, image: Path, *options: str) -> str:
    read = formats.read(image)
    mask = project.parent / f"{image.name}_mask.nii.gz"
    formats.write(read.with_data((read.data > read.data.mean()).astype(np.uint8)), mask, force=True)
    call = ["correct", str(project), str(image), "-p", "cyst", "--mask", str(mask), *options]
    assert cli.main(call) == 0
    return Project(project).corrections().usable[-1].patient


def test_series_of_one_dicom_patient_are_one_patient(tmp_path):
    project = tmp_path / "project"
    one, same = (_correct(project, _series(tmp_path, number)) for number in (1, 2))
    assert one == same != ""
    assert _correct(project, _series(tmp_path, 3, patient="somebody else")) != one
    assert _correct(project, _series(tmp_path, 4, issuer="another hospital")) != one
    assert _correct(tmp_path / "other", _series(tmp_path, 5)) != one


def test_nothing_of_a_patients_number_is_in_the_project(tmp_path):
    project = tmp_path / "project"
    _correct(project, _series(tmp_path, 1))
    content = b"".join(path.read_bytes() for path in project.rglob("*") if path.is_file())
    assert NUMBER.encode() not in content


def test_what_a_person_says_of_the_patient_counts_also_for_later_corrections(tmp_path):
    project, image = tmp_path / "project", _series(tmp_path, 1)
    assert _correct(project, image) not in ("", "A")
    assert _correct(project, image, "--patient", "A") == "A"
    assert _correct(project, image) == "A"


@pytest.mark.parametrize(
    ("path", "same"),
    [
        ("sub-07/ses-1/anat/sub-07_ses-1_T1w.nii.gz", True),
        ("sub-07_FLAIR.nii.gz", True),
        ("subjects/sub-07/mri/orig.mgz", True),
        ("sub-08/anat/sub-08_T1w.nii.gz", False),
        ("sub-projects/scan.nii.gz", None),
        ("scan.nii.gz", None),
    ],
)
def test_a_bids_name_says_whose_image_it_is(tmp_path, path, same):
    image = Volume.from_affine(np.arange(27.0).reshape(3, 3, 3), np.eye(4))
    project = Project(tmp_path / "project")
    known = patient_of(project, ImageRef.of(image, "/data/sub-07/anat/sub-07_T2w.nii.gz"))
    found = patient_of(project, ImageRef.of(image, Path("/data", path)))
    assert (found == known) if same else (found != known)
    assert bool(found) == (same is not None)
