"""What training minimises."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segone_napari.data.synthetic import Slabs, generate, load_label_maps
from segone_napari.models.answers import Answers
from segone_napari.models.schedule import NoiseSchedule
from segone_napari.models.segone import SegOneModel
from segone_napari.training import base
from segone_napari.training.objectives import dense_loss, diffusion_loss
from tests.tiny import SYNTHETIC, TRAINING, small_vocabulary, write_label_maps

VOCABULARY = small_vocabulary()
NAMES = VOCABULARY.class_names


@pytest.fixture(scope="module")
def batch(tmp_path_factory) -> Slabs:
    maps = load_label_maps(write_label_maps(tmp_path_factory.mktemp("maps"), 1), VOCABULARY)
    return generate(maps, SYNTHETIC, 4, torch.Generator().manual_seed(1))


def make() -> SegOneModel:
    model = base.build_model(TRAINING, VOCABULARY)
    assert isinstance(model, SegOneModel)
    return model


def logits_as_features(logits: Tensor) -> tuple[Tensor, Answers]:
    """Features and answers whose product is `logits`."""
    classes = logits.shape[1]
    return logits, Answers(torch.eye(classes), torch.zeros(classes))


def certain(labels: Tensor, classes: int = 3) -> Tensor:
    return 30 * F.one_hot(labels, classes).permute(0, 3, 1, 2).float()


# --- dense segmentation -------------------------------------------------------------------------


def test_a_perfect_answer_costs_nothing_and_a_wrong_one_much():
    labels = torch.randint(3, (2, 6, 8), generator=torch.Generator().manual_seed(1))
    assert dense_loss(*logits_as_features(certain(labels)), labels) < 0.01
    assert dense_loss(*logits_as_features(certain((labels + 1) % 3)), labels) > 10


def test_the_dense_loss_is_cross_entropy_minus_the_mean_log_of_soft_dice():
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(3, (2, 6, 8), generator=generator)
    logits = torch.randn(2, 4, 6, 8, generator=generator)  # class 3 is nowhere
    p = logits.softmax(1)
    dice = [
        (2 * p[:, c][labels == c].sum() + 0.1) / (p[:, c].sum() + (labels == c).sum() + 0.1)
        for c in (1, 2)
    ]
    expected = F.cross_entropy(logits, labels) - torch.stack(dice).log().mean()
    torch.testing.assert_close(dense_loss(*logits_as_features(logits), labels), expected)


def test_a_batch_of_background_has_a_loss_and_gradients():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    loss = dense_loss(*logits_as_features(logits), labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))
    loss.backward()
    assert logits.grad.isfinite().all()


def test_a_structure_that_is_not_seen_at_all_still_has_a_gradient():
    labels = torch.zeros(1, 16, 16, dtype=torch.long)
    labels[0, :2, :2] = 1
    bias = torch.tensor([5.0, -5.0])[None, :, None, None].expand(1, 2, 16, 16)
    logits = bias.clone().requires_grad_()
    dense_loss(*logits_as_features(logits), labels).backward()
    assert (logits.grad[0, 1, :2, :2] < -1e-3).all()


def test_dense_loss_falls_on_a_fixed_batch(batch):
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        loss = dense_loss(model.features(batch.inputs), model.answers(NAMES), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.75 * losses[0]


# --- denoising ----------------------------------------------------------------------------------


def loss_of_denoising(model: SegOneModel, batch: Slabs, seed: int = 1) -> Tensor:
    seen = model.network.encode(batch.inputs)
    generator = torch.Generator().manual_seed(seed)
    answers = model.answers(NAMES)
    return diffusion_loss(model, NoiseSchedule(), seen, answers, batch.labels, generator)


def test_denoising_repeats_exactly_by_its_generator(batch):
    model = make()
    first, again, other = (loss_of_denoising(model, batch, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_denoising_teaches_what_the_dense_head_does_not_use(batch):
    model = make()
    loss = loss_of_denoising(model, batch)
    loss.backward()
    assert 0 < loss.item() < 20
    states = [layer.mix.weight.grad for layer in model.network.decoder.states]
    assert all(gradient.abs().max() > 0 for gradient in states)
    films = [block.film.weight.grad for blocks in model.network.decoder.levels for block in blocks]
    assert all(gradient.abs().max() > 0 for gradient in films)


def test_denoising_loss_falls_on_a_fixed_batch(batch):
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = loss_of_denoising(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_denoising_works_where_nothing_is_shown(batch):
    model = make()
    empty = Slabs(batch.inputs, torch.zeros_like(batch.labels))
    assert loss_of_denoising(model, empty).isfinite()


# --- a quarter of the pixels --------------------------------------------------------------------
