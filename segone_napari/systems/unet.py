"""The baseline: MONAI's 2-D U-Net, trained on the same data, with a fixed list of structures."""

from pathlib import Path
from typing import Self

from segone_napari.models.checkpoint import resolve_checkpoint
from segone_napari.runtime import BadCheckpoint
from segone_napari.systems.sliced import SlicedSystem


class UNet(SlicedSystem):
    """Answers prompts that name one of its output channels, or several of them."""

    @classmethod
    def create(cls, checkpoint: str | Path | None, device: str, preset: str, seed: int) -> Self:
        """Load a checkpoint; there is no bundled one: train it with ``segone train``.

        Nothing is drawn: the seed has no effect.
        """
        if checkpoint is None:
            raise BadCheckpoint(
                "the U-Net comes without weights; train it with 'segone train LABEL_MAPS "
                "--system unet --run DIR' and give --checkpoint DIR/checkpoint"
            )
        folder = resolve_checkpoint(checkpoint, "unet")
        return cls.from_checkpoint("unet", folder, device=device, preset=preset)
