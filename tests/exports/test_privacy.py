"""What is known of the patient stays in the series: not in files, their names, words or logs."""

from __future__ import annotations

import gzip
import logging
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from segone_napari.cli import main
from segone_napari.exports import registry
from tests.fakes import ThresholdSystem, head, put_in_registry

from .cases import save_series

# All of it stands in the headers of `save_series`, some in more than one place.
SECRETS = ("Doe", "Jane", "secret-7", "19500101", "ACC-99", "Elsewhere", "Neuro", "House", "Joy")
# The standard wants these in a DICOM segmentation that belongs to the series.
REQUIRED = ("Doe", "Jane", "secret-7", "19500101", "ACC-99", "House")


@pytest.fixture
def series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    put_in_registry(monkeypatch, ThresholdSystem())
    save_series(tmp_path / "scan", head())
    return tmp_path / "scan"


def content_of(file: Path) -> str:
    data = file.read_bytes()
    return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("latin-1")


def found_in(folder: Path, words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each file and word that its name or content has."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [
        (file.name, word)
        for file in files
        for word in words
        if word.lower() in (str(file.relative_to(folder)) + content_of(file)).lower()
    ]


def test_nothing_that_is_written_or_said_names_the_patient(
    series: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    out = tmp_path / "out"
    out.mkdir()
    labels = str(out / "labels.nii.gz")
    written = ["-o", labels, "--masks", str(out / "first"), "--table", str(out / "table.json")]
    prompts = ["-p", "left hippocampus", "-p", "amygdala"]
    assert main(["segment", str(series), *prompts, *written]) == 0
    for row in registry.FORMATS:
        if row.name == "dicom-seg-probability":
            continue  # there are none on disk
        target = out / (row.name if row.is_folder else f"only_{row.name}{row.endings[0]}")
        options = ["--format", row.name, "--only", "amygdala"]
        options += ["--subject", "01"] if row.name == "bids" else []
        options += ["--deidentify"] if row.needs_series else []
        told = ["--image", str(series), "--table", str(out / "table.json")]
        assert main(["export", labels, *told, *options, "-o", str(target)]) == 0
    assert found_in(out, SECRETS) == []
    assert len([file for file in out.rglob("*") if file.is_file()]) > 20
    # Without --deidentify a DICOM segmentation has what the standard requires, and no more.
    other = tmp_path / "other"
    other.mkdir()
    assert main(["export", labels, "--image", str(series), "-o", str(other / "seg.dcm")]) == 0
    assert {word for _, word in found_in(other, SECRETS)} == set(REQUIRED)
    assert {name for name, _ in found_in(other, SECRETS)} == {"seg.dcm"}
    # What goes wrong is said without the patient, too.
    for file in sorted(series.iterdir())[:2]:
        file.write_bytes(file.read_bytes()[:-500])
    assert main(["segment", str(series), *prompts, "-o", str(tmp_path / "b.nii.gz")]) == 0
    file = sorted(series.iterdir())[3]
    changed = pydicom.dcmread(file)
    changed.PatientName, changed.PatientID = "Roe^Richard", "secret-8"
    changed.save_as(file)
    assert main(["segment", str(series), *prompts, "-o", str(tmp_path / "c.nii.gz")]) == 0
    assert main(["export", labels, "--image", str(series), "-o", str(out / "only_csv.csv")]) == 2
    said = capfd.readouterr()
    assert "truncated or damaged" in said.err
    assert "2 patients" in said.err
    words = (said.out + said.err + caplog.text).lower()
    assert [word for word in (*SECRETS, "Roe", "secret-8") if word.lower() in words] == []


def test_the_name_in_a_description_is_not_passed_on(series: Path, tmp_path: Path) -> None:
    """A technician typed the patient's name into the series' description."""
    from segone_napari.data.dicom.study import open_study

    (found,) = open_study(series).series
    assert found.name == "T1 of"
    assert replace(found).grid.shape == head().grid.shape
