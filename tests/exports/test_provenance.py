"""A record goes on with its masks, and with no others."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segone_napari.exports import provenance, registry
from segone_napari.exports.content import Content
from segone_napari.exports.reading import pick, read_segments
from segone_napari.volume import Volume

from .cases import AFFINES, content, save_series

KINDS = {
    "nifti": "labels.nii.gz",
    "masks": "masks",
    "seg-nrrd": "out.seg.nrrd",
    "dicom-seg": "out.dcm",
}


def edited(affine: np.ndarray | None = None) -> Content:
    """The segments of `content`, as a person left them."""
    made = content(affine, system="segone", checkpoint="first")
    kinds = [(True, ("brush",)), (False, ()), (True, ("sam2", "spread")), (False, ())]
    segments = tuple(
        replace(one, is_edited=is_edited, edited_with=edited_with)
        for one, (is_edited, edited_with) in zip(made.segments, kinds, strict=True)
    )
    return replace(made, segments=segments)


def recalled(path: Path) -> Content:
    """What a file and the record beside it say."""
    segments = tuple(read_segments(path))
    return provenance.remembered(Content(segments), provenance.beside(path))


@pytest.mark.parametrize("kind", AFFINES)
@pytest.mark.parametrize("name", KINDS)
def test_record_is_believed_of_its_own_masks(tmp_path: Path, name: str, kind: str) -> None:
    sent = edited(AFFINES[kind])
    assert sent.image is not None
    save_series(tmp_path / "series", sent.image)
    out = tmp_path / KINDS[name]
    registry.write(replace(sent, image_files=(tmp_path / "series",)), out, name=name)
    came = recalled(out)
    assert [one.is_edited for one in came.segments] == [True, False, True, False]
    assert [one.edited_with for one in came.segments] == [one.edited_with for one in sent.segments]
    assert {one.system for one in came.segments} == {"segone"}


def redrawn(path: Path) -> None:
    """Move the first structure of a label map by a voxel, as another program might."""
    image = nib.load(path)
    labels = np.asarray(image.dataobj).copy()
    first = np.roll(labels == 1, 1, axis=2)
    labels[labels == 1] = 0
    labels[first] = 1
    nib.save(nib.Nifti1Image(labels, image.affine), path)


def test_record_is_not_believed_of_a_mask_that_was_drawn_anew(tmp_path: Path) -> None:
    out = tmp_path / "labels.nii.gz"
    registry.write(edited(), out)
    redrawn(out)
    first, second, *_ = recalled(out).segments
    assert (first.is_edited, first.edited_with, first.edited_at) == (None, (), "")
    assert first.prompt == "left hippocampus"
    assert second.is_edited is False


def test_record_of_an_earlier_version_is_believed_by_the_volume(tmp_path: Path) -> None:
    out = tmp_path / "labels.nii.gz"
    registry.write(edited(), out)
    record = provenance.beside(out)
    document = json.loads(record.read_text("utf-8"))
    for row in document["segments"]:
        del row["mask"], row["system"]
    document["segments"][1]["volume_ml"] *= 2
    record.write_text(json.dumps(document), encoding="utf-8")
    came = recalled(out)
    assert [one.is_edited for one in came.segments] == [True, None, True, False]
    assert {one.system for one in came.segments} == {"segone"}


def test_segments_of_one_name_keep_their_own_facts(tmp_path: Path) -> None:
    made = edited()
    segments = tuple(
        replace(one, name="lesion", prompt=f"lesion {number}")
        for number, one in enumerate(made.segments)
    )
    out = tmp_path / "out.seg.nrrd"
    registry.write(replace(made, segments=segments), out)
    came = recalled(out).segments
    assert [one.prompt for one in came] == [one.prompt for one in segments]
    assert [one.is_edited for one in came] == [True, False, True, False]
    picked = pick(came, ["Lesion"])
    assert picked == list(came)
    # Also where one of them isn't there any more.
    left = Content(tuple(replace(one, prompt="") for one in came[1:]))
    again = provenance.remembered(left, provenance.beside(out)).segments
    assert [one.prompt for one in again] == ["lesion 1", "lesion 2", "lesion 3"]


def test_record_says_nothing_of_what_made_a_structure_that_it_does_not_know(
    tmp_path: Path,
) -> None:
    sent = edited()
    out = tmp_path / "labels.nii.gz"
    registry.write(replace(sent, segments=sent.segments[:2]), out)
    third = replace(sent.segments[2], is_edited=None, edited_with=())
    known = tuple(read_segments(out))
    came = provenance.remembered(Content((*known, third)), provenance.beside(out))
    assert [one.system for one in came.segments] == ["segone", "segone", ""]
    assert (came.system, came.checkpoint) == ("", "")


def test_table_is_read_for_each_of_two_segments_of_one_name(tmp_path: Path) -> None:
    sent = content()
    segments = tuple(replace(one, name="lesion") for one in sent.segments[:2])
    rows = [
        {
            "prompt": f"number {n}",
            "resolved": "lesion",
            "confidence": 0.5,
            "volume_ml": one.volume_ml,
        }
        for n, one in enumerate(segments)
    ]
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"system": "segone", "checkpoint": "first", "results": rows}))
    told = provenance.told_by_table(Content(segments), table)
    assert [one.prompt for one in told.segments] == ["number 0", "number 1"]
    assert [one.is_edited for one in told.segments] == [False, False]


def test_mask_is_known_again_in_another_order_of_axes() -> None:
    (one, *_) = edited().segments
    affine = one.grid.affine @ np.array(
        [[0, -1, 0, one.grid.shape[0] - 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]
    )
    turned = np.flip(np.swapaxes(one.mask.data, 0, 1), 1)
    other = replace(one, mask=Volume.from_affine(np.ascontiguousarray(turned), affine, one.name))
    assert provenance._mask(other) == provenance._mask(one)
