"""The only learned layers that SegOne's network is made of: 1-D convolutions and linear maps.

Space moves into channels by pixel-unshuffle, and back by pixel-shuffle. Neighbouring positions
are mixed by convolutions along the row-wise and the column-wise scan of the positions, channels
by a convolution along the channel axis.

Dimension key: B batch, C channels, D output channels, H W positions, N = H·W positions of a scan,
K kernel size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelConv1d(nn.Conv1d):
    """A 1-D convolution over the channel axis with kernel and stride C: a linear map per position.

    On the flattened sequence (B, 1, N·C) it is ``conv1d`` with kernel = stride = C. It is kept
    as a Conv1d of kernel 1 on (B, C, N) and executed as a 1×1 convolution, which is the same sum.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H, W)."""
        return F.conv2d(x, self.weight[..., None], self.bias)  # (B, D, H, W)

    def forward_as_conv1d(self, x: Tensor) -> Tensor:
        """Compute the same literally: kernel = stride = C over the flattened H·W·C sequence."""
        batch, channels, height, width = x.shape
        sequence = x.permute(0, 2, 3, 1).reshape(batch, 1, -1)  # (B, 1, N·C)
        kernel = self.weight.permute(0, 2, 1)  # (D, 1, C)
        out = F.conv1d(sequence, kernel, self.bias, stride=channels)  # (B, D, N)
        return out.unflatten(2, (height, width))  # (B, D, H, W)


class ScanConv1d(nn.Conv1d):
    """A 1-D convolution of odd kernel K along the scan of the positions, row- or column-wise.

    The scan puts the rows (or columns) one behind the other with K // 2 zeros between them, so
    that the end of one row doesn't touch the start of the next. It is executed as a 1×K (or K×1)
    convolution, which is the same sum.
    """

    def __init__(self, channels: int, out_channels: int, along: str, kernel_size: int = 3) -> None:
        super().__init__(channels, out_channels, kernel_size, padding=kernel_size // 2)
        if along not in ("rows", "columns"):
            raise ValueError(f"along is {along!r}; use 'rows' or 'columns'")
        self.along = along

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H, W)."""
        pad = self.kernel_size[0] // 2
        if self.along == "rows":
            return F.conv2d(x, self.weight[:, :, None, :], self.bias, padding=(0, pad))
        return F.conv2d(x, self.weight[:, :, :, None], self.bias, padding=(pad, 0))

    def forward_as_conv1d(self, x: Tensor) -> Tensor:
        """Compute the same literally: one Conv1d over the flattened, zero-separated scan."""
        pad = self.kernel_size[0] // 2
        lines = x if self.along == "rows" else x.transpose(2, 3)  # (B, C, lines, length)
        scan = F.pad(lines, (0, pad)).flatten(2)  # (B, C, lines·(length + pad))
        out = F.conv1d(scan, self.weight, self.bias, padding=pad)
        out = out.unflatten(2, (lines.shape[2], -1))[..., : lines.shape[3]]
        return out if self.along == "rows" else out.transpose(2, 3)  # (B, D, H, W)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each position: no statistics of the field of view."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        # channels_last memory makes both permutations free views; autocast would copy to float32,
        # but the sums are taken in float32 anyway
        with torch.autocast(x.device.type, enabled=False):
            # only a CPU takes weights of another type than what they weigh
            dtype = self.weight.dtype if x.device.type == "cpu" else x.dtype
            weight, bias = self.weight.to(dtype), self.bias.to(dtype)
            last = x.permute(0, 2, 3, 1)  # (B, H, W, C)
            out = F.layer_norm(last, self.normalized_shape, weight, bias, self.eps)
            return out.permute(0, 3, 1, 2)


class ScanBlock(nn.Module):
    """A residual block: along rows, then along columns, with full channel mixing in both.

    A condition, when there is one, enters as a scale and a shift of the channels between the two
    (FiLM; Perez et al., AAAI 2018).
    """

    def __init__(self, channels: int, condition_channels: int = 0, kernel_size: int = 3) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.rows = ScanConv1d(channels, channels, "rows", kernel_size)
        self.columns = ScanConv1d(channels, channels, "columns", kernel_size)
        self.film = nn.Linear(condition_channels, 2 * channels) if condition_channels else None
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), condition (B, condition_channels); returns the shape of x."""
        y = self.rows(self.norm(x))
        if self.film is not None and condition is not None:
            scale, shift = self.film(condition)[..., None, None].chunk(2, dim=1)  # (B, C, 1, 1)
            y = y * (1 + scale) + shift
        return x + self.columns(F.silu(y))

    def do_nothing(self) -> None:
        """Return x as it is, until training changes that."""
        nn.init.zeros_(self.columns.weight)
        assert self.columns.bias is not None
        nn.init.zeros_(self.columns.bias)


class Down(nn.Module):
    """Pixel-unshuffle, then a channel convolution: fewer positions, more channels.

    It is executed as one convolution of kernel = stride = factor, which is the same sum.
    """

    def __init__(self, channels: int, out_channels: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.mix = ChannelConv1d(channels * factor**2, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H / factor, W / factor)."""
        weight = self.mix.weight.unflatten(1, (-1, self.factor, self.factor))[..., 0]
        return F.conv2d(x, weight, self.mix.bias, stride=self.factor)

    def forward_as_conv1d(self, x: Tensor) -> Tensor:
        """Compute the same literally: pixel-unshuffle, then the channel convolution."""
        return self.mix.forward_as_conv1d(F.pixel_unshuffle(x, self.factor))

    def finer(self, times: int) -> dict[str, Tensor]:
        """Weights of `mix` for `times` finer pixels: it then sees the mean of each `times`²."""
        weight = self.mix.weight.unflatten(1, (-1, self.factor, self.factor))[..., 0]
        weight = weight.repeat_interleave(times, 2).repeat_interleave(times, 3) / times**2
        assert self.mix.bias is not None
        return {"weight": weight.flatten(1)[..., None].detach(), "bias": self.mix.bias.detach()}


class Up(nn.Module):
    """A channel convolution, then pixel-shuffle: more positions, fewer channels.

    It is executed as one transposed convolution of kernel = stride = factor, the same sum.
    """

    def __init__(self, channels: int, out_channels: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.mix = ChannelConv1d(channels, out_channels * factor**2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, factor · H, factor · W)."""
        weight = self.mix.weight[..., 0].t().unflatten(1, (-1, self.factor, self.factor))
        assert self.mix.bias is not None
        bias = self.mix.bias.unflatten(0, (-1, self.factor, self.factor))
        out = F.conv_transpose2d(x, weight, stride=self.factor)
        return out + bias.to(out.dtype).repeat(1, x.shape[2], x.shape[3])

    def means(self, x: Tensor) -> Tensor:
        """The mean of each block that `forward` makes of a position: (B, D, H, W)."""
        assert self.mix.bias is not None
        weight, bias = (
            values.unflatten(0, (-1, self.factor**2)).mean(1)
            for values in (self.mix.weight, self.mix.bias)
        )
        return F.conv2d(x, weight[..., None], bias)

    def forward_as_conv1d(self, x: Tensor) -> Tensor:
        """Compute the same literally: the channel convolution, then pixel-shuffle."""
        return F.pixel_shuffle(self.mix.forward_as_conv1d(x), self.factor)

    def finer(self, times: int) -> dict[str, Tensor]:
        """Weights of `mix` for `times` finer pixels: each `times`² of them get equal values."""

        def spread(values: Tensor) -> Tensor:
            blocks = values.unflatten(0, (-1, self.factor, self.factor))
            blocks = blocks.repeat_interleave(times, 1).repeat_interleave(times, 2)
            return blocks.flatten(0, 2).detach()

        assert self.mix.bias is not None
        return {"weight": spread(self.mix.weight), "bias": spread(self.mix.bias)}


def as_channels_last(x: Tensor) -> Tensor:
    """Return x in channels_last memory, where 1×K convolutions and channel norms are fastest."""
    return x.contiguous(memory_format=torch.channels_last)
