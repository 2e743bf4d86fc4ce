"""``segone demo``: the main job on the bundled head, compared with its bundled reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from segone_napari import montage
from segone_napari.data import formats
from segone_napari.data.samples import SAMPLES
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.runtime import BadInput, Progress, no_progress
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
    dice : by prompt, for those that the reference has.
    written : the files.
    """

    image_path: Path
    results: Sequence[Result]
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
    dice = _dice_of(results, formats.read(SAMPLE.truth_path))
    system = session.system
    written = write_outputs(
        results,
        outputs,
        image=str(SAMPLE.image_path),
        system=system.name,
        checkpoint=system.checkpoint,
    )
    written.append(_write_montage(folder / "montage.png", image, results, dice))
    return Demo(SAMPLE.image_path, results, dice, written)


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"can't make the folder {folder}: {error.strerror}; choose another with --out"
        ) from error


def _dice_of(results: Sequence[Result], truth: Volume) -> dict[str, float]:
    """Compare each mask with the reference, which lies on the same grid."""
    vocabulary = Vocabulary.load()
    classes = _classes(truth, vocabulary)
    voxels = np.bincount(classes.ravel(), minlength=len(vocabulary.class_names))
    dice: dict[str, float] = {}
    for result in results:
        term = vocabulary.match(result.prompt).term
        if term is None:
            continue
        wanted = [vocabulary.class_names.index(name) for name in term.classes]
        if voxels[wanted].any():
            mask = (result.probability > 0.5) & result.found
            overlap = np.count_nonzero(np.isin(classes[result.box][mask], wanted))
            total = np.count_nonzero(mask) + voxels[wanted].sum()
            dice[result.prompt] = float(2.0 * overlap / total)
    return dice


def _classes(truth: Volume, vocabulary: Vocabulary) -> NDArray[np.uint8]:
    """Turn FreeSurfer's label values into indices of the vocabulary's classes."""
    index = {name: number for number, name in enumerate(vocabulary.class_names)}
    table = np.zeros(int(truth.data.max()) + 1, dtype=np.uint8)
    for value, name in vocabulary.labels.items():
        if value < len(table):
            table[value] = index[name]
    classes: NDArray[np.uint8] = table[truth.data]
    # Some values, such as the corpus callosum's, hold both sides: the midline tells them apart.
    for name in sorted(set(vocabulary.split_labels.values())):
        values = [value for value, of in vocabulary.split_labels.items() if of == name]
        where = np.argwhere(np.isin(truth.data, values))
        if len(where):
            pair = index[f"left {name}"], index[f"right {name}"]
            is_left = _x_mm(where, truth) < _midline_mm(classes, pair, truth)
            classes[tuple(where.T)] = np.where(is_left, *pair)
    return classes


def _midline_mm(classes: NDArray[np.uint8], pair: tuple[int, int], truth: Volume) -> float:
    """Where, along the patient's left-right axis, a left and a right structure meet."""
    centres = [_x_mm(np.argwhere(classes == number)[::97], truth).mean() for number in pair]
    return float(np.mean(centres))


def _x_mm(voxels: NDArray[np.intp], volume: Volume) -> NDArray[np.float64]:
    points: NDArray[np.float64] = nib.affines.apply_affine(volume.affine, voxels)
    return points[:, 0]


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
