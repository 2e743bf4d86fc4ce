"""The noise schedule against another library's."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from segone_napari.models.schedule import NoiseSchedule

OPTIONS = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "sample",
    "clip_sample": False,
    "timestep_spacing": "trailing",
}


# diffusers takes seconds to import, so only the process that runs these tests does.
def ddim() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(**OPTIONS, set_alpha_to_one=True)


def ddpm() -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler(**OPTIONS)


def masks(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_0 = torch.randint(2, (count, 1, 8, 8), generator=generator).float() * 2 - 1
    return x_0, torch.randn(x_0.shape, generator=generator)


def test_alphas_equal_those_of_diffusers():
    ours = NoiseSchedule().alphas_cumprod
    torch.testing.assert_close(ours, ddim().alphas_cumprod, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ours, ddpm().alphas_cumprod, rtol=1e-6, atol=1e-9)
    assert ours[0] > 0.999
    assert ours[-1] < 1e-6


@pytest.mark.parametrize("scheduler", [ddim, ddpm])
def test_adding_noise_equals_diffusers(scheduler):
    x_0, noise = masks()
    t = torch.tensor([0, 250, 700, 999])
    expected = scheduler().add_noise(x_0, noise, t)
    torch.testing.assert_close(NoiseSchedule().add_noise(x_0, noise, t), expected)


@pytest.mark.parametrize("count", [1, 2, 4, 10, 50])
def test_sampling_equals_diffusers_step_by_step(count):
    schedule, reference = NoiseSchedule(), ddim()
    reference.set_timesteps(count)
    timesteps = schedule.timesteps(count)
    assert timesteps == reference.timesteps.tolist()
    x_0, x_t = masks()
    for t, t_next in zip(timesteps, [*timesteps[1:], -1], strict=True):
        predicted = 0.9 * x_0 + 0.1 * torch.tanh(x_t)
        expected = reference.step(predicted, t, x_t, eta=0.0).prev_sample
        x_t = schedule.step(x_t, predicted, t, t_next)
        torch.testing.assert_close(x_t, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(x_t, predicted)


def test_a_step_with_the_true_mask_keeps_the_noise_that_was_added():
    schedule = NoiseSchedule()
    x_0, noise = masks()
    x_t = schedule.add_noise(x_0, noise, torch.full((4,), 800))
    expected = schedule.add_noise(x_0, noise, torch.full((4,), 300))
    torch.testing.assert_close(schedule.step(x_t, x_0, 800, 300), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3, 7, 1000])
def test_timesteps_fall_from_the_last_one(count):
    schedule = NoiseSchedule()
    timesteps = schedule.timesteps(count)
    assert len(timesteps) == count
    assert timesteps[0] == schedule.last == 999
    assert all(a > b for a, b in pairwise(timesteps))
    assert timesteps[-1] >= 0


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_an_impossible_number_of_steps_is_refused(count):
    with pytest.raises(ValueError, match="use 1 to 1000"):
        NoiseSchedule().timesteps(count)
