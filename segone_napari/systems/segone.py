"""SegOne, the text-conditioned mask diffusion made of 1-D convolutions."""

from pathlib import Path

from segone_napari.models.checkpoint import load_checkpoint, resolve_checkpoint
from segone_napari.models.segone import SegOneModel
from segone_napari.runtime import BadCheckpoint, choose_device
from segone_napari.systems.sliced import SlicedSystem


class SegOne(SlicedSystem):
    """Answers prompts with SegOne's first denoising step, the text-aligned dense head."""

    @classmethod
    def create(cls, checkpoint: str | Path | None, device: str, preset: str, seed: int) -> "SegOne":
        """Load a checkpoint; None is the bundled one."""
        folder = resolve_checkpoint(checkpoint, "segone")
        model, vocabulary, manifest = load_checkpoint(folder)
        if not isinstance(model, SegOneModel):
            raise BadCheckpoint(f"{folder} is a checkpoint of {manifest.system}, not of segone")
        place = choose_device(device)
        return cls(
            "segone", folder.name, model.to(place), vocabulary,
            device=place, preset=preset, seed=seed,
        )  # fmt: skip
