"""The baseline: MONAI's 2-D U-Net on the same slabs, one output channel a class.

Dimension key: B batch, S slices of a slab, C classes, H W pixels, P prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segone_napari.models.answers import Answers
from segone_napari.models.network import POSITION_CHANNELS
from segone_napari.runtime import BadInput


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the U-Net."""

    slices: int = 3
    """Slices of a slab."""
    channels: tuple[int, ...] = (16, 32, 64, 128, 192)
    """Channels of each level."""
    residual_units: int = 1
    """Residual units a level."""

    @property
    def stride(self) -> int:
        """Height and width of a slab must be multiples of this."""
        return int(2 ** (len(self.channels) - 1))


class UNetModel(nn.Module):
    """MONAI's 2-D U-Net; a prompt's answer is the output channel of its class."""

    def __init__(self, config: UNetConfig, class_names: Sequence[str]) -> None:
        # here, because importing MONAI takes longer than loading SegOne
        from monai.networks.nets.unet import UNet

        super().__init__()
        self.config = config
        self.slices, self.stride = config.slices, config.stride
        self.class_names = tuple(class_names)
        self.network = UNet(
            spatial_dims=2,
            in_channels=config.slices + POSITION_CHANNELS,
            out_channels=len(self.class_names),
            channels=config.channels,
            strides=(2,) * (len(config.channels) - 1),
            num_res_units=config.residual_units,
        )

    def features(self, slabs: Tensor) -> Tensor:
        """Logits of every class (B, C, H, W), from slabs (B, S + 3, H, W)."""
        return self.network(slabs)

    def overview(self, slabs: Tensor) -> Tensor:
        """The same: the U-Net has no quicker way."""
        return self.features(slabs)

    def answers(self, prompts: Sequence[str]) -> Answers:
        """Pick the output channels of P classes by their names."""
        unknown = [name for name in prompts if name not in self.class_names]
        if unknown:
            raise BadInput(f"the U-Net knows a fixed list of structures, and not {unknown[0]!r}")
        rows = [self.class_names.index(name) for name in prompts]
        device = next(self.network.parameters()).device
        vectors = torch.eye(len(self.class_names), device=device)[rows]  # (P, C)
        return Answers(vectors, torch.zeros(len(rows), device=device))
