"""DICOM at the command line: the list of series, the choice, and what is said."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from segone_napari import cli
from segone_napari.data import formats
from segone_napari.exports.reading import read_segments
from segone_napari.session import Session

from . import scanner
from .fakes import ThresholdSystem, put_in_registry


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A T1 with a slice missing, a FLAIR and a localizer, as scanned."""
    folder = tmp_path / "study"
    t1 = scanner.images(scanner.head("PIR"), description="mprage Doe", study_uid="1.2.3")
    del t1[4]
    scanner.save(t1, folder / "1")
    scanner.save(
        scanner.images(scanner.head(), description="flair", number=4, study_uid="1.2.3"),
        folder / "2",
    )
    scanner.save(
        scanner.images(scanner.head(), description="localizer", number=1, study_uid="1.2.3")[:1],
        folder / "3",
    )
    return folder


@pytest.fixture(autouse=True)
def system(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_registry(monkeypatch, ThresholdSystem())


def test_several_series_are_listed_and_one_line_says_what_to_do(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = cli.main(["segment", str(study), "-p", "left x", "-o", str(tmp_path / "o.nii.gz")])
    said = capsys.readouterr()
    *listed, last = said.err.strip().splitlines()
    assert status == 2
    assert last == f"segone: {study} holds 2 series; choose one with --series N, N from 1 to 2"
    rows = [line.split() for line in listed if line.strip()[:1].isdigit()]
    assert rows == [
        ["1", "mprage", "T1", "sagittal", "18×12", "2×2.5×2", "14", "1"],
        ["2", "flair", "FLAIR", "axial", "14×18", "2×2×2.5", "12", "1"],
    ]
    assert listed[-1] == "not listed: 'localizer': it has a single slice"
    assert said.out == ""
    assert not (tmp_path / "o.nii.gz").exists()


def test_the_chosen_series_is_segmented_on_its_own_grid(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.nii.gz"
    status = cli.main(
        ["segment", str(study), "--series", "1", "-p", "left hippocampus", "-o", str(out)]
    )
    said = capsys.readouterr()
    assert (status, out.exists()) == (0, True)
    assert "segone: warning: 1 slice is missing (after slice 4)" in said.err
    assert "Doe" not in said.err + said.out + (tmp_path / "o.tsv").read_text()
    ours = nib.as_closest_canonical(nib.load(out))
    volume = scanner.head("PIR")
    image = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine))
    assert ours.shape == image.shape
    np.testing.assert_allclose(ours.affine, image.affine, atol=1e-3)


def test_series_of_a_file_that_is_no_dicom_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nib.save(nib.Nifti1Image(scanner.head().data, np.eye(4)), tmp_path / "t1.nii")
    status = cli.main(["segment", str(tmp_path / "t1.nii"), "--series", "2", "-p", "left x"])
    assert status == 2
    assert "is not DICOM and has no series; leave out --series" in capsys.readouterr().err


def test_probabilities_go_out_as_a_fractional_segmentation_of_the_series(
    study: Path, tmp_path: Path
) -> None:
    out, labels = tmp_path / "probabilities.dcm", tmp_path / "o.nii.gz"
    asked = ["segment", str(study), "--series", "2", "-p", "left hippocampus; thalamus"]
    assert cli.main([*asked, "--probabilities", str(out), "-o", str(labels)]) == 0
    stored = pydicom.dcmread(out)
    assert stored.SegmentationType == "FRACTIONAL"
    series = {pydicom.dcmread(file).SeriesInstanceUID for file in (study / "2").iterdir()}
    assert {one.SeriesInstanceUID for one in stored.ReferencedSeriesSequence} == series
    image = formats.read(study, series=2)
    segments = read_segments(out, grid=image.grid)
    assert [segment.name for segment in segments] == ["left hippocampus", "thalamus"]
    answers = Session().segment(image, ["left hippocampus", "thalamus"])
    for segment, answer in zip(segments, answers, strict=True):
        assert segment.probability is not None
        expected = answer.probability_volume.data.astype(np.float32)
        assert expected.max() > 0.5
        np.testing.assert_allclose(segment.probability.data, expected, atol=1 / 255)


@pytest.mark.parametrize(
    ("image", "out", "words"),
    [
        ("t1.nii", "p.dcm", "t1.nii is not DICOM"),
        ("study", "p.nii.gz", "end in .dcm"),
        ("study", "none/p.dcm", "does not exist"),
    ],
)
def test_probabilities_that_can_not_be_written_are_refused_before_the_work(
    study: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    image: str,
    out: str,
    words: str,
) -> None:
    nib.save(nib.Nifti1Image(scanner.head().data, np.eye(4)), tmp_path / "t1.nii")
    status = cli.main(
        ["segment", str(tmp_path / image), "-p", "left x", "--probabilities", str(tmp_path / out)]
    )
    assert status == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("former", [None, b"an earlier result"])
def test_probabilities_are_as_before_where_the_rest_can_not_be_written(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, former: bytes | None
) -> None:
    probabilities, labels = tmp_path / "p.dcm", tmp_path / "o.nii.gz"
    if former is not None:
        probabilities.write_bytes(former)
    before = {path.name for path in tmp_path.iterdir()}
    replace = os.replace

    def fails_at_the_labels(source: Path, there: Path) -> None:
        if Path(there) == labels:
            raise OSError(errno.EIO, "Input/output error")
        replace(source, there)

    monkeypatch.setattr(os, "replace", fails_at_the_labels)
    asked = ["segment", str(study), "--series", "2", "-p", "left hippocampus", "--force"]
    assert cli.main([*asked, "--probabilities", str(probabilities), "-o", str(labels)]) == 2
    assert {path.name for path in tmp_path.iterdir()} == before
    assert former is None or probabilities.read_bytes() == former


@pytest.mark.parametrize("named", ["a slice", "its folder"])
def test_probabilities_never_overwrite_the_series_itself(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    first, second = sorted((study / "2").iterdir())[:2]
    target = first.rename(first.with_name("slice.dcm"))
    before = target.read_bytes()
    image = second if named == "a slice" else study / "2"
    asked = ["segment", str(image), "-p", "left hippocampus", "--force", "--probabilities"]
    assert cli.main([*asked, str(target)]) == 2
    assert "would overwrite what is read" in capsys.readouterr().err
    assert target.read_bytes() == before
    # What an earlier run wrote beside the slices is overwritten as asked.
    for _ in range(2):
        assert cli.main([*asked, str(study / "2" / "p.dcm")]) == 0
