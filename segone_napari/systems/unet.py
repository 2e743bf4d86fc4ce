"""The baseline: MONAI's 2-D U-Net, trained on the same data, with a fixed list of structures."""

from pathlib import Path

from segone_napari.models.checkpoint import load_checkpoint, resolve_checkpoint
from segone_napari.models.unet import UNetModel
from segone_napari.runtime import BadCheckpoint, choose_device
from segone_napari.systems.sliced import SlicedSystem


class UNet(SlicedSystem):
    """Answers prompts that name one of its output channels, or several of them."""

    @classmethod
    def create(cls, checkpoint: str | Path | None, device: str, preset: str, seed: int) -> "UNet":
        """Load a checkpoint; there is no bundled one: train it with ``segone train``."""
        if checkpoint is None:
            raise BadCheckpoint(
                "the U-Net comes without weights; train it with 'segone train LABEL_MAPS "
                "--system unet --run DIR' and give --checkpoint DIR/checkpoint"
            )
        folder = resolve_checkpoint(checkpoint, "unet")
        model, vocabulary, manifest = load_checkpoint(folder)
        if not isinstance(model, UNetModel):
            raise BadCheckpoint(f"{folder} is a checkpoint of {manifest.system}, not of unet")
        place = choose_device(device)
        return cls(
            "unet", folder.name, model.to(place), vocabulary,
            device=place, preset=preset, seed=seed,
        )  # fmt: skip
