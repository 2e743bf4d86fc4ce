"""Exports appear complete or not at all, under names and with records that tell of no patient."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from segone_napari import __version__
from segone_napari.cli import main
from segone_napari.data import formats
from segone_napari.exports import provenance, registry, staging
from segone_napari.exports.content import Content, labels_of, segments_of
from segone_napari.runtime import BadInput
from tests.fakes import ThresholdSystem, head

from .cases import content, save_series

FILES = [row for row in registry.FORMATS if not row.is_folder and not row.needs_series]
SECRETS = (b"Doe", b"Jane", b"secret-7", b"19500101", b"ACC-99", b"Elsewhere", b"House", b"DOE_J")


@pytest.fixture
def sent(tmp_path: Path) -> Content:
    """One structure of a DICOM series in a folder that is named after the patient."""
    made = content(subject="01", system="segone", checkpoint="first", options={"preset": "best"})
    assert made.image is not None
    series = tmp_path / "DOE_JANE"
    save_series(series, made.image)
    return replace(made, segments=made.segments[:1], image_files=(series,))


def target(folder: Path, row: registry.Format) -> Path:
    return folder / (row.name if row.is_folder else f"out{row.endings[0]}")


@pytest.mark.parametrize("row", registry.FORMATS, ids=lambda row: row.name)
def test_nothing_but_dicom_says_who_the_patient_is(
    tmp_path: Path, sent: Content, row: registry.Format
) -> None:
    if row.name == "dicom-seg-probability":
        one = sent.segments[0]
        sent = replace(sent, segments=(replace(one, probability=one.mask),))
    out = tmp_path / "out"
    out.mkdir()
    files = registry.write(replace(sent, deidentify=True), target(out, row), name=row.name)
    assert sorted(files) == sorted(path for path in out.rglob("*") if path.is_file())
    for file in files:
        data = file.read_bytes() if file.suffix != ".gz" else formats.gzip.open(file).read()
        assert [word for word in SECRETS if word in str(file.name).encode() + data] == []


def test_record_says_where_the_masks_come_from(tmp_path: Path, sent: Content) -> None:
    edited = replace(
        sent.segments[0],
        prompt="hippocampus on the left",
        is_edited=True,
        made_at="2026-01-02T03:04:05+00:00",
        edited_at="2026-01-02T04:00:00+00:00",
        confidence=0.87,
    )
    out, record = registry.write(replace(sent, segments=(edited,)), tmp_path / "out.nii.gz")[:2]
    assert (out.name, record.name) == ("out.nii.gz", "out.nii.gz.provenance.json")
    document = json.loads(record.read_text())
    assert document["software"] == {"name": "segone-napari", "version": __version__}
    assert (document["system"], document["checkpoint"]) == ("segone", "first")
    assert document["options"] == {"preset": "best"}
    (row,) = document["segments"]
    assert row["prompt"] == "hippocampus on the left"
    assert row["edited_by_hand"] is True
    assert row["made_at"] == "2026-01-02T03:04:05+00:00"
    assert row["confidence"] == 0.87
    # The checksum is that of the image, whatever its files are called.
    files = sorted(sent.image_files[0].iterdir())
    assert document["image"]["sha256"] == provenance.checksum(files)
    files[0].rename(files[0].with_name("other"))
    assert document["image"]["sha256"] == provenance.checksum(sent.image_files)
    # And it goes on with the masks when they are exported again.
    again = provenance.remembered(content(), record)
    assert again.segments[0].is_edited is True
    assert [one.system for one in again.segments] == ["segone", "", "", ""]
    assert again.system == ""  # the record says nothing of the others
    (one,) = again.segments[:1]
    assert provenance.remembered(content().only(one), record).system == "segone"


@pytest.mark.parametrize("row", FILES, ids=lambda row: row.name)
def test_file_that_exists_is_not_overwritten_without_force(
    tmp_path: Path, sent: Content, row: registry.Format
) -> None:
    out = target(tmp_path, row)
    out.write_bytes(b"mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BadInput, match="already exists; use --force"):
        registry.write(sent, out, name=row.name)
    assert out.read_bytes() == b"mine"
    assert sorted(tmp_path.iterdir()) == before
    registry.write(sent, out, name=row.name, force=True)
    assert out.read_bytes() != b"mine"


def test_one_file_in_the_way_stops_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "out.tsv").write_text("mine")
    with pytest.raises(BadInput, match=r"out\.tsv already exists"):
        registry.write(content(), tmp_path / "out.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["out.tsv"]


def test_table_of_the_same_labels_is_not_in_the_way_of_another_image(tmp_path: Path) -> None:
    sent = content()
    registry.write(sent, tmp_path / "out.nii.gz")
    before = (tmp_path / "out.tsv").read_bytes()
    registry.write(sent, tmp_path / "out.mgz")
    assert (tmp_path / "out.tsv").read_bytes() == before
    other = replace(sent, segments=sent.segments[1:])
    with pytest.raises(BadInput, match=r"out\.tsv already exists.* together with out\.nii; use"):
        registry.write(other, tmp_path / "out.nii")
    assert not (tmp_path / "out.nii").exists()


def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: Any) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    for out, name in (("out.nii.gz", "nifti"), ("masks", "masks"), ("deep/er/bids", "bids")):
        with pytest.raises(BadInput, match=f"the disk is full: {tmp_path / out} was not written"):
            registry.write(content(subject="01"), tmp_path / out, name=name)
        assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr(formats.os, "fsync", full)  # while the image itself is written
    with pytest.raises(BadInput, match=f"the disk is full: {tmp_path / 'out.nii'} was not written"):
        registry.write(content(), tmp_path / "out.nii")
    assert list(tmp_path.iterdir()) == []


def test_failure_while_moving_takes_back_what_was_moved(tmp_path: Path, monkeypatch: Any) -> None:
    replace_, moved = os.replace, []

    def fails_on_the_third(source: Any, there: Any) -> None:
        if Path(there).parent.name == "masks":
            moved.append(there)
            if len(moved) == 3:
                raise OSError(errno.EIO, "Input/output error")
        replace_(source, there)

    monkeypatch.setattr(staging.os, "replace", fails_on_the_third)
    with pytest.raises(BadInput, match="Input/output error"):
        registry.write(content(), tmp_path / "masks", name="masks")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("row", [row for row in registry.FORMATS if row.numbered])
def test_folder_that_is_overwritten_keeps_no_former_structure(
    tmp_path: Path, row: registry.Format
) -> None:
    sent, out = content(), tmp_path / "out"
    registry.write(sent, out, name=row.name)
    mine = [out / f"04_mine{row.numbered}", out / "03_white-matter-lesions.txt"]
    for path in mine:
        path.write_text("mine")
    turned = replace(sent, segments=(sent.segments[1], sent.segments[0]))
    written = registry.write(turned, out, name=row.name, force=True)
    assert set(out.iterdir()) == {*written, *mine}
    assert [path.name for path in sorted(out.glob("0[12]*"))] == [
        f"01_right-amygdala{row.numbered}",
        f"02_left-hippocampus{row.numbered}",
    ]


def test_failure_while_overwriting_leaves_all_files_as_they_were(
    tmp_path: Path, monkeypatch: Any
) -> None:
    sent, out = content(), tmp_path / "masks"
    registry.write(sent, out, name="masks")
    before = {path: path.read_bytes() for path in out.iterdir()}
    replace_ = os.replace

    def fails_at_the_table(source: Any, there: Any) -> None:
        if there == out / "masks.tsv":
            monkeypatch.undo()
            raise OSError(errno.EIO, "Input/output error")
        replace_(source, there)

    monkeypatch.setattr(staging.os, "replace", fails_at_the_table)
    turned = replace(sent, segments=(sent.segments[1], sent.segments[0]))
    with pytest.raises(BadInput, match="Input/output error"):
        registry.write(turned, out, name="masks", force=True)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_read_only_disk_is_said(tmp_path: Path, monkeypatch: Any) -> None:
    def read_only(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(staging.tempfile, "mkdtemp", read_only)
    for out, name in (("out.seg.nrrd", None), ("masks", "masks")):
        with pytest.raises(BadInput, match="Read-only file system; choose another folder"):
            registry.write(content(), tmp_path / out, name=name)
        assert list(tmp_path.iterdir()) == []


def test_target_that_can_not_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out, name, words in (
        (tmp_path / "file" / "out.seg.nrrd", None, "does not exist|not a folder"),
        (tmp_path / "file", "masks", "is a file, and masks is a folder"),
        (tmp_path / "out.xyz", None, "does not say what to write"),
        (tmp_path / "out.stl", "glb", "does not fit the format glb"),
        (tmp_path / "out", "word", "there is no format 'word'"),
        (tmp_path / ".dcm", None, "does not say what to write"),
    ):
        with pytest.raises(BadInput, match=words):
            registry.write(content(), out, name=name)


def test_bids_derivatives_go_on_from_the_images_name(tmp_path: Path) -> None:
    sent = content()
    assert sent.image is not None
    out = tmp_path / "derivatives"
    for subject in ("03", "04"):
        image = tmp_path / f"sub-{subject}_ses-2_run-1_T1w.nii.gz"
        formats.write(sent.image, image)
        registry.write(replace(sent, image_files=(image,)), out, name="bids")
    stem = "sub-04/ses-2/anat/sub-04_ses-2_run-1_desc-segone_dseg"
    labels = nib.load(out / f"{stem}.nii.gz")
    np.testing.assert_array_equal(np.asarray(labels.dataobj), labels_of(sent.segments).data)
    lines = (out / f"{stem}.tsv").read_text().splitlines()
    assert lines[:2] == ["index\tname\tcolor", "1\tleft hippocampus\t#dcd814"]
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"][0]["Name"] == "segone-napari"
    sidecar = json.loads((out / f"{stem}.json").read_text())
    assert len(sidecar["SegOne"]["image"]["sha256"]) == 64
    assert not list(out.rglob("*provenance*"))  # BIDS has no place for another file
    with pytest.raises(BadInput, match="--subject 01"):
        registry.write(content(), tmp_path / "other", name="bids")
    assert not (tmp_path / "other").exists()


def test_results_become_segments_and_the_more_probable_wins(tmp_path: Path) -> None:
    image = head()
    system = ThresholdSystem()
    results = system.segment(system.encode(image), ["hippocampus", "thalamus", "kidney"])
    segments = segments_of(results, made_at="2026-01-02T03:04:05+00:00")
    assert [s.prompt for s in segments] == ["hippocampus", "thalamus", "kidney"]
    assert segments[2].inside.sum() == 0
    labels = labels_of(segments).data
    overlap = segments[0].inside & segments[1].inside
    assert overlap.any()
    first = results[0].probability_volume.data >= results[1].probability_volume.data
    np.testing.assert_array_equal(labels[overlap], np.where(first, 1, 2)[overlap])
    # What a person has corrected is certain.
    corrected = [segments[0], replace(segments[1], is_edited=True)]
    assert (labels_of(corrected).data[overlap] == 2).all()


def test_command_exports_what_segment_wrote(tmp_path: Path, capsys: Any) -> None:
    sent = content()
    assert sent.image is not None
    save_series(tmp_path / "series", sent.image)
    registry.write(sent, tmp_path / "labels.nii.gz")
    labels, series = str(tmp_path / "labels.nii.gz"), str(tmp_path / "series")

    def run(*arguments: str) -> int:
        return main(["export", labels, *arguments])

    assert run("-o", str(tmp_path / "a.seg.nrrd")) == 0
    assert run("-o", str(tmp_path / "seg.dcm"), "--image", series, "--deidentify") == 0
    assert run("-o", str(tmp_path / "a.csv"), "--image", series, "--only", "left hippocampus") == 0
    assert run("-o", str(tmp_path / "meshes"), "--format", "stl") == 0
    assert "wrote" in capsys.readouterr().out
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert len(lines) == 2
    assert float(lines[1].split(",")[6]) == pytest.approx(
        sent.image.data.astype(np.int16)[sent.segments[0].inside].mean(), abs=0.01
    )
    # The table of 'segone segment' says what made the masks, and which are still as it made them.
    first, second = sent.segments[:2]
    row = {"prompt": "hippo", "resolved": first.name, "confidence": 0.5, "side": "left"}
    other = {**row, "resolved": second.name, "volume_ml": 2 * second.volume_ml}
    (tmp_path / "table.json").write_text(
        json.dumps(
            {
                "image": "scan",
                "system": "segone",
                "checkpoint": "first",
                "results": [{**row, "volume_ml": round(first.volume_ml, 4)}, other],
            }
        )
    )
    (tmp_path / "labels.nii.gz.provenance.json").unlink()
    told = str(tmp_path / "told.dcm")
    assert run("-o", told, "--image", series, "--table", str(tmp_path / "table.json")) == 0
    made = pydicom.dcmread(told).SegmentSequence
    assert [one.SegmentAlgorithmType for one in made[:2]] == ["AUTOMATIC", "SEMIAUTOMATIC"]
    assert made[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "segone"
    back = str(tmp_path / "back.nii.gz")
    assert main(["export", str(tmp_path / "seg.dcm"), "--image", series, "-o", back]) == 0
    voxels = np.asarray(nib.load(back).dataobj)
    np.testing.assert_array_equal(voxels, labels_of(sent.segments).data)
    assert run("-o", str(tmp_path / "a.seg.nrrd")) == 2
    assert run("-o", str(tmp_path / "b.seg.nrrd"), "--only", "spleen") == 2
    told = capsys.readouterr().err.splitlines()
    words = [line for line in told if "warning" not in line]
    assert len(words) == 2
    assert "already exists" in words[0]
    assert "left hippocampus, right amygdala" in words[1]


@pytest.mark.parametrize(
    ("masks", "out"),
    [
        ("labels.nii.gz", "scan.nii.gz"),
        ("labels.nii.gz", "labels.nii.gz"),
        ("masks", "masks/02_right-amygdala.nii.gz"),
    ],
)
def test_command_never_overwrites_what_it_reads(
    tmp_path: Path, capsys: Any, masks: str, out: str
) -> None:
    sent = content()
    assert sent.image is not None
    formats.write(sent.image, tmp_path / "scan.nii.gz")
    registry.write(sent, tmp_path / "labels.nii.gz")
    registry.write(sent, tmp_path / "masks", name="masks")
    before = (tmp_path / out).read_bytes()
    options = ["--image", str(tmp_path / "scan.nii.gz"), "--force"]
    assert main(["export", str(tmp_path / masks), *options, "-o", str(tmp_path / out)]) == 2
    assert "would overwrite what is read" in capsys.readouterr().err
    assert (tmp_path / out).read_bytes() == before


def test_command_says_which_structures_are_empty(tmp_path: Path, capsys: Any) -> None:
    registry.write(content(), tmp_path / "labels.nii.gz")
    out = str(tmp_path / "a.glb")
    assert main(["export", str(tmp_path / "labels.nii.gz"), "-o", out]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "segone: warning: third ventricle is empty: no voxel belongs to it"
    ]


def test_segmentation_never_overwrites_a_slice_of_its_series(tmp_path: Path, sent: Content) -> None:
    (series,) = sent.image_files
    files = sorted(series.iterdir())
    target = files[0].rename(series / "slice.dcm")
    before = target.read_bytes()
    for image_files in ((series,), (files[1],), (target, *files[1:])):
        with pytest.raises(BadInput, match="would overwrite what is read"):
            registry.write(replace(sent, image_files=image_files), target, force=True)
    assert target.read_bytes() == before
    for _ in range(2):  # an earlier segmentation beside the slices is none of them
        registry.write(sent, series / "seg.dcm", force=True)


def test_some_of_a_folders_masks_are_not_written_in_the_place_of_all(
    tmp_path: Path, capsys: Any
) -> None:
    masks = tmp_path / "masks"
    registry.write(content(), masks, name="masks")
    before = {path: path.read_bytes() for path in masks.iterdir()}
    asked = ["export", str(masks), "--format", "masks", "-o", str(masks), "--force"]
    assert main([*asked, "--only", "right amygdala"]) == 2
    assert "choose another folder" in capsys.readouterr().err
    one = ["export", str(masks / "02_right-amygdala.nii.gz"), *asked[2:]]
    assert main(one) == 2
    assert {path: path.read_bytes() for path in masks.iterdir()} == before
    assert main(asked) == 0
    assert len(list(masks.glob("*.nii.gz"))) == 4


@pytest.mark.parametrize("row", registry.FORMATS, ids=lambda row: row.name)
@pytest.mark.parametrize("room", [0, 300])
def test_no_exporter_leaves_anything_where_there_is_no_room(
    tmp_path: Path, sent: Content, row: registry.Format, room: int
) -> None:
    """A limit on the size of a file stops every library in the middle of its work."""
    resource = pytest.importorskip("resource", reason="only POSIX limits a file's size")
    one = replace(sent.segments[0], probability=sent.segments[0].mask)
    out = tmp_path / "out"
    out.mkdir()
    registry.write(replace(sent, segments=(one,)), target(tmp_path, row), name=row.name)
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(BadInput, match="can't be written") as raised:
            registry.write(replace(sent, segments=(one,)), target(out, row), name=row.name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert list(out.iterdir()) == []
    assert "\n" not in str(raised.value)
    assert staging.PREFIX not in str(raised.value)


@pytest.mark.parametrize("row", registry.FORMATS, ids=lambda row: row.name)
def test_every_exporter_says_that_its_target_is_read_only(
    tmp_path: Path, sent: Content, row: registry.Format, monkeypatch: Any
) -> None:
    one = replace(sent.segments[0], probability=sent.segments[0].mask)
    out = tmp_path / "out"
    out.mkdir()

    def read_only(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(staging.tempfile, "mkdtemp", read_only)
    with pytest.raises(BadInput, match="Read-only file system; choose another folder"):
        registry.write(replace(sent, segments=(one,)), target(out, row), name=row.name)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--table", "missing.tsv"], "--table names what is in a label map"),
        (["--series", "3"], "--series says which part of --image"),
        (["--volume", "2"], "--volume says which part of --image"),
        (["--deidentify"], "--deidentify is for a DICOM segmentation"),
        (["--subject", "07"], "--subject is for BIDS"),
    ],
)
def test_options_without_effect_are_refused(
    sent: Content, tmp_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture
) -> None:
    registry.write(sent, tmp_path / "masks", name="masks")
    call = ["export", str(tmp_path / "masks"), "-o", str(tmp_path / "b.csv")]
    assert main([*call, *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "b.csv").exists()
