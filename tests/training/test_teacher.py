"""Training the teacher: what it is asked, that it learns, and that a run can be interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from segone_napari.cli import main
from segone_napari.models.checkpoint import read_manifest
from segone_napari.models.sam2 import INSIDE, OUTSIDE, Sam2Config, Trunk
from segone_napari.models.teacher import Teacher
from segone_napari.runtime import BadInput
from segone_napari.training import prompts, teacher
from segone_napari.training.prompts import BOX, CLICK, CLICKS, ROUGH
from segone_napari.training.runs import Report
from segone_napari.training.teacher import TeacherConfig, answer_loss
from tests import tiny

SIZES = Sam2Config(image_size=64, trunk=Trunk(embed_dim=8, stages=(1, 1, 2, 1), global_blocks=(3,)))
SHORT = TeacherConfig(
    steps=3,
    batch=2,
    objects=2,
    corrections=1,
    warmup_steps=2,
    ema_steps=4,
    validation_maps=1,
    sam2=SIZES,
    synthetic=tiny.SYNTHETIC,
)
DISC = (torch.cartesian_prod(torch.arange(64), torch.arange(64)) - 30).square().sum(1) < 150
MASKS = torch.stack([DISC.reshape(64, 64), DISC.reshape(64, 64).roll(12, 1)])  # (2, 64, 64)


def train(maps: Path, run: Path, config: TeacherConfig, **options: object) -> Path:
    vocabulary = SimpleNamespace(load=tiny.small_vocabulary)
    with tiny.one_thread(), mock.patch.object(teacher, "Vocabulary", vocabulary):
        return teacher.train_teacher(maps, run, config, **options)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> Path:
    return tiny.write_label_maps(tmp_path_factory.mktemp("data") / "maps", 2)


@pytest.fixture(scope="module")
def whole_run(maps, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run")
    train(maps, run, SHORT, command="segone train-teacher maps")
    return run


# --- runs ----------------------------------------------------------------------------------------


def test_a_run_stopped_after_every_step_ends_as_one_that_was_not(maps, whole_run, tmp_path):
    for _ in range(SHORT.steps):
        train(maps, tmp_path, SHORT, minutes=0)
    states = [load_file(run / "state" / "state.safetensors") for run in (tmp_path, whole_run)]
    assert states[0].keys() == states[1].keys()
    assert [k for k in states[0] if not torch.equal(states[0][k], states[1][k])] == []
    with pytest.raises(BadInput, match="another objects"):
        train(maps, whole_run, replace(SHORT, objects=3))


def test_the_checkpoint_answers_and_says_how_it_was_trained(whole_run):
    manifest = read_manifest(whole_run / "checkpoint")
    assert manifest.training["command"] == "segone train-teacher maps"
    assert manifest.training["config"]["sam2"]["image_size"] == 64
    assert manifest.metrics["dice_by_prompt"].keys() == teacher.MEASURED.keys()
    loaded = Teacher.load(whole_run / "checkpoint", "cpu")
    loaded.set_slice(np.random.default_rng(0).random((30, 50)), (2.0, 1.0))
    shown = loaded.predict(box=(3, 4, 20, 30))
    assert shown.probability.shape == (30, 50)
    assert 0 <= shown.quality <= 1


def test_training_goes_on_from_a_teacher_of_the_same_sizes_only(maps, whole_run, tmp_path):
    start = whole_run / "checkpoint"
    config = replace(SHORT, start="checkpoint", steps=1, learning_rate=0.0)
    train(maps, tmp_path / "same", config, start=start)
    before, after = (
        load_file(folder / "model.safetensors") for folder in (start, tmp_path / "same/checkpoint")
    )
    assert all(torch.equal(before[key], after[key]) for key in before)
    wider = replace(config, sam2=replace(SIZES, image_size=128))
    with pytest.raises(BadInput, match="other sizes"):
        train(maps, tmp_path / "other", wider, start=start)


@pytest.mark.slow
def test_the_loss_falls(maps, tmp_path):
    config = replace(
        SHORT, steps=60, batch=4, objects=4, learning_rate=1e-3, warmup_steps=5, ema_steps=10
    )
    reports: list[Report] = []
    train(maps, tmp_path, config, report=reports.append)
    assert reports[-1].loss < 0.8 * reports[0].loss


def test_the_command_refuses_sizes_that_sam2_does_not_have(maps, tmp_path, capsys):
    run = ["train-teacher", str(maps), "--run", str(tmp_path), "--image-size", "100"]
    assert main([*run, "--validation-maps", "1"]) == 2
    assert "no multiple of 64" in capsys.readouterr().err


# --- the loss ------------------------------------------------------------------------------------


def test_a_right_answer_that_knows_it_costs_least():
    truth = F.avg_pool2d(MASKS[:, None].float(), 4) * 2 - 1  # (2, 1, 16, 16)
    right, wrong = 8 * truth.expand(-1, 4, -1, -1), -8 * truth.expand(-1, 4, -1, -1)
    sure, unsure = torch.ones(2, 4), torch.zeros(2, 4)
    both = torch.tensor([True, True])

    def loss(logits: torch.Tensor, quality: torch.Tensor, ambiguous: bool = False) -> float:
        return float(answer_loss(logits, quality, MASKS, both, ambiguous))

    assert loss(right, sure) < 0.2
    assert loss(right, unsure) > loss(right, sure) + 0.7
    assert loss(wrong, unsure) > 2
    # of three readings, only the best has to be right
    one_right = torch.cat([right[:, :1], wrong[:, :2], right[:, :1]], 1)
    qualities = torch.tensor([[1.0, 0.0, 0.0, 1.0]]).expand(2, 4)
    assert loss(one_right, qualities, True) < 0.4
    assert float(answer_loss(wrong, unsure, MASKS, ~both, False)) == 0


# --- what is asked -------------------------------------------------------------------------------


def test_clicks_boxes_and_rough_masks_mean_their_object():
    for seed in range(5):
        click = prompts.first_prompts(MASKS, CLICK, seeded(seed))
        x, y = click.points[:, 0].long().T
        assert MASKS[torch.arange(2), y, x].all()
        assert (click.says == INSIDE).all()
        clicks = prompts.first_prompts(MASKS, CLICKS, seeded(seed))
        x, y = clicks.points.long().unbind(2)
        hit = MASKS[torch.arange(2)[:, None], y, x]
        assert torch.equal(hit, clicks.says == INSIDE)
        box = prompts.first_prompts(MASKS, BOX, seeded(seed)).points
        wanted = torch.tensor([[[18, 18], [42, 42]], [[30, 18], [54, 42]]])
        assert (box - wanted).abs().max() < 9
        rough = prompts.first_prompts(MASKS, ROUGH, seeded(seed))
        assert rough.has_mask.all()
        assert rough.points.shape == (2, 0, 2)
        shown, truth = rough.masks[:, 0] > 0, F.avg_pool2d(MASKS[:, None].float(), 4)[:, 0] > 0.5
        overlap = 2 * (shown & truth).sum() / (shown.sum() + truth.sum())
        assert 0.4 < overlap < 1


def test_a_correction_clicks_where_the_answer_is_wrong():
    asked = prompts.first_prompts(MASKS, BOX, seeded())
    # the first answer has only the left half of its object, the second one too much on its right
    halves = F.avg_pool2d(MASKS[:, None].float(), 4) * 20 - 10
    halves[0, :, :, 8:] = -10
    halves[1, :, :, 13:] = 10
    corrected = prompts.corrected_prompts(asked, MASKS, halves, seeded())
    assert corrected.points.shape == (2, 3, 2)
    assert corrected.says[:, -1].tolist() == [INSIDE, OUTSIDE]
    (x0, y0), (x1, y1) = corrected.points[:, -1].long().tolist()
    assert MASKS[0, y0, x0]
    assert x0 >= 30
    assert not MASKS[1, y1, x1]
    assert x1 >= 50
    assert torch.equal(corrected.masks, halves)


def test_objects_are_structures_their_parts_and_unions_and_painted_lesions():
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[0, 10:50, 10:30], labels[0, 10:50, 30:50] = 1, 2
    images, blobs = prompts.paint_lesions(torch.full((1, 1, 64, 64), 0.5), labels, seeded(3))
    assert blobs.any()
    changed = (images - 0.5).abs()[:, 0]
    assert changed[blobs].mean() > 0.05
    assert changed[~F.max_pool2d(blobs[:, None].float(), 5, 1, 2)[:, 0].bool()].max() == 0
    masks, is_asked = prompts.draw_objects(labels, blobs, 60, seeded())
    one, two = labels == 1, labels == 2
    seen = {
        "structure": any(torch.equal(m, one[0]) or torch.equal(m, two[0]) for m in masks),
        "union": any(torch.equal(m, (one | two)[0]) for m in masks),
        "part": any(0 < m.sum() < one.sum() and not (m & ~one[0]).any() for m in masks),
        "lesion": any(torch.equal(m, blobs[0]) for m in masks),
    }
    assert all(seen.values()), seen
    assert is_asked.any()
    nothing, none = prompts.draw_objects(labels * 0, blobs & False, 5, seeded())
    assert not none.any()
    assert not nothing.any()


def test_views_show_image_and_labels_alike():
    labels = torch.zeros(2, 40, 60, dtype=torch.long)
    labels[:, 12:28, 20:45] = 1
    images, seen = prompts.draw_views(labels.float(), labels, 64, seeded())
    shown = images[:, 0] > 0.4
    assert images.shape == (2, 1, 64, 64)
    assert 2 * (shown & (seen == 1)).sum() / (shown.sum() + (seen == 1).sum()) > 0.95
    assert not torch.equal(seen[0], seen[1])
