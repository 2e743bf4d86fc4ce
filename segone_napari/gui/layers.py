"""Between volumes and napari's layers: the only place that knows napari's axis order.

napari shows the first axis of the world as a slider, the second as rows (growing downwards) and
the third as columns (growing to the right), and it can't slice a layer whose axes are permuted
or rotated against the world's. So a layer holds a view of the volume (no copy) with its axes
swapped and reversed until they grow, as nearly as they can, to

    axis 0: I, towards the feet       axis 1: P, to the back       axis 2: L, to the patient's left

and the world is that display frame in mm: world = (-z, -y, -x) for a point (x, y, z) in RAS+ mm.
Axial slices come first, with the front at the top and the patient's left on the right of the
screen, as radiologists hang them; with napari's axes rolled, coronal and sagittal slices stand
upright too. An oblique volume is shown in the planes that it was acquired in, its centre at its
true place; the true affine stays in the layer's metadata and is what masks are computed with.

A layer that another reader opened says nothing about the patient. It is taken as axis 0: S, axis
1: P, axis 2: L (how ITK and DICOM order slices) and its `LayerImage.is_placed` is False, for the
widget to say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import nibabel as nib
import numpy as np
from napari.layers import Image, Labels
from napari.layers import Layer as NapariLayer
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from segone_napari.data.doubts import doubts_about_values
from segone_napari.runtime import BadInput
from segone_napari.systems.base import Result
from segone_napari.volume import Affine, Box, Grid, Volume

DISPLAY_AXES = "IPL"
ASSUMED_AXES = "SPL"
AXIS_NAMES = ("axial", "coronal", "sagittal")
OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))
OWNER = "segone-napari"

Index = tuple[int, int, int]


@dataclass(frozen=True)
class Layout:
    """How a layer's axes lie in the volume's array.

    Attributes
    ----------
    axes : layer axis n shows array axis ``axes[n]`` ...
    flips : ... backwards where ``flips[n]``.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    @classmethod
    def for_affine(cls, affine: Affine) -> Layout:
        """The layout that brings a volume with this affine (4, 4) nearest to `DISPLAY_AXES`."""
        stored = nib.orientations.io_orientation(affine)
        wanted = nib.orientations.axcodes2ornt(DISPLAY_AXES)
        transform = nib.orientations.ornt_transform(stored, wanted)  # row: array axis
        order = np.argsort(transform[:, 0])
        i, j, k = (int(n) for n in order)
        return cls((i, j, k), tuple(bool(transform[n, 1] < 0) for n in order))  # type: ignore[arg-type]

    def to_layer(self, data: NDArray[Any]) -> NDArray[Any]:
        """View an array (i, j, k) in the layer's axis order."""
        return np.transpose(data, self.axes)[self._steps]

    def to_stored(self, data: NDArray[Any]) -> NDArray[Any]:
        """View a layer's array in the volume's own order (i, j, k)."""
        return np.transpose(data[self._steps], np.argsort(self.axes))

    def matrix(self, layer_shape: Sequence[int]) -> Affine:
        """(4, 4) layer voxel to array voxel."""
        matrix = np.eye(4)
        matrix[:3, :3] = 0.0
        for layer_axis, (axis, is_flipped) in enumerate(zip(self.axes, self.flips, strict=True)):
            matrix[axis, layer_axis] = -1.0 if is_flipped else 1.0
            matrix[axis, 3] = layer_shape[layer_axis] - 1 if is_flipped else 0.0
        return matrix

    def stored_plane(self, layer_axis: int, index: int, layer_shape: Index) -> tuple[int, int]:
        """The array axis and index of slice `index` along a layer's axis."""
        last = layer_shape[layer_axis] - 1
        return self.axes[layer_axis], last - index if self.flips[layer_axis] else index

    @property
    def _steps(self) -> tuple[slice, slice, slice]:
        a, b, c = (slice(None, None, -1 if is_flipped else None) for is_flipped in self.flips)
        return a, b, c


@dataclass(frozen=True, eq=False)
class LayerImage:
    """What is in an Image layer, as values that a worker may have.

    Attributes
    ----------
    data : the layer's own array, in the layer's axis order; may be lazy.
    layout : how to get back to the order of the volume.
    grid : where the volume's voxels (i, j, k) lie in the patient.
    name : the layer's name.
    is_placed : whether the layer says how it lies in the patient; if not, `grid` is assumed.
    warnings : what the reader said about the file.
    series, volume_index : which of several was chosen when it was opened, or None.
    """

    data: Any
    layout: Layout
    grid: Grid
    name: str
    is_placed: bool
    warnings: tuple[str, ...] = ()
    series: str | None = None
    volume_index: int | None = None

    @cached_property
    def volume(self) -> Volume:
        """The volume on its own grid. Lazy data are loaded here, so ask for it in a worker.

        Raises
        ------
        BadInput
            If every voxel has the same value.
        """
        data, more_warnings = _usable(np.asarray(self.data), self.name)
        stored = self.layout.to_stored(data)
        warnings = dict.fromkeys((*self.warnings, *more_warnings))
        return Volume(stored, self.grid, self.name, tuple(warnings))

    @property
    def world_axes(self) -> str:
        """Anatomical direction in which each axis of the world grows on screen."""
        return DISPLAY_AXES if self.is_placed else ASSUMED_AXES

    @property
    def obliquity_deg(self) -> float:
        """Largest angle between an axis of the volume and the patient's nearest axis."""
        return float(np.degrees(np.max(nib.affines.obliquity(self.grid.affine))))


def image_layer_data(volume: Volume, path: str | None = None) -> tuple[Any, dict[str, Any], str]:
    """Turn a volume into what napari makes an Image layer of: (data, arguments, "image")."""
    layout = Layout.for_affine(volume.affine)
    data = layout.to_layer(volume.data)
    affine = volume.affine @ layout.matrix(data.shape)
    scale, translate = _placement(affine, data.shape)
    metadata = {
        "reader": OWNER,
        "affine": affine,  # voxel of this layer to RAS+ mm, obliquity included
        "sform_code": volume.grid.sform_code,
        "qform_code": volume.grid.qform_code,
        "stored_axes": layout.axes,
        "stored_flips": layout.flips,
        "shape": data.shape,
        "path": path,
        "warnings": volume.warnings,
    }
    arguments = {
        "name": volume.name,
        "scale": scale,
        "translate": translate,
        "units": ("mm", "mm", "mm"),
        "axis_labels": AXIS_NAMES,
        "colormap": "gray",
        "contrast_limits": _contrast_limits(volume.data),
        "metadata": metadata,
    }
    return data, arguments, "image"


def read_layer(layer: NapariLayer) -> LayerImage:
    """Take the values out of an Image layer.

    Raises
    ------
    BadInput
        If the layer can't be outlined: RGB, not three-dimensional, multiscale or empty.
    """
    _check_layer(layer)
    if not is_placed(layer):
        return LayerImage(layer.data, Layout(), _assumed_grid(layer), layer.name, False)
    layout, grid = _placed(layer.metadata)
    warnings = tuple(layer.metadata.get("warnings", ()))
    chosen = layer.metadata.get("series"), layer.metadata.get("volume_index")
    return LayerImage(layer.data, layout, grid, layer.name, True, warnings, *chosen)


def volume_of(layer: NapariLayer) -> Volume:
    """The volume in an Image or Labels layer, in its own axis order (i, j, k).

    Raises
    ------
    BadInput
        As `read_layer`.
    """
    return read_layer(layer).volume


def volume_from_attributes(data: Any, attributes: Mapping[str, Any]) -> Volume:
    """The volume in what napari hands to a writer: a layer's array and its attributes.

    Raises
    ------
    BadInput
        If the layer doesn't say how it lies in the patient.
    """
    metadata, name = attributes.get("metadata", {}), str(attributes.get("name", "layer"))
    if metadata.get("reader") != OWNER or tuple(metadata["shape"]) != tuple(data.shape):
        raise BadInput(
            f"the layer '{name}' doesn't say how it lies in the patient, so it can't be saved as "
            "a medical image; save a layer that SegOne opened or made, or use another format"
        )
    layout, grid = _placed(metadata)
    return Volume(np.ascontiguousarray(layout.to_stored(np.asarray(data))), grid, name)


def is_placed(layer: NapariLayer) -> bool:
    """Whether a layer says how it lies in the patient, and still has the shape it said it for."""
    metadata = layer.metadata
    return bool(
        metadata.get("reader") == OWNER
        and tuple(metadata.get("shape", ())) == tuple(layer.data.shape)
    )


def missing_facts(layer: NapariLayer) -> str | None:
    """What a layer doesn't say about the patient and what is assumed instead, in words."""
    if is_placed(layer):
        return None
    has_length = all((1 * unit).check("[length]") for unit in layer.units)
    spacing = "" if has_length else " Its spacing is taken to be in mm."
    return (
        "This layer doesn't say how it lies in the patient: left and right are NOT KNOWN. "
        "Assumed: slices from the feet to the head, front at the top, the patient's left on the "
        f"right.{spacing} Open the file with SegOne's reader (.nii, .nii.gz, .mgz) to be sure."
    )


@dataclass(frozen=True, eq=False)
class Answer:
    """A result made ready to be shown over its image.

    Attributes
    ----------
    result : what the system said.
    stored : uint8 (i, j, k), the mask in the volume's own order; of what was not found the mask
        that "show anyway" shows.
    mask : the same memory in the axis order of the image's layer.
    """

    result: Result
    stored: NDArray[np.uint8]
    mask: NDArray[np.uint8]

    @property
    def name(self) -> str:
        """What to call it: the canonical name, or the words as typed."""
        return self.result.resolved or self.result.prompt


def answer(image: LayerImage, result: Result) -> Answer:
    """Bring a result into the axis order of its image's layer. Safe in a worker."""
    stored = (result.mask if result.found else result.draft_mask).data
    return Answer(result, stored, image.layout.to_layer(stored))


def largest_slices(mask: NDArray[Any]) -> Index:
    """The index, along each axis of a mask, of the slice with most of it."""
    # Adding bytes is many times faster than counting along an axis, and 255 fit into one.
    plane = np.zeros(mask.shape[1:], dtype=np.uint32)
    along: list[int] = []
    for start in range(0, len(mask), 255):
        inside = mask[start : start + 255] != 0
        plane += np.add.reduce(inside, axis=0, dtype=np.uint8)
        along += [int(np.count_nonzero(one)) for one in inside]
    i, j, k = (int(np.argmax(count)) for count in (along, plane.sum(axis=1), plane.sum(axis=0)))
    return i, j, k


def labels_layer(
    image: Image, name: str, colour: tuple[int, int, int], mask: NDArray[np.uint8]
) -> Labels:
    """Make a Labels layer that shows a mask, in the layer's axis order, exactly over its image."""
    metadata = {key: value for key, value in image.metadata.items() if key != "warnings"}
    metadata |= {"segone_image": image.unique_id, "segone_name": name}
    layer = Labels(
        mask,
        name=name,
        scale=image.scale,
        translate=image.translate,
        rotate=image.rotate,
        shear=image.shear,
        affine=image.affine,
        units=image.units,
        axis_labels=image.axis_labels,
        opacity=0.6,
        colormap=colour_map(colour),
        metadata=metadata,
    )
    _draw_outlines_when_chosen(layer)
    return layer


_OUTLINES = {"polygon": "polygon", "brush_stroke": "paint"}
"""napari's overlays of a Labels layer that only one of its modes shows, and that mode."""


def _draw_outlines_when_chosen(layer: Labels) -> None:
    """Let napari build what draws the polygon, and the brush's ring, when they are first needed.

    It would build them for every layer that is added, which is half of the time that takes. napari
    has no public way to them; where they are elsewhere, they are built as it likes.
    """
    overlays = getattr(layer, "_overlays", {})
    outlines = {mode: overlays[name] for name, mode in _OUTLINES.items() if name in overlays}
    for overlay in outlines.values():
        overlay.visible = False

    def show() -> None:
        if overlay := outlines.get(str(layer.mode)):
            overlay.visible = True
        if str(layer.mode) != "polygon" and "polygon" in outlines:
            outlines["polygon"].points = []  # or it would be filled later, by Enter

    layer.events.mode.connect(show)


def stored_atoms(
    painted: Sequence[Any], layout: Layout, layer_shape: Sequence[int]
) -> list[tuple[tuple[NDArray[np.int64], ...], Any, Any]]:
    """What a Labels layer's ``paint`` event says was painted, in the volume's own axis order.

    napari tells of a box with a mask inside (brush, polygon, fill) or of single voxels.

    Returns
    -------
    For each piece: indices along i, j and k, the values before, the value or values after.
    """
    atoms = []
    for piece in painted:
        if len(piece) == 4:
            box, inside, before, after = piece
            sides = [part.stop - part.start for part in box]
            corner = np.array([part.start for part in box])[:, None]
            inside = np.ones(sides, bool) if inside is None else np.reshape(inside, sides)
            where = np.array(np.nonzero(inside)) + corner
        else:
            indices, before, after = piece
            where = np.array(np.broadcast_arrays(*indices)).reshape(3, -1)
        atoms.append((_stored_indices(where, layout, layer_shape), np.ravel(before), after))
    return atoms


def _stored_indices(
    where: NDArray[Any], layout: Layout, layer_shape: Sequence[int]
) -> tuple[NDArray[np.int64], ...]:
    stored = np.empty((3, where.shape[1]), dtype=np.int64)
    for layer_axis, (axis, is_flipped) in enumerate(zip(layout.axes, layout.flips, strict=True)):
        last = layer_shape[layer_axis] - 1
        stored[axis] = last - where[layer_axis] if is_flipped else where[layer_axis]
    i, j, k = stored
    return i, j, k


def layer_box(box: Box, layout: Layout, layer_shape: Sequence[int]) -> Box:
    """A box of the volume (i, j, k) as a box of the layer's array."""
    sides = []
    for layer_axis, (axis, is_flipped) in enumerate(zip(layout.axes, layout.flips, strict=True)):
        side, size = box[axis], layer_shape[layer_axis]
        sides.append(slice(size - side.stop, size - side.start) if is_flipped else side)
    a, b, c = sides
    return a, b, c


def stored_box(box: Box, layout: Layout, layer_shape: Sequence[int]) -> Box:
    """A box of the layer's array as a box of the volume (i, j, k)."""
    sides = [slice(0)] * 3
    for layer_axis, (axis, is_flipped) in enumerate(zip(layout.axes, layout.flips, strict=True)):
        side, size = box[layer_axis], layer_shape[layer_axis]
        sides[axis] = slice(size - side.stop, size - side.start) if is_flipped else side
    i, j, k = sides
    return i, j, k


def colour_map(colour: tuple[int, int, int]) -> DirectLabelColormap:
    """A colormap that gives this colour (0 to 255) to label 1, and to others painted later."""
    opaque = (*(value / 255.0 for value in colour), 1.0)
    return DirectLabelColormap(color_dict={None: opaque, 0: (0.0, 0.0, 0.0, 0.0), 1: opaque})


def slice_on_screen(viewer: Any, layer: NapariLayer) -> tuple[int, int] | None:
    """The layer's axis that the slider runs along, and the index shown; None in 3-D."""
    if viewer.dims.ndisplay != 2:
        return None
    offset = viewer.dims.ndim - 3
    axes = [axis - offset for axis in viewer.dims.not_displayed if axis >= offset]
    if len(axes) != 1:
        return None
    position = layer.world_to_data(viewer.dims.point)[axes[0]]
    index = int(np.clip(np.round(position), 0, layer.data.shape[axes[0]] - 1))
    return axes[0], index


def plane_of(data: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """A view of one slice; ``numpy.take`` would first copy a whole array that lies otherwise."""
    return data[(slice(None),) * axis + (index,)]


def show_slice(viewer: Any, layer: NapariLayer, index: Index) -> None:
    """Move the sliders to a voxel of a layer."""
    offset = viewer.dims.ndim - 3
    world = layer.data_to_world(index)
    # All at once: each change on its own would draw everything anew.
    viewer.dims.set_point([axis + offset for axis in range(3)], list(world))


Edge = Literal["top", "bottom", "left", "right"]


def edge_letters(viewer: Any, world_axes: str) -> Mapping[Edge, str]:
    """Anatomical direction at each edge of the canvas: R, L, A, P, S or I; empty in 3-D."""
    if viewer.dims.ndisplay != 2 or viewer.dims.ndim < 3:
        return {}
    offset = viewer.dims.ndim - 3
    row_axis, column_axis = (axis - offset for axis in viewer.dims.displayed)
    if min(row_axis, column_axis) < 0:
        return {}
    vertical, horizontal = (str(direction) for direction in viewer.scene.camera.orientation2d)
    down, right = world_axes[row_axis], world_axes[column_axis]
    if vertical == "up":
        down = OPPOSITE[down]
    if horizontal == "left":
        right = OPPOSITE[right]
    return {"top": OPPOSITE[down], "bottom": down, "left": OPPOSITE[right], "right": right}


def _check_layer(layer: NapariLayer) -> None:
    if getattr(layer, "multiscale", False):
        raise BadInput(
            f"the layer '{layer.name}' is a multiscale pyramid; open its full resolution as a "
            "plain 3-D image"
        )
    if getattr(layer, "rgb", False):
        raise BadInput(
            f"the layer '{layer.name}' is an RGB picture; SegOne needs a greyscale 3-D MRI"
        )
    shape = tuple(layer.data.shape)
    if len(shape) != 3:
        raise BadInput(
            f"the layer '{layer.name}' has {len(shape)} dimensions {shape}; SegOne needs a 3-D "
            "volume" + (": select one volume of the series first" if len(shape) > 3 else "")
        )
    if 0 in shape:
        raise BadInput(f"the layer '{layer.name}' is empty (shape {shape}); open a 3-D MRI")


def _usable(data: NDArray[Any], name: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """The data with the lowest value for what is not a number, and what to say about it.

    A reader has seen to this in a file; here it is for layers that other programs made.
    """
    warnings: tuple[str, ...] = ()
    if np.issubdtype(data.dtype, np.floating):
        is_finite = np.isfinite(data)
        bad = data.size - int(np.count_nonzero(is_finite))
        if bad == data.size:
            raise BadInput(
                f"the layer '{name}' has no voxel that is a number; choose another image"
            )
        if bad:
            data = np.where(is_finite, data, data[is_finite].min())
            warnings = (f"{bad} voxels of '{name}' are NaN or infinite; they count as background",)
    if data.min() == data.max():
        raise BadInput(
            f"the layer '{name}' shows nothing: every voxel is {data.flat[0]}; choose another image"
        )
    return data, (*warnings, *doubts_about_values(data))


def _assumed_grid(layer: NapariLayer) -> Grid:
    """The grid of a layer that is not placed: its world is taken as `ASSUMED_AXES`."""
    columns = [layer.data_to_world(point) for point in np.vstack([np.zeros(3), np.eye(3)])]
    world = np.eye(4)
    world[:3, 3] = columns[0]
    world[:3, :3] = (np.array(columns[1:]) - columns[0]).T
    world[:3] *= np.array([_mm_per(unit) for unit in layer.units])[:, None]
    world_to_ras = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)
    i, j, k = layer.data.shape
    return Grid((i, j, k), world_to_ras @ world)


def _mm_per(unit: Any) -> float:
    """Millimetres in a unit of length; 1 for pixels."""
    quantity = 1 * unit
    return float(quantity.to("mm").magnitude) if quantity.check("[length]") else 1.0


def _placed(metadata: Mapping[str, Any]) -> tuple[Layout, Grid]:
    """The layout and the volume's own grid, from what `image_layer_data` noted."""
    layout = Layout(tuple(metadata["stored_axes"]), tuple(metadata["stored_flips"]))
    shape = tuple(metadata["shape"])
    to_layer = np.linalg.inv(layout.matrix(shape))
    grid = Grid(
        _stored_shape(layout, shape),
        np.asarray(metadata["affine"], dtype=np.float64) @ to_layer,
        int(metadata["sform_code"]),
        int(metadata["qform_code"]),
    )
    return layout, grid


def _stored_shape(layout: Layout, layer_shape: Sequence[int]) -> Index:
    i, j, k = (layer_shape[n] for n in np.argsort(layout.axes))
    return i, j, k


def _placement(affine: Affine, shape: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scale and translate (mm) that put a layer's centre at its true place in the display frame."""
    scale = nib.affines.voxel_sizes(affine)
    middle = (np.asarray(shape) - 1) / 2.0
    x, y, z = nib.affines.apply_affine(affine, middle)
    return scale, np.array([-z, -y, -x]) - scale * middle


def _contrast_limits(data: NDArray[Any]) -> tuple[float, float]:
    """Grey levels to show: from the darkest to the 99.5th percentile of what isn't background."""
    sample = np.asarray(data[:: _stride(data, 0), :: _stride(data, 1), :: _stride(data, 2)])
    sample = sample[np.isfinite(sample)].astype(np.float64)
    if not sample.size:
        return 0.0, 1.0
    low = float(sample.min())
    inside = sample[sample > low]
    high = float(np.percentile(inside, 99.5)) if inside.size else low + 1.0
    return low, max(high, low + 1e-6)


def _stride(data: NDArray[Any], axis: int) -> int:
    return max(1, int(data.shape[axis]) // 96)
