"""Time and memory on a head of 256 × 256 × 180 voxels, the bundled T1 cut to that size.

    python benchmarks/speed.py [--presets fast balanced best] [--device auto] [--checkpoint DIR]
                               [--finer 2]

Prints, for each preset: loading the model, encoding the image with the first prompt, a further
prompt, all structures that exist left and right, and the peak memory of the whole process. Each
preset runs in a process of its own. Timings of one machine are only comparable within one run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

ROWS = (
    ("load the model", "load_s", "{:.2f} s"),
    ("first prompt", "first_s", "{:.2f} s"),
    ("a further prompt", "further_s", "{:.3f} s"),
    ("a further prompt, as a share of the first", "share", "{:.1%}"),
    ("all left/right structures after that", "all_s", "{:.1f} s"),
    ("number of those", "prompts", "{:.0f}"),
    ("peak memory", "peak_gb", "{:.2f} GB"),
)


def main() -> None:
    """Measure every preset and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="*", default=["fast", "balanced", "best"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--checkpoint")
    parser.add_argument(
        "--finer",
        type=float,
        default=1.0,
        help="interpolate the head to voxels so many times finer (default: %(default)s)",
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.device, args.checkpoint, args.finer)))
        return
    figures = {preset: _in_own_process(preset, args) for preset in args.presets}
    shape = " × ".join(str(round(args.finer * n)) for n in (256, 256, 180))
    table = Table(title=f"{shape}, {1 / args.finer:.3g} mm")
    table.add_column("")
    for preset in figures:
        table.add_column(preset, justify="right")
    for words, key, form in ROWS:
        table.add_row(words, *(form.format(f[key]) for f in figures.values()))
    Console().print(table)


def measure(
    preset: str, device: str, checkpoint: str | None, finer: float = 1.0
) -> dict[str, float]:
    """Run one preset in this process."""
    from scipy import ndimage

    from segone_napari.data import formats
    from segone_napari.data.samples import SAMPLES
    from segone_napari.data.vocabulary import Vocabulary
    from segone_napari.session import Session
    from segone_napari.volume import Volume

    whole = formats.read(SAMPLES["t1"].image_path)
    data, affine = whole.data[:, :, 38:218].copy(), whole.affine.copy()
    if finer != 1:
        data = ndimage.zoom(data, finer, order=1)
        affine[:3, :3] /= finer
    image = Volume.from_affine(data, affine, "a head")
    del whole, data
    classes = Vocabulary.load().class_names
    prompts = [name for name in classes if name.startswith(("left ", "right "))]

    started = time.perf_counter()
    session = Session(preset=preset, device=device, checkpoint=checkpoint)
    assert session.system
    loaded = time.perf_counter()
    session.segment(image, ["left hippocampus"])
    first = time.perf_counter()
    for prompt in ("right hippocampus", "left thalamus", "brainstem"):
        session.segment(image, [prompt])
    further = time.perf_counter()
    session.segment(image, prompts)
    done = time.perf_counter()
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "load_s": loaded - started,
        "first_s": first - loaded,
        "further_s": (further - first) / 3,
        "share": (further - first) / 3 / (first - loaded),
        "all_s": done - further,
        "prompts": len(prompts),
        "peak_gb": kilobytes / 2**20,
    }


def _in_own_process(preset: str, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", preset, "--device", args.device]
    command += ["--finer", str(args.finer)]
    if args.checkpoint:
        command += ["--checkpoint", args.checkpoint]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
