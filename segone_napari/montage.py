"""Draws one picture of an image with its masks over it: three slices of each plane, and a legend.

Slices hang as radiologists hang them: the patient's left is on the right of the picture. An
oblique volume is shown in the planes it was stored in. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segone_napari.systems.base import Result
from segone_napari.volume import Volume

Colour = tuple[int, int, int]

PANEL = 340  # pixels, width and height of one slice
GAP = 6
MARGIN = 28
LEGEND_WIDTH = 440
SLICES_PER_PLANE = 3
MIN_DISTANCE_MM = 14.0
FINE = 2  # panels are drawn this much larger and made smaller, for smooth outlines
FILL = 0.42
FILL_OF_LARGE = 0.16
LARGE_ML = 60.0
"""How opaque masks are inside their outlines: large ones less, so that the image stays visible."""

BACKDROP: Colour = (16, 18, 22)
INK: Colour = (232, 234, 238)
FAINT: Colour = (140, 146, 156)


@dataclass(frozen=True)
class _Plane:
    """A direction of slicing a volume in RAS+ axes: the sliced axis, and what lies at the edges."""

    name: str
    axis: int
    left: str
    right: str
    top: str
    bottom: str


_PLANES = (
    _Plane("axial", 2, "R", "L", "A", "P"),
    _Plane("coronal", 1, "R", "L", "S", "I"),
    _Plane("sagittal", 0, "A", "P", "S", "I"),
)


@dataclass(frozen=True)
class _Palette:
    """By label: ``colours`` (labels, 3), 0 to 255, and how opaque they are, ``fills`` (labels,)."""

    colours: NDArray[np.float32]
    fills: NDArray[np.float32]

    @classmethod
    def of(cls, results: Sequence[Result]) -> _Palette:
        colours = [(0, 0, 0), *(r.colour for r in results)]
        fills = [0.0, *(FILL_OF_LARGE if r.volume_ml > LARGE_ML else FILL for r in results)]
        return cls(np.array(colours, dtype=np.float32), np.array(fills, dtype=np.float32))


def draw(
    image: Volume,
    labels: Volume,
    results: Sequence[Result],
    *,
    title: str = "",
    remarks: Sequence[str] = (),
) -> Image.Image:
    """Draw a montage.

    Parameters
    ----------
    image : (i, j, k), any real dtype.
    labels : (i, j, k) integers on the same grid: label *i* is the *i*-th of `results`.
    results : for the legend: names, colours, volumes.
    title : a line above.
    remarks : one a result, shown at the right edge of the legend; may be empty.
    """
    ras_image, ras_labels, spacing = _to_ras(image, labels)
    box = _box_to_show(ras_image, ras_labels)
    ras_image, ras_labels = ras_image[box], ras_labels[box]
    low, high = _window(ras_image)
    palette = _Palette.of(results)
    # One scale for all panels, so that sizes can be compared.
    extent = np.array(ras_image.shape) * spacing
    sizes = [_size(plane, extent, PANEL / float(extent.max())) for plane in _PLANES]

    width = SLICES_PER_PLANE * (PANEL + GAP) - GAP
    height = sum(down + GAP for _, down in sizes) - GAP
    top = MARGIN + (46 if title else 0)
    canvas = Image.new("RGB", (width + LEGEND_WIDTH + 3 * MARGIN, top + height + MARGIN), BACKDROP)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN - 4), title, font=_font(24), fill=INK)
    y = top
    for plane, size in zip(_PLANES, sizes, strict=True):
        for column, index in enumerate(_slices_to_show(ras_labels, plane.axis, spacing)):
            grey = (_slice(ras_image, plane.axis, index) - low) / (high - low)
            panel = _blend(grey, _slice(ras_labels, plane.axis, index), palette, size)
            _place(canvas, panel, (MARGIN + column * (PANEL + GAP), y), plane)
        y += size[1] + GAP
    _legend(pen, results, remarks, (width + 2 * MARGIN, top), height)
    return canvas


def _to_ras(
    image: Volume, labels: Volume
) -> tuple[NDArray[np.float32], NDArray[np.integer], NDArray[np.float64]]:
    """Bring both to axes that grow nearest to right, anterior, superior, with their spacing."""
    ornt = nib.orientations.io_orientation(image.affine)
    reordered = nib.orientations.apply_orientation(image.data, ornt)
    values = np.nan_to_num(reordered.astype(np.float32))
    spacing = np.empty(3)
    spacing[ornt[:, 0].astype(int)] = image.grid.spacing
    return values, nib.orientations.apply_orientation(labels.data, ornt), spacing


def _box_to_show(
    image: NDArray[np.float32], labels: NDArray[np.integer]
) -> tuple[slice, slice, slice]:
    """Find the head: what is brighter than air, and every mask."""
    low, high = _window(image)
    shown = (image > low + 0.1 * (high - low)) | (labels > 0)
    bounds = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        inside = np.flatnonzero(shown.any(axis=others))
        length = image.shape[axis]
        first, last = (int(inside[0]), int(inside[-1])) if inside.size else (0, length - 1)
        margin = max(1, (last - first) // 32)
        bounds.append(slice(max(0, first - margin), min(length, last + margin + 1)))
    return bounds[0], bounds[1], bounds[2]


def _window(image: NDArray[np.float32]) -> tuple[float, float]:
    """Choose the values shown as black and as white."""
    tissue = image[image > image.min()]
    low, high = np.percentile(tissue, (0.5, 99.7)) if tissue.size else (0.0, 1.0)
    return min(float(low), float(image.min())), max(float(high), float(low) + 1e-6)


def _slices_to_show(
    labels: NDArray[np.integer], axis: int, spacing: NDArray[np.float64]
) -> list[int]:
    """Choose the slices in which most structures are near their largest, well apart."""
    length = labels.shape[axis]
    by_slice = np.moveaxis(labels, axis, 0).reshape(length, -1)
    area = np.stack([np.bincount(s, minlength=int(labels.max()) + 1) for s in by_slice])[:, 1:]
    if not area.any():
        return [round(length * n / (SLICES_PER_PLANE + 1)) for n in range(1, SLICES_PER_PLANE + 1)]
    score = (area / np.maximum(area.max(axis=0), 1)).sum(axis=1)
    shown = np.count_nonzero(score)
    apart = max(1, round(min(MIN_DISTANCE_MM / spacing[axis], shown / (SLICES_PER_PLANE + 1))))
    chosen: list[int] = []
    for index in np.argsort(-score, kind="stable"):
        if all(abs(index - other) >= apart for other in chosen):
            chosen.append(int(index))
        if len(chosen) == SLICES_PER_PLANE:
            break
    return sorted(chosen)


def _slice(volume: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """Take a slice of a volume in RAS+ axes as a picture (rows, columns).

    The rows go down from the front or the head; the columns go from the patient's right to the
    left, or from front to back.
    """
    # What is left are (x, y), (x, z) or (y, z). All of them grow away from where a picture starts:
    # x from the left, y from the back, z from below.
    plane: NDArray[Any] = np.take(volume, index, axis=axis)
    return plane[::-1, ::-1].T


def _size(plane: _Plane, extent: NDArray[np.float64], pixels_per_mm: float) -> tuple[int, int]:
    across, down = (extent[a] for a in range(3) if a != plane.axis)
    return max(1, round(across * pixels_per_mm)), max(1, round(down * pixels_per_mm))


def _blend(
    grey: NDArray[Any],
    labels: NDArray[Any],
    palette: _Palette,
    size: tuple[int, int],
) -> Image.Image:
    """Enlarge a slice and its labels smoothly, and lay one over the other."""
    fine = (size[0] * FINE, size[1] * FINE)
    picture = Image.fromarray((np.clip(grey, 0, 1) * 255).astype(np.uint8))
    base = np.asarray(picture.resize(fine, Image.Resampling.BICUBIC), dtype=np.float32)[..., None]
    large = _enlarge_labels(labels, fine)
    opacity = np.where(_outline(large), np.float32(0.9), palette.fills[large])[..., None]
    mixed = base * (1 - opacity) + palette.colours[large] * opacity
    whole = Image.fromarray(mixed.round().astype(np.uint8))
    return whole.resize(size, Image.Resampling.BOX)


def _enlarge_labels(labels: NDArray[Any], size: tuple[int, int]) -> NDArray[np.intp]:
    """Enlarge each label's mask smoothly; the strongest label has the pixel."""
    best = np.full(size[::-1], 0.5, dtype=np.float32)
    large = np.zeros(size[::-1], dtype=np.intp)
    best[_enlarge(labels > 0, size) > 0.5] = 0.0
    for label in np.unique(labels[labels > 0]):
        share = _enlarge(labels == label, size)
        wins = share > best
        large[wins] = int(label)
        best[wins] = share[wins]
    return large


def _enlarge(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float32]:
    picture = Image.fromarray(mask.astype(np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))


def _outline(labels: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Find the pixels of a label that touch another one."""
    edge = np.zeros(labels.shape, dtype=bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:-1] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    return edge & (labels > 0)


def _place(canvas: Image.Image, panel: Image.Image, corner: tuple[int, int], plane: _Plane) -> None:
    """Centre a slice in its column, with letters at the four edges."""
    x, y = corner
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((x, y, x + PANEL - 1, y + panel.height - 1), fill=(0, 0, 0))
    canvas.paste(panel, (x + (PANEL - panel.width) // 2, y))
    centre_x, centre_y = x + PANEL // 2, y + panel.height // 2
    letters = (
        (plane.left, (x + 8, centre_y), "lm"),
        (plane.right, (x + PANEL - 8, centre_y), "rm"),
        (plane.top, (centre_x, y + 6), "mt"),
        (plane.bottom, (centre_x, y + panel.height - 6), "mb"),
    )
    for letter, at, anchor in letters:
        pen.text(
            at,
            letter,
            font=_font(17),
            fill=INK,
            anchor=anchor,
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )
    pen.text((x + 9, y + 7), plane.name, font=_font(13), fill=FAINT)


def _legend(
    pen: ImageDraw.ImageDraw,
    results: Sequence[Result],
    remarks: Sequence[str],
    corner: tuple[int, int],
    height: int,
) -> None:
    """Write one line a result: its colour, name, volume and remark."""
    x, y = corner
    right = x + LEGEND_WIDTH
    line = min(34, height // max(1, len(results)))
    text_size = max(9, min(17, round(line * 0.6)))
    font = _font(text_size)
    for number, result in enumerate(results):
        middle = y + number * line + line // 2
        r = text_size * 0.42
        dot = (x, middle - r, x + 2 * r, middle + r)
        name = result.resolved or result.prompt
        if result.found:
            pen.ellipse(dot, fill=result.colour)
            amount = f"{result.volume_ml:.1f} mL"
        else:
            pen.ellipse(dot, outline=FAINT)
            amount = "not found"
        ink = INK if result.found else FAINT
        pen.text((x + 24, middle), _fitted(name, font, 225), font=font, fill=ink, anchor="lm")
        pen.text((x + 340, middle), amount, font=font, fill=ink, anchor="rm")
        if remarks:
            pen.text((right, middle), remarks[number], font=font, fill=FAINT, anchor="rm")


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shorten a text until it is at most `width` pixels wide."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
