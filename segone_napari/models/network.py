"""SegOne's network: an image encoder and a decoder that is the denoiser of a mask diffusion.

The encoder looks at a slab (a slice, its neighbours and the position of every pixel) once. The
decoder turns what it saw, a noisy mask x_t with its timestep, what is known of the mask, and the
embedding of a prompt into D features a pixel. A prompt's logit in a pixel is the product of the
features with the prompt's embedding. At t = T the mask is noise and says nothing: the decoder is
run without a mask and without a prompt, and the same features answer every prompt at once (the
text-aligned dense head). Every learned layer is a 1-D convolution or a linear map.

Follows OneNet (channel-wise 1-D convolutions after pixel-unshuffle instead of 2-D convolutions and
pooling), with scans along rows and columns added.

Dimension key: B batch, S slices of a slab, C channels, H W pixels, P prompts, D features a pixel,
E condition channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segone_napari.models.layers import ChannelConv1d, Down, ScanBlock, Up, as_channels_last

TextPlace = Literal["latent", "skips", "both", "none"]

POSITION_CHANNELS = 3
STATE_CHANNELS = 2  # x_t and what is known of the mask


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network. Checked when it is made."""

    slices: int = 3
    """Slices of a slab: the one to segment in the middle, its neighbours around it."""
    channels: tuple[int, ...] = (32, 64, 128, 192)
    """Channels of each level; each has half the positions of the one before in each direction."""
    stem: int = 2
    """Pixels that the first pixel-unshuffle takes together along each direction."""
    encoder_blocks: tuple[int, ...] = (2, 4, 4, 4)
    """Scan blocks of each level on the way down."""
    decoder_blocks: tuple[int, ...] = (4, 4, 4, 4)
    """Scan blocks of each level on the way up; the last of them is the latent."""
    detail_blocks: int = 1
    """Scan blocks on the pixels themselves, which see the slab again, at the end."""
    features: int = 32
    """D: features a pixel, and the size of a prompt's embedding."""
    condition: int = 64
    """E: channels of the timestep's and the prompt's condition."""
    scan: int = 3
    """Kernel size along rows and columns. With 1 positions meet by pixel-unshuffle only, as in
    OneNet."""
    text_in: TextPlace = "both"
    """Where a prompt conditions the denoiser: the latent, the skip levels, both or none."""

    def __post_init__(self) -> None:
        levels = len(self.channels)
        if not len(self.encoder_blocks) == len(self.decoder_blocks) == levels:
            raise ValueError("channels, encoder_blocks and decoder_blocks differ in length")
        if self.text_in not in ("latent", "skips", "both", "none"):
            raise ValueError(f"text_in is {self.text_in!r}; use latent, skips, both or none")

    @property
    def stride(self) -> int:
        """Height and width of a slab must be multiples of this."""
        return int(self.stem * 2 ** (len(self.channels) - 1))


class ImageFeatures(NamedTuple):
    """What the encoder saw.

    `skips[n]` is (B, channels[n], H / (stem · 2**n), W / (stem · 2**n)); `slab` is what it looked
    at, (B, S + 3, H, W).
    """

    skips: tuple[Tensor, ...]
    slab: Tensor

    def select(self, index: Tensor) -> ImageFeatures:
        """Return the features of some samples of the batch; index (B',)."""
        return ImageFeatures(tuple(skip[index] for skip in self.skips), self.slab[index])


class ImageEncoder(nn.Module):
    """A slab (B, S + 3, H, W) of slices and RAS positions to features at every level."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = (config.slices + POSITION_CHANNELS, *config.channels)
        factors = (config.stem, *(2 for _ in config.channels[1:]))
        self.downs = nn.ModuleList(
            Down(a, b, factor) for (a, b), factor in zip(pairwise(widths), factors, strict=True)
        )
        self.levels = nn.ModuleList(
            nn.ModuleList(ScanBlock(width, kernel_size=config.scan) for _ in range(count))
            for width, count in zip(config.channels, config.encoder_blocks, strict=True)
        )

    def forward(self, slab: Tensor) -> ImageFeatures:
        """Return the features of every level, the finest first."""
        skips, x = [], slab
        for down, blocks in zip(self.downs, self.levels, strict=True):
            x = down(x)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x)
            skips.append(x)
        return ImageFeatures(tuple(skips), slab)


class MaskDecoder(nn.Module):
    """The denoiser: features of the image, x_t, t, what is known and a prompt to pixel features."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        depth = len(config.channels)
        # the mask enters every level by a pixel-unshuffle of its own; zero weights at the start,
        # so that an untrained mask doesn't disturb the dense head
        self.states = nn.ModuleList(
            Down(STATE_CHANNELS, width, factor=config.stem * 2**level)
            for level, width in enumerate(config.channels)
        )
        for state in self.states:
            nn.init.zeros_(state.mix.weight)  # type: ignore[union-attr, arg-type]
            nn.init.zeros_(state.mix.bias)  # type: ignore[union-attr, arg-type]
        self.ups = nn.ModuleList(
            Up(config.channels[level + 1], config.channels[level]) for level in range(depth - 1)
        )
        self.fuses = nn.ModuleList(
            ChannelConv1d(2 * width, width) for width in config.channels[:-1]
        )
        self.levels = nn.ModuleList(
            nn.ModuleList(ScanBlock(width, config.condition, config.scan) for _ in range(count))
            for width, count in zip(config.channels, config.decoder_blocks, strict=True)
        )
        self.time = nn.Sequential(
            nn.Linear(config.condition, config.condition),
            nn.SiLU(),
            nn.Linear(config.condition, config.condition),
        )
        self.text = nn.Linear(config.features, config.condition)
        self.head = Up(config.channels[0], config.features, config.stem)
        width = config.features
        pixel_channels = width + config.slices + POSITION_CHANNELS + STATE_CHANNELS
        self.pixels = ChannelConv1d(pixel_channels, width) if config.detail_blocks else None
        self.details = nn.ModuleList(
            ScanBlock(width, config.condition, config.scan) for _ in range(config.detail_blocks)
        )
        self.detail = ChannelConv1d(width, width) if config.detail_blocks else None
        if self.detail is not None:
            nn.init.zeros_(self.detail.weight)
            assert self.detail.bias is not None
            nn.init.zeros_(self.detail.bias)

    def forward(
        self,
        seen: ImageFeatures,
        share: Tensor,
        state: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> Tensor:
        """Return pixel features (B, D, H, W).

        Parameters
        ----------
        seen : what the encoder made of B slabs.
        share : (B,) float, timestep t as a share of the last one: 1 is pure noise.
        state : (B, 2, H, W), x_t and what is known of the mask (-1 outside, 1 inside, 0 unknown);
            None at t = T with nothing known.
        prompt : (B, D) embeddings; None answers every prompt at once.
        """
        time = self.time(sinusoidal(share, self.config.condition))  # (B, E)
        coarse = self.head(self._levels(seen, time, state, prompt))  # (B, D, H, W)
        if self.pixels is None or self.detail is None:
            return coarse
        if state is None:
            state = torch.zeros_like(seen.slab[:, :STATE_CHANNELS])
        fine = self.pixels(torch.cat([coarse.float(), seen.slab, state], dim=1))
        for block in self.details:
            fine = block(fine, F.silu(time))
        return coarse + self.detail(fine)

    def overview(self, seen: ImageFeatures, share: Tensor) -> Tensor:
        """Mean features of every `stem`² pixels, (B, D, H / stem, W / stem), without detail."""
        time = self.time(sinusoidal(share, self.config.condition))  # (B, E)
        return self.head.means(self._levels(seen, time, None, None))

    def _levels(
        self, seen: ImageFeatures, time: Tensor, state: Tensor | None, prompt: Tensor | None
    ) -> Tensor:
        """Go up from the latent to the finest level."""
        text = None if prompt is None else self.text(prompt)  # (B, E)
        latent_level = len(self.config.channels) - 1
        x: Tensor | None = None
        for level in reversed(range(latent_level + 1)):
            skip = seen.skips[level]
            if x is None:
                x = skip
            else:
                x = self.fuses[level](torch.cat([self.ups[level](x).to(skip.dtype), skip], dim=1))
            if state is not None:
                x = x + self.states[level](state)
            condition = time
            if text is not None and self._text_enters(level == latent_level):
                condition = time + text
            for block in self.levels[level]:  # type: ignore[attr-defined]
                x = block(x, F.silu(condition))
        assert x is not None
        return x

    def _text_enters(self, is_latent: bool) -> bool:
        return self.config.text_in in ("both", "latent" if is_latent else "skips")


class SegOneNetwork(nn.Module):
    """The image encoder and the mask decoder."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config)
        self.decoder = MaskDecoder(config)

    def dense(self, slab: Tensor) -> Tensor:
        """Pixel features (B, D, H, W) that answer every prompt, from slabs (B, S + 3, H, W)."""
        return self.dense_from(self.encode(slab))

    def overview(self, slab: Tensor) -> Tensor:
        """As `dense`, of blocks of pixels, (B, D, H / stem, W / stem), roughly and quickly."""
        seen = self.encode(slab)
        return self.decoder.overview(seen, torch.ones(len(slab), device=slab.device))

    def encode(self, slab: Tensor) -> ImageFeatures:
        """Look at slabs (B, S + 3, H, W) once."""
        stride = self.config.stride
        if slab.shape[1] != self.config.slices + POSITION_CHANNELS:
            raise ValueError(f"a slab has {slab.shape[1]} channels; see NetworkConfig.slices")
        if slab.shape[2] % stride or slab.shape[3] % stride:
            raise ValueError(f"slab of {tuple(slab.shape[2:])} pixels; use multiples of {stride}")
        return self.encoder(as_channels_last(slab))

    def dense_from(self, seen: ImageFeatures) -> Tensor:
        """Pixel features (B, D, H, W) at t = T, without a mask and without a prompt."""
        skip = seen.skips[0]
        share = torch.ones(len(skip), device=skip.device)
        return self.decoder(seen, share)


def sinusoidal(share: Tensor, channels: int) -> Tensor:
    """Embed shares (B,) in [0, 1] as sines and cosines (B, channels) of growing frequency."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000), channels // 2, device=share.device))
    angles = share.float()[:, None] * frequencies  # (B, channels / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
