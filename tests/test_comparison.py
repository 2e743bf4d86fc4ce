"""``segone compare``: systems and masks beside a reference."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from segone_napari import cli
from segone_napari.comparison import Contender, read_reference
from segone_napari.data import formats
from segone_napari.evaluation.metrics import agreement
from segone_napari.runtime import BadInput
from segone_napari.session import Session, write_masks

from .fakes import ThresholdSystem, head, head_affine, put_in_registry, save_head

PROMPTS = ["left hippocampus", "right amygdala", "thalamus"]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> ThresholdSystem:
    system = ThresholdSystem()
    put_in_registry(monkeypatch, system)
    return system


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


def test_freesurfer_s_numbers_are_known_without_a_table(tmp_path: Path) -> None:
    volume = head()
    labels = np.zeros(volume.grid.shape, dtype=np.int16)
    labels[2:4, 2:4, 2:4], labels[6:8, 2:4, 2:4] = 17, 53
    path = formats.write(volume.with_data(labels), tmp_path / "aseg.mgz")
    assert set(read_reference(path, volume).masks) == {"left hippocampus", "right hippocampus"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--with", "segonne"], "unknown system"),
        (["--with", "segone:quick"], "unknown preset"),
        (["--with", "nowhere/labels.nii.gz"], "there is no file"),
        (["-p", "left caudate"], "the reference has none of"),
        (["--table", "out.txt"], "end in .json or .csv"),
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
        read_reference(other, formats.read(image))


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
