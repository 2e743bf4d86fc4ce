"""The session: encoding once, and what is written down."""

import csv
import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import segone_napari
from segone_napari.data import formats
from segone_napari.models.checkpoint import resolve_checkpoint
from segone_napari.project.versions import Versions
from segone_napari.runtime import BadCheckpoint, BadInput, Cancelled
from segone_napari.session import (
    Outputs,
    Session,
    label_map,
    write_label_map,
    write_masks,
    write_outputs,
    write_table,
)
from segone_napari.systems.base import EMPTY_BOX, Result
from segone_napari.volume import Grid, Volume

from .fakes import ThresholdSystem, head, head_affine, save_head

PROMPTS = ["left hippocampus", "right amygdala", "thalamus", "liver"]


@pytest.fixture
def results(system: ThresholdSystem) -> list[Result]:
    return Session().segment(head(), PROMPTS)


def constant(prompt: str, probability: float, shape: tuple[int, int, int] = (4, 4, 4)) -> Result:
    """A result that holds the same probability everywhere."""
    i, j, k = shape
    box = (slice(0, i), slice(0, j), slice(0, k))
    values = np.full(shape, probability, dtype=np.float16)
    return Result(prompt, prompt, None, Grid(shape, np.eye(4)), box, values, True, 0.9, 0.1)


# Encoding ----------------------------------------------------------------------------------------


def test_another_version_can_be_taken_while_an_image_is_encoded(
    system: ThresholdSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, image, encode = Session(project=tmp_path), head(), system.encode
    begun, may_end = threading.Event(), threading.Event()

    def slow(image: Volume, **options: Any) -> Any:
        begun.set()
        may_end.wait(10)
        return encode(image, **options)

    monkeypatch.setattr(system, "encode", slow)
    asking = threading.Thread(target=session.segment, args=(image, PROMPTS), daemon=True)
    asking.start()
    begun.wait(10)
    reloading = threading.Thread(target=session.reload, daemon=True)
    reloading.start()
    reloading.join(0.2)  # by now it waits for the image
    may_end.set()
    for thread in (asking, reloading):
        thread.join(2)
        assert not thread.is_alive()


def test_an_image_is_encoded_once(system: ThresholdSystem) -> None:
    session, image = Session(), head()
    first = session.segment(image, ["left hippocampus"])
    second = session.segment(image, ["right hippocampus", "left hippocampus"])
    assert len(system.encoded) == 1
    assert np.array_equal(first[0].mask.data, second[1].mask.data)


def test_another_image_gets_its_own_answer(system: ThresholdSystem) -> None:
    session = Session()
    upright, turned = head(), head(head_affine(degrees=30))
    for image in (upright, turned):
        [result] = session.segment(image, ["left hippocampus"])
        assert np.array_equal(result.grid.affine, image.affine)
        assert result.found
    assert len(system.encoded) == 2


def test_only_the_last_two_images_are_kept(system: ThresholdSystem) -> None:
    session, images = Session(), [head(), head(), head()]
    for image in images:
        session.segment(image, ["hippocampus"])
    session.segment(images[1], ["amygdala"])
    session.segment(images[2], ["amygdala"])
    assert len(system.encoded) == 3
    session.segment(images[0], ["amygdala"])
    assert len(system.encoded) == 4


def test_forgotten_image_is_encoded_again(system: ThresholdSystem) -> None:
    session, image, other = Session(), head(), head()
    session.segment(image, ["hippocampus"])
    session.segment(other, ["hippocampus"])
    session.forget(image)
    session.segment(other, ["hippocampus"])
    assert len(system.encoded) == 2
    session.segment(image, ["hippocampus"])
    assert len(system.encoded) == 3
    session.forget()
    session.segment(image, ["hippocampus"])
    assert len(system.encoded) == 4


def test_two_threads_that_ask_at_once_encode_once(system: ThresholdSystem) -> None:
    system.step_s = 0.05
    session, image = Session(), head()
    threads = [
        threading.Thread(target=session.segment, args=(image, ["hippocampus"])) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(system.encoded) == 1


def test_progress_grows_to_its_end(system: ThresholdSystem) -> None:
    session, image = Session(), head()
    for _ in range(2):
        told: list[tuple[int, int]] = []
        session.segment(
            image, PROMPTS, progress=lambda done, of, told=told: told.append((done, of))
        )
        shares = [done / of for done, of in told]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        assert shares[0] < 0.3


def test_cancelled_encoding_is_not_kept(system: ThresholdSystem) -> None:
    session, image = Session(), head()

    def cancel(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        session.segment(image, ["hippocampus"], progress=cancel)
    assert session.segment(image, ["hippocampus"])[0].found
    assert len(system.encoded) == 1


def test_preview_is_one_slice_of_the_whole_answer(system: ThresholdSystem) -> None:
    session, image = Session(), head()
    [whole] = session.segment(image, ["left hippocampus"])
    [slice_] = session.preview(image, ["left hippocampus"], axis=2, index=16)
    assert slice_.box[2] == slice(16, 17)
    assert slice_.mask.data.sum() > 0
    assert np.array_equal(slice_.mask.data[:, :, 16], whole.mask.data[:, :, 16])


# Asking ------------------------------------------------------------------------------------------


def test_semicolons_separate_prompts(system: ThresholdSystem) -> None:
    results = Session().segment(head(), ["left hippocampus; right amygdala", "thalamus;"])
    assert [r.prompt for r in results] == ["left hippocampus", "right amygdala", "thalamus"]


@pytest.mark.parametrize("prompts", [[], [""], ["  ;; "], ["hippocampus", " "]])
def test_empty_prompt_is_refused(system: ThresholdSystem, prompts: list[str]) -> None:
    with pytest.raises(BadInput, match="prompt is empty"):
        Session().segment(head(), prompts)


def test_one_call_takes_a_path(system: ThresholdSystem, tmp_path: Path) -> None:
    path = save_head(tmp_path / "head.nii.gz")
    results = segone_napari.segment(path, "left hippocampus; left amygdala", preset="fast")
    assert [r.resolved for r in results] == ["left hippocampus", "left amygdala"]
    assert results[0].grid.is_same_as(head().grid)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"system": "segonne"}, r"unknown system 'segonne'; did you mean 'segone'\?.*unet"),
        ({"preset": "quick"}, "unknown preset 'quick'; use fast, balanced or best"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "cpu:7"}, "unknown device 'cpu:7'"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_unusable_option_is_refused_before_any_work(
    system: ThresholdSystem, options: dict[str, object], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        Session(**options)  # type: ignore[arg-type]


# The label map -----------------------------------------------------------------------------------


def test_label_is_the_number_of_the_prompt(results: list[Result]) -> None:
    labels = label_map(results).data
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    world = np.linalg.inv(head_affine())
    for number, centre in ((1, (-12, -2, -4)), (2, (10, 10, -4))):
        i, j, k = np.rint(nib.affines.apply_affine(world, centre)).astype(int)
        assert labels[i, j, k] == number


def test_more_probable_wins_where_masks_overlap(results: list[Result]) -> None:
    hippocampus, _, thalamus, _ = results
    overlap = (hippocampus.mask.data > 0) & (thalamus.mask.data > 0)
    assert overlap.any()
    assert (label_map(results).data[overlap] == 1).all()
    assert (label_map([thalamus, hippocampus]).data[overlap] == 2).all()


def test_what_was_not_found_is_not_in_the_label_map() -> None:
    absent = Result("b", "b", None, Grid((4, 4, 4), np.eye(4)), EMPTY_BOX, np.zeros((0, 0, 0)),
                    False, 0.1, 0.1)  # fmt: skip
    assert (label_map([absent, constant("c", 0.7)]).data == 2).all()


def test_label_map_of_many_prompts_is_uint16() -> None:
    many = [constant(str(n), 0.6 + 0.0005 * n) for n in range(300)]
    labels = label_map(many).data
    assert labels.dtype == np.uint16
    assert labels.max() > 255
    assert label_map(many[:255]).data.dtype == np.uint8


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz", "out.mgz"])
def test_label_map_lies_on_the_images_grid(
    system: ThresholdSystem, tmp_path: Path, name: str
) -> None:
    image = head(head_affine(degrees=20))
    results = Session().segment(image, PROMPTS)
    path = write_label_map(results, tmp_path / name)
    read_back = nib.load(path)
    assert np.allclose(read_back.affine, image.affine, atol=1e-4)
    assert np.array_equal(np.asarray(read_back.dataobj), label_map(results).data)
    if not name.endswith("mgz"):
        voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        assert np.array_equal(voxels.T, label_map(results).data)


def test_label_map_has_its_names_and_colours_beside_it(
    results: list[Result], tmp_path: Path
) -> None:
    write_label_map(results, tmp_path / "T1.labels.nii.gz")
    with (tmp_path / "T1.labels.tsv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert list(rows[0]) == ["index", "name", "colour"]
    assert [row["index"] for row in rows] == ["1", "2", "3", "4"]
    assert [r["name"] for r in rows] == ["left hippocampus", "right amygdala", "thalamus", "liver"]
    red, green, blue = results[0].colour
    assert rows[0]["colour"] == f"#{red:02x}{green:02x}{blue:02x}"


# Masks, table, uncertainty -----------------------------------------------------------------------


def test_masks_keep_overlaps_and_follow_the_prompts(results: list[Result], tmp_path: Path) -> None:
    *paths, table = write_masks(results, tmp_path / "new" / "masks")
    assert table.name == "masks.tsv"
    assert [p.name for p in paths] == [
        "01_left-hippocampus.nii.gz",
        "02_right-amygdala.nii.gz",
        "03_thalamus.nii.gz",
        "04_liver.nii.gz",
    ]
    images = [nib.load(path) for path in paths]
    masks = [np.asarray(image.dataobj) for image in images]
    assert all(image.get_data_dtype() == np.uint8 for image in images)
    assert ((masks[0] > 0) & (masks[2] > 0)).any()
    assert not masks[3].any()
    assert all(np.array_equal(m, r.mask.data) for m, r in zip(masks, results, strict=True))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("../../etc/passwd", "01_etc-passwd.nii.gz"),
        ("Noyau caudé", "01_noyau-caude.nii.gz"),
        ("海馬", "01_structure.nii.gz"),
        ("x" * 300, f"01_{'x' * 60}.nii.gz"),
    ],
)
def test_any_prompt_makes_a_safe_file_name(name: str, file: str, tmp_path: Path) -> None:
    paths = write_masks([constant(name, 0.7)], tmp_path / "masks")
    assert paths == [tmp_path / "masks" / file, tmp_path / "masks" / "masks.tsv"]


def test_json_table_has_the_documented_columns(results: list[Result], tmp_path: Path) -> None:
    path = write_table(
        results, tmp_path / "t.json", image="a/T1.nii", system="segone", checkpoint="base"
    )
    table = json.loads(path.read_text(encoding="utf-8"))
    assert (table["image"], table["system"], table["checkpoint"]) == ("a/T1.nii", "segone", "base")
    first, last = table["results"][0], table["results"][-1]
    assert set(first) == {
        "prompt", "resolved", "side", "label", "found", "confidence", "volume_ml", "seconds",
    }  # fmt: skip
    assert first["resolved"] == "left hippocampus"
    assert (first["side"], first["label"], first["found"]) == ("left", 1, True)
    # A ball of 5 mm radius.
    assert first["volume_ml"] == pytest.approx(4 / 3 * np.pi * 125 / 1000, rel=0.1)
    assert (last["resolved"], last["label"], last["found"], last["volume_ml"]) == (
        None,
        4,
        False,
        0,
    )


def test_csv_table_has_the_same_rows(results: list[Result], tmp_path: Path) -> None:
    origin = {"image": "i", "system": "s", "checkpoint": "c"}
    as_json = json.loads(write_table(results, tmp_path / "t.json", **origin).read_text())["results"]
    with write_table(results, tmp_path / "t.csv", **origin).open(encoding="utf-8") as stream:
        as_csv = list(csv.DictReader(stream))
    assert list(as_csv[0]) == list(as_json[0])
    expected = [{k: "" if v is None else str(v) for k, v in row.items()} for row in as_json]
    assert as_csv == expected


def test_uncertainty_is_the_largest_of_any_prompt(results: list[Result], tmp_path: Path) -> None:
    write_outputs(results, Outputs(uncertainty=tmp_path / "u.nii.gz"))
    written = np.asarray(nib.load(tmp_path / "u.nii.gz").dataobj)
    expected = np.zeros(written.shape, dtype=np.float32)
    for result in results[:3]:
        expected[result.box] = np.maximum(expected[result.box], result.uncertainty)
    assert np.allclose(written, expected)
    assert 0 < written.max() <= 1


def test_uncertainty_of_a_system_without_one_is_refused(
    system: ThresholdSystem, tmp_path: Path
) -> None:
    system.has_uncertainty = False
    results = Session().segment(head(), ["hippocampus"])
    outputs = Outputs(label_map=tmp_path / "l.nii.gz", uncertainty=tmp_path / "u.nii.gz")
    with pytest.raises(BadInput, match="no uncertainty"):
        write_outputs(results, outputs)
    assert not list(tmp_path.iterdir())


# Never half-written, never over something ---------------------------------------------------------


def everything(folder: Path, *, force: bool = False) -> Outputs:
    return Outputs(
        folder / "l.nii.gz", folder / "masks", folder / "t.csv", folder / "u.nii.gz", force
    )


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("exists", ["l.nii.gz", "l.tsv", "t.csv", "u.nii.gz", "masks/01_a.nii.gz"])
def test_existing_output_is_refused_and_kept(
    results: list[Result], tmp_path: Path, exists: str
) -> None:
    (tmp_path / exists).parent.mkdir(exist_ok=True)
    (tmp_path / exists).write_text("mine")
    before = files_in(tmp_path)
    with pytest.raises(BadInput, match=r"already .*--force"):
        everything(tmp_path).check()
    with pytest.raises(BadInput, match=r"already .*--force"):
        write_outputs(results, everything(tmp_path))
    assert files_in(tmp_path) == before
    assert (tmp_path / exists).read_text() == "mine"
    write_outputs(results, everything(tmp_path, force=True))
    assert (tmp_path / "u.nii.gz").stat().st_size > 100


def test_table_that_is_in_the_way_is_said_to_belong_to_the_label_map(tmp_path: Path) -> None:
    (tmp_path / "l.tsv").write_text("mine")
    with pytest.raises(BadInput, match=r"l\.tsv already exists.* together with l\.nii\.gz; use"):
        everything(tmp_path).check()


@pytest.fixture(params=range(15))
def full_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The disk is full after so many files were written or put into their places."""
    left = [request.param]
    rename = formats.os.replace

    def replace(source: Path, destination: Path) -> None:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        rename(source, destination)

    monkeypatch.setattr(formats.os, "replace", replace)
    return request.param


def test_full_disk_leaves_nothing(results: list[Result], tmp_path: Path, full_disk: int) -> None:
    with pytest.raises(BadInput, match="disk is full"):
        write_outputs(results, everything(tmp_path))
    assert files_in(tmp_path) == set()


def test_failure_while_overwriting_keeps_all_that_was_there(
    results: list[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_outputs(results, everything(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    rename = formats.os.replace

    def fails_at_the_table(source: Path, destination: Path) -> None:
        if destination == tmp_path / "t.csv":
            monkeypatch.undo()
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, destination)

    monkeypatch.setattr(formats.os, "replace", fails_at_the_table)
    with pytest.raises(BadInput, match="disk is full"):
        write_outputs(results[::-1], everything(tmp_path, force=True))
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_masks_of_former_prompts_go_and_other_files_stay(
    results: list[Result], tmp_path: Path
) -> None:
    folder = tmp_path / "masks"
    write_masks(results, folder)
    (folder / "05_mine.nii.gz").write_text("mine")
    written = write_masks(results[1:2], folder, force=True)
    assert [path.name for path in written] == ["01_right-amygdala.nii.gz", "masks.tsv"]
    assert files_in(folder) == {"01_right-amygdala.nii.gz", "masks.tsv", "05_mine.nii.gz"}


def test_all_files_are_named(results: list[Result], tmp_path: Path) -> None:
    written = write_outputs(results, everything(tmp_path))
    assert len(written) == 9
    assert {str(p.relative_to(tmp_path)) for p in written} == files_in(tmp_path) - {"masks"}


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (Outputs(label_map=Path("{}/l.png")), r"l\.png; use a name that ends in \.nii"),
        (Outputs(label_map=Path("{}/.nii.gz")), "can't write an image"),
        (Outputs(table=Path("{}/t.txt")), r"ends in \.json or \.csv"),
        (Outputs(label_map=Path("{}/no/l.nii.gz")), "folder .*no does not exist; make it first"),
        (Outputs(label_map=Path("{}/file/l.nii.gz")), "file does not exist|not a folder"),
        (Outputs(masks=Path("{}/file")), "not a folder"),
        (Outputs(masks=Path("{}/file/masks")), "not a folder"),
        (Outputs(label_map=Path("{}/a.nii"), uncertainty=Path("{}/a.nii")), "another output"),
        (Outputs(label_map=Path("{}/in.nii"), force=True), "the image that is read"),
        (Outputs(label_map=Path("{}/folder.nii"), force=True), "is a folder"),
        (Outputs(label_map=Path("/proc/l.nii.gz")), "/proc"),
    ],
)
def test_unusable_output_is_refused(tmp_path: Path, outputs: Outputs, words: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.nii").mkdir()
    before = files_in(tmp_path)

    def here(path: Path | None) -> Path | None:
        return path and Path(str(path).format(tmp_path))

    there = Outputs(
        here(outputs.label_map), here(outputs.masks), here(outputs.table),
        here(outputs.uncertainty), outputs.force,
    )  # fmt: skip
    with pytest.raises(BadInput, match=words):
        there.check(image=tmp_path / "in.nii")
    assert files_in(tmp_path) == before


def test_what_is_not_a_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(BadInput, match="not a file"):
        Outputs(table=tmp_path / "pipe.json", force=True).check()


def test_grid_codes_reach_the_file(system: ThresholdSystem, tmp_path: Path) -> None:
    image = head()
    image = Volume(image.data, Grid(image.grid.shape, image.affine, 2, 1), "scan")
    path = write_label_map(Session().segment(image, ["hippocampus"]), tmp_path / "l.nii.gz")
    header = nib.load(path).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (2, 1)


def test_version_in_use_that_is_damaged_says_how_to_go_back(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    folder = tmp_path / "new"
    shutil.copytree(resolve_checkpoint(None, "segone"), folder)
    (folder / "network" / "model.safetensors").write_bytes(b"torn")
    number = versions.add(folder)
    versions.use(number)
    with pytest.raises(BadCheckpoint, match=f"version {number}, which is in use.*--use 0"):
        _ = Session(project=tmp_path, device="cpu").system
