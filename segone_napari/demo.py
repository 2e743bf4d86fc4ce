"""``segone demo``: the main job on the bundled head, compared with its bundled reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from segone_napari import montage
from segone_napari.data import formats
from segone_napari.data.samples import SAMPLES
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.evaluation.metrics import dice_by_prompt
from segone_napari.evaluation.reference import reference_classes
from segone_napari.runtime import BadInput, Progress, make_folder, no_progress
from segone_napari.session import Outputs, Session, label_map, write_outputs
from segone_napari.systems.base import Result
from segone_napari.volume import Volume

SAMPLE = SAMPLES["t1"]

PROMPTS = (
    *("left hippocampus", "right hippocampus", "left amygdala", "right amygdala"),
    *("left thalamus", "right thalamus", "left caudate nucleus", "right caudate nucleus"),
    *("left putamen", "right putamen", "left globus pallidus", "right globus pallidus"),
    *("left accumbens", "right accumbens", "left ventral DC", "right ventral DC"),
    *("left lateral ventricle", "right lateral ventricle"),
    *("third ventricle", "fourth ventricle", "brain stem"),
    *("left cerebral cortex", "right cerebral cortex"),
    *("left cerebral white matter", "right cerebral white matter"),
    *("left cerebellar cortex", "right cerebellar cortex"),
    *("left cerebellar white matter", "right cerebellar white matter"),
    "liver",
)
"""What is asked for. No head shows the last one, and it must be refused."""

FILES = ("labels.nii.gz", "labels.tsv", "table.json", "montage.png")


@dataclass(frozen=True, eq=False)
class Demo:
    """What the demo came to.

    Attributes
    ----------
    image_path : the sample.
    results : one a prompt.
    checkpoint : the weights that made them.
    dice : by prompt, for those that the reference has.
    written : the files.
    """

    image_path: Path
    results: Sequence[Result]
    checkpoint: str
    dice: dict[str, float]
    written: Sequence[Path]

    @property
    def mean_dice(self) -> float:
        """Mean over the prompts that the reference has."""
        return float(np.mean(list(self.dice.values())))


def run(
    folder: Path,
    *,
    session: Session | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> Demo:
    """Segment the sample, compare, and write label map, table and montage into `folder`.

    Files of an earlier demo are overwritten; a folder that holds others is refused unless
    `force` is set.

    Raises
    ------
    BadInput
        If the folder can't be used, or the installation came without the sample.
    """
    _prepare(folder, force=force)
    outputs = Outputs(label_map=folder / "labels.nii.gz", table=folder / "table.json", force=True)
    outputs.check()
    session = session or Session()
    image = formats.read(SAMPLE.image_path)
    results = session.segment(image, PROMPTS, progress=progress)
    vocabulary = Vocabulary.packaged()
    classes = reference_classes(formats.read(SAMPLE.truth_path), vocabulary, SAMPLE.truth_labels)
    dice = dice_by_prompt(results, classes, vocabulary)
    system = session.system
    written = write_outputs(
        results,
        outputs,
        image=str(SAMPLE.image_path),
        system=system.name,
        checkpoint=system.checkpoint,
    )
    written.append(_write_montage(folder / "montage.png", image, results, dice))
    return Demo(SAMPLE.image_path, results, system.checkpoint, dice, written)


def _prepare(folder: Path, *, force: bool) -> None:
    """Make the folder, after making sure that it isn't someone's own."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; choose another with --out")
    if folder.is_dir() and not force:
        others = sorted(p.name for p in folder.iterdir() if p.name not in FILES)
        if others:
            raise BadInput(
                f"{folder} holds other files ({others[0]}); choose another folder with --out, "
                "or use --force to write there all the same"
            )
    make_folder(folder, "--out")


def _write_montage(
    path: Path, image: Volume, results: Sequence[Result], dice: dict[str, float]
) -> Path:
    remarks = [f"Dice {dice[r.prompt]:.2f}" if r.prompt in dice else "" for r in results]
    picture = montage.draw(
        image, label_map(results), results, title=f"SegOne · {SAMPLE.title}", remarks=remarks
    )

    def save(stream: BinaryIO) -> None:
        picture.save(stream, format="PNG", optimize=True)

    return formats.write_atomically(path, save, force=True)
