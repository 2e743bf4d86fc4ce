"""A head made of balls, and a system that finds them by brightness: answers without a model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.runtime import BadCheckpoint, Progress, no_progress
from segone_napari.systems import registry
from segone_napari.systems.base import EMPTY_BOX, Result
from segone_napari.volume import Grid, Volume

SHAPE = (48, 44, 40)
# Centre in mm from the middle of the head, radius in mm, brightness.
BALLS = {
    "left hippocampus": ((-12.0, -2.0, -4.0), 5.0, 100.0),
    "right hippocampus": ((12.0, -2.0, -4.0), 6.0, 100.0),
    "left amygdala": ((-10.0, 10.0, -4.0), 3.5, 150.0),
    "right amygdala": ((10.0, 10.0, -4.0), 3.0, 150.0),
}
# Brightness at which each structure is certain, and how far from it the certainty ends. The
# thalamus takes in half of the hippocampus's certainty, so that the two overlap.
BANDS = {"hippocampus": (100.0, 20.0), "amygdala": (150.0, 20.0), "thalamus": (92.0, 20.0)}


def head_affine(shape: tuple[int, int, int] = SHAPE, degrees: float = 0.0) -> NDArray[np.float64]:
    """The affine of a head with 1 mm voxels around the world's origin, turned about z."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return np.asarray(nib.affines.from_matvec(turn, -turn @ ((np.array(shape) - 1) / 2)))


def head(affine: NDArray[np.float64] | None = None) -> Volume:
    """A dim head with two hippocampi and two amygdalae."""
    affine = head_affine() if affine is None else affine
    world = nib.affines.apply_affine(affine, np.indices(SHAPE).reshape(3, -1).T)
    data = np.where(np.linalg.norm(world / (22.0, 20.0, 18.0), axis=1) < 1, 30.0, 0.0)
    for centre, radius, brightness in BALLS.values():
        data[np.linalg.norm(world - np.array(centre), axis=1) < radius] = brightness
    return Volume.from_affine(data.reshape(SHAPE).astype(np.float32), affine, "head.nii.gz")


def save_head(path: Path, affine: NDArray[np.float64] | None = None) -> Path:
    """Write `head` with nibabel."""
    volume = head(affine)
    nib.save(nib.Nifti1Image(volume.data, volume.affine), path)
    return path


@dataclass(frozen=True)
class EncodedHead:
    """What `ThresholdSystem.encode` gives back."""

    image: Volume

    @property
    def grid(self) -> Grid:
        return self.image.grid


@dataclass
class ThresholdSystem:
    """Finds what `BANDS` names by brightness, and its side by the affine.

    Attributes
    ----------
    seed : moves the probabilities a little, as sampling does.
    has_uncertainty : whether results carry one.
    step_s : how long each step of encoding takes.
    encoded : the images that were encoded, in order.
    """

    name: str = "threshold"
    checkpoint: str = "by-hand"
    seed: int = 0
    has_uncertainty: bool = True
    step_s: float = 0.0
    encoded: list[Volume] = field(default_factory=list)

    def encode(self, image: Volume, *, progress: Progress = no_progress) -> EncodedHead:
        for step in range(4):
            progress(step, 4)
            time.sleep(self.step_s)
        progress(4, 4)
        self.encoded.append(image)
        return EncodedHead(image)

    def segment(
        self, encoded: EncodedHead, prompts: Sequence[str], *, progress: Progress = no_progress
    ) -> list[Result]:
        results = []
        for number, prompt in enumerate(prompts):
            progress(number, len(prompts))
            results.append(self._answer(encoded.image, prompt))
        progress(len(prompts), len(prompts))
        return results

    def forget(self, image: Volume | None = None) -> None:
        """There is nothing to forget: all that is kept is in `EncodedHead`."""

    def preview(
        self,
        image: Volume,
        prompts: Sequence[str],
        axis: int,
        index: int,
        *,
        progress: Progress = no_progress,
    ) -> list[Result]:
        box = [slice(0, n) for n in image.grid.shape]
        box[axis] = slice(index, index + 1)
        return [self._answer(image, prompt, (box[0], box[1], box[2])) for prompt in prompts]

    def _answer(self, image: Volume, prompt: str, box: Any = None) -> Result:
        start = time.perf_counter()
        match = VOCABULARY.match(prompt)
        if match.term is None or match.term.name not in BANDS:
            return self._refused(image, prompt, match.term and match.term.canonical, match)
        whole = self._probability(image, match.term.name, match.term.side)
        box = box or _box_around(whole > 0.1)
        probability = whole[box].astype(np.float16)
        found = bool((probability > 0.5).any())
        doubt = (1 - np.abs(2 * probability - 1)).astype(np.float16)
        return Result(
            prompt,
            match.term.canonical,
            match.term.side,
            image.grid,
            box,
            probability,
            found,
            confidence=float(whole.max()),
            seconds=time.perf_counter() - start,
            uncertainty=doubt if self.has_uncertainty else None,
            colour=match.term.colour,
        )

    def _probability(self, image: Volume, name: str, side: str | None) -> NDArray[np.float64]:
        centre, width = BANDS[name]
        certainty = np.clip(1 - np.abs(image.data - centre) / width, 0, 1)
        noise = np.random.default_rng(self.seed).uniform(0, 0.05, image.data.shape)
        x = nib.affines.apply_affine(image.affine, np.indices(image.data.shape).reshape(3, -1).T)
        is_left = x[:, 0].reshape(image.data.shape) < 0
        here = {"left": is_left, "right": ~is_left}.get(side or "both", True)
        return np.where(here, certainty * (1 - noise), 0.0)

    def _refused(self, image: Volume, prompt: str, resolved: str | None, match: Any) -> Result:
        empty = np.zeros((0, 0, 0), dtype=np.float16)
        return Result(
            prompt,
            resolved,
            None,
            image.grid,
            EMPTY_BOX,
            empty,
            found=False,
            confidence=0.02,
            seconds=0.0,
            uncertainty=empty if self.has_uncertainty else None,
            suggestions=match.suggestions,
            warnings=(match.reason,) if match.reason else (),
        )


VOCABULARY = Vocabulary.load()


def put_in_registry(monkeypatch: pytest.MonkeyPatch, system: ThresholdSystem) -> None:
    """Let `system` answer in the place of every row of the systems' table."""

    def create(name: str, *, checkpoint: object, device: str, preset: str, seed: int) -> object:
        registry.check_name(name)
        if checkpoint is not None:
            raise BadCheckpoint(f"no checkpoint {checkpoint!r}; leave it out")
        system.seed = seed
        return system

    monkeypatch.setattr(registry, "create", create)


def _box_around(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    if not mask.any():
        return EMPTY_BOX
    i, j, k = (
        np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != n))) for n in range(3)
    )
    return slice(i[0], i[-1] + 1), slice(j[0], j[-1] + 1), slice(k[0], k[-1] + 1)
