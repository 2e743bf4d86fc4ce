"""Training: it learns, and a run that is killed ends as one that isn't."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segone_napari.cli import main
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.models.checkpoint import load_checkpoint, read_manifest, resolve_checkpoint
from segone_napari.models.segone import SegOneModel
from segone_napari.models.unet import UNetModel
from segone_napari.runtime import BadInput
from segone_napari.training import base, runs
from segone_napari.training import cli as training_cli
from segone_napari.training.base import TrainConfig
from segone_napari.training.cli import command_line
from segone_napari.training.runs import Report, learning_rate_share, synthetic_at
from tests import tiny
from tests.tiny import TRAINING, write_label_maps

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> Path:
    return write_label_maps(tmp_path_factory.mktemp("data") / "maps", 3)


@pytest.fixture(scope="module")
def whole_run(maps, tmp_path_factory) -> tuple[Path, list[Report]]:
    """A run that nothing interrupted, and what it reported."""
    run = tmp_path_factory.mktemp("run")
    reports: list[Report] = []
    tiny.train(maps, run, TRAINING, report=reports.append)
    return run, reports


def state_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "state" / "state.safetensors")


def steps_done(run: Path) -> int:
    return int(json.loads((run / "state" / "state.json").read_text())["step"])


def assert_same_weights(first: Path, second: Path) -> None:
    """Both runs hold bit-identical weights, averages and moments, and the same checkpoint."""
    a, b = state_of(first), state_of(second)
    assert a.keys() == b.keys()
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert different == []
    assert {key.split(".")[0] for key in a} == {"model", "average", "optimizer"}
    for name in ("network", "text"):
        file = Path("checkpoint") / name / "model.safetensors"
        assert (first / file).read_bytes() == (second / file).read_bytes()


# --- going on -----------------------------------------------------------------------------------


def test_a_run_stopped_three_times_ends_as_one_that_was_not(maps, whole_run, tmp_path):
    for expected in (1, 2, 3):
        tiny.train(maps, tmp_path, TRAINING, minutes=0)
        assert steps_done(tmp_path) == expected
    tiny.train(maps, tmp_path, TRAINING)
    assert steps_done(tmp_path) == TRAINING.steps
    assert_same_weights(tmp_path, whole_run[0])


KILLED_IN_STEP_7 = """
import os, signal, sys
from pathlib import Path
from segone_napari.training.optimizer import MuonAdamW
from tests import tiny

step, calls = MuonAdamW.step, 0

def killed(self, *arguments, **options):
    global calls
    calls += 1
    if calls == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments, **options)

MuonAdamW.step = killed
tiny.train(Path(sys.argv[1]), Path(sys.argv[2]), tiny.TRAINING, save_every_s=0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_run_that_was_killed_ends_as_one_that_was_not(maps, whole_run, tmp_path):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_STEP_7, str(maps), str(tmp_path)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=600,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert steps_done(tmp_path) == 6
    tiny.train(maps, tmp_path, TRAINING)
    assert_same_weights(tmp_path, whole_run[0])


def test_a_kill_between_two_renames_loses_nothing(maps, tmp_path):
    tiny.train(maps, tmp_path, TRAINING, minutes=0)
    (tmp_path / "state").rename(tmp_path / ".state-old")
    tiny.train(maps, tmp_path, TRAINING, minutes=0)
    assert steps_done(tmp_path) == 2


def test_a_run_that_was_killed_while_it_wrote_its_last_checkpoint_writes_it_again(
    maps, tmp_path, monkeypatch
):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    config = replace(TRAINING, steps=2)
    tiny.train(maps, tmp_path, config, minutes=0)
    with monkeypatch.context() as patch:
        patch.setattr(base, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            tiny.train(maps, tmp_path, config)
    tiny.train(maps, tmp_path, config)
    assert read_manifest(tmp_path / "checkpoint").training["steps_done"] == 2


def test_a_finished_run_is_left_as_it_is(maps, whole_run):
    run, _ = whole_run
    before = state_of(run)
    reports: list[Report] = []
    assert tiny.train(maps, run, TRAINING, report=reports.append) == run / "checkpoint"
    assert reports == []
    assert all(torch.equal(before[key], value) for key, value in state_of(run).items())


def test_a_run_may_be_made_longer(maps, tmp_path):
    tiny.train(maps, tmp_path, replace(TRAINING, steps=2))
    tiny.train(maps, tmp_path, replace(TRAINING, steps=4))
    assert steps_done(tmp_path) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "another seed"),
        ({"batch": 3}, "another batch"),
        ({"network": replace(TRAINING.network, text_in="none")}, "another network"),
        ({"system": "unet"}, "another system"),
    ],
)
def test_a_run_is_not_continued_with_other_options(maps, whole_run, change, words):
    with pytest.raises(BadInput, match=words):
        tiny.train(maps, whole_run[0], replace(TRAINING, **change))


# --- what comes out -----------------------------------------------------------------------------


def test_the_seed_decides_what_comes_out(maps, tmp_path):
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        tiny.train(maps, tmp_path / name, replace(TRAINING, seed=seed, steps=2))
    assert_same_weights(tmp_path / "first", tmp_path / "again")
    first, other = state_of(tmp_path / "first"), state_of(tmp_path / "other")
    assert not torch.equal(
        first["model.model.network.encoder.downs.0.mix.weight"],
        other["model.model.network.encoder.downs.0.mix.weight"],
    )


def test_the_checkpoint_says_how_it_was_trained(whole_run):
    run, _ = whole_run
    manifest = read_manifest(run / "checkpoint")
    assert manifest.system == "segone"
    assert manifest.training["config"]["steps"] == 12
    assert manifest.training["steps_done"] == 12
    assert manifest.training["seconds"] >= 0
    assert manifest.training["config"]["seed"] == TRAINING.seed
    assert manifest.training["config"]["synthetic"]["height"] == TRAINING.synthetic.height
    assert 0 <= manifest.metrics["validation_dice_synthetic"] <= 1


def test_the_checkpoint_holds_the_averaged_weights(whole_run):
    run, _ = whole_run
    model, _, _ = load_checkpoint(run / "checkpoint")
    assert isinstance(model, SegOneModel)
    state = state_of(run)
    for name, value in model.network.state_dict().items():
        average = state[f"average.model.network.{name}"]
        torch.testing.assert_close(value, average, rtol=1e-3, atol=1e-3)
    moved = [k for k in state if k.startswith("average.") and state[k].is_floating_point()]
    assert any(
        not torch.equal(state[k], state[k.replace("average.", "model.", 1)]) for k in moved
    )  # fmt: skip


def test_progress_ends_with_the_last_step_and_the_dice(whole_run):
    _, reports = whole_run
    assert [report.step for report in reports] == [10, 12]
    assert all(report.steps == 12 and report.seconds_left >= 0 for report in reports)
    assert reports[0].validation_dice is None
    assert 0 <= reports[-1].validation_dice <= 1
    assert reports[-1].seconds_left == 0


def test_the_baseline_is_trained_by_the_same_loop(maps, tmp_path):
    config = replace(TRAINING, system="unet")
    for _ in range(2):
        tiny.train(maps, tmp_path / "stopped", config, minutes=0)
    tiny.train(maps, tmp_path / "stopped", config)
    tiny.train(maps, tmp_path / "whole", config)
    a, b = state_of(tmp_path / "stopped"), state_of(tmp_path / "whole")
    assert all(torch.equal(a[key], b[key]) for key in a)
    model, _, manifest = load_checkpoint(tmp_path / "whole" / "checkpoint")
    assert isinstance(model, UNetModel)
    assert manifest.system == "unet"


def test_all_maps_may_be_trained_on(maps, tmp_path):
    folder = tiny.train(maps, tmp_path, replace(TRAINING, validation_maps=0, steps=1))
    assert read_manifest(folder).metrics["validation_dice_synthetic"] is None


# --- refusals -----------------------------------------------------------------------------------


def test_too_few_label_maps_are_refused(maps, tmp_path):
    with pytest.raises(BadInput, match=r"3 label maps, of which 3 are kept out"):
        tiny.train(maps, tmp_path / "run", replace(TRAINING, validation_maps=3))
    assert not (tmp_path / "run").exists()


def test_an_unknown_system_is_refused(maps, tmp_path):
    with pytest.raises(BadInput, match="'nnunet'"):
        tiny.train(maps, tmp_path / "run", replace(TRAINING, system="nnunet"))


# --- going on from a checkpoint ------------------------------------------------------------------


def test_training_goes_on_from_a_checkpoint(maps, whole_run, tmp_path):
    start = whole_run[0] / "checkpoint"
    config = replace(TRAINING, start="checkpoint", steps=1, learning_rate=0.0)
    tiny.train(maps, tmp_path, config, start=start, command="segone train maps --from checkpoint")
    before, after = (
        load_file(p / "network/model.safetensors") for p in (start, tmp_path / "checkpoint")
    )
    of_images = [key for key in before if not key.startswith("to_answer")]
    assert of_images
    assert all(torch.equal(before[key], after[key]) for key in of_images)
    # the tower learns its names anew, and answers the canonical ones as before
    names = tiny.small_vocabulary().class_names
    with torch.no_grad():
        was, now = (
            load_checkpoint(p)[0].answers(names).vectors for p in (start, tmp_path / "checkpoint")
        )
    torch.testing.assert_close(was, now, rtol=0, atol=0.03)
    manifest = read_manifest(tmp_path / "checkpoint")
    assert manifest.parent == "checkpoint"
    assert manifest.training["before"] == read_manifest(start).training
    assert manifest.training["command"] == "segone train maps --from checkpoint"


def test_a_finer_network_grows_out_of_a_checkpoint(maps, whole_run):
    start = whole_run[0] / "checkpoint"
    fine = replace(TRAINING, network=replace(TRAINING.network, stem=4), start="checkpoint")
    vocabulary = Vocabulary.load(start / "vocabulary.json")
    grown = base.build_model(fine, vocabulary, start)
    assert grown.stride == 2 * base.build_model(TRAINING, vocabulary, start).stride


@pytest.mark.parametrize(
    "changed",
    [
        {"system": "unet"},
        {"network": replace(TRAINING.network, features=4)},
    ],
    ids=str,
)
def test_a_checkpoint_that_does_not_fit_is_refused(changed, whole_run):
    start = whole_run[0] / "checkpoint"
    config = replace(TRAINING, start="checkpoint", **changed)
    with pytest.raises(BadInput, match=r"not of unet|has other sizes"):
        base.build_model(config, Vocabulary.load(start / "vocabulary.json"), start)


# --- from easy to varied -------------------------------------------------------------------------


def test_images_look_like_a_t1_first_and_vary_more_and_more():
    synthetic = replace(tiny.SYNTHETIC, t1_share=0.4)
    config = TrainConfig(steps=100, easy_until=0.1, varied_from=0.3, synthetic=synthetic)
    shares = [synthetic_at(step, config).t1_share for step in range(100)]
    assert shares[:11] == [1.0] * 11
    assert shares[20] == pytest.approx(0.7)
    assert shares[30:] == pytest.approx([0.4] * 70)


# --- learning rate ------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_stays_and_falls_to_zero():
    config = TrainConfig(steps=1000, warmup_steps=50, decay_share=0.4)
    shares = [learning_rate_share(step, config) for step in range(config.steps)]
    assert shares[0] == pytest.approx(1 / 50)
    assert shares[24] == pytest.approx(0.5)
    assert shares[49:600] == [1.0] * 551
    assert shares[800] == pytest.approx(0.5, abs=0.01)
    assert 0 < shares[-1] < 1e-4
    assert all(a >= b for a, b in pairwise(shares[50:]))


def test_a_finer_window_is_configured_with_a_finer_stem_and_roams():
    parser = argparse.ArgumentParser()
    training_cli.add_arguments(parser)

    def config(*options: str, start: Path | None = None) -> TrainConfig:
        return training_cli._config(parser.parse_args(["maps", *options]), start)

    assert config() == TrainConfig()
    fine = config("--pixel-mm", "1", "--window-mm", "128", "160")
    assert (fine.synthetic.height, fine.synthetic.width) == (128, 160)
    assert fine.synthetic.roam_mm == (16, 16)
    assert (fine.network.stem, fine.network.detail_blocks) == (4, 2)
    further = config(start=resolve_checkpoint("segone", "segone"))
    assert (further.synthetic.pixel_mm, further.network.stem) == (1.0, 4)  # as the bundled one
    with pytest.raises(BadInput, match="multiples of 32"):
        config("--window-mm", "100", "160")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "0"], "'0' is no whole number of at least 1"),
        (["--batch", "-2"], "'-2' is no whole number of at least 1"),
        (["--lesions", "{empty}"], "holds no masks of lesions; give a folder of"),
        (["--run", "{file}/run"], "choose another with --run"),
    ],
)
def test_the_command_says_what_is_wrong_with_its_options(options, words, maps, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("in the way")
    places = {"empty": tmp_path / "empty", "file": tmp_path / "file"}
    given = [option.format(**places) for option in options]
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(["train", str(maps), "--run", str(tmp_path / "run"), *given]))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert words in line
    assert not (tmp_path / "run").exists()


def test_the_noted_command_names_no_places_of_this_machine(monkeypatch):
    typed = ["segone", "train", "/data/maps", "--lesions", "../data/masks", "--run", "runs/mine"]
    monkeypatch.setattr(sys, "argv", typed)
    assert command_line() == "segone train maps --lesions masks --run runs/mine"


@pytest.mark.gpu
def test_slabs_made_ahead_on_a_gpu_are_those_of_their_steps(maps):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    of_maps, _ = runs.split_maps(maps, Vocabulary.load(), 1, None)
    dataset = runs._SlabDataset(of_maps.to(device), TRAINING, 0)
    ahead = [*runs._made_ahead(dataset, range(3, 8), device)]
    assert [step for step, _ in ahead] == [3, 4, 5, 6, 7]
    for step, slabs in ahead:
        again = dataset[step]
        assert torch.equal(slabs.inputs, again.inputs)
        assert torch.equal(slabs.labels, again.labels)
