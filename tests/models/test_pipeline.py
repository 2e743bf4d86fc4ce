"""Sampling a mask step by step."""

import pytest
import torch

from segone_napari.models.answers import Answers
from segone_napari.models.pipeline import sample_mask
from segone_napari.models.schedule import NoiseSchedule
from segone_napari.models.segone import SegOneModel
from segone_napari.models.text import TextTower
from tests.tiny import NETWORK, TEXT

NAMES = ["background", "left hippocampus", "right hippocampus", "brainstem"]


@pytest.fixture(scope="module")
def model() -> SegOneModel:
    torch.manual_seed(0)
    model = SegOneModel(NETWORK, TextTower.create(TEXT, NAMES)).eval()
    with torch.no_grad():
        for state in model.network.decoder.states:  # untrained, they ignore the mask
            state.mix.weight.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module")
def slabs() -> torch.Tensor:
    return torch.rand(3, 6, 16, 24, generator=torch.Generator().manual_seed(1))


def _sample(model: SegOneModel, slabs: torch.Tensor, steps: int, **options: object) -> torch.Tensor:
    with torch.inference_mode():
        classes: Answers = model.answers(NAMES)
        seed = options.pop("seed", 0)
        generator = torch.Generator().manual_seed(seed)
        return sample_mask(
            model, NoiseSchedule(), slabs, [1], classes, steps=steps, generator=generator, **options
        )


def test_one_step_is_the_dense_head(model: SegOneModel, slabs: torch.Tensor) -> None:
    with torch.inference_mode():
        dense = model.answers(NAMES).logits(model.features(slabs)).softmax(1)[:, 1]
    torch.testing.assert_close(_sample(model, slabs, 1), dense)


def test_the_seed_decides_what_further_steps_make(model: SegOneModel, slabs: torch.Tensor) -> None:
    first = _sample(model, slabs, 3)
    assert torch.equal(first, _sample(model, slabs, 3))
    assert not torch.equal(first, _sample(model, slabs, 3, seed=1))


@pytest.mark.parametrize("steps", [1, 3])
def test_what_is_known_stays(model: SegOneModel, slabs: torch.Tensor, steps: int) -> None:
    known = torch.zeros_like(slabs[:, :1])
    known[:, :, :4], known[:, :, 4:8] = 1, -1
    mask = _sample(model, slabs, steps, known=known)
    assert (mask[:, :4] == 1).all()
    assert (mask[:, 4:8] == 0).all()
    assert ((mask[:, 8:] > 0) & (mask[:, 8:] < 1)).all()


def test_what_is_known_changes_what_is_not(model: SegOneModel, slabs: torch.Tensor) -> None:
    known = torch.zeros_like(slabs[:, :1])
    known[:, :, :8] = 1
    free, guided = _sample(model, slabs, 1), _sample(model, slabs, 1, known=known)
    assert not torch.allclose(free[:, 8:], guided[:, 8:])
