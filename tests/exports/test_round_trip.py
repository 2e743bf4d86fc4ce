"""What goes out comes in again: the same voxels, at the same place in the patient."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from segone_napari.exports import registry
from segone_napari.exports.content import Content
from segone_napari.exports.reading import place, read_segments
from segone_napari.runtime import BadInput
from segone_napari.volume import Grid

from .cases import AFFINES, SHAPE, content, save_series, segment, world_points

OVERLAPS_KEPT = {"masks": "masks", "seg-nrrd": "out.seg.nrrd", "dicom-seg": "out.dcm"}


@pytest.mark.parametrize("kind", AFFINES)
@pytest.mark.parametrize("name", OVERLAPS_KEPT)
def test_masks_come_back_as_they_went_out(tmp_path: Path, name: str, kind: str) -> None:
    sent = from_series(tmp_path, content(AFFINES[kind]))
    out = tmp_path / OVERLAPS_KEPT[name]
    registry.write(sent, out, name=name)
    for came in (read_segments(out), read_segments(out, grid=sent.grid)):
        assert [s.name for s in came] == [s.name for s in sent.segments]
        assert [s.colour for s in came] == [s.colour for s in sent.segments]
        for before, after in zip(sent.segments, came, strict=True):
            assert after.mask.data.dtype == np.uint8
            np.testing.assert_allclose(
                world_points(after.mask), world_points(before.mask), atol=1e-3
            )
    for before, after in zip(sent.segments, came, strict=True):
        np.testing.assert_array_equal(after.mask.data, before.mask.data)


@pytest.mark.parametrize("ending", [".nii.gz", ".mgz"])
@pytest.mark.parametrize("kind", AFFINES)
def test_label_map_comes_back_with_names_and_colours(
    tmp_path: Path, kind: str, ending: str
) -> None:
    sent = without_overlap(content(AFFINES[kind]))
    out = tmp_path / f"labels{ending}"
    registry.write(sent, out)
    came = read_segments(out)
    for before, after in zip(sent.segments, came, strict=True):
        assert (after.name, after.colour) == (before.name, before.colour)
        np.testing.assert_array_equal(after.mask.data, before.mask.data)
        assert after.grid.is_same_as(before.grid)


def test_masks_keep_their_names_where_one_of_them_was_deleted(tmp_path: Path) -> None:
    sent = content()
    registry.write(sent, tmp_path / "masks", name="masks")
    (tmp_path / "masks" / "01_left-hippocampus.nii.gz").unlink()
    came = read_segments(tmp_path / "masks")
    for before, after in zip(sent.segments[1:], came, strict=True):
        assert (after.name, after.colour) == (before.name, before.colour)
        np.testing.assert_array_equal(after.mask.data, before.mask.data)


def test_mask_of_another_program_is_called_as_its_file_says(tmp_path: Path) -> None:
    sent = content()
    registry.write(sent, tmp_path / "masks", name="masks")
    masks = tmp_path / "masks"
    (masks / "01_left-hippocampus.nii.gz").rename(masks / "01_left-thalamus.nii.gz")
    (masks / "02_right-amygdala.nii.gz").rename(masks / "pons.nii.gz")
    names = [one.name for one in read_segments(masks)]
    assert names == ["left thalamus", "white matter lesions", "third ventricle", "pons"]


@pytest.mark.parametrize("kind", AFFINES)
def test_simpleitk_finds_the_labels_at_their_place(tmp_path: Path, kind: str) -> None:
    sent = without_overlap(content(AFFINES[kind]))
    for name in ("labels.nii.gz", "labels.seg.nrrd"):
        registry.write(sent, tmp_path / name)
        image = sitk.ReadImage(str(tmp_path / name))
        voxels = sitk.GetArrayFromImage(image).T
        for label, one in enumerate(sent.segments, start=1):
            np.testing.assert_array_equal(voxels == label, one.inside)
        for index in [(0, 0, 0), (13, 0, 0), (0, 15, 0), (0, 0, 11), (3, 7, 5)]:
            left, back, up = image.TransformIndexToPhysicalPoint(index)
            expected = nib.affines.apply_affine(AFFINES[kind], index)
            np.testing.assert_allclose((-left, -back, up), expected, atol=1e-3)


def test_seg_nrrd_says_what_slicer_asks_for(tmp_path: Path) -> None:
    sent = content()
    out = tmp_path / "out.seg.nrrd"
    registry.write(sent, out)
    image = sitk.ReadImage(str(out))
    fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert fields["Segment0_ID"] == "Segment_1"
    assert fields["Segment0_Name"] == "left hippocampus"
    assert fields["Segment0_LabelValue"] == "1"
    assert fields["Segment0_Extent"] == "2 5 3 8 2 6"
    assert fields["Segment3_Extent"] == "0 -1 0 -1 0 -1"
    colour = [float(part) for part in fields["Segment0_Color"].split()]
    np.testing.assert_allclose(colour, np.array((220, 216, 20)) / 255, atol=1e-5)
    # The third overlaps the first two, so it lies in a layer of its own: a second component.
    assert [fields[f"Segment{n}_Layer"] for n in range(4)] == ["0", "0", "1", "0"]
    layers = sitk.GetArrayFromImage(image)
    np.testing.assert_array_equal(layers[..., 1].T == 3, sent.segments[2].inside)
    entry = fields["Segment0_Tags"].split("TerminologyEntry:")[1].split("|")[0].split("~")
    assert entry[1:4] == [
        "SCT^91723000^Anatomical Structure",
        "SCT^5366008^Hippocampus",
        "SCT^7771000^Left",
    ]
    assert len(entry) == 7
    assert fields["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"


def test_seg_nrrd_that_slicer_cropped_is_placed_on_the_image(tmp_path: Path) -> None:
    affine = AFFINES["oblique"]
    cropped = affine.copy()
    cropped[:3, 3] = nib.affines.apply_affine(affine, (3, 4, 2))
    lps = np.diag([-1.0, -1.0, 1.0]) @ cropped[:3]
    mask = np.ones((2, 3, 4), dtype=np.uint8)
    mask[0, 0, 0] = 0
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:, :3].T,
        "space origin": lps[:, 3],
        "kinds": ["domain"] * 3,
        "Segment0_ID": "Segment_1",
        "Segment0_Name": "lesion",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
    }
    nrrd.write(str(tmp_path / "slicer.seg.nrrd"), mask, header)
    (came,) = read_segments(tmp_path / "slicer.seg.nrrd", grid=Grid(SHAPE, affine))
    expected = np.zeros(SHAPE, dtype=np.uint8)
    expected[3:5, 4:7, 2:6] = mask
    np.testing.assert_array_equal(came.mask.data, expected)


def test_layers_may_be_the_last_axis(tmp_path: Path) -> None:
    registry.write(content(), tmp_path / "first.seg.nrrd")
    voxels, header = nrrd.read(str(tmp_path / "first.seg.nrrd"))
    directions = np.roll(header["space directions"], -1, axis=0)
    header |= {"space directions": directions, "kinds": ["domain"] * 3 + ["list"]}
    nrrd.write(str(tmp_path / "last.seg.nrrd"), np.moveaxis(voxels, 0, -1), header)
    for before, after in zip(
        content().segments, read_segments(tmp_path / "last.seg.nrrd"), strict=True
    ):
        np.testing.assert_array_equal(after.mask.data, before.mask.data)
        assert after.grid.is_same_as(before.grid)


def test_mask_of_another_image_is_refused(tmp_path: Path) -> None:
    one = content().segments[0]
    for other in (AFFINES["canonical"], AFFINES["oblique"] @ np.diag([1.0, 1.0, 0.5, 1.0])):
        with pytest.raises(BadInput, match="another grid"):
            place(one, Grid(SHAPE, other))
    with pytest.raises(BadInput, match="outside"):
        place(one, Grid((4, 4, 4), one.grid.affine))


def test_a_name_with_one_quotation_mark_comes_back(tmp_path: Path) -> None:
    sent = without_overlap(content())
    first = replace(sent.segments[0], name='"cyst')
    sent = replace(sent, segments=(first, *sent.segments[1:]))
    for out, name in (("labels.nii.gz", "nifti"), ("masks", "masks")):
        registry.write(sent, tmp_path / out, name=name)
        came = read_segments(tmp_path / out)
        assert len(came) == len(sent.segments)
        for before, after in zip(sent.segments, came, strict=True):
            assert (after.name, after.colour) == (before.name, before.colour)
            np.testing.assert_array_equal(after.mask.data, before.mask.data)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_labels_in_thin_sheets_are_no_image(tmp_path: Path, axis: int) -> None:
    sheets = np.broadcast_to(np.arange(1, 41)[:, np.newaxis, np.newaxis], (40, 12, 12))
    image = nib.Nifti1Image(np.moveaxis(sheets, 0, axis).astype(np.int16), np.eye(4))
    nib.save(image, tmp_path / "labels.nii")
    assert len(read_segments(tmp_path / "labels.nii")) == 40


def test_label_map_without_a_table_and_single_mask_get_names(tmp_path: Path) -> None:
    voxels = np.zeros(SHAPE, dtype=np.int16)
    voxels[2:4, 2:4, 2:4], voxels[6:8, 6:8, 6:8] = 17, 53
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "aseg.nii.gz")
    assert [s.name for s in read_segments(tmp_path / "aseg.nii.gz")] == ["label 17", "label 53"]
    nib.save(nib.Nifti1Image((voxels == 17).astype("u1"), np.eye(4)), tmp_path / "tumour.nii")
    (one,) = read_segments(tmp_path / "tumour.nii")
    assert one.name == "tumour"
    assert one.mask.data.sum() == 8
    nib.save(nib.Nifti1Image(voxels * 0, np.eye(4)), tmp_path / "empty.nii")
    assert read_segments(tmp_path / "empty.nii")[0].mask.data.sum() == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.nii.gz", "no such file"),
        ("image.nii", "not whole numbers"),
        ("whole.nii", "different values, so it looks like an image"),
        ("broken.seg.nrrd", "truncated or no NRRD"),
        ("corrupt.seg.nrrd", "truncated or no NRRD"),
        ("layer.seg.nrrd", "layer, label or colour"),
        ("colour.seg.nrrd", "layer, label or colour"),
        ("plain.dcm", "not a segmentation"),
        ("empty", "no masks"),
        ("labels.nii", "index, name and colour"),
    ],
)
def test_what_is_no_segmentation_is_refused_in_words(tmp_path: Path, name: str, words: str) -> None:
    scan = content().image
    assert scan is not None
    nib.save(nib.Nifti1Image(scan.data, np.eye(4)), tmp_path / "image.nii")
    nib.save(nib.Nifti1Image(scan.data.astype(np.int16), np.eye(4)), tmp_path / "whole.nii")
    (tmp_path / "broken.seg.nrrd").write_bytes(b"NRRD0005\ntype: uchar\n")
    registry.write(content(), tmp_path / "whole.seg.nrrd")
    written = (tmp_path / "whole.seg.nrrd").read_bytes()
    start = written.index(b"\n\n") + 50
    for kind, old, new in (
        ("corrupt", written[start : start + 20], b"\xff" * 20),
        ("layer", b"Segment0_Layer:=0", b"Segment0_Layer:=9"),
        ("colour", b"Segment0_Color:=0", b"Segment0_Color:=x"),
    ):
        (tmp_path / f"{kind}.seg.nrrd").write_bytes(written.replace(old, new))
    save_series(tmp_path / "series", scan)[0].rename(tmp_path / "plain.dcm")
    (tmp_path / "empty").mkdir()
    nib.save(nib.Nifti1Image(np.ones(SHAPE, "u1"), np.eye(4)), tmp_path / "labels.nii")
    (tmp_path / "labels.tsv").write_text("index\tname\tcolour\none\ttwo\tthree\n")
    with pytest.raises(BadInput, match=words):
        read_segments(tmp_path / name)


def test_dicom_segmentation_has_its_pixels_where_simpleitk_looks(tmp_path: Path) -> None:
    sent = from_series(tmp_path, content())
    sent = replace(sent, segments=sent.segments[:1])
    registry.write(sent, tmp_path / "out.dcm")
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out.dcm")))
    stored = pydicom.dcmread(tmp_path / "out.dcm")
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ sent.grid.affine
    shown = np.zeros(SHAPE, dtype=bool)
    for frame, group in zip(frames, stored.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        i, j, k = np.rint((np.linalg.inv(lps) @ [*position, 1.0])[:3]).astype(int)
        assert (i, j) == (0, 0)
        shown[:, :, k] = frame.T > 0
    np.testing.assert_array_equal(shown, sent.segments[0].inside)


def from_series(folder: Path, sent: Content) -> Content:
    assert sent.image is not None
    save_series(folder / "series", sent.image)
    return replace(sent, image_files=(folder / "series",))


def without_overlap(sent: Content) -> Content:
    other = segment(
        "brainstem", (119, 159, 176), np.s_[9:13, 10:15, 1:4], np.asarray(sent.grid.affine)
    )
    return replace(sent, segments=(*sent.segments[:2], other, sent.segments[3]))


def test_names_of_any_letters_come_back_from_slicer_s_format(tmp_path: Path) -> None:
    names = ("Ödem", "высокий сигнал", "囊肿 ß")
    sent = content()
    segments = [replace(one, name=n) for one, n in zip(sent.segments, names, strict=False)]
    registry.write(replace(sent, segments=tuple(segments)), tmp_path / "out.seg.nrrd")
    came = read_segments(tmp_path / "out.seg.nrrd")
    assert [one.name for one in came] == [one.name for one in segments]
    for before, after in zip(segments, came, strict=True):
        np.testing.assert_array_equal(after.mask.data, before.mask.data)
    image = sitk.ReadImage(tmp_path / "out.seg.nrrd")
    assert image.GetMetaData("Segment0_Name") == "Ödem"


@pytest.mark.parametrize("inside", [1, 255])
def test_a_mask_is_called_as_its_file_whatever_its_value(tmp_path: Path, inside: int) -> None:
    data = np.zeros((5, 6, 7), np.uint8)
    data[2:4, 2:4, 2:4] = inside
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "left_hippocampus.nii.gz")
    (came,) = read_segments(tmp_path / "left_hippocampus.nii.gz")
    assert came.name == "left_hippocampus"
    assert came.mask.data.sum() == 8
