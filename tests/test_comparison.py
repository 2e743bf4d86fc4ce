"""``segone compare``: systems and masks beside a reference."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from segone_napari import cli
from segone_napari.comparison import Contender, read_masks
from segone_napari.data import formats
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.evaluation.metrics import agreement
from segone_napari.runtime import BadInput
from segone_napari.session import Session, write_masks

from .fakes import ThresholdSystem, head, head_affine, save_head

PROMPTS = ["left hippocampus", "right amygdala", "thalamus"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return save_head(tmp_path / "T1.nii.gz", head_affine(degrees=10))


@pytest.fixture
def reference(system: ThresholdSystem, image: Path, tmp_path: Path) -> Path:
    results = Session().segment(formats.read(image), PROMPTS)
    write_masks(results, tmp_path / "reference")  # which keep what others cover
    return tmp_path / "reference"


def test_masks_and_systems_stand_beside_each_other(
    system: ThresholdSystem, image: Path, reference: Path, tmp_path: Path, capsys
) -> None:
    write_masks(Session().segment(formats.read(image), PROMPTS[:2]), tmp_path / "masks")
    table = tmp_path / "t.json"
    call = ["compare", image, reference, "--with", "segone:fast", "--with", tmp_path / "masks"]
    assert cli.main([str(a) for a in [*call, "--table", table]]) == 0
    document = json.loads(table.read_text())
    by_name = {
        (row["contender"], row["structure"]): (row["dice"], row["hausdorff95_mm"])
        for row in document["results"]
    }
    for structure in PROMPTS[:2]:
        assert by_name["segone:fast", structure] == (1.0, 0.0)
        assert by_name[str(tmp_path / "masks"), structure] == (1.0, 0.0)
    assert by_name[str(tmp_path / "masks"), "thalamus"] == (0.0, None)  # which it hasn't
    means = {row["contender"]: row for row in document["means"]}
    assert means["segone:fast"]["mean_dice"] == 1.0
    assert means["segone:fast"]["seconds"] is not None
    assert means[str(tmp_path / "masks")]["mean_dice"] == pytest.approx(2 / 3, abs=1e-3)
    assert "right amygdala" in capsys.readouterr().out


def test_prompts_choose_what_is_compared(
    system: ThresholdSystem, image: Path, reference: Path, tmp_path: Path
) -> None:
    table = tmp_path / "t.csv"
    call = ["compare", image, reference, "-p", "thalamus", "--table", table]
    assert cli.main([str(a) for a in call]) == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["structure"] for row in rows] == ["thalamus", "thalamus"]
    assert [row["contender"] for row in rows] == ["segone:fast", "segone:balanced"]


def label_map(path: Path, labels: np.ndarray, names: list[str] | None = None) -> Path:
    """A label map on the fake head's grid, with its table or without."""
    formats.write(head().with_data(labels.astype(np.int16)), path)
    if names is not None:
        rows = [f"{n}\t{name}\t#ff0000" for n, name in enumerate(names, start=1)]
        table = path.with_name(path.name.removesuffix(".nii.gz") + ".tsv")
        table.write_text("\n".join(["index\tname\tcolour", *rows]))
    return path


def two_blocks() -> np.ndarray:
    labels = np.zeros(head().grid.shape, dtype=np.int16)
    labels[2:4, 2:4, 2:4], labels[6:8, 2:4, 2:4] = 1, 2
    return labels


def test_masks_of_one_name_are_one_structure(tmp_path: Path) -> None:
    names = ["left hippocampus", "Left-Hippocampus"]
    masks = read_masks(label_map(tmp_path / "m.nii.gz", two_blocks(), names), head())
    assert list(masks.by_name) == ["left hippocampus"]
    np.testing.assert_array_equal(masks.by_name["left hippocampus"], two_blocks() > 0)


def test_a_part_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    vocabulary = Vocabulary.packaged()
    names = ["left hippocampus", "right hippocampus"]
    both = read_masks(label_map(tmp_path / "m.nii.gz", two_blocks(), names), head())
    np.testing.assert_array_equal(both.of("hippocampus", vocabulary), two_blocks() > 0)
    assert both.of("brain", vocabulary) is None
    one = read_masks(label_map(tmp_path / "one.nii.gz", two_blocks() > 0, ["hippocampus"]), head())
    assert one.of("left hippocampus", vocabulary) is None
    assert one.holds_more("left hippocampus", vocabulary)  # so that it can't be compared


def test_what_found_nothing_has_dice_zero_and_a_single_mask_its_file_s_name(
    system: ThresholdSystem, tmp_path: Path
) -> None:
    image = formats.write(head(), tmp_path / "T1.nii.gz")
    reference = label_map(tmp_path / "left-hippocampus.nii.gz", two_blocks() == 1)
    empty = label_map(tmp_path / "empty.nii.gz", 0 * two_blocks(), ["left hippocampus"])
    table = tmp_path / "t.csv"
    call = ["compare", image, reference, "--with", empty, "--with", reference, "--table", table]
    assert cli.main([str(a) for a in call]) == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["structure"], row["dice"]) for row in rows] == [
        ("left hippocampus", "0.0"),
        ("left hippocampus", "1.0"),
    ]
    assert {row["image"] for row in rows} == {str(image)}


def test_names_that_would_be_taken_apart_are_left_out_and_said(
    system: ThresholdSystem, tmp_path: Path, capsys
) -> None:
    image = formats.write(head(), tmp_path / "T1.nii.gz")
    names = ["left hippocampus and amygdala", "thalamus"]
    reference = label_map(tmp_path / "m.nii.gz", two_blocks(), names)
    assert cli.main(["compare", str(image), str(reference), "--with", "segone:fast"]) == 0
    assert "left out" in capsys.readouterr().err


def test_freesurfer_s_numbers_are_known_without_a_table(tmp_path: Path) -> None:
    volume = head()
    labels = np.zeros(volume.grid.shape, dtype=np.int16)
    labels[2:4, 2:4, 2:4], labels[6:8, 2:4, 2:4] = 17, 53
    path = formats.write(volume.with_data(labels), tmp_path / "aseg.mgz")
    assert set(read_masks(path, volume).by_name) == {"left hippocampus", "right hippocampus"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--with", "segonne"], "unknown system"),
        (["--with", "segone:quick"], "unknown preset"),
        (["--with", "nowhere/labels.nii.gz"], "there is no file"),
        (["-p", "left caudate"], "the reference has none of"),
        (["--table", "out.txt"], "ends in .json or .csv"),
    ],
)
def test_what_cant_be_compared_is_said(
    system: ThresholdSystem, image: Path, reference: Path, arguments, words, capsys
) -> None:
    assert cli.main(["compare", str(image), str(reference), *arguments]) == 2
    complaint = capsys.readouterr().err
    assert words in complaint
    assert len(complaint.splitlines()) == 1


def test_reference_on_another_grid_is_refused(image: Path, tmp_path: Path) -> None:
    other = save_head(tmp_path / "aseg.nii.gz", head_affine())
    with pytest.raises(BadInput):
        read_masks(other, formats.read(image))


def test_a_contender_says_system_preset_and_checkpoint() -> None:
    contender = Contender.parse("unet:best:runs/a:b")
    assert (contender.system, contender.preset) == ("unet", "best")
    assert contender.checkpoint == "runs/a:b"


def test_distance_is_in_millimetres_along_every_axis() -> None:
    truth = np.zeros((20, 20, 20), dtype=bool)
    truth[5:10, 5:10, 5:10] = True
    spacing = (1.0, 2.0, 3.5)
    for axis, mm in enumerate(spacing):
        moved = agreement(np.roll(truth, 2, axis), truth, spacing)
        assert moved.hausdorff_mm == pytest.approx(2 * mm)
        assert moved.dice == pytest.approx(0.6)
    assert agreement(truth, truth, spacing).hausdorff_mm == 0
    assert agreement(np.zeros_like(truth), truth, spacing).hausdorff_mm is None
