"""DICOM Segmentation: valid, tied to its series, coded, no more of the patient than is due."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from segone_napari import __version__
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.exports import registry
from segone_napari.exports.content import BY_HAND, Content, Segment
from segone_napari.exports.reading import read_segments
from segone_napari.runtime import BadInput
from segone_napari.volume import Volume
from tests import scanner

from .cases import AFFINES, SHAPE, content, rotated, save_series, segment, world_points

# What stands in the series of `save_series` and shall not get out.
REQUIRED = ("Doe^Jane", "secret-7", "19500101", "ACC-99", "House", "20250102", "101112")
NOT_REQUIRED = ("Elsewhere", "Neuro", "Joy", "MR-3", "Follow-up", "T1 of", "075Y", "Scanner Works")


@pytest.fixture
def sent(tmp_path: Path) -> Content:
    """Four structures with probabilities, on a series on disk."""
    made = content(system="segone", checkpoint="first")
    assert made.image is not None
    save_series(tmp_path / "series", made.image)
    values = np.random.default_rng(0).random((4, *SHAPE)).astype(np.float16)
    segments = tuple(
        replace(s, probability=s.mask.with_data(v), is_edited=n == 1)
        for n, (s, v) in enumerate(zip(made.segments, values, strict=True))
    )
    return replace(made, segments=segments, image_files=(tmp_path / "series",))


@pytest.mark.parametrize("name", ["dicom-seg", "dicom-seg-probability"])
@pytest.mark.parametrize("deidentify", [False, True])
def test_dciodvfy_has_no_complaint(
    tmp_path: Path, sent: Content, name: str, deidentify: bool
) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (apt-get install dicom3tools)")
    (out, _) = registry.write(replace(sent, deidentify=deidentify), tmp_path / "out.dcm", name=name)
    checked = subprocess.run(["dciodvfy", str(out)], capture_output=True, text=True, check=False)
    assert "Segmentation" in checked.stderr
    assert "Error" not in checked.stderr + checked.stdout
    assert checked.returncode == 0


def test_dciodvfy_takes_the_codes_of_every_structure_and_group(
    tmp_path: Path, sent: Content
) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (apt-get install dicom3tools)")
    vocabulary = Vocabulary.load()
    names = [one.name for one in (*vocabulary.structures, *vocabulary.groups)]
    (first, *_) = sent.segments
    everything = replace(sent, segments=tuple(replace(first, name=name) for name in names))
    (out, _) = registry.write(everything, tmp_path / "out.dcm")
    checked = subprocess.run(["dciodvfy", str(out)], capture_output=True, text=True, check=False)
    assert "Error" not in checked.stderr + checked.stdout
    made = {s.SegmentLabel: s for s in pydicom.dcmread(out).SegmentSequence}
    assert set(made) == set(names)
    schemes = {name: _schemes(segment) for name, segment in made.items()}
    assert [name for name, found in schemes.items() if not found & {"SCT", "DCM", "FMA"}] == []


def _schemes(segment: Dataset) -> set[str]:
    """Whose codes say what a segment is and where."""
    codes = [*segment.SegmentedPropertyTypeCodeSequence, *segment.get("AnatomicRegionSequence", [])]
    return {code.CodingSchemeDesignator for code in codes}


def test_segmentation_is_tied_to_its_series(tmp_path: Path, sent: Content) -> None:
    registry.write(sent, tmp_path / "out.dcm")
    made = pydicom.dcmread(tmp_path / "out.dcm")
    slices = [pydicom.dcmread(file) for file in sorted((tmp_path / "series").iterdir())]
    assert made.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    assert made.StudyInstanceUID == slices[0].StudyInstanceUID
    (series,) = made.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == slices[0].SeriesInstanceUID
    by_uid = {one.SOPInstanceUID: one for one in slices}
    for group in made.PerFrameFunctionalGroupsSequence:
        # Each frame names the very slice that it lies on.
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_allclose(
            np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float),
            np.array(by_uid[source].ImagePositionPatient, dtype=float),
            atol=1e-4,
        )


def test_segments_say_what_they_are_and_what_made_them(tmp_path: Path, sent: Content) -> None:
    registry.write(sent, tmp_path / "out.dcm")
    made = hd.seg.segread(tmp_path / "out.dcm")
    left = made.get_segment_description(1)
    assert left.segment_label == "left hippocampus"
    assert left.segmented_property_type == hd.sr.CodedConcept("5366008", "SCT", "Hippocampus")
    modifier = left.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert modifier[0].CodeValue == "7771000"
    lesions = made.get_segment_description(3)
    assert lesions.anatomic_regions[0].value == "68523003"
    algorithm = left.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "segone"
    assert algorithm.AlgorithmVersion == f"{__version__} first"
    kinds = [made.get_segment_description(n).SegmentAlgorithmType for n in (1, 2)]
    assert kinds == ["AUTOMATIC", "SEMIAUTOMATIC"]  # the second was edited by hand
    assert "not for diagnosis" in made.SeriesDescription
    assert "not for diagnosis" in made.ContentDescription
    assert made.SegmentsOverlap == "YES"


def test_each_segment_names_its_own_maker(tmp_path: Path, sent: Content) -> None:
    first = sent.segments[0]
    made_by = [
        replace(first, system="segone", checkpoint="first", is_edited=False),
        replace(first, system=BY_HAND, is_edited=True, edited_with=("brush",)),
        replace(first, system=BY_HAND, is_edited=True, edited_with=("sam2", "spread")),
        first,  # opened from a file without a record
    ]
    mixed = replace(sent, segments=tuple(made_by), system="", checkpoint="")
    (out, record) = registry.write(mixed, tmp_path / "out.dcm")
    told = []
    for one in pydicom.dcmread(out).SegmentSequence:
        algorithms = one.get("SegmentationAlgorithmIdentificationSequence", [])
        told.append((one.SegmentAlgorithmType, [a.AlgorithmName for a in algorithms]))
    assert told == [
        ("AUTOMATIC", ["segone"]),
        ("MANUAL", []),
        ("SEMIAUTOMATIC", ["sam2, spread"]),
        ("SEMIAUTOMATIC", ["not recorded"]),
    ]
    systems = [row["system"] for row in json.loads(record.read_text("utf-8"))["segments"]]
    assert systems == ["segone", BY_HAND, BY_HAND, None]
    if shutil.which("dciodvfy") is not None:
        checked = subprocess.run(
            ["dciodvfy", str(out)], capture_output=True, text=True, check=False
        )
        assert "Error" not in checked.stderr + checked.stdout


def test_probabilities_come_back_to_a_255th(tmp_path: Path, sent: Content) -> None:
    registry.write(sent, tmp_path / "out.dcm", name="dicom-seg-probability")
    stored = pydicom.dcmread(tmp_path / "out.dcm")
    assert (stored.SegmentationType, stored.SegmentationFractionalType) == (
        "FRACTIONAL",
        "PROBABILITY",
    )
    for before, after in zip(
        sent.segments, read_segments(tmp_path / "out.dcm", grid=sent.grid), strict=True
    ):
        assert before.probability is not None
        assert after.probability is not None
        np.testing.assert_allclose(after.probability.data, before.probability.data, atol=1 / 255)


def test_no_more_of_the_patient_than_the_standard_requires(tmp_path: Path, sent: Content) -> None:
    registry.write(sent, tmp_path / "plain.dcm")
    registry.write(replace(sent, deidentify=True), tmp_path / "blank.dcm")
    plain, blank = (str(pydicom.dcmread(tmp_path / f"{n}.dcm")) for n in ("plain", "blank"))
    assert [word for word in REQUIRED if word not in plain] == []
    assert [word for word in NOT_REQUIRED if word in plain] == []
    assert [word for word in REQUIRED + NOT_REQUIRED if word in blank] == []
    made = pydicom.dcmread(tmp_path / "blank.dcm")
    assert made.PatientIdentityRemoved == "YES"
    assert made.FrameOfReferenceUID == pydicom.dcmread(tmp_path / "plain.dcm").FrameOfReferenceUID


def test_names_of_any_letters_are_kept(tmp_path: Path, sent: Content) -> None:
    assert sent.image is not None
    series = tmp_path / "latin"
    save_series(series, sent.image, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    named = replace(sent.segments[0], name="Geschwür, groß")
    registry.write(replace(sent, segments=(named,), image_files=(series,)), tmp_path / "out.dcm")
    made = pydicom.dcmread(tmp_path / "out.dcm")
    assert str(made.PatientName) == "Müller^Jörg"
    (kind,) = made.SegmentSequence[0].SegmentedPropertyTypeCodeSequence
    assert (kind.CodingSchemeDesignator, kind.CodeMeaning) == ("99SEGONE", "Geschwür, groß")
    assert read_segments(tmp_path / "out.dcm")[0].name == "Geschwür, groß"


def test_mask_with_gaps_and_mask_of_one_slice_come_back(tmp_path: Path, sent: Content) -> None:
    affine = AFFINES["oblique"]
    gaps = segment("gaps", (1, 2, 3), np.s_[2:6, 3:9, 1:11], affine)
    gaps.mask.data[:, :, 2:10] = 0
    single = segment("single", (4, 5, 6), np.s_[2:6, 3:9, 5:6], affine)
    for one in (gaps, single):
        out = tmp_path / f"{one.name}.dcm"
        registry.write(replace(sent, segments=(one,)), out)
        (came,) = read_segments(out)
        np.testing.assert_allclose(world_points(came.mask), world_points(one.mask), atol=1e-3)


@pytest.mark.parametrize(
    "turn", [[[0, 0, 1], [1, 0, 0], [0, 1, 0]], [[0, -1, 0], [-1, 0, 0], [0, 0, -1]]]
)
def test_masks_in_another_order_of_axes_lie_on_the_series_own_pixels(
    tmp_path: Path, sent: Content, turn: list[list[int]]
) -> None:
    """As when the image was converted to NIfTI by a program that turns and flips its axes."""
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    one = sent.segments[0]
    index = np.argwhere(one.mask.data) @ matrix[:3, :3].T
    start = np.minimum(0, (np.array(SHAPE) - 1) @ matrix[:3, :3].T)
    shape = tuple(int(n) for n in np.abs(np.array(SHAPE) @ matrix[:3, :3].T))
    matrix[:3, 3] = -start
    data = np.zeros(shape, dtype=np.uint8)
    data[tuple((index - start).astype(int).T)] = 1
    turned = Volume.from_affine(data, one.grid.affine @ np.linalg.inv(matrix))
    np.testing.assert_allclose(world_points(turned), world_points(one.mask), atol=1e-6)
    moved = replace(sent, segments=(replace(one, mask=turned),), image=None)
    registry.write(moved, tmp_path / "out.dcm")
    made = pydicom.dcmread(tmp_path / "out.dcm")
    assert (made.Columns, made.Rows) == SHAPE[:2]
    (came,) = read_segments(tmp_path / "out.dcm", grid=one.grid)
    np.testing.assert_array_equal(came.mask.data, one.mask.data)


def test_resampled_masks_keep_their_own_grid_in_the_same_frame(
    tmp_path: Path, sent: Content
) -> None:
    fine = Volume.from_affine(sent.segments[0].mask.data, rotated(10, (0.7, 0.7, 0.7)))
    resampled = replace(
        sent, segments=(replace(sent.segments[0], mask=fine, probability=None),), image=None
    )
    registry.write(resampled, tmp_path / "out.dcm")
    made = pydicom.dcmread(tmp_path / "out.dcm")
    source = pydicom.dcmread(next((tmp_path / "series").iterdir()))
    assert made.FrameOfReferenceUID == source.FrameOfReferenceUID
    (came,) = read_segments(tmp_path / "out.dcm")
    np.testing.assert_allclose(world_points(came.mask), world_points(fine), atol=1e-3)


def test_enhanced_multiframe_series_is_a_source_too(tmp_path: Path, sent: Content) -> None:
    slices = [pydicom.dcmread(file) for file in sorted((tmp_path / "series").iterdir())]
    enhanced = hd.legacy.LegacyConvertedEnhancedMRImage(
        legacy_datasets=slices,
        series_instance_uid=hd.UID(),
        series_number=7,
        sop_instance_uid=hd.UID(),
        instance_number=1,
    )
    enhanced.save_as(tmp_path / "enhanced.dcm")
    shutil.rmtree(tmp_path / "series")
    registry.write(replace(sent, image_files=(tmp_path / "enhanced.dcm",)), tmp_path / "out.dcm")
    for before, after in zip(
        sent.segments, read_segments(tmp_path / "out.dcm", grid=sent.grid), strict=True
    ):
        np.testing.assert_array_equal(after.mask.data, before.mask.data)


def test_the_series_that_fits_the_masks_is_found_among_several(
    tmp_path: Path, sent: Content
) -> None:
    assert sent.image is not None
    study = tmp_path / "study"
    save_series(study / "a", Volume.from_affine(sent.image.data, AFFINES["canonical"]))
    right = save_series(study / "b", sent.image)
    registry.write(replace(sent, image_files=(study,)), tmp_path / "out.dcm")
    uid = pydicom.dcmread(right[0]).SeriesInstanceUID
    made = pydicom.dcmread(tmp_path / "out.dcm")
    assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == uid
    # One file stands for its whole series.
    registry.write(replace(sent, image_files=(right[3],)), tmp_path / "one.dcm")
    assert len(pydicom.dcmread(tmp_path / "one.dcm").SourceImageSequence) == SHAPE[2]
    # Another series of the same voxels: nothing is guessed.
    save_series(study / "c", sent.image)
    with pytest.raises(BadInput, match=r"3 series, and more than one"):
        registry.write(replace(sent, image_files=(study,)), tmp_path / "two.dcm")
    assert not (tmp_path / "two.dcm").exists()


def test_what_can_not_be_tied_to_a_series_is_said(tmp_path: Path, sent: Content) -> None:
    assert sent.image is not None
    out = tmp_path / "out.dcm"
    with pytest.raises(BadInput, match="belongs to a DICOM series"):
        registry.write(replace(sent, image_files=()), out)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "report.pdf").write_bytes(b"%PDF-1.4")
    with pytest.raises(BadInput, match="no DICOM images"):
        registry.write(replace(sent, image_files=(tmp_path / "none",)), out)
    save_series(tmp_path / "loose", sent.image, FrameOfReferenceUID="")
    with pytest.raises(BadInput, match="no frame of reference"):
        registry.write(replace(sent, image_files=(tmp_path / "loose",)), out)
    bare = tuple(replace(s, probability=None) for s in sent.segments)
    with pytest.raises(BadInput, match="no probabilities"):
        registry.write(replace(sent, segments=bare), out, name="dicom-seg-probability")
    assert not out.exists()


def test_a_backslash_in_a_name_makes_no_second_value(tmp_path: Path, sent: Content) -> None:
    named = replace(sent, segments=(replace(sent.segments[0], name=r"cyst\old"),))
    registry.write(named, tmp_path / "seg.dcm")
    (written,) = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    assert written.SegmentLabel == "cyst/old"
    assert written.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "cyst/old"


def add(folder: Path, file: Path, name: str, **attributes: object) -> Dataset:
    """Put a changed copy of an image into a folder; a value of None takes an attribute away."""
    image = pydicom.dcmread(file)
    for keyword, value in attributes.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.save_as(folder / name)
    return image


def assert_comes_back(sent: Content, out: Path, slices: int) -> None:
    """The masks are read again as they were, tied to so many images."""
    assert len(pydicom.dcmread(out).SourceImageSequence) == slices
    for before, after in zip(sent.segments, read_segments(out, grid=sent.grid), strict=True):
        np.testing.assert_array_equal(after.mask.data, before.mask.data)


def test_images_that_were_copied_twice_count_once(tmp_path: Path, sent: Content) -> None:
    for file in sorted((tmp_path / "series").iterdir()):
        shutil.copyfile(file, file.with_name(f"{file.name} (copy)"))
    registry.write(sent, tmp_path / "out.dcm")
    assert_comes_back(sent, tmp_path / "out.dcm", SHAPE[2])


@pytest.mark.parametrize(
    "odd",
    [
        {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
        {"ImageOrientationPatient": None, "SeriesInstanceUID": hd.UID()},
        {"PixelSpacing": None},
        {"ImagePositionPatient": ""},
    ],
    ids=["a localizer", "a picture", "no spacing", "no position"],
)
def test_what_lies_elsewhere_in_the_folder_is_no_part_of_the_series(
    tmp_path: Path, sent: Content, odd: dict[str, object]
) -> None:
    series = tmp_path / "series"
    add(series, next(series.iterdir()), "odd", SOPInstanceUID=hd.UID(), **odd)
    registry.write(sent, tmp_path / "out.dcm")
    assert_comes_back(sent, tmp_path / "out.dcm", SHAPE[2])


def test_a_multiframe_image_is_meant_alone(tmp_path: Path) -> None:
    volume = scanner.head()
    images = [scanner.enhanced(volume), scanner.enhanced(volume)]
    images[1].SeriesInstanceUID = images[0].SeriesInstanceUID  # two points in time
    folder = scanner.save(images, tmp_path / "series")
    mask = volume.with_data((volume.data > volume.data.mean()).astype(np.uint8))
    sent = Content((Segment("brainstem", (1, 2, 3), mask),), image_files=(folder / "IM0001",))
    registry.write(sent, tmp_path / "out.dcm")
    assert_comes_back(sent, tmp_path / "out.dcm", 1)
    with pytest.raises(BadInput, match="2 series, and more than one"):
        registry.write(replace(sent, image_files=(folder,)), tmp_path / "two.dcm")


def test_slices_need_not_say_how_thick_they_are(tmp_path: Path, sent: Content) -> None:
    assert sent.image is not None
    save_series(tmp_path / "thin", sent.image, SliceThickness=None)
    registry.write(replace(sent, image_files=(tmp_path / "thin",)), tmp_path / "out.dcm")
    assert_comes_back(sent, tmp_path / "out.dcm", SHAPE[2])


def test_headers_that_lack_what_is_taken_over_are_told_in_words(
    tmp_path: Path, sent: Content
) -> None:
    series = tmp_path / "series"
    for file in series.iterdir():
        add(series, file, file.name, StudyInstanceUID=None)
    with pytest.raises(BadInput, match=r"StudyInstanceUID.*; export as .seg.nrrd"):
        registry.write(sent, tmp_path / "out.dcm")
    assert not (tmp_path / "out.dcm").exists()
