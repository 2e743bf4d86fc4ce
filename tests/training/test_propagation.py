"""Training the network that follows drawn slices: what it is shown, and that runs go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from segone_napari.cli import main
from segone_napari.models.checkpoint import load_lessons, read_manifest
from segone_napari.runtime import BadInput
from segone_napari.systems import propagation as use
from segone_napari.training import propagation
from segone_napari.training.lessons import new_lesson
from segone_napari.training.propagation import PropagationConfig, PropagationStep
from tests import tiny

SYNTHETIC = replace(
    PropagationConfig().synthetic, height=40, width=40, slices=27, shift_mm=4.0, elastic_mm=1.0,
    central_mm=3.0, stripped_share=0.0, cropped_share=0.0,
)  # fmt: skip
SHORT = PropagationConfig(
    steps=3, batch=1, objects=2, asked=2, warmup_steps=2, ema_steps=4, validation_maps=1,
    synthetic=SYNTHETIC,
)  # fmt: skip


def train(maps: Path, run: Path, config: PropagationConfig, **options: object) -> Path:
    vocabulary = SimpleNamespace(load=tiny.small_vocabulary)
    with tiny.one_thread(), mock.patch.object(propagation, "Vocabulary", vocabulary):
        return propagation.train_propagation(maps, run, config, **options)


def ball(radius: float = 9.0) -> np.ndarray:
    z, y, x = np.indices((24, 40, 40)) - np.array([12, 20, 20])[:, None, None, None]
    return np.asarray(np.sqrt(x**2 + y**2 + z**2) < radius)


def stacks() -> tuple[torch.Tensor, torch.Tensor]:
    """Two stacks: inputs (B, S + 3, H, W), labels (B, S, H, W), each with two objects."""
    labels = np.zeros((2, 24, 40, 40), dtype=np.int64)
    labels[:, ball()] = 1
    labels[:, ball(5)] = 2
    image = 0.3 * labels + np.random.default_rng(0).normal(0.2, 0.05, labels.shape)
    inputs = np.concatenate([image, np.zeros((2, 3, 40, 40))], axis=1)
    return torch.from_numpy(inputs).float(), torch.from_numpy(labels)


CONFIG = replace(SHORT, objects=2, synthetic=replace(SYNTHETIC, slices=24))


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> Path:
    return tiny.write_label_maps(tmp_path_factory.mktemp("data") / "maps", 2)


@pytest.fixture(scope="module")
def whole_run(maps, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run")
    train(maps, run, SHORT, command="segone train-propagation maps")
    return run


def test_a_run_stopped_after_every_step_ends_as_one_that_was_not(maps, whole_run, tmp_path):
    for _ in range(SHORT.steps):
        train(maps, tmp_path, SHORT, minutes=0)
    states = [load_file(run / "state" / "state.safetensors") for run in (tmp_path, whole_run)]
    assert states[0].keys() == states[1].keys()
    assert [k for k in states[0] if not torch.equal(states[0][k], states[1][k])] == []
    with pytest.raises(BadInput, match="another asked"):
        train(maps, whole_run, replace(SHORT, asked=3))


def test_the_checkpoint_is_a_lesson_on_anything_and_says_how_it_was_trained(whole_run):
    manifest = read_manifest(whole_run / "checkpoint")
    assert manifest.system == use.PROPAGATION
    assert manifest.training["command"] == "segone train-propagation maps"
    assert 0 <= manifest.metrics["validation_dice_synthetic"] <= 1
    (lesson,) = load_lessons(whole_run / "checkpoint")
    assert lesson.config == use.CONFIG


def test_the_bundled_network_says_how_it_was_trained():
    manifest = read_manifest(use.BUNDLED / use.PROPAGATION)
    assert manifest.training["steps_done"] == manifest.training["config"]["steps"]
    assert manifest.metrics["validation_dice_synthetic"] > 0.7


@pytest.mark.parametrize("seed", range(4))
def test_what_is_asked_was_not_drawn_and_something_was(seed):
    cases = propagation.draw_cases(*stacks(), CONFIG, np.random.default_rng(seed))
    assert cases
    for case in cases:
        drawn = case.followed.drawn.indices.tolist()
        assert not set(drawn) & set(case.asked)
        assert bool(case.truth[drawn].any())
        assert max(case.asked) < len(case.truth)
        # the outlines are those of the truth
        assert torch.equal(case.followed.drawn.outlines[:, 0] > 0, case.truth[drawn])


def test_the_imagined_base_is_wrong_in_many_ways_and_sometimes_says_nothing():
    random, truth = np.random.default_rng(0), ball()
    scores, silent = [], 0
    for _ in range(60):
        logits = propagation.imagined_base(truth, 1, random)
        shown = logits > 0
        silent += int(not logits.any())
        if logits.any():
            scores.append(2 * (shown & truth).sum() / (shown.sum() + truth.sum()))
    assert 5 < silent < 30
    assert min(scores) < 0.6
    assert max(scores) > 0.9


def test_padded_pixels_count_for_nothing():
    logits, truth, weight = torch.randn(2, 1, 8, 8), torch.ones(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    weight[..., 5:] = 0
    other = logits.clone()
    other[..., 5:] = 50
    loss = propagation.propagation_loss
    assert torch.equal(loss(logits, truth, weight), loss(other, truth, weight))
    assert loss(torch.full_like(logits, 9), truth, weight) < loss(-logits.abs(), truth, weight)


def test_stacks_of_air_move_nothing():
    lesson = new_lesson(use.CONFIG, 0)
    inputs, labels = stacks()
    loss = PropagationStep(lesson, CONFIG)(inputs * 0, labels * 0, 0)
    loss.backward()
    assert float(loss.detach()) == 0


def test_a_network_learns_to_follow(tmp_path):
    lesson = new_lesson(use.CONFIG, 0)
    step = PropagationStep(lesson, replace(CONFIG, objects=1))
    optimizer = torch.optim.AdamW(lesson.network.parameters(), 4e-3)
    losses = []
    for number in range(25):
        loss = step(*stacks(), number)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:4])


def test_the_command_trains(maps, tmp_path):
    vocabulary = SimpleNamespace(load=tiny.small_vocabulary)
    with (
        mock.patch.object(propagation, "Vocabulary", vocabulary),
        mock.patch.object(propagation, "PropagationConfig", lambda **o: replace(SHORT, **o)),
    ):
        options = ["--run", str(tmp_path / "run"), "--steps", "1", "--asked", "1"]
        assert main(["train-propagation", str(maps), *options]) == 0
    config = read_manifest(tmp_path / "run" / "checkpoint").training["config"]
    assert (config["steps"], config["asked"]) == (1, 1)
