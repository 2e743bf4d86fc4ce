"""The optimizer: AdamW as torch has it, and Muon's orthogonal steps."""

import pytest
import torch

from segone_napari.training.optimizer import MuonAdamW, orthogonal, orthogonal_taps


def test_singular_values_of_a_step_are_near_one() -> None:
    weight = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(weight))
    assert values.min() > 0.6
    assert values.max() < 1.3
    torch.testing.assert_close(orthogonal(weight.mT), orthogonal(weight).mT)


def test_each_tap_of_a_convolution_is_a_matrix_of_its_own() -> None:
    weight = torch.randn(8, 8, 3, generator=torch.Generator().manual_seed(0))
    weight[..., 0] *= 100  # one tap must not hide the others
    (steps,) = orthogonal_taps([weight])
    assert steps.shape == weight.shape
    for tap in range(3):
        torch.testing.assert_close(steps[..., tap], orthogonal(weight[None, ..., tap])[0])


def test_weights_without_neighbours_are_one_matrix() -> None:
    weight = torch.randn(16, 4, 1, generator=torch.Generator().manual_seed(0))
    expected = orthogonal(weight[None, ..., 0])[0] * 2  # sqrt(16 / 4)
    torch.testing.assert_close(orthogonal_taps([weight])[0][..., 0], expected)


def test_weights_of_one_shape_are_done_together_without_mixing() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 4, 3), (6, 12, 1), (6, 4, 3), (6, 4))
    weights = [torch.randn(*shape, generator=generator) for shape in shapes]
    for weight, step in zip(weights, orthogonal_taps(weights), strict=True):
        torch.testing.assert_close(step, orthogonal_taps([weight])[0])


def test_other_groups_step_as_torch_s_adamw() -> None:
    start = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    mine = MuonAdamW([{"params": [ours], "lr": 1e-2, "weight_decay": 0.1}])
    torchs = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.1, betas=(0.9, 0.98))
    for _ in range(5):
        for parameter, optimizer in ((ours, mine), (theirs, torchs)):
            optimizer.zero_grad()
            (parameter.sin().sum() + parameter.square().mean()).backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("is_muon", [True, False])
def test_it_finds_a_linear_map(is_muon: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    wanted, weight = torch.randn(6, 6, generator=generator), torch.zeros(6, 6, requires_grad=True)
    optimizer = MuonAdamW([{"params": [weight], "is_muon": is_muon}])
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        optimizer.zero_grad()
        (weight - wanted).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(weight.detach(), wanted, atol=0.05, rtol=0)
