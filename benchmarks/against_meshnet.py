"""SegOne beside MeshNet, a published T1 network, on the same scans in one run.

    python benchmarks/against_meshnet.py DATA MESHNET [--presets fast balanced best]

DATA holds ``validation/``, MESHNET the files of brainchop's MeshNet "subcortical + GWM", 18 classes
(``model.json``, ``model.bin``, ``colormap.json``; MIT licence). It doesn't tell left from right, so
that both sides are one structure here. Every system works on one scan in a process of its own, on
the CPU. Prints Dice, the seconds with the model loaded, and the peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import SCANS, data_with
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.ndimage import affine_transform
from torch import nn

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.session import Session
from segone_napari.volume import Volume

T1_SCANS = ("stripped_t1_a", "stripped_t1_b", "wholehead_t1")
STRUCTURES = {
    "Cerebral-White-Matter": "cerebral white matter",
    "Cerebral-Cortex": "cerebral cortex",
    "Lateral-Ventricle": "lateral ventricle",
    "Inferior-Lateral-Ventricle": "inferior lateral ventricle",
    "Cerebellum-White-Matter": "cerebellar white matter",
    "Cerebellum-Cortex": "cerebellar cortex",
    "Thalamus": "thalamus",
    "Caudate": "caudate",
    "Putamen": "putamen",
    "Pallidum": "pallidum",
    "3rd-Ventricle": "third ventricle",
    "4th-Ventricle": "fourth ventricle",
    "Brain-Stem": "brainstem",
    "Hippocampus": "hippocampus",
    "Amygdala": "amygdala",
    "Accumbens-area": "accumbens",
    "VentralDC": "ventral diencephalon",
}
"""MeshNet's names and the vocabulary's."""
GRID = 256


def main() -> None:
    """Run every system on every scan and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=data_with("validation"))
    parser.add_argument("meshnet", type=Path)
    parser.add_argument("--presets", nargs="*", default=["fast", "balanced", "best"])
    parser.add_argument("--scans", nargs="*", default=list(T1_SCANS))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, args.data, args.meshnet)))
        return
    console = Console(width=110)
    for scan in args.scans:
        figures = {name: _in_own_process(name, scan, args) for name in ("meshnet", *args.presets)}
        console.print(_table(scan, figures))


def measure(system: str, scan: str, data: Path, meshnet: Path) -> dict[str, float]:
    """Run one system, ``meshnet`` or a preset of SegOne, on one scan in this process."""
    vocabulary = Vocabulary.load()
    image, classes = SCANS[scan](data / "validation" / scan, vocabulary)
    if system == "meshnet":
        network, names = load_meshnet(meshnet)
        started = time.perf_counter()
        found = run_meshnet(network, image)
        seconds = time.perf_counter() - started
        masks = {STRUCTURES[n]: found == i for i, n in enumerate(names) if n in STRUCTURES}
    else:
        session = Session(preset=system, device="cpu")
        assert session.system  # load it before the clock starts
        started = time.perf_counter()
        results = session.segment(image, list(STRUCTURES.values()))
        seconds = time.perf_counter() - started
        masks = {r.prompt: r.mask.data.astype(bool) for r in results}
    dice = {}
    for name, mask in masks.items():
        term = vocabulary.match(name).term
        assert term is not None
        truth = np.isin(classes, [vocabulary.class_names.index(c) for c in term.classes])
        if truth.any():
            dice[name] = float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return dice | {"mean": float(np.mean(list(dice.values()))), "s": seconds, "GB": peak_gb}


def load_meshnet(folder: Path) -> tuple[nn.Sequential, list[str]]:
    """Rebuild the network from its TensorFlow.js files; return it and the names of its classes."""
    model = json.loads((folder / "model.json").read_text())
    configs = [
        layer["config"]
        for layer in model["modelTopology"]["model_config"]["config"]["layers"]
        if layer["class_name"] in ("Conv3D", "Activation")
    ]
    weights = np.fromfile(folder / "model.bin", dtype="<f4")
    layers: list[nn.Module] = []
    channels = 1
    for config in configs:
        if "filters" not in config:
            layers.append({"elu": nn.ELU, "relu": nn.ReLU}[config["activation"]](inplace=True))
            continue
        kernel, out = tuple(config["kernel_size"]), config["filters"]
        dilation = tuple(config["dilation_rate"])
        conv = nn.Conv3d(channels, out, kernel, padding="same", dilation=dilation)
        size = int(np.prod(kernel)) * channels * out
        taken, bias, weights = weights[:size], weights[size : size + out], weights[size + out :]
        shaped = torch.from_numpy(taken.reshape(*kernel, channels, out).copy())
        conv.weight.data = shaped.permute(4, 3, 0, 1, 2).contiguous()
        conv.bias.data = torch.from_numpy(bias.copy())
        layers.append(conv)
        channels = out
    assert weights.size == 0, "model.bin holds more than model.json names"
    return nn.Sequential(*layers).eval(), json.loads((folder / "colormap.json").read_text())[
        "labels"
    ]


@torch.inference_mode()
def run_meshnet(network: nn.Sequential, image: Volume) -> NDArray[np.uint8]:
    """Classes (i, j, k) on the image's own grid."""
    # 1. 256³ voxels of 1 mm, axes L-I-A, around the middle of the image.
    to_world = np.array([[-1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    middle = image.affine @ np.array([*(np.array(image.grid.shape) - 1) / 2, 1])
    half = np.full(3, (GRID - 1) / 2)
    to_world[:3, 3] = middle[:3] - to_world[:3, :3] @ half
    head = affine_transform(
        image.data.astype(np.float32),
        np.linalg.inv(image.affine) @ to_world,
        output_shape=(GRID,) * 3,
        order=1,
    )
    # 2. Brightness from 0 to the 99.9th percentile.
    head = np.clip(head / np.percentile(head[head > 0], 99.9), 0, 1)
    classes = network(torch.from_numpy(head)[None, None])[0].argmax(0).to(torch.uint8).numpy()
    # 3. Back by the nearest voxel.
    back: NDArray[np.uint8] = affine_transform(
        classes, np.linalg.inv(to_world) @ image.affine, output_shape=image.grid.shape, order=0
    )
    return back


def _in_own_process(system: str, scan: str, args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, str(args.data), str(args.meshnet)]
    command += ["--measure", system, scan]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, Any] = json.loads(output.splitlines()[-1])
    return figures


def _table(scan: str, figures: dict[str, dict[str, float]]) -> Table:
    table = Table(title=f"{scan}, sides merged")
    table.add_column("Dice")
    for system in figures:
        table.add_column(system, justify="right")
    rows = dict.fromkeys(row for column in figures.values() for row in column)
    for row in rows:
        cells = [f"{c[row]:.3f}" if row in c else "-" for c in figures.values()]
        table.add_row(row, *cells)
    seconds = [f["s"] for f in figures.values()]
    table.add_row("times faster", *(f"{seconds[0] / s:.1f}" for s in seconds))
    return table


if __name__ == "__main__":
    main()
