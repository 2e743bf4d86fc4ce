"""SegOne, the text-conditioned mask diffusion made of 1-D convolutions."""

from pathlib import Path
from typing import Self

from segone_napari.models.checkpoint import resolve_checkpoint
from segone_napari.systems.taught import TaughtSystem


class SegOne(TaughtSystem):
    """Answers prompts with SegOne's first denoising step, the text-aligned dense head."""

    @classmethod
    def create(cls, checkpoint: str | Path | None, device: str, preset: str, seed: int) -> Self:
        """Load a checkpoint; None is the bundled one. Nothing is drawn: the seed has no effect."""
        folder = resolve_checkpoint(checkpoint, "segone")
        return cls.from_checkpoint("segone", folder, device=device, preset=preset)
