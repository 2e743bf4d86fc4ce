"""The command line, as a person at a terminal or a script meets it."""

import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import segone_napari
from segone_napari import cli
from segone_napari.data import formats
from segone_napari.session import label_map

from .fakes import ThresholdSystem, head, head_affine, save_head

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def segone(system: ThresholdSystem, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command; returns exit status, stdout, stderr."""

    def say(*arguments: object) -> tuple[int, str, str]:
        try:
            status = cli.main([str(a) for a in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return say


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return save_head(tmp_path / "in" / "T1 w.nii.gz", head_affine(degrees=10))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


# What it does ------------------------------------------------------------------------------------


def test_segment_writes_what_was_asked_for(segone: Say, image: Path, out: Path) -> None:
    status, said, complaints = segone(
        "segment", image, "-p", "left hippocampus; Amygdala dextra", "-p", "liver",
        "-o", out / "l.nii.gz", "--masks", out / "masks", "--table", out / "t.json",
        "--uncertainty", out / "u.nii.gz",
    )  # fmt: skip
    assert (status, complaints) == (0, "")
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {
        "l.nii.gz", "l.tsv", "t.json", "u.nii.gz", "masks/01_left-hippocampus.nii.gz",
        "masks/02_right-amygdala.nii.gz", "masks/03_liver.nii.gz", "masks/masks.tsv",
    }  # fmt: skip
    labels, original = nib.load(out / "l.nii.gz"), nib.load(image)
    assert np.allclose(labels.affine, original.affine, atol=1e-4)
    assert set(np.unique(labels.dataobj)) == {0, 1, 2}
    table = json.loads((out / "t.json").read_text())
    assert table["image"] == str(image)
    assert (table["system"], table["checkpoint"]) == ("threshold", "by-hand")
    for path in out.rglob("*.*"):
        assert f"wrote {path}" in said


def test_table_says_what_was_understood(segone: Say, image: Path) -> None:
    _, said, _ = segone("segment", image, "-p", "Amygdala dextra;hippocampuss;liver")
    lines = said.splitlines()
    headings = next(line for line in lines if "understood as" in line)
    assert re.split(r"\s{2,}", headings.strip()) == [
        "prompt", "understood as", "mL", "confidence", "seconds",
    ]  # fmt: skip
    [amygdala] = [line for line in lines if line.strip().startswith("Amygdala dextra")]
    assert "right amygdala" in amygdala
    assert float(amygdala.split()[-3]) == pytest.approx(0.11, abs=0.03)
    assert any("hippocampuss" in line and "hippocampus" in line.split()[2:] for line in lines)
    [liver] = [line for line in lines if "liver" in line and "not found" in line]
    assert "liver" in liver
    assert any(line.startswith("liver: ") for line in lines)


def test_not_found_is_an_answer(segone: Say, image: Path, out: Path) -> None:
    status, said, complaints = segone("segment", image, "-p", "liver", "-o", out / "l.nii.gz")
    assert (status, complaints) == (0, "")
    assert "not found" in said
    assert not np.asarray(nib.load(out / "l.nii.gz").dataobj).any()


def test_unknown_name_gets_suggestions(segone: Say, image: Path) -> None:
    _, said, _ = segone("segment", image, "-p", "left hippocampal sulcus thing")
    assert "try left hippocampus" in said


def test_same_seed_writes_the_same_bytes(segone: Say, image: Path, out: Path) -> None:
    names = [("a", 7), ("b", 7), ("c", 8)]
    for name, seed in names:
        time.sleep(1.01 if name == "b" else 0)  # a time inside a .gz would change
        segone("segment", image, "-p", "thalamus", "--seed", seed,
               "-o", out / f"{name}.nii.gz", "--uncertainty", out / f"{name}_u.nii.gz")  # fmt: skip
    a, b, c = ((out / f"{name}_u.nii.gz").read_bytes() for name, _ in names)
    assert a == b
    assert a != c
    assert (out / "a.nii.gz").read_bytes() == (out / "b.nii.gz").read_bytes()


def test_python_and_command_line_agree(segone: Say, image: Path, out: Path) -> None:
    segone("segment", image, "-p", "thalamus;left hippocampus", "-o", out / "l.nii")
    results = segone_napari.segment(image, "thalamus;left hippocampus")
    assert np.array_equal(label_map(results).data, np.asarray(nib.load(out / "l.nii").dataobj))


def test_volume_of_a_4d_file_can_be_chosen(segone: Say, tmp_path: Path) -> None:
    data = np.stack([np.roll(head().data, n * 3, axis=2) for n in range(3)], axis=-1)
    nib.save(nib.Nifti1Image(data, head_affine()), tmp_path / "series.nii.gz")
    status, _, complaint = segone("segment", tmp_path / "series.nii.gz", "-p", "hippocampus")
    assert status == 2
    assert "--volume N" in complaint
    for n in (0, 2):
        segone("segment", tmp_path / "series.nii.gz", "-p", "hippocampus", "--volume", n,
               "-o", tmp_path / f"{n}.nii")  # fmt: skip
    first, last = (np.asarray(nib.load(tmp_path / f"{n}.nii").dataobj) for n in (0, 2))
    assert first.any()
    assert np.array_equal(np.roll(first, 6, axis=2), last)


def test_nan_inside_is_usable_with_a_warning(segone: Say, tmp_path: Path) -> None:
    data = head().data.copy()
    data[0, 0, :5] = np.nan
    nib.save(nib.Nifti1Image(data, head_affine()), tmp_path / "nan.nii.gz")
    status, said, complaint = segone("segment", tmp_path / "nan.nii.gz", "-p", "hippocampus")
    assert status == 0
    assert re.match(r"segone: warning: 5 voxels .* NaN", complaint)
    assert len(complaint.splitlines()) == 1
    assert "hippocampus" in said


def test_nothing_but_the_progress_bar_is_on_stderr_of_a_terminal(
    segone: Say, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert segone("segment", image, "-p", "hippocampus")[2] == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "segmenting" in segone("segment", image, "-p", "hippocampus")[2]


def test_vocabulary_is_listed(segone: Say) -> None:
    status, said, _ = segone("vocabulary")
    assert status == 0
    assert "hippocampus  (left | right)" in said
    assert "ammon's horn" in said
    entries = json.loads(segone("vocabulary", "--json")[1])
    [ganglia] = [e for e in entries if e["name"] == "basal ganglia"]
    assert "caudate" in ganglia["members"]
    assert all(set(e) == {"name", "sides", "members", "synonyms"} for e in entries)


def test_version_is_the_packages(segone: Say) -> None:
    assert segone("--version")[1].strip() == f"segone-napari {segone_napari.__version__}"


def test_table_says_how_it_was_made(segone: Say, image: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    assert segone("segment", image, "-p", "thalamus", "--table", table, "--seed", 3)[0] == 0
    document = json.loads(table.read_text())
    assert document["options"] == {"preset": "balanced", "seed": 3}
    assert document["made_at"]


def test_structure_that_another_one_covers_is_warned_of(
    segone: Say, image: Path, tmp_path: Path
) -> None:
    prompts = ["-p", "left hippocampus", "-p", "hippocampus"]
    status, _, complaint = segone("segment", image, *prompts, "-o", tmp_path / "out.nii.gz")
    assert status == 0
    assert re.search(r"warning: hippocampus keeps \d+% of its voxels.*--masks", complaint)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file's name is always text")
def test_name_that_is_no_text_is_read_and_written(segone: Say, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"sc\xe4n.nii.gz")
    path.write_bytes(save_head(tmp_path / "T1.nii.gz", head_affine()).read_bytes())
    table, prompt = tmp_path / "t.json", os.fsdecode(b"thalamus br\xe4in")
    said = segone("segment", path, "-p", "thalamus", "-p", prompt, "--table", table)
    assert said[0] == 0
    assert len(json.loads(table.read_text())["results"]) == 2


# What can't be used ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["segment", "checkpoints"])
def test_project_that_is_not_there_is_refused(
    command: str, segone: Say, image: Path, tmp_path: Path
) -> None:
    typo = tmp_path / "typo"
    asked = ["checkpoints", typo]
    if command == "segment":
        asked = ["segment", image, "-p", "thalamus", "--project", typo]
    assert "there is no project" in fails(segone(*asked))


def fails(said: tuple[int, str, str]) -> str:
    """One line on stderr, exit 2, nothing on stdout; returns the line."""
    status, out, complaint = said
    assert (status, out) == (2, "")
    assert len(complaint.splitlines()) == 1, complaint
    assert complaint.startswith("segone")
    return complaint


def nifti(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)


def huge(path: Path) -> None:
    header = nib.Nifti2Header()
    header.set_data_shape((100_000, 100_000, 100_000))
    header.set_data_dtype(np.int16)
    path.write_bytes(gzip.compress(bytes(header.binaryblock) + b"\0" * 4 + b"\1" * 4000))


def singular(path: Path) -> None:
    nifti(path, head().data)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[252:256] = struct.pack("<hh", 0, 2)  # qform_code, sform_code
    content[280:328] = struct.pack("<12f", *([1, 0, 0, 0] * 3))  # srow_x, srow_y, srow_z
    path.write_bytes(gzip.compress(bytes(content)))


def truncated(path: Path) -> None:
    nifti(path, np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    path.write_bytes(path.read_bytes()[:9000])


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
BAD_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: None, "no such file"),
    "a folder": (lambda p: p.mkdir(), "is a folder"),
    "text": (lambda p: p.write_text("not an image"), "not an image"),
    "compressed text": (lambda p: p.write_bytes(gzip.compress(b"text" * 200)), "not an image"),
    "truncated": (truncated, "truncated"),
    "0 bytes": (lambda p: p.write_bytes(b""), "0 bytes"),
    "2-D": (lambda p: nifti(p, np.ones((5, 5), np.uint8)), "2-D"),
    "4-D": (lambda p: nifti(p, np.ones((5, 5, 5, 2), np.uint8)), "--volume"),
    "RGB": (lambda p: nifti(p, np.zeros((5, 5, 5), RGB)), "RGB"),
    "complex": (lambda p: nifti(p, np.ones((5, 5, 5), np.complex64)), "complex"),
    "all zero": (lambda p: nifti(p, np.zeros((5, 5, 5), np.uint8)), "every voxel is 0"),
    "constant": (lambda p: nifti(p, np.full((5, 5, 5), 3, np.uint8)), "every voxel is 3"),
    "all NaN": (lambda p: nifti(p, np.full((5, 5, 5), np.nan, np.float32)), "finite"),
    "singular affine": (singular, "singular"),
    "100,000³ voxels": (huge, "claims"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_image_gets_one_line_and_leaves_nothing(
    segone: Say, tmp_path: Path, out: Path, system: ThresholdSystem, kind: str
) -> None:
    make, words = BAD_IMAGES[kind]
    make(tmp_path / "scan.nii.gz")
    complaint = fails(
        segone("segment", tmp_path / "scan.nii.gz", "-p", "hippocampus", "-o", out / "l.nii.gz",
               "--masks", out / "masks", "--table", out / "t.json")
    )  # fmt: skip
    assert words in complaint
    assert "scan.nii.gz" in complaint
    assert not list(out.iterdir())
    assert not system.encoded


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", ""], "prompt is empty"),
        (["-p", " ; "], "prompt is empty"),
        ([], "required: -p"),
        (["-p", "thalamus", "--system", "segon"], "did you mean 'segone'"),
        (["-p", "thalamus", "--preset", "slow"], "choose from"),
        (["-p", "thalamus", "--seed", "x"], "--seed"),
        (["-p", "thalamus", "--seed", "-3"], "seed"),
        (["-p", "thalamus", "--volume", "1"], "one volume"),
        (["-p", "thalamus", "--device", "gpu"], "unknown device 'gpu'"),
        (["-p", "thalamus", "--checkpoint", "no/such"], "no/such"),
        (["-p", "thalamus", "-o", "OUT/l.png"], "l.png"),
        (["-p", "thalamus", "-o", "OUT/no/l.nii"], "make it first"),
        (["-p", "thalamus", "-o", "/proc/l.nii"], "/proc"),
        (["-p", "thalamus", "--masks", "/dev/null/masks"], "not a folder"),
        (["-p", "thalamus", "--table", "OUT/t.xml"], "json"),
        (["-p", "thalamus", "--frobnicate"], "--frobnicate"),
    ],
)
def test_bad_argument_gets_one_line_and_leaves_nothing(
    segone: Say, image: Path, out: Path, system: ThresholdSystem, arguments: list[str], words: str
) -> None:
    wanted = [a.replace("OUT", str(out)) for a in arguments]
    if "-o" not in wanted:
        wanted += ["-o", str(out / "l.nii.gz")]
    assert words in fails(segone("segment", image, *wanted))
    assert not list(out.iterdir())
    assert not system.encoded


def test_output_that_exists_is_kept_unless_forced(
    segone: Say, image: Path, out: Path, system: ThresholdSystem
) -> None:
    (out / "l.nii.gz").write_text("mine")
    arguments = ("segment", image, "-p", "thalamus", "-o", out / "l.nii.gz")
    assert "--force" in fails(segone(*arguments))
    assert (out / "l.nii.gz").read_text() == "mine"
    assert not system.encoded
    assert segone(*arguments, "--force")[0] == 0
    assert nib.load(out / "l.nii.gz").shape == head().grid.shape


def test_the_image_itself_is_never_overwritten(segone: Say, image: Path) -> None:
    before = image.read_bytes()
    assert "the image that is read" in fails(
        segone("segment", image, "-p", "thalamus", "-o", image, "--force")
    )
    assert image.read_bytes() == before


def test_full_disk_gets_one_line_and_leaves_nothing(
    segone: Say, image: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(formats.os, "fsync", full)
    complaint = fails(segone("segment", image, "-p", "thalamus", "-o", out / "l.nii.gz"))
    assert "disk is full" in complaint
    assert not list(out.iterdir())


def test_uncertainty_is_refused_before_the_slow_work(
    segone: Say, image: Path, out: Path, system: ThresholdSystem
) -> None:
    system.has_uncertainty = False
    complaint = fails(segone("segment", image, "-p", "thalamus", "--uncertainty", out / "u.nii"))
    assert "no uncertainty" in complaint
    assert not system.encoded


def test_interrupt_leaves_nothing(
    segone: Say, image: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(formats.os, "fsync", interrupt)
    status, _, complaint = segone(
        "segment", image, "-p", "thalamus", "-o", out / "l.nii.gz", "--masks", out / "masks"
    )
    assert status == 130
    assert "stopped" in complaint
    assert not list(out.iterdir())


def pickles(folder: Path) -> None:
    (folder / "model.pt").write_bytes(b"\x80\x04")


def unknown_version(folder: Path) -> None:
    (folder / "checkpoint.json").write_text('{"format": 99, "system": "segone"}')


def damaged(folder: Path) -> None:
    (folder / "checkpoint.json").write_text('{"format": 1, "sys')


def without_weights(folder: Path) -> None:
    (folder / "checkpoint.json").write_text('{"format": 1, "system": "segone"}')


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder.rmdir(), "no checkpoint"),
        (lambda folder: None, "no checkpoint.json"),
        (pickles, "pickle"),
        (unknown_version, "99"),
        (damaged, "damaged"),
        (without_weights, "vocabulary"),
    ],
)
def test_bad_checkpoint_gets_one_line_and_leaves_nothing(
    image: Path,
    out: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], None],
    words: str,
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    make(folder)
    arguments = ["segment", image, "-p", "thalamus", "--checkpoint", folder, "-o", out / "l.nii"]
    status = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    complaint = fails((status, captured.out, captured.err))
    assert words in complaint
    assert "checkpoint" in complaint
    assert not list(out.iterdir())


def test_truncated_weights_get_one_line(
    image: Path, tmp_path: Path, bundled_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(bundled_checkpoint, folder)
    weights = folder / "network" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    status = cli.main(["segment", str(image), "-p", "thalamus", "--checkpoint", str(folder)])
    captured = capsys.readouterr()
    assert "copy the checkpoint anew" in fails((status, captured.out, captured.err))


def test_viewing_without_a_display_gets_one_line(
    segone: Say, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no such file" in fails(segone("view", image.with_name("none.nii.gz")))
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert "no display" in fails(segone("view", image))


def test_no_command_gets_one_line(segone: Say) -> None:
    assert "COMMAND" in fails(segone())


def test_output_into_a_closed_pipe_ends_quietly() -> None:
    command = f"{sys.executable} -m segone_napari.cli vocabulary | head -1"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert len(run.stdout.splitlines()) == 1


def test_doctor_reports_and_says_how_to_mend(segone: Say) -> None:
    status, said, _ = segone("doctor")
    assert re.search(r"✓ Python 3\.\d+", said)
    assert "torch 2." in said
    assert "CPU: " in said
    assert "systems: segone, unet" in said
    assert "checkpoint segone: system segone" in said
    assert "checkpoint teacher: a SAM2" in said
    assert "✗" not in said
    assert status == 0


def test_doctor_finds_a_damaged_installation(
    segone: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "segone").mkdir()
    (tmp_path / "segone" / "weights.pt").write_bytes(b"\x80\x04")
    monkeypatch.setattr("segone_napari.models.checkpoint.BUNDLED", tmp_path)
    status, said, _ = segone("doctor")
    assert status == 1
    assert "✗ checkpoint segone: " in said
    assert "pickled" in said
    assert "pip install" in said.split("pickled")[1].splitlines()[1]
