"""Checkpoint folders: written whole, read back the same, and damage named in a sentence."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segone_napari.models import checkpoint
from segone_napari.models.checkpoint import (
    Manifest,
    load_checkpoint,
    read_manifest,
    replace_folder,
    resolve_checkpoint,
    restore_folder,
    save_checkpoint,
)
from segone_napari.models.segone import SegOneModel
from segone_napari.models.text import TextTower
from segone_napari.models.unet import UNetConfig, UNetModel
from segone_napari.runtime import BadCheckpoint
from segone_napari.systems import registry
from tests.tiny import NETWORK, TEXT, small_vocabulary

VOCABULARY = small_vocabulary()
MANIFEST = {
    "segone": Manifest("segone", parent="older", training={"steps_done": 5}, metrics={"dice": 0.5}),
    "unet": Manifest("unet"),
}
SYSTEMS = tuple(MANIFEST)


def make(system: str) -> SegOneModel | UNetModel:
    torch.manual_seed(1)
    if system == "unet":
        return UNetModel(UNetConfig(channels=(4, 8)), VOCABULARY.class_names).eval()
    names = [phrase for name in VOCABULARY.class_names for phrase in VOCABULARY.phrases(name)]
    return SegOneModel(NETWORK, TextTower.create(TEXT, names, seed=1)).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    folders = {s: tmp_path_factory.mktemp("checkpoints") / s for s in SYSTEMS}
    for system, folder in folders.items():
        save_checkpoint(make(system), VOCABULARY, MANIFEST[system], folder)
    return folders


@pytest.fixture
def copies(saved, tmp_path) -> dict[str, Path]:
    """Checkpoints to damage."""
    return {s: Path(shutil.copytree(saved[s], tmp_path / s)) for s in SYSTEMS}


# --- writing and reading ----------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_saved_model_answers_the_same_when_read_back(saved, system):
    model, (again, vocabulary, _) = make(system), load_checkpoint(saved[system])
    assert type(again) is type(model)
    assert again.config == model.config
    assert not again.training
    assert vocabulary.class_names == VOCABULARY.class_names
    slabs = torch.randn(1, 6, 8, 12)
    with torch.no_grad():
        for run in (
            lambda m: m.features(slabs),
            lambda m: m.answers(["left hippocampus", "brainstem"]).vectors,
            lambda m: m.answers(["left hippocampus", "brainstem"]).biases,
        ):
            assert run(again).dtype == torch.float32
            torch.testing.assert_close(run(again), run(model), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("system", SYSTEMS)
def test_saving_what_was_read_changes_nothing_more(saved, system, tmp_path):
    model, vocabulary, manifest = load_checkpoint(saved[system])
    save_checkpoint(model, vocabulary, manifest, tmp_path / "again")
    again, _, _ = load_checkpoint(tmp_path / "again")
    first, second = model.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_manifest_says_where_the_model_comes_from(saved):
    manifest = read_manifest(saved["segone"])
    assert replace(manifest, created="", versions={}) == MANIFEST["segone"]
    assert manifest.created.startswith("20")
    assert manifest.versions["torch"] == torch.__version__


def test_weights_are_stored_as_float16_safetensors_only(saved):
    files = [path for path in saved["segone"].rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}
    for path in files:
        if path.suffix == ".safetensors":
            assert {w.dtype for w in load_file(path).values()} <= {torch.float16, torch.int64}


def test_a_checkpoint_can_be_written_over(saved, copies):
    save_checkpoint(make("unet"), VOCABULARY, MANIFEST["unet"], copies["segone"])
    assert isinstance(load_checkpoint(copies["segone"])[0], UNetModel)
    assert not (copies["segone"] / "text").exists()
    assert sorted(p.name for p in copies["segone"].parent.iterdir()) == ["segone", "unet"]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_failed_save_leaves_what_was_there(copies, monkeypatch, is_there):
    folder = copies["segone"]
    before = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    if not is_there:
        shutil.rmtree(folder)

    def full_disk(path: object) -> None:
        assert not (folder / "network").exists() or is_there
        raise OSError("No space left on device")

    monkeypatch.setattr(VOCABULARY, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(make("segone"), VOCABULARY, MANIFEST["segone"], folder)
    assert folder.exists() == is_there
    if is_there:
        after = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert after == before
    assert {p.name for p in folder.parent.iterdir()} <= {"segone", "unet"}


def test_a_replacement_that_was_killed_halfway_is_undone(tmp_path, monkeypatch):
    folder, new = tmp_path / "state", tmp_path / "new"
    folder.mkdir()
    (folder / "old").touch()
    new.mkdir()
    rename = Path.rename

    def killed_at_the_second(self: Path, target: Path) -> Path:
        if self == new:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(new, folder)
    assert not folder.exists()
    monkeypatch.undo()
    restore_folder(folder)
    assert (folder / "old").exists()
    restore_folder(folder)
    replace_folder(new, folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state"]
    assert not (folder / "old").exists()


# --- finding ----------------------------------------------------------------------------------


def test_a_checkpoint_is_found_by_path_or_by_the_name_of_a_bundled_one(
    saved, tmp_path, monkeypatch
):
    assert resolve_checkpoint(saved["unet"], "segone") == saved["unet"]
    assert resolve_checkpoint(str(saved["unet"]), "segone") == saved["unet"]
    shutil.copytree(saved["segone"], tmp_path / "segone")
    monkeypatch.setattr(checkpoint, "BUNDLED", tmp_path)
    assert resolve_checkpoint(None, "segone") == tmp_path / "segone"
    assert resolve_checkpoint("segone", "unet") == tmp_path / "segone"
    with pytest.raises(BadCheckpoint, match=r"no checkpoint 'nowhere'.*bundled one: segone"):
        resolve_checkpoint("nowhere", "segone")


def test_a_folder_of_the_working_directory_never_stands_in_for_a_bundled_one(
    saved, tmp_path, monkeypatch
):
    bundled, here = tmp_path / "bundled", tmp_path / "here"
    for folder in (bundled / "segone", here / "segone", here / "mine"):
        shutil.copytree(saved["segone"], folder)
    monkeypatch.setattr(checkpoint, "BUNDLED", bundled)
    monkeypatch.chdir(here)
    for name in (None, "segone"):
        assert resolve_checkpoint(name, "segone") == bundled / "segone"
    assert resolve_checkpoint("./segone", "segone").resolve() == here / "segone"
    for name in ("mine", ".."):
        assert resolve_checkpoint(name, "segone") == Path(name)
    shutil.rmtree(bundled)
    with pytest.raises(BadCheckpoint, match=r"no checkpoint 'segone'.*bundled one: none"):
        resolve_checkpoint(None, "segone")


def test_a_path_that_does_not_exist_is_not_taken_for_a_bundled_name():
    with pytest.raises(BadCheckpoint, match=r"no checkpoint '/nonexistent/runs/segone'"):
        resolve_checkpoint("/nonexistent/runs/segone", "segone")


# --- damage -----------------------------------------------------------------------------------


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(BadCheckpoint, match=r"no checkpoint\.json"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt"])
def test_pickled_weights_are_refused_and_never_opened(tmp_path, name):
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "sprung"),)

    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BadCheckpoint, match=f"pickled weights.*{name}.*safetensors"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format": 1}', "\x00\x01"])
def test_a_damaged_manifest_is_refused(copies, text):
    (copies["segone"] / "checkpoint.json").write_text(text)
    with pytest.raises(BadCheckpoint, match="damaged"):
        load_checkpoint(copies["segone"])


@pytest.mark.parametrize("version", [0, 2, "1"])
def test_an_unknown_format_version_is_refused(copies, version):
    edit(copies["segone"] / "checkpoint.json", format=version)
    with pytest.raises(BadCheckpoint, match=r"format version.*update segone-napari"):
        load_checkpoint(copies["segone"])


def test_a_checkpoint_of_an_unknown_system_is_refused(copies):
    edit(copies["segone"] / "checkpoint.json", system="nnunet")
    with pytest.raises(BadCheckpoint, match="'nnunet'"):
        load_checkpoint(copies["segone"])


@pytest.mark.parametrize("file", ["network/model.safetensors", "text/model.safetensors"])
@pytest.mark.parametrize("size", [0, 7, 200, -1])
def test_truncated_weights_are_refused(copies, file, size):
    path = copies["segone"] / file
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BadCheckpoint, match="damaged"):
        load_checkpoint(copies["segone"])


@pytest.mark.parametrize(
    "file",
    [
        "vocabulary.json",
        "network/config.json",
        "network/model.safetensors",
        "text/config.json",
        "text/model.safetensors",
        "text/tokenizer_config.json",
    ],
)
def test_a_missing_file_is_named(copies, file):
    (copies["segone"] / file).unlink()
    with pytest.raises(BadCheckpoint) as caught:
        load_checkpoint(copies["segone"])
    assert str(copies["segone"] / file.split("/")[0]) in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"channels": [8, 16], "colour": 3}', '"text"', "7"])
def test_a_damaged_config_is_refused(copies, text):
    (copies["segone"] / "network" / "config.json").write_text(text)
    with pytest.raises(BadCheckpoint):
        load_checkpoint(copies["segone"])


def test_weights_that_do_not_fit_the_config_are_refused(copies):
    edit(copies["segone"] / "network" / "config.json", channels=[8, 24])
    with pytest.raises(BadCheckpoint, match="doesn't fit its config"):
        load_checkpoint(copies["segone"])


def test_weights_that_lack_a_layer_are_refused(copies):
    edit(copies["segone"] / "network" / "config.json", encoder_blocks=[2, 1])
    with pytest.raises(BadCheckpoint, match="lacks weights"):
        load_checkpoint(copies["segone"])


def test_a_vocabulary_of_other_classes_does_not_fit_a_unet(copies):
    path = copies["unet"] / "vocabulary.json"
    edit(path, structures=json.loads(path.read_text())["structures"][:-1])
    with pytest.raises(BadCheckpoint, match="doesn't fit"):
        load_checkpoint(copies["unet"])


@pytest.mark.parametrize(("asked", "given"), [("segone", "unet"), ("unet", "segone")])
def test_a_system_refuses_the_checkpoint_of_another(saved, asked, given):
    with pytest.raises(BadCheckpoint, match=f"checkpoint of {given}, not of {asked}"):
        registry.create(asked, checkpoint=saved[given], device="cpu")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
