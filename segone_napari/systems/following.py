"""Outlining the slices between those that a person corrected, at once and without training.

`systems.propagation` has the network for it. Where the model had answered, its answer counts as far
as it was right on the corrected slices. Knows nothing of windows, rows or projects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from segone_napari.data.resample import slice_grid, to_working
from segone_napari.data.synthetic import PLANES
from segone_napari.models.learnt import LessonConfig
from segone_napari.runtime import BadInput
from segone_napari.systems import lessons as taught
from segone_napari.systems import propagation
from segone_napari.systems.base import Told
from segone_napari.systems.looking import SLICES_AT_ONCE
from segone_napari.volume import Box, Grid, Volume, bounding_box

CPU = torch.device("cpu")
IT = "it"
"""What is followed has no name here."""
LARGEST_SIDE = 160
"""A scene has at most about so many pixels along an axis; larger ones get coarser pixels."""
MARGIN = 12
"""Pixels around what was drawn in which it is looked for."""
SLOPE = 1.2
"""What the model's mask says, as logits, for each pixel from its outline."""
PLANE_OF_NORMAL = {normal: name for name, (_, _, normal) in PLANES.items()}


def plane_across(grid: Grid, axis: int) -> str:
    """The plane in which the slices along an array axis lie."""
    order = nib.orientations.io_orientation(grid.affine)[:, 0].astype(int)
    return PLANE_OF_NORMAL[int(order[axis])]


@torch.inference_mode()
def follow(
    image: Volume,
    mask: NDArray[Any],
    answer: NDArray[Any],
    slices: Sequence[int],
    axis: int,
) -> NDArray[np.uint8]:
    """Outline an object on the slices between those that were corrected.

    What was added, or removed, at the same place on both sides of a gap is so within it, too.

    Parameters
    ----------
    image : whose voxels (i, j, k) the masks are of.
    mask : (i, j, k), right on the corrected slices.
    answer : (i, j, k), what the model had answered before; empty where it hadn't.
    slices : at least two indices along array axis `axis`; these stay as they are, and so does what
        lies before the first and behind the last.

    Returns
    -------
    The mask, uint8.

    Raises
    ------
    BadInput
        If there are fewer than two different slices, or one is outside of the mask.
    """
    given = sorted({int(index) for index in slices})
    if len(given) < 2:
        raise BadInput(
            "filling in between needs two corrected slices or more; correct another slice first"
        )
    if given[0] < 0 or given[-1] >= mask.shape[axis]:
        raise BadInput(f"this mask has slices 0 to {mask.shape[axis] - 1}; got {given}")
    result: NDArray[np.uint8] = (np.asarray(mask) != 0).astype(np.uint8)
    is_drawn = np.zeros(result.shape, dtype=bool)
    np.moveaxis(is_drawn, axis, 0)[given] = True
    drawn = result * is_drawn
    shown = np.zeros(result.shape, dtype=bool)
    if drawn.any():
        box, inside = _followed(image, drawn, np.asarray(answer) != 0, is_drawn, axis)
        shown[box] = inside
    between = np.setdiff1d(np.arange(given[0], given[-1]), given)
    np.moveaxis(result, axis, 0)[between] = np.moveaxis(shown, axis, 0)[between]
    return result


def _followed(
    image: Volume,
    drawn: NDArray[np.uint8],
    answer: NDArray[np.bool_],
    is_drawn: NDArray[np.bool_],
    axis: int,
) -> tuple[Box, NDArray[np.bool_]]:
    """Where the object is, in a box of the image's grid."""
    # along the array's own axes, however the image lies in the patient: slices stay slices
    i, j, k = image.grid.shape
    image = Volume(image.data, Grid((i, j, k), np.diag([*image.grid.spacing, 1.0])))
    plane = PLANE_OF_NORMAL[axis]
    lesson = propagation.bundled(CPU)
    config = _config(image.grid, drawn, plane)
    scene = taught.make_scene(config, image, None, _no_class, CPU)
    assert scene is not None
    scene = replace(scene, base=_as_logits(answer, image.grid, scene))
    truth, known = taught.told_on(scene, image.grid, config.terms, {IT: Told(drawn, is_drawn)})
    outlines = taught.drawn_slices(truth, known, plane)
    probability = torch.zeros_like(scene.image)
    by_slice = taught.by_slice(probability, plane)  # (N, H, W), a view
    given = outlines.indices.tolist()
    asked = range(given[0], given[-1] + 1) if given else range(0)
    for one in propagation.followed(scene, plane, outlines, asked):
        for start in range(0, len(asked), SLICES_AT_ONCE):
            batch = list(asked[start : start + SLICES_AT_ONCE])
            logits = propagation.propagated(lesson, one, plane, batch)
            by_slice[batch] = propagation.kept_between(logits, one, plane, batch).sigmoid()
    box, values = taught.on_image(probability, scene, image.grid)
    return box, values > 0.5


def _as_logits(answer: NDArray[np.bool_], grid: Grid, scene: taught.Scene) -> torch.Tensor:
    """Logits (1, x, y, z) of the model's mask in a scene's box: the surer the farther from its
    outline; 0 where it had no answer.
    """
    there = to_working(Volume(answer.astype(np.uint8), grid), scene.grid, CPU)[scene.box] > 0.5
    if not bool(there.any()):
        return torch.zeros_like(scene.base)
    logits = SLOPE * torch.from_numpy(taught.signed_distance(there.numpy()))
    return logits.clamp(-taught.LOGIT_LIMIT, taught.LOGIT_LIMIT).half()[None]


def _no_class(name: str, grid: Grid) -> tuple[Box, NDArray[np.float16]]:
    raise AssertionError(f"no class {name!r} is asked for without a context")


def _config(grid: Grid, drawn: NDArray[np.uint8], plane: str) -> LessonConfig:
    """A scene around what was drawn, with pixels about as fine as the image's."""
    pixel_mm = float(np.clip(min(grid.spacing), 0.7, 2.0))
    low, high = _extent_mm(grid, drawn, pixel_mm)
    pixel_mm = max(pixel_mm, float((high - low).max()) / LARGEST_SIDE)
    low, high = _extent_mm(grid, drawn, pixel_mm)
    margin = MARGIN * pixel_mm
    box = tuple((float(a) - margin, float(b) + margin) for a, b in zip(low, high, strict=True))
    return LessonConfig((IT,), (False,), (), (plane,), pixel_mm, in_head=False, box_mm=box)


def _extent_mm(
    grid: Grid, drawn: NDArray[np.uint8], pixel_mm: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First and last place of what was drawn along x, y, z, from the middle of a scene's grid."""
    scene = slice_grid(grid, pixel_mm)
    corners = np.stack(np.meshgrid(*[(s.start, s.stop - 1) for s in bounding_box(drawn)]), -1)
    voxels = nib.affines.apply_affine(
        np.linalg.inv(scene.affine) @ grid.affine, corners.reshape(-1, 3)
    )
    places = (voxels - (np.array(scene.shape) - 1) / 2) * scene.spacing
    return places.min(0), places.max(0)
