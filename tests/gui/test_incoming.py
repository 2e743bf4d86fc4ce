"""Segmentations come in again: Labels layers exactly over their image, and rows to correct."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari.layers import Image, Labels
from qtpy.QtWidgets import QLabel

from segone_napari.data import formats
from segone_napari.exports import registry
from segone_napari.exports.content import Content, Segment
from segone_napari.exports.reading import read_segments
from segone_napari.gui import incoming, readers
from segone_napari.gui.layers import image_layer_data, read_layer
from tests import scanner
from tests.exports.cases import save_series

from .conftest import head
from .hands import ask_and_wait, child, row_texts

AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, -0.15) @ np.diag([-0.9, 1.1, 1.4]), (12, -20, -15)
)
WAIT_MS = 30_000
KINDS = {
    "nifti": "labels.nii.gz",
    "masks": "masks",
    "seg-nrrd": "out.seg.nrrd",
    "dicom-seg": "out.dcm",
}


@pytest.fixture(autouse=True)
def no_drop_before() -> None:
    readers._opened.clear()


@pytest.fixture
def sent(tmp_path: Path) -> Content:
    """Two structures on an oblique head that lies on disk as a series and as NIfTI."""
    image = head(AFFINE)
    save_series(tmp_path / "series", image)
    formats.write(image, tmp_path / "head.nii.gz")
    index = np.indices(image.grid.shape)
    small = np.linalg.norm(index - np.array([10, 20, 15])[:, None, None, None], axis=0) < 5
    large = np.linalg.norm(index - np.array([24, 18, 12])[:, None, None, None], axis=0) < 7
    small[8, 20, 15] = False  # so that no flip leaves it as it is
    segments = tuple(
        Segment(name, colour, image.with_data(mask.astype(np.uint8)), confidence=0.8, prompt=prompt)
        for name, colour, mask, prompt in (
            ("left hippocampus", (220, 216, 20), small, "hippo left"),
            ("odd thing", (10, 200, 30), large, "odd thing"),
        )
    )
    return Content(segments, image=image, image_files=(tmp_path / "series",))


@pytest.mark.parametrize("source", ["head.nii.gz", "series"])
def test_segmentation_opens_as_labels_exactly_over_its_image(
    make_napari_viewer: Callable[..., Any], sent: Content, tmp_path: Path, source: str
) -> None:
    viewer = make_napari_viewer()
    for kind, name in KINDS.items():
        viewer.layers.clear()
        registry.write(sent, tmp_path / name, name=kind)
        lies_exactly_over_its_image(viewer, tmp_path / source, tmp_path / name, sent)


def lies_exactly_over_its_image(viewer: Any, source: Path, written: Path, sent: Content) -> None:
    (image,) = viewer.open(source, plugin="segone-napari")
    opened = viewer.open(written, plugin="segone-napari")
    assert [type(layer) for layer in opened] == [Labels, Labels]
    for layer, one in zip(opened, sent.segments, strict=True):
        assert layer.name == one.name
        np.testing.assert_allclose(layer.scale, image.scale)
        np.testing.assert_allclose(layer.translate, image.translate)
        assert layer.data.shape == image.data.shape
        shown = np.round(255 * layer.colormap.map(1)[:3])
        np.testing.assert_allclose(shown, one.colour, atol=1)
        values = read_layer(image)
        index = np.argwhere(values.layout.to_stored(layer.data))
        points = nib.affines.apply_affine(values.grid.affine, index)
        expected = nib.affines.apply_affine(one.grid.affine, np.argwhere(one.mask.data))
        order, wanted = (np.lexsort(np.round(p, 2).T) for p in (points, expected))
        np.testing.assert_allclose(points[order], expected[wanted], atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_opened_segmentation_becomes_rows_to_go_on_correcting(
    open_widget: Any, qtbot: Any, sent: Content, tmp_path: Path, kind: str
) -> None:
    registry.write(sent, tmp_path / KINDS[kind], name=kind)
    viewer, widget = open_widget(sent.image)
    qtbot.waitUntil(lambda: widget._work is not None, timeout=WAIT_MS)
    work = widget._work
    viewer.layers.events.inserted.connect(lambda _: incoming.take_in(widget._viewer, work))
    opened = viewer.open(tmp_path / KINDS[kind], plugin="segone-napari")
    incoming.take_in(viewer, work)  # finds nothing left
    qtbot.waitUntil(lambda: len(work.rows) == 2, timeout=WAIT_MS)
    qtbot.waitUntil(lambda: all(work.layer_of(row.id) for row in work.rows), timeout=WAIT_MS)
    assert [row.name for row in work.rows] == [one.name for one in sent.segments]
    assert [row.side for row in work.rows] == ["left", None]
    for row, one, layer in zip(work.rows, sent.segments, opened, strict=True):
        np.testing.assert_array_equal(work.history.masks[row.id], one.mask.data)
        assert np.shares_memory(work.layer_of(row.id).data, work.history.masks[row.id])
        assert work.layer_of(row.id) is layer
        assert row.colour == one.colour
    # What the record beside the file said.
    assert (work.rows[0].prompt, work.rows[0].confidence) == ("hippo left", 0.8)
    assert "left hippocampus" in " ".join(row_texts(widget))
    # A stroke is recorded as in any other row, and the correction goes out and comes in exactly.
    opened[0].paint((3, 4, 5), 1)
    assert work.is_edited(work.rows[0].id)
    corrected = sent.segments[0].mask.with_data(work.history.masks[work.rows[0].id])
    again = replace(sent, segments=(replace(sent.segments[0], mask=corrected),))
    target = tmp_path / "again" / KINDS[kind]
    target.parent.mkdir()
    registry.write(again, target, name=kind)
    (came,) = read_segments(target, grid=sent.grid)
    np.testing.assert_array_equal(came.mask.data, corrected.data)
    assert corrected.data.sum() > sent.segments[0].mask.data.sum()


def test_segmentation_that_was_opened_before_its_image_becomes_rows_over_it(
    make_napari_viewer: Callable[..., Any], open_widget: Any, qtbot: Any, sent: Content, tmp_path
) -> None:
    registry.write(sent, tmp_path / "out.dcm")
    viewer, widget = open_widget()
    viewer.open(tmp_path / "out.dcm", plugin="segone-napari")
    (image,) = viewer.open(tmp_path / "head.nii.gz", plugin="segone-napari")
    qtbot.waitUntil(lambda: widget._work is not None, timeout=WAIT_MS)
    incoming.take_in(viewer, widget._work)
    qtbot.waitUntil(lambda: len(widget._work.rows) == 2, timeout=WAIT_MS)
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=WAIT_MS)
    for row, one in zip(widget._work.rows, sent.segments, strict=True):
        np.testing.assert_array_equal(widget._work.history.masks[row.id], one.mask.data)
        np.testing.assert_allclose(widget._work.layer_of(row.id).translate, image.translate)


def test_opened_mask_never_replaces_a_row_of_its_name(
    open_widget: Any, qtbot: Any, sent: Content, tmp_path: Path
) -> None:
    registry.write(replace(sent, segments=sent.segments[:1]), tmp_path / "out.seg.nrrd")
    viewer, widget = open_widget(sent.image)
    qtbot.waitUntil(lambda: widget._work is not None, timeout=WAIT_MS)
    for count in (1, 2):
        viewer.open(tmp_path / "out.seg.nrrd", plugin="segone-napari")
        incoming.take_in(viewer, widget._work)
        qtbot.waitUntil(lambda n=count: len(widget._work.rows) == n, timeout=WAIT_MS)
    names = [row.name for row in widget._work.rows]
    assert names == ["left hippocampus", "left hippocampus (2)"]


def test_masks_and_label_maps_of_other_programs_are_told_from_images(
    make_napari_viewer: Callable[..., Any], tmp_path: Path
) -> None:
    data = head().data.astype(np.int16)
    image = np.random.default_rng(0).integers(1, 200, data.shape).astype(np.uint8)
    viewer = make_napari_viewer()
    for name, values, kind in (
        ("tumour.nii.gz", (data == 200).astype(np.uint8), Labels),
        # a dim head is label 1, the balls are label 2
        ("sub-01_desc-x_dseg.nii.gz", data // 100, Labels),
        ("T1_for_seg.nii.gz", image, Image),
    ):
        viewer.layers.clear()
        nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / name)
        layers = viewer.open(tmp_path / name, plugin="segone-napari")
        assert {type(layer) for layer in layers} == {kind}
        if kind is Labels:
            assert sum(int(layer.data.sum()) for layer in layers) == np.count_nonzero(values)


# --- drops ----------------------------------------------------------------------------------------


@pytest.fixture
def dropped(tmp_path: Path) -> list[str]:
    """All files of a folder with two series, and a report between them."""
    folder = tmp_path / "drop"
    for number, axes in ((1, "LPS"), (2, "PIR")):
        made = scanner.images(scanner.head(axes), number=number, description=f"T1 {axes}")
        scanner.save(made, folder, f"{number}-{{:03}}.dcm".format)
    report = scanner.images(scanner.head())[0]
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID
    scanner.save([report], folder, "1-005-Doe.dcm".format)
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("stack", [False, True])
def test_series_whose_files_are_dropped_together_open_once(
    make_napari_viewer: Callable[..., Any],
    dropped: list[str],
    stack: bool,
    notifications: list[Any],
) -> None:
    viewer = make_napari_viewer(show=True)
    layers = viewer.open(dropped, stack=stack, plugin="segone-napari")
    assert [layer.name for layer in layers] == ["T1 LPS", "T1 PIR"]
    words = [words for _, words in notifications]
    assert words == ["a file is no image but a report, and was not opened"]
    again = viewer.open(dropped[0], plugin="segone-napari")  # who asks for it again gets it again
    assert len(again) == 1


NAMES = (
    *("scan.nii", "scan.NII.GZ", "Scan.mgz", "x.hdr", "x.img", "x.nrrd", "x.nhdr", "x.seg.nrrd"),
    *("a.dcm", "A.DCM", "MRDC.ima", "X.MR.HEAD.0001.0002.2020.01.02.1.1.123.IMA", "i1.MRDC.12"),
    *("DICOMDIR", "IM000001", "IM_0001", "IMG00001", "I0000001", "00000001", "IM0001"),
    *("1.2.840.113619.2.1", "1.3.12.2.1107.5", "MR.1.2.840.113619.2.1"),
)


def test_napari_asks_our_reader_for_the_names_that_scanners_give(tmp_path: Path) -> None:
    from npe2 import PluginManager

    manager = PluginManager.instance()
    manager.discover()

    def asked(path: str | os.PathLike[str]) -> bool:
        found = manager.iter_compatible_readers([str(path)])
        return "segone-napari" in {reader.plugin_name for reader in found}

    assert [name for name in NAMES if not asked(tmp_path / name)] == []
    assert asked(tmp_path)
    others = ("a.tif", "b.png", "table.csv", "notes.txt", "README", "cells.zarr", "a.npy")
    assert [name for name in others if asked(tmp_path / name)] == []


@pytest.mark.parametrize("prompt", ["left ball", "nothing"])
def test_opened_mask_is_kept_when_its_prompt_is_asked(
    open_widget: Any, qtbot: Any, tmp_path: Path, prompt: str
) -> None:
    image = head()
    mask = np.zeros(image.grid.shape, np.uint8)
    mask[5:9, 5:9, 5:9] = 1
    segments = (Segment(prompt, (1, 2, 3), image.with_data(mask)),)
    registry.write(Content(segments, image=image), tmp_path / "m.nii.gz", record=False)
    viewer, widget = open_widget(image)
    qtbot.waitUntil(lambda: widget._work is not None, timeout=WAIT_MS)
    work = widget._work
    viewer.open(tmp_path / "m.nii.gz", plugin="segone-napari")
    incoming.take_in(viewer, work)
    qtbot.waitUntil(lambda: len(work.rows) == 1, timeout=WAIT_MS)
    qtbot.waitUntil(lambda: work.layer_of(work.rows[0].id) is not None, timeout=WAIT_MS)
    ask_and_wait(qtbot, widget, prompt)
    (row,) = [row for row in work.rows if row.name == prompt]
    np.testing.assert_array_equal(work.history.masks[row.id], mask)
    assert work.layer_of(row.id) in viewer.layers
    if prompt == "left ball":
        assert "Replace it" in row_texts(widget)[0]
        assert "yours was kept" in child(widget, QLabel, "status").text()


def test_a_mask_becomes_a_row_of_its_image_whichever_is_chosen(
    open_widget: Any, qtbot: Any, sent: Content, tmp_path: Path
) -> None:
    registry.write(sent, tmp_path / "out.seg.nrrd")
    assert sent.image is not None
    same_place = sent.image.with_data(sent.image.data[::-1])
    viewer, widget = open_widget(sent.image)
    works: list[Any] = []
    for volume in (None, same_place, head()):
        if volume is not None:
            data, arguments, _ = image_layer_data(volume)
            viewer.add_image(data, **arguments)
        qtbot.waitUntil(
            lambda: widget._work is not None and widget._work not in works, timeout=WAIT_MS
        )
        works.append(widget._work)
    first, second, _ = works
    # 1. None of the masks fits the chosen image: they go to the topmost that they fit.
    viewer.open(tmp_path / "out.seg.nrrd", plugin="segone-napari")
    qtbot.waitUntil(lambda: len(second.rows) == 2 and widget._work is second, timeout=WAIT_MS)
    # 2. They fit two images: they go to the one that is worked on.
    viewer.layers.selection.active = first.image
    for _, arguments, _ in readers.read_layers(str(tmp_path / "out.seg.nrrd")):
        assert arguments["metadata"]["segone_image"] == first.image.unique_id
