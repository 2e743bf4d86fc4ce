"""What corrections taught: a small network of 1-D convolutions for the terms of one lesson.

A *lesson* is the terms that were corrected on the same images. Its network looks at slices as fine
as the corrected images, at what the base model says there, at where they lie, and at the nearest
slices that a person corrected in the same image. The base model stays as it is, so that it can't
forget. Knows nothing of volumes or projects.

Dimension key: B batch, T terms of the lesson, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segone_napari.models.layers import ChannelConv1d, Down, ScanBlock, Up, as_channels_last

POSITION_CHANNELS = 3
REFERENCE_CHANNELS = 2  # of each term: the outline that is expected, how near it was drawn
OUTLINE_GAIN = 10.0  # a pixel beside an outline that was drawn nearby counts about 1


@dataclass(frozen=True)
class LessonConfig:
    """What a lesson is about, and the sizes of its network. Checked when it is made."""

    terms: tuple[str, ...]
    """Canonical names, one for each of the network's T answers."""
    is_known: tuple[bool, ...]
    """Of each term: whether the base model knows it, so that only a change is learnt."""
    context: tuple[str, ...]
    """Classes whose probability, from the base model, the network is told."""
    planes: tuple[str, ...]
    """Planes in which slices were corrected, and in which it looks."""
    pixel_mm: float
    """Distance of pixels and of slices in mm, about that of the corrected images."""
    in_head: bool
    """Whether positions count from the cerebrum's centre; if not, from the image's."""
    box_mm: tuple[tuple[float, float], ...]
    """First and last place along x, y, z from that centre where the terms are looked for."""
    patients: int = 1
    """How many patients' images were corrected."""
    is_mirrored: bool = True
    """Whether slices are learnt from, and looked at, turned over as well."""
    neighbours: int = 2
    """How many slices on each side of a slice are looked at with it."""
    channels: tuple[int, ...] = (24, 48, 64)
    """Channels of each level; each has half the positions of the one before in each direction."""
    members: int = 1
    """How many networks, that began differently, answer together: few slices leave much open, and
    what one network makes of that is luck."""

    def __post_init__(self) -> None:
        if not self.terms or len(self.terms) != len(self.is_known) or not self.planes:
            raise ValueError("a lesson needs terms, whether each is known, and planes")
        if not 0.05 <= self.pixel_mm <= 20 or len(self.box_mm) != 3:
            raise ValueError(f"pixels of {self.pixel_mm} mm in a box of {self.box_mm}")
        if not 1 <= self.members <= 16:
            raise ValueError(f"{self.members} networks")

    @property
    def inputs(self) -> int:
        """Channels of what the network is shown."""
        slices = 2 * self.neighbours + 1
        references = REFERENCE_CHANNELS * len(self.terms)
        return slices + POSITION_CHANNELS + len(self.context) + references

    def is_general(self, term: str) -> bool:
        """Whether a term's lesson holds on images without corrections of it.

        What one patient's image taught about a structure that the base model knows may be wrong
        on another's: there the base model goes on to answer.
        """
        return not self.is_known[self.terms.index(term)] or self.patients >= GENERAL_FROM


GENERAL_FROM = 3
"""From so many patients on, a lesson on a known structure counts on every image."""


class LessonNetwork(nn.Module):
    """Some row/column U-Nets that learn apart, and the mean of what they answer."""

    def __init__(self, config: LessonConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(LessonMember(config) for _ in range(config.members))

    def forward(self, inputs: Tensor, base: Tensor) -> Tensor:
        """The mean of the members' logits (B, T, H, W)."""
        return torch.stack([member(inputs, base) for member in self.members]).mean(0)


class LessonMember(nn.Module):
    """A row/column U-Net that answers all terms of a lesson in every pixel."""

    def __init__(self, config: LessonConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        self.inner = ChannelConv1d(config.inputs, widths[0])
        self.first = ScanBlock(widths[0])
        self.downs = nn.ModuleList(Down(a, b) for a, b in pairwise(widths))
        self.encoders = nn.ModuleList(ScanBlock(width) for width in widths[1:])
        self.ups = nn.ModuleList(Up(b, a) for a, b in pairwise(widths))
        self.fuses = nn.ModuleList(ChannelConv1d(2 * width, width) for width in widths[:-1])
        self.decoders = nn.ModuleList(ScanBlock(width) for width in widths[:-1])
        self.out = ChannelConv1d(widths[0], len(config.terms))
        known = torch.tensor([float(known) for known in config.is_known])
        # how much of the base model's own answer counts, where it has one
        self.trust = nn.Parameter(known)
        # how much of an expected outline counts, where slices were drawn
        self.gain = nn.Parameter(torch.full_like(known, OUTLINE_GAIN))
        # what is said where neither says anything
        self.floor = nn.Parameter(2 * known - 2)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, inputs: Tensor, base: Tensor) -> Tensor:
        """Logits (B, T, H, W).

        An untrained network answers as the base does; where slices were drawn, with the expected
        outline; and nothing where there is neither.

        Parameters
        ----------
        inputs : (B, `LessonConfig.inputs`, H, W).
        base : (B, T, H, W) the base model's logits; those of new terms don't count.
        """
        height, width = inputs.shape[-2:]
        block = 2 ** len(self.downs)
        x = as_channels_last(F.pad(inputs, (0, -width % block, 0, -height % block)))
        x = self.first(self.inner(x))
        skips = [x]
        for down, encoder in zip(self.downs, self.encoders, strict=True):
            x = encoder(down(x))
            skips.append(x)
        for level in reversed(range(len(self.ups))):
            x = self.fuses[level](torch.cat([skips[level], self.ups[level](x)], 1))
            x = self.decoders[level](x)
        known = torch.tensor(self.config.is_known, device=base.device)[:, None, None]
        own = self.trust[:, None, None] * base * known
        return self.out(x)[..., :height, :width] + own + self._expected(inputs)  # (B, T, H, W)

    def _expected(self, inputs: Tensor) -> Tensor:
        """What the drawn slices alone say (B, T, H, W): the outline, the more the nearer."""
        count = REFERENCE_CHANNELS * len(self.config.terms)
        outline, near = inputs[:, -count:].unflatten(1, (-1, REFERENCE_CHANNELS)).unbind(2)
        drawn = self.gain[:, None, None] * outline * near
        return torch.where(near > 0, drawn, self.floor[:, None, None])


class Lesson(NamedTuple):
    """A lesson as a checkpoint holds it. `network` is in evaluation mode."""

    config: LessonConfig
    network: LessonNetwork
