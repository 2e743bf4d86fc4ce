"""Reference segmentations: from label values of FreeSurfer or GIF to the vocabulary's classes.

Knows nothing of systems.
"""

from __future__ import annotations

from typing import Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.volume import Volume

Numbering = Literal["freesurfer", "gif"]

# The GIF parcellation (Cardoso et al., Geodesic Information Flows, IEEE TMI 2015): right, left.
_GIF_PAIRS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "accumbens": ((24,), (31,)),
    "amygdala": ((32,), (33,)),
    "caudate": ((37,), (38,)),
    "cerebellar cortex": ((39,), (40,)),
    "cerebellar white matter": ((41,), (42,)),
    "hippocampus": ((48,), (49,)),
    "inferior lateral ventricle": ((50,), (51,)),
    "lateral ventricle": ((52,), (53,)),
    "pallidum": ((56,), (57,)),
    "putamen": ((58,), (59,)),
    "thalamus": ((60,), (61,)),
    "ventral diencephalon": ((62,), (63,)),
    "cerebral white matter": ((66, 81, 82, 83, 84, 85, 86, 96), (67, 89, 90, 91, 92, 93, 94, 97)),
    "cerebral cortex": (tuple(range(101, 209, 2)), tuple(range(102, 209, 2))),
}
_GIF_MIDLINE = {"third ventricle": (5, 47), "fourth ventricle": (12,), "brainstem": (35, 36)}
_GIF_SPLIT = {"cerebral white matter": (87,), "cerebellar cortex": (72, 73, 74)}


def reference_classes(
    truth: Volume, vocabulary: Vocabulary, numbering: Numbering = "freesurfer"
) -> NDArray[np.uint8]:
    """Turn label values into indices of `vocabulary.class_names`.

    Values that hold both sides, such as the corpus callosum's, are told apart by the middle
    between the left and the right structure that they belong to, or between all left and all right
    ones where it isn't there. Where that isn't known either, they are background.

    Returns
    -------
    (i, j, k) uint8 on the grid of `truth`; what no class stands for is 0, the background.
    """
    index = {name: number for number, name in enumerate(vocabulary.class_names)}
    values = truth.data.astype(np.int64)
    labels, split = _tables(vocabulary, numbering)
    table = np.zeros(int(values.max()) + 1, dtype=np.uint8)
    for value, name in labels.items():
        if value < len(table):
            table[value] = index[name]
    classes: NDArray[np.uint8] = table[values]
    of_side = {
        side: [n for name, n in index.items() if name.startswith(f"{side} ")]
        for side in ("left", "right")
    }
    for name in sorted(set(split.values())):
        where = np.argwhere(np.isin(values, [v for v, of in split.items() if of == name]))
        if len(where):
            pair = index[f"left {name}"], index[f"right {name}"]
            middle = _middle_mm(classes, [pair[0]], [pair[1]], truth)
            if middle is None:
                middle = _middle_mm(classes, of_side["left"], of_side["right"], truth)
            if middle is not None:
                classes[tuple(where.T)] = np.where(_x_mm(where, truth) < middle, *pair)
    return classes


def _tables(vocabulary: Vocabulary, numbering: Numbering) -> tuple[dict[int, str], dict[int, str]]:
    """Value to class, and value to the paired structure whose two sides it holds."""
    if numbering == "freesurfer":
        return dict(vocabulary.labels), dict(vocabulary.split_labels)
    labels = {value: name for name, values in _GIF_MIDLINE.items() for value in values}
    for name, sides in _GIF_PAIRS.items():
        for side, values in zip(("right", "left"), sides, strict=True):
            labels |= dict.fromkeys(values, f"{side} {name}")
    return labels, {value: name for name, values in _GIF_SPLIT.items() for value in values}


def _middle_mm(
    classes: NDArray[np.uint8], left: list[int], right: list[int], volume: Volume
) -> float | None:
    """x between classes of the left and of the right; None where a side isn't there."""
    sides = [np.argwhere(np.isin(classes, side))[::97] for side in (left, right)]
    if not all(map(len, sides)):
        return None
    return float(np.mean([_x_mm(voxels, volume).mean() for voxels in sides]))


def _x_mm(voxels: NDArray[np.intp], volume: Volume) -> NDArray[np.float64]:
    points: NDArray[np.float64] = nib.affines.apply_affine(volume.affine, voxels)
    return points[:, 0]
