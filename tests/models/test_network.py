"""The network of 1-D convolutions: what it is made of, and how a mask and a prompt enter it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segone_napari.models.layers import ScanBlock
from segone_napari.models.network import NetworkConfig, SegOneNetwork
from segone_napari.models.segone import SegOneModel
from segone_napari.models.text import TextTower
from tests.tiny import NETWORK, TEXT

ALLOWED = (nn.Conv1d, nn.Linear, nn.LayerNorm)
ATTENTION = ("attention", "softmax", "bmm", "baddbmm")


def not_one_dimensional(network: nn.Module) -> list[str]:
    """Name every learned module that is no Conv1d, Linear or LayerNorm, or wide in two directions.

    A weight is (out, in, *kernel); the kernel may be longer than 1 in one direction only.
    """
    offenders = []
    for name, module in network.named_modules():
        own = list(module.parameters(recurse=False))
        if own and not isinstance(module, ALLOWED):
            offenders.append(f"{name}: {type(module).__name__}")
        elif any(sum(n > 1 for n in weight.shape[2:]) > 1 for weight in own):
            offenders.append(f"{name}: wide in two directions")
    return offenders


class Operations(TorchDispatchMode):
    """Notes the names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def attention_in(run: Callable[[], object]) -> set[str]:
    """Operations of attention that run."""
    with Operations() as operations, torch.no_grad():
        run()
    return {name for name in operations.names if any(word in name for word in ATTENTION)}


def slabs(batch: int = 2, height: int = 8, width: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 6, height, width, generator=generator)


def state(batch: int = 2, height: int = 8, width: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 2, height, width, generator=generator)


def make(config: NetworkConfig = NETWORK, *, with_film: bool = False) -> SegOneNetwork:
    """Make a network; with `with_film`, conditions have an effect as after training."""
    torch.manual_seed(3)
    network = SegOneNetwork(config)
    for module in network.modules():
        if with_film and isinstance(module, ScanBlock) and module.film is not None:
            nn.init.normal_(module.film.weight, std=0.3)
    return network


@pytest.mark.parametrize("config", [NETWORK, NetworkConfig()], ids=["tiny", "default"])
def test_every_learned_layer_is_one_dimensional(config):
    network = make(config)
    assert not_one_dimensional(network) == []
    assert any(isinstance(module, nn.Conv1d) for module in network.modules())


def test_everything_but_the_text_tower_is_one_dimensional():
    tower = TextTower.create(TEXT, ["left hippocampus"])
    model = SegOneModel(NETWORK, tower)
    model.tower = nn.Identity()
    assert not_one_dimensional(model) == []


def test_no_attention_runs_over_pixels():
    network = make()
    assert attention_in(lambda: network.dense(slabs())) == set()
    seen = network.encode(slabs())
    share, prompt = torch.rand(2), torch.randn(2, NETWORK.features)
    assert attention_in(lambda: network.decoder(seen, share, state(), prompt)) == set()


@pytest.mark.parametrize(
    "intruder",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, (1, 3)),
        nn.Conv3d(4, 4, 3),
        nn.ConvTranspose2d(4, 4, 2),
        nn.MultiheadAttention(4, 2),
        nn.ParameterList([torch.zeros(4, 4, 3, 3)]),
    ],
    ids=lambda module: type(module).__name__,
)
def test_the_walk_finds_what_is_not_one_dimensional(intruder):
    network = make()
    network.encoder.levels[0].append(intruder)
    assert any(name.startswith("encoder.levels.0.1") for name in not_one_dimensional(network))


def test_the_walk_finds_a_one_dimensional_layer_with_a_wide_weight():
    layer = nn.Conv1d(4, 4, 1)
    layer.weight = nn.Parameter(torch.zeros(4, 4, 3, 3))
    assert not_one_dimensional(nn.Sequential(layer)) == ["0: wide in two directions"]


def test_the_watch_for_attention_finds_it():
    x = torch.randn(1, 2, 16, 4)
    assert attention_in(lambda: F.scaled_dot_product_attention(x, x, x))
    assert attention_in(lambda: (x @ x.transpose(2, 3)).softmax(-1) @ x)


def test_a_denoiser_at_pure_noise_is_the_dense_head():
    network = make()
    seen = network.encode(slabs())
    dense = network.dense(slabs())
    at_the_end = network.decoder(seen, torch.ones(2), state())
    assert dense.shape == (2, NETWORK.features, 8, 12)
    torch.testing.assert_close(at_the_end, dense)
    assert dense.std() > 0.01


def test_the_mask_enters_at_every_level_once_its_layers_have_weights():
    network = make()
    seen = network.encode(slabs())
    dense = network.dense(slabs())
    for layer in network.decoder.states:
        nn.init.normal_(layer.mix.weight, std=0.3)
        changed = network.decoder(seen, torch.ones(2), state())
        assert not torch.allclose(changed, dense, atol=1e-3)
        nn.init.zeros_(layer.mix.weight)


def test_the_timestep_conditions_the_denoiser():
    network = make(with_film=True)
    seen = network.encode(slabs())
    early, late = (network.decoder(seen, torch.full((2,), share)) for share in (0.1, 0.9))
    assert not torch.allclose(early, late, atol=1e-3)


@pytest.mark.parametrize(
    ("place", "levels"), [("latent", {1}), ("skips", {0}), ("both", {0, 1}), ("none", set())]
)
def test_text_enters_where_the_config_says(place, levels):
    network = make(replace(NETWORK, text_in=place), with_film=True)
    seen = network.encode(slabs())
    share = torch.full((2,), 0.5)
    conditions: dict[int, list[Tensor]] = {0: [], 1: []}
    for level, blocks in enumerate(network.decoder.levels):
        for block in blocks:
            block.register_forward_pre_hook(
                lambda _, inputs, level=level: conditions[level].append(inputs[1])
            )
    prompts = torch.randn(2, 2, NETWORK.features, generator=torch.Generator().manual_seed(4))
    first, second = (network.decoder(seen, share, state(), prompt) for prompt in prompts)
    entered = {level for level, (a, b) in conditions.items() if not torch.equal(a, b)}
    assert entered == levels
    assert torch.equal(first, second) == (not levels)


@pytest.mark.parametrize("place", ["latent", "skips", "both"])
def test_a_prompt_changes_only_its_own_sample(place):
    network = make(replace(NETWORK, text_in=place), with_film=True)
    seen = network.encode(slabs())
    prompt = torch.randn(2, NETWORK.features, generator=torch.Generator().manual_seed(5))
    other = prompt.clone()
    other[1] += 1
    share = torch.full((2,), 0.5)
    first, second = (network.decoder(seen, share, None, p) for p in (prompt, other))
    torch.testing.assert_close(first[0], second[0])
    assert not torch.allclose(first[1], second[1], atol=1e-3)


def test_samples_of_a_batch_do_not_touch_each_other():
    network = make()
    whole = network.dense(slabs())
    torch.testing.assert_close(network.dense(slabs()[1:]), whole[1:])
    seen = network.encode(slabs())
    chosen = network.dense_from(seen.select(torch.tensor([1])))
    torch.testing.assert_close(chosen, whole[1:])


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 5, 8, 12), "5 channels"),
        ((1, 6, 10, 12), "multiples of 4"),
        ((1, 6, 8, 13), "multiples of 4"),
    ],
)
def test_a_slab_of_the_wrong_shape_is_refused(shape, words):
    with pytest.raises(ValueError, match=words):
        make().dense(torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"encoder_blocks": (1,)}, "differ in length"), ({"text_in": "everywhere"}, "everywhere")],
)
def test_an_impossible_config_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(NETWORK, **changes)
