"""Heads a few centimetres wide and networks a few channels wide, to train in seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partialmethod
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from segone_napari.data.synthetic import SyntheticConfig
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.models.checkpoint import Manifest, save_checkpoint
from segone_napari.models.network import NetworkConfig
from segone_napari.models.segone import SegOneModel
from segone_napari.models.text import TextConfig, TextTower
from segone_napari.models.unet import UNetConfig
from segone_napari.training import base
from segone_napari.training.base import TrainConfig
from segone_napari.volume import Volume

SHAPE = (40, 48, 36)
SKIN = 502
# FreeSurfer value of each structure: centre in mm from the head's middle (RAS), radius in mm.
# The left hippocampus is the larger one.
BALLS = {17: ((-8.0, 2.0, -1.0), 5.5), 53: ((8.0, 2.0, -1.0), 4.0), 16: ((0.0, -10.0, -4.0), 4.5)}
BRIGHTNESS = {2: 86.0, 41: 86.0, SKIN: 40.0, 17: 55.0, 53: 55.0, 16: 78.0}
LEFT, RIGHT = "left hippocampus", "right hippocampus"


def labels(grow: float = 1.0) -> NDArray[np.int16]:
    """FreeSurfer values (x, y, z), RAS, 1 mm: white matter, two hippocampi, a brainstem, skin."""
    x, y, z = np.indices(SHAPE) - (np.array(SHAPE)[:, None, None, None] - 1) / 2
    distance = np.sqrt((x / 17) ** 2 + (y / 21) ** 2 + (z / 15) ** 2)
    out = np.where(distance < 1.1, SKIN, 0)
    out[distance < 0.95] = np.where(x < 0, 2, 41)[distance < 0.95]
    for value, ((i, j, k), radius) in BALLS.items():
        out[np.sqrt((x - i) ** 2 + (y - j) ** 2 + (z - k) ** 2) < radius * grow] = value
    return out.astype(np.int16)


def head() -> Volume:
    """What a scanner might see of `labels`."""
    values = labels()
    picture = np.zeros(SHAPE)
    for value, brightness in BRIGHTNESS.items():
        picture[values == value] = brightness
    picture += np.random.default_rng(0).normal(0, 3, SHAPE) * (picture > 0)
    return Volume.from_affine(picture.clip(0).astype(np.float32), centred_affine(), "tiny head")


def centred_affine() -> NDArray[np.float64]:
    """RAS, 1 mm, the middle of the head at the world's origin."""
    return np.asarray(nib.affines.from_matvec(np.eye(3), -(np.array(SHAPE) - 1) / 2))


def write_label_maps(folder: Path, count: int = 3) -> Path:
    """Write label maps of heads that differ a little; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = nib.Nifti1Image(labels(1 + 0.05 * number), centred_affine())
        nib.save(image, folder / f"head_{number}.nii.gz")
    return folder


def small_vocabulary() -> Vocabulary:
    """The structures of the tiny head, and one that it doesn't have: the thalamus."""
    document = json.loads((files("segone_napari.data") / "vocabulary.json").read_text("utf-8"))
    kept = ("cerebral white matter", "hippocampus", "brainstem", "thalamus")
    document["structures"] = [s for s in document["structures"] if s["name"] in kept]
    document["groups"] = []
    return Vocabulary(document)


SYNTHETIC = SyntheticConfig(
    tumour_share=0.0,
    planes=("axial", "axial", "coronal"),
    height=32,
    pixel_mm=1.0,
    width=48,
    rotation_deg=5.0,
    scaling=0.05,
    shear=0.02,
    elastic_mm=0.5,
    shift_mm=3.0,
    central_mm=5.0,
    position_jitter_mm=1.0,
    t1_share=1.0,
    thick_share=0.1,
)
NETWORK = NetworkConfig(
    channels=(8, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1), features=8, condition=8
)
TEXT = TextConfig(projection_dim=16, hidden=16, layers=1, heads=2, vocab_size=600)
TRAINING = TrainConfig(
    steps=12,
    batch=2,
    warmup_steps=3,
    ema_steps=4,
    diffusion_share=0.5,
    validation_maps=1,
    network=NETWORK,
    text=TEXT,
    unet=UNetConfig(channels=(4, 8)),
    synthetic=SYNTHETIC,
)

LEARNS = {
    "segone": replace(
        TRAINING,
        steps=300,
        batch=4,
        learning_rate=5e-3,
        ema_steps=10,
        diffusion_share=0.25,
        network=replace(NETWORK, channels=(32, 48), features=16),
        text=replace(TEXT, hidden=32),
    ),
    "unet": replace(
        TRAINING,
        system="unet",
        steps=150,
        batch=4,
        learning_rate=1e-2,
        ema_steps=10,
        unet=UNetConfig(channels=(8, 16, 32)),
    ),
}
"""Training, by name of a system, after which it finds the hippocampi of the tiny head."""


def save_untrained(folder: Path) -> Path:
    """Write a SegOne that has learnt nothing, of `small_vocabulary`; returns the folder."""
    vocabulary = small_vocabulary()
    names = [phrase for name in vocabulary.class_names for phrase in vocabulary.phrases(name)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = SegOneModel(NETWORK, TextTower.create(TEXT, names, seed=1)).eval()
    manifest = Manifest("segone", training={"config": {"synthetic": asdict(SYNTHETIC)}})
    save_checkpoint(model, vocabulary, manifest, folder)
    return folder


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: in networks as small as these, threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train(maps: Path, run: Path, config: TrainConfig, name_steps: int = 30, **options: Any) -> Path:
    """`base.train` with `small_vocabulary` on one thread; names are learnt in a few steps."""

    def load(path: Path | None = None) -> Vocabulary:
        return small_vocabulary() if path is None else Vocabulary.load(path)

    vocabulary = mock.patch.object(base, "Vocabulary", SimpleNamespace(load=load))
    few_steps = partialmethod(SegOneModel.learn_names, steps=name_steps)
    names = mock.patch.object(SegOneModel, "learn_names", few_steps)
    with one_thread(), vocabulary, names:
        return base.train(maps, run, config, **options)
