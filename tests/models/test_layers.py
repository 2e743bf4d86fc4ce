"""The fast way of executing each layer gives the numbers of the literal Conv1d."""

import pytest
import torch
from torch import Tensor, nn

from segone_napari.models.layers import (
    ChannelConv1d,
    ChannelNorm,
    Down,
    ScanBlock,
    ScanConv1d,
    Up,
    as_channels_last,
)

SIZES = [(1, 4, 4), (2, 8, 12), (3, 20, 4)]
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": as_channels_last,
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "strided": lambda x: x.repeat_interleave(2, dim=3)[..., ::2],
}
LAYERS = {
    "channel": lambda: ChannelConv1d(6, 5),
    "rows": lambda: ScanConv1d(6, 5, "rows"),
    "columns": lambda: ScanConv1d(6, 5, "columns"),
    "rows of five": lambda: ScanConv1d(6, 5, "rows", kernel_size=5),
    "columns of five": lambda: ScanConv1d(6, 5, "columns", kernel_size=5),
    "down": lambda: Down(6, 5),
    "down by four": lambda: Down(6, 5, factor=4),
    "up": lambda: Up(6, 5),
    "up by four": lambda: Up(6, 5, factor=4),
}


def make(name: str) -> nn.Module:
    torch.manual_seed(1)
    return LAYERS[name]().double()


def image(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 6, height, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_fast_execution_equals_a_conv1d_over_the_flattened_scan(name, size, layout):
    layer = make(name)
    plain = image(*size)
    x = LAYOUTS[layout](plain)
    assert torch.equal(x, plain)
    literal = layer.forward_as_conv1d(x)
    torch.testing.assert_close(layer(x), literal, rtol=0, atol=1e-12)
    assert literal.std() > 0.1


@pytest.mark.parametrize("name", LAYERS)
def test_fast_execution_has_the_gradients_of_the_conv1d(name):
    layer, x = make(name), image(2, 8, 12)

    def gradients(run):
        layer.zero_grad()
        run(x).square().sum().backward()
        return [p.grad.clone() for p in layer.parameters()]

    for fast, literal in zip(
        gradients(layer), gradients(layer.forward_as_conv1d), strict=True
    ):  # fmt: skip
        torch.testing.assert_close(fast, literal, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("along", ["rows", "columns"])
def test_the_end_of_a_line_does_not_touch_the_next_one(along):
    layer = ScanConv1d(1, 1, along)
    x = torch.zeros(1, 1, 6, 6)
    x[0, 0, 2, 5 if along == "rows" else 2] = 1.0
    x = x if along == "rows" else x.transpose(2, 3).roll(3, 2)
    at = torch.nonzero(x[0, 0])[0]
    changed = torch.nonzero(layer(x)[0, 0] != layer(torch.zeros_like(x))[0, 0])
    same_line = 0 if along == "rows" else 1
    assert len(changed) >= 1
    assert (changed[:, same_line] == at[same_line]).all()


def test_a_scan_runs_along_rows_or_columns_only():
    with pytest.raises(ValueError, match="diagonal"):
        ScanConv1d(1, 1, "diagonal")


def test_a_channel_norm_looks_at_one_position_only():
    norm = ChannelNorm(6).double()
    x = image(2, 4, 6)
    y = x.clone()
    y[:, :, 1, 2] += torch.arange(6.0, dtype=torch.float64)
    is_changed = (norm(x) != norm(y)).any(1)
    assert is_changed[:, 1, 2].all()
    assert is_changed.sum() == 2


def test_an_untrained_condition_changes_nothing_and_a_trained_one_does():
    torch.manual_seed(4)
    block = ScanBlock(6, condition_channels=3).double()
    x, condition = image(2, 4, 6), torch.randn(2, 3, dtype=torch.float64)
    assert torch.equal(block(x, condition), block(x))
    nn.init.normal_(block.film.weight)
    assert not torch.allclose(block(x, condition), block(x))
