"""Synthetic MRI from label maps: what every system here is trained on.

Each sample is a *slab*: one slice to segment, its neighbours, and the position of every pixel. A
label map is deformed, each tissue gets a random brightness (sometimes drawn around the look of a
known sequence), then come thick slices, blur, bias field, gamma and noise. The same code runs on
a CPU and on a GPU, and one seed always makes the same slabs on the same kind of device.

Source of the idea: Billot et al., *SynthSeg*, Medical Image Analysis 2023.

Dimension key: B batch, M label maps, K planes sampled around a slice, S slices of a slab, H W
pixels, T tissues.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segone_napari.data import tumours, ventricles
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.runtime import BadInput, Progress, no_progress
from segone_napari.volume import bounding_box

POSITION_SCALE_MM = 80.0
CEREBRUM_MM = (132.0, 165.0, 110.0)
"""Positions are given to a network as mm from the cerebrum's centre, in a head whose cerebrum has
this size from left to right, from back to front and from bottom to top, divided by the first."""

CEREBRUM = tuple(
    f"{side} cerebral {what}" for side in ("left", "right") for what in ("white matter", "cortex")
)
"""What the centre is measured on: unlike the brainstem, it ends at the same place in every scan."""

MNI_CENTRE_MM = (0.0, -17.0, 14.0)
MNI_CEREBRUM_MM = (140.0, 176.0, 124.0)
"""About where the cerebrum lies in MNI space, in which lesion masks lie, and how large it is."""

Point = tuple[float, float, float]

PLANES: dict[str, tuple[int, int, int]] = {
    "axial": (0, 1, 2),
    "coronal": (0, 2, 1),
    "sagittal": (2, 1, 0),
}
"""Name of a plane: the RAS axes (0 right, 1 anterior, 2 superior) of its rows, columns, normal."""

TUMOUR = "tumour"
"""The class of synthetic tumours."""
LESIONS = "white matter lesions"
"""The class of what lesion masks show."""

OUTSIDE_BRAIN = 500
"""Values of a label map from here on lie outside the brain."""

_AROUND_BRAIN = ("cerebrospinal fluid", "blood vessels")
_OEDEMA_SPREADS = ("cerebral white matter", "cerebellar white matter", "white matter lesions")

# Typical brightness, 0 to 1, of a tissue in a sequence; what isn't named is drawn at random.
_LOOKS: dict[str, dict[str, float]] = {
    "T1": {
        "cerebral white matter": 0.86, "cerebral cortex": 0.56, "lateral ventricle": 0.16,
        "inferior lateral ventricle": 0.3, "cerebellar white matter": 0.8,
        "cerebellar cortex": 0.55, "thalamus": 0.76, "caudate": 0.64, "putamen": 0.72,
        "pallidum": 0.83, "hippocampus": 0.58, "amygdala": 0.59, "accumbens": 0.62,
        "ventral diencephalon": 0.81, "choroid plexus": 0.4, "third ventricle": 0.2,
        "fourth ventricle": 0.2, "brainstem": 0.8, "optic chiasm": 0.62,
        "cerebrospinal fluid": 0.2, "white matter lesions": 0.6,
        "tumour oedema": 0.6, "tumour rim": 0.72, "tumour necrosis": 0.3,
    },
    "T2": {
        "cerebral white matter": 0.4, "cerebral cortex": 0.58, "lateral ventricle": 0.95,
        "inferior lateral ventricle": 0.9, "cerebellar white matter": 0.4,
        "cerebellar cortex": 0.56, "thalamus": 0.48, "caudate": 0.54, "putamen": 0.5,
        "pallidum": 0.36, "hippocampus": 0.6, "amygdala": 0.58, "accumbens": 0.54,
        "ventral diencephalon": 0.42, "choroid plexus": 0.75, "third ventricle": 0.92,
        "fourth ventricle": 0.9, "brainstem": 0.43, "optic chiasm": 0.45,
        "cerebrospinal fluid": 0.92, "white matter lesions": 0.72,
        "tumour oedema": 0.8, "tumour rim": 0.7, "tumour necrosis": 0.9,
    },
    "FLAIR": {
        "cerebral white matter": 0.47, "cerebral cortex": 0.6, "lateral ventricle": 0.12,
        "inferior lateral ventricle": 0.18, "cerebellar white matter": 0.46,
        "cerebellar cortex": 0.56, "thalamus": 0.54, "caudate": 0.6, "putamen": 0.56,
        "pallidum": 0.45, "hippocampus": 0.66, "amygdala": 0.66, "accumbens": 0.6,
        "ventral diencephalon": 0.5, "choroid plexus": 0.45, "third ventricle": 0.16,
        "fourth ventricle": 0.18, "brainstem": 0.5, "optic chiasm": 0.5,
        "cerebrospinal fluid": 0.14, "white matter lesions": 0.9,
        "tumour oedema": 0.88, "tumour rim": 0.75, "tumour necrosis": 0.4,
    },
    "PD": {
        "cerebral white matter": 0.62, "cerebral cortex": 0.8, "lateral ventricle": 0.72,
        "inferior lateral ventricle": 0.74, "cerebellar white matter": 0.62,
        "cerebellar cortex": 0.78, "thalamus": 0.7, "caudate": 0.76, "putamen": 0.74,
        "pallidum": 0.6, "hippocampus": 0.8, "amygdala": 0.8, "accumbens": 0.76,
        "ventral diencephalon": 0.66, "choroid plexus": 0.75, "third ventricle": 0.72,
        "fourth ventricle": 0.72, "brainstem": 0.64, "optic chiasm": 0.65,
        "cerebrospinal fluid": 0.72, "white matter lesions": 0.85,
        "tumour oedema": 0.86, "tumour rim": 0.8, "tumour necrosis": 0.85,
    },
}  # fmt: skip


@dataclass(frozen=True)
class SyntheticConfig:
    """How strongly the synthetic images vary. Lengths are in mm, angles in degrees."""

    height: int = 80
    width: int = 96
    slices: int = 3
    pixel_mm: float = 2.0
    neighbour_mm: float = 2.0
    planes: tuple[str, ...] = ("axial", "axial", "coronal", "sagittal")
    """Drawn from at random: a plane that is named twice comes twice as often."""
    rotation_deg: float = 14.0
    scaling: float = 0.14
    shear: float = 0.05
    elastic_mm: float = 4.0
    ventricle_share: float = 0.4
    """Share of heads whose ventricles are wider or narrower than in the label map."""
    ventricle_mm: tuple[float, float] = (-3.0, 6.0)
    """By how much their walls move, at the least (inwards) and at the most."""
    shift_mm: float = 8.0
    roam_mm: tuple[float, float] = (0.0, 0.0)
    """How much further along rows and columns a window smaller than a head may lie."""
    central_share: float = 0.5
    """Share of slices drawn from around the centre, where the small structures are."""
    central_mm: float = 22.0
    position_jitter_mm: float = 3.5
    """How far the centre may be off (standard deviation; 0.6 of it from left to right)."""
    position_scaling: float = 0.04
    """By how much of themselves the positions may be off."""
    lost_share: float = 0.1
    """Share of images whose centre is three times as far off, as that of a cropped head."""
    t1_share: float = 0.5
    """Share of images that look like a T1; the others look like one of `other_looks`."""
    other_looks: tuple[str, ...] = ("T2", "FLAIR", "FLAIR", "FLAIR", "PD", "random", "random")
    look_jitter: float = 0.07
    stripped_share: float = 0.45
    thick_share: float = 0.2
    thickest_mm: float = 6.5
    cropped_share: float = 0.1
    """Share of images that the edge of the field of view cuts."""
    tumour_share: float = 0.3
    """Share of images with a tumour, where the vocabulary has that class."""
    tumour_jitter: float = 0.18
    """As `look_jitter`, for the tissues of tumours: hardly two look alike."""
    tumour_texture: float = 0.2
    """How much brightness changes, at most, from place to place within a tumour."""
    lesion_texture: float = 0.1
    """The same for lesions."""
    texture: float = 0.03
    """The same for any other tissue of the head (standard deviation)."""
    ghost_share: float = 0.1
    """Share of images with ghosts of motion."""
    healed_share: float = 0.35
    """Share of images whose white matter has no lesion, although the label map has some."""
    lesion_share: float = 0.25
    """Share of images with lesions from a mask, where there are masks."""
    scattered_share: float = 0.2
    """Share of images with a few small lesions anywhere in the white matter."""
    scattered_mm: tuple[float, float] = (1.0, 6.0)
    """Their least and largest radius; most are small."""
    lesion_contrast: tuple[float, float] = (0.3, 1.1)
    """By how much lesions and a tumour's oedema differ from white matter, at the least and at the
    most, as shares of what is typical."""
    labels_of_all: bool = False
    """Whether every slice of a slab is labelled, not the middle one alone. The slices must be the
    planes themselves for that: `thick_share` 0."""

    def __post_init__(self) -> None:
        if self.labels_of_all and self.thick_share:
            raise ValueError("slices mixed from thick ones have no labels of their own")

    def with_pixels(self, pixel_mm: float) -> SyntheticConfig:
        """Return the same window in pixels of another size."""
        times = self.pixel_mm / pixel_mm
        height, width = round(times * self.height), round(times * self.width)
        return replace(self, height=height, width=width, pixel_mm=pixel_mm)


class Slabs(NamedTuple):
    """A batch to train on.

    `inputs` is (B, S + 3, H, W) float32: S slices, then the RAS position of every pixel relative
    to the head's centre in units of `POSITION_SCALE_MM`. `labels` is (B, H, W) int64, indices
    into `Vocabulary.class_names`, of the middle slice; with `SyntheticConfig.labels_of_all`,
    (B, S, H, W).
    """

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class LabelMaps:
    """Label maps of heads on 1 mm RAS grids, as tissues and the classes that they stand for.

    Attributes
    ----------
    tissues : (M, X, Y, Z) uint8, indices of tissues; 0 is background.
    centres : (M, 3) float32, the cerebrum's centre in voxels.
    sizes : (M, 3) float32, the cerebrum's size in voxels.
    extents : (M, 3, 2) float32, the brain's lowest and highest voxel along each axis.
    classes : (T,) int64, the class index of each tissue.
    mirrored : (T,) int64, the tissue on the other side.
    is_outside : (T,) bool, whether a tissue lies outside the brain (and its fluid).
    names : what each tissue is called in `_LOOKS`. Those of tumours come last; no map has them.
    towards_ventricles : (M, X / 2, Y / 2, Z / 2, 3) int8, `ventricles.directions` of each map.
    lesions : (L, X, Y, Z) uint8, masks of lesions on the grid of 1 mm of MNI space whose first
        voxel is at `lesion_origin` (RAS mm); L may be 0.
    """

    tissues: Tensor
    centres: Tensor
    sizes: Tensor
    extents: Tensor
    classes: Tensor
    mirrored: Tensor
    is_outside: Tensor
    names: tuple[str, ...]
    towards_ventricles: Tensor
    lesions: Tensor
    lesion_origin: Point = (0.0, 0.0, 0.0)

    def to(self, device: torch.device) -> LabelMaps:
        """Return the same maps on a device."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def select(self, indices: list[int]) -> LabelMaps:
        """Return some of the maps."""
        own = ("tissues", "centres", "sizes", "extents", "towards_ventricles")
        return replace(self, **{name: getattr(self, name)[indices] for name in own})


def load_label_maps(
    folder: Path,
    vocabulary: Vocabulary,
    lesions: Path | None = None,
    *,
    progress: Progress = no_progress,
) -> LabelMaps:
    """Read every label map (.nii, .nii.gz, .mgz) of a folder, and every lesion mask of another.

    Values are FreeSurfer's, as `Vocabulary.labels` names them, unless the folder holds a
    ``labels.json`` that maps each value to the name of a class. Values that neither names keep a
    tissue (a brightness) of their own and count as background. Maps of another voxel size are
    brought to 1 mm. Lesion masks lie in MNI space.

    Raises
    ------
    BadInput
        If a folder holds no label map, or one that is damaged, isn't 3-D or shows nothing that
        the vocabulary knows.
    """
    paths = _image_paths(folder, "label maps")
    table, split = _value_tables(folder, vocabulary)
    maps = []
    for done, path in enumerate(paths):
        maps.append(_split_sides(_read_ras(path), table, split))
        progress(done + 1, len(paths))
    values = np.unique(np.concatenate([np.unique(m) for m in maps]))
    if len(values) > 256:
        raise BadInput(f"{folder} holds {len(values)} different values; at most 256 can be used")
    names = tuple("background" if v == 0 else table.get(int(v), f"label {v}") for v in values)
    has_tumours = TUMOUR in vocabulary.class_names
    is_outside = np.array([n == "background" or n.startswith("label ") for n in names])
    is_brain = ~is_outside & ~np.isin(names, _AROUND_BRAIN)
    for path, m in zip(paths, maps, strict=True):
        if not np.isin(m, values[is_brain]).any():
            raise BadInput(
                f"{path} shows no structure of the vocabulary; use FreeSurfer's values, or put a "
                "labels.json (value to name) beside it"
            )
    names += (LESIONS,) if lesions is not None and LESIONS not in names else ()
    names += tumours.TISSUES if has_tumours else ()
    is_outside, is_brain = (
        np.pad(flags, (0, len(names) - len(flags)), constant_values=False)
        for flags in (is_outside, is_brain)
    )
    tissues = _stack([np.searchsorted(values, m).astype(np.uint8) for m in maps])
    brains = [bounding_box(is_brain[t.numpy()]) for t in tissues]
    extents = torch.tensor([[(s.start, s.stop - 1) for s in b] for b in brains]).float()
    is_cerebrum = np.isin(names, CEREBRUM)
    boxes = [
        centre_and_size(torch.from_numpy((is_cerebrum if is_cerebrum[t].any() else is_brain)[t]))
        for t in tissues.numpy()
    ]
    is_ventricle = np.isin(names, ventricles.NAMES)
    index = {name: i for i, name in enumerate(vocabulary.class_names)}
    masks, origin = _no_lesions() if lesions is None else _read_lesions(lesions)
    return LabelMaps(
        tissues=tissues,
        centres=torch.tensor([centre for centre, _ in boxes]),
        sizes=torch.tensor([size for _, size in boxes]),
        extents=extents,
        classes=torch.tensor(
            [index.get(TUMOUR if name in tumours.TISSUES else name, 0) for name in names]
        ),
        mirrored=torch.tensor(_mirror_table(names, vocabulary)),
        is_outside=torch.from_numpy(is_outside),
        names=names,
        towards_ventricles=torch.from_numpy(
            np.stack([ventricles.directions(is_ventricle[t]) for t in tissues.numpy()])
        ),
        lesions=masks,
        lesion_origin=origin,
    )


def _image_paths(folder: Path, of: str) -> list[Path]:
    paths = sorted(p for p in folder.glob("*") if p.name.endswith((".nii", ".nii.gz", ".mgz")))
    if not paths:
        what = f"holds no {of}" if folder.is_dir() else "is no folder"
        raise BadInput(f"{folder} {what}; give a folder of .nii, .nii.gz or .mgz files")
    return paths


def _no_lesions() -> tuple[Tensor, Point]:
    return torch.zeros(0, 1, 1, 1, dtype=torch.uint8), (0.0, 0.0, 0.0)


def _read_lesions(folder: Path) -> tuple[Tensor, Point]:
    """Read lesion masks in MNI space, cut to what any of them shows, and where that begins."""
    paths = _image_paths(folder, "masks of lesions")
    masks = [_read_ras(path) > 0 for path in paths]
    if len({mask.shape for mask in masks}) > 1:
        raise BadInput(f"the masks in {folder} differ in shape; lesion masks lie in MNI space")
    affine: Any = nib.as_closest_canonical(nib.load(paths[0])).affine
    box = bounding_box(np.any(masks, axis=0))
    origin = nib.affines.apply_affine(affine, [side.start for side in box])
    shown = torch.from_numpy(np.stack([mask[box] for mask in masks]).astype(np.uint8))
    return shown, (float(origin[0]), float(origin[1]), float(origin[2]))


def _value_tables(folder: Path, vocabulary: Vocabulary) -> tuple[dict[int, str], dict[int, str]]:
    """Value to class, and value to the paired structure of which it names both sides."""
    own = folder / "labels.json"
    if not own.exists():
        known = {v: n for v, n in vocabulary.labels.items() if v < OUTSIDE_BRAIN or v >= 1000}
        return known, dict(vocabulary.split_labels)
    try:
        document = json.loads(own.read_text(encoding="utf-8"))
        table = {int(value): str(name) for value, name in document.items()}
    except (ValueError, AttributeError) as error:
        raise BadInput(f"{own} is no table of values and names ({error}); write it anew") from error
    unknown = sorted(set(table.values()) - set(vocabulary.class_names))
    if unknown:
        raise BadInput(
            f"{own} names unknown classes: {', '.join(unknown)}; see 'segone vocabulary'"
        )
    return table, {}


def _read_ras(path: Path) -> NDArray[np.int32]:
    """Read a label map (x, y, z) in RAS order with voxels of 1 mm."""
    try:
        image: Any = nib.load(path)
        if image.ndim != 3:
            raise BadInput(f"{path} has {image.ndim} dimensions; a label map has 3")
        image = nib.as_closest_canonical(image)
        data: NDArray[np.int32] = np.rint(np.asarray(image.dataobj)).astype(np.int32)
    except BadInput:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are parsers
        raise BadInput(f"can't read the label map {path} ({error}); copy it anew") from error
    for axis, spacing in enumerate(nib.affines.voxel_sizes(image.affine)):
        if abs(spacing - 1) > 0.02:
            nearest = (np.arange(max(1, round(data.shape[axis] * spacing))) + 0.5) / spacing
            nearest = nearest.astype(np.int64).clip(max=data.shape[axis] - 1)
            data = data.take(nearest, axis)
    return data


def _split_sides(
    data: NDArray[np.int32], table: dict[int, str], split: dict[int, str]
) -> NDArray[np.int32]:
    """Give voxels whose value names both sides of a structure the value of their own side."""
    shared = {int(v): split[int(v)] for v in np.unique(data) if int(v) in split}
    if not shared:
        return data
    sides = {
        side: np.isin(data, [v for v, name in table.items() if name.startswith(f"{side} ")])
        for side in ("left", "right")
    }
    found = [bounding_box(mask)[0] for mask in sides.values() if mask.any()]
    ends = [end for side in found for end in (side.start, side.stop - 1)]
    middle = (min(ends) + max(ends)) / 2 if ends else (len(data) - 1) / 2
    is_left = np.broadcast_to(np.arange(len(data))[:, None, None] < middle, data.shape)
    for value, name in shared.items():
        for side, mask in (("left", is_left), ("right", ~is_left)):
            own = next(v for v, n in table.items() if n == f"{side} {name}")
            data = np.where((data == value) & mask, own, data)
    return data


def _mirror_table(names: tuple[str, ...], vocabulary: Vocabulary) -> list[int]:
    """The tissue on the other side for each; several values of one class keep their order."""
    seen: dict[str, int] = {}
    keys = []
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        keys.append((name, seen[name]))
    places = {key: i for i, key in enumerate(keys)}

    def other(name: str, rank: int) -> int:
        if name not in vocabulary.class_names:
            return places[name, rank]
        swapped = vocabulary.swap_side(name)
        return places.get((swapped, rank), places.get((swapped, 0), places[name, rank]))

    return [other(*key) for key in keys]


def _stack(maps: list[NDArray[np.uint8]]) -> Tensor:
    """Crop each map to its head and stack them to (M, X, Y, Z)."""
    cropped = [m[bounding_box(m > 0)] for m in maps]
    shape = np.max([c.shape for c in cropped], axis=0)
    out = np.zeros((len(maps), *shape), dtype=np.uint8)
    for target, c in zip(out, cropped, strict=True):
        target[: c.shape[0], : c.shape[1], : c.shape[2]] = c
    return torch.from_numpy(out)


def centre_and_size(mask: Tensor) -> tuple[Point, Point]:
    """Return centre and size, in voxels, of the box around a mask (x, y, z) that isn't empty.

    Lines where the mask is smaller than a fiftieth of its largest section don't count.
    """
    ends = []
    for others in ((1, 2), (0, 2), (0, 1)):
        area = mask.float().sum(others)
        lines = torch.nonzero(area > 0.02 * area.max()).flatten()
        ends.append((int(lines[0]), int(lines[-1])))
    (x0, x1), (y0, y1), (z0, z1) = ends
    centre = ((x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2)
    return centre, (x1 - x0 + 1.0, y1 - y0 + 1.0, z1 - z0 + 1.0)


def to_standard_size(size_mm: Tensor) -> Tensor:
    """Return by what to multiply positions (…, 3) in a head whose cerebrum has a size (…, 3).

    A head that is cut off, or was found in part only, isn't as small as it looks.
    """
    standard = torch.tensor(CEREBRUM_MM, device=size_mm.device)
    return standard / size_mm.clamp(0.8 * standard, 1.25 * standard)


def generate(
    maps: LabelMaps, config: SyntheticConfig, count: int, generator: torch.Generator
) -> Slabs:
    """Make `count` slabs on the device that the maps and the generator are on."""
    draw = _Draw(generator)
    # 1. Which head, which plane, which slice, and how the head is deformed.
    head = draw.integers(count, len(maps.tissues))  # (B,)
    planes = torch.tensor([PLANES[name] for name in config.planes], device=draw.device)
    axes = planes[draw.integers(count, len(planes))]  # (B, 3)
    offsets, weights = _planes_around(config, count, draw)  # (B, K), (B, S, K)
    middle = offsets.shape[1] // 2
    centred = _pixel_positions(maps, config, head, axes, offsets, draw)  # (B, K, H, W, 3)
    source, ill = centred, _draw_tumours(maps, config, centred[:, middle], draw)
    if ill is not None:
        moved = tumours.displaced(centred[ill.samples], ill.tumours)
        source = centred.index_copy(0, ill.samples, moved)
    points, shrinking = _deform(source, maps.centres[head], config, draw)  # (B, K, H, W, 3)
    # 2. The tissue at every point, and the class of the middle slice.
    tissue = _look_up(maps, config, head, points, draw)  # (B, K, H, W)
    tissue = _draw_lesions(maps, config, head, points, centred, tissue, draw)
    tissue = _scatter_lesions(maps, config, centred, tissue, draw)
    if ill is not None:
        first, healthy = maps.names.index(tumours.TISSUES[0]), tissue[ill.samples]
        may_grow = _may_grow(maps)[healthy]
        grown = tumours.grow(healthy, may_grow, centred[ill.samples], ill.tumours, first)
        tissue = tissue.index_copy(0, ill.samples, grown)
    tissue, is_stripped = _strip(maps, tissue, config, draw)
    shown = tissue if config.labels_of_all else tissue[:, middle]
    labels = maps.classes[shown]  # (B, H, W), or (B, S, H, W)
    # 3. What a scanner makes of it.
    brightness = _brightness(maps, tissue, config, draw)  # (B, K, H, W)
    slices = torch.einsum("bsk,bkhw->bshw", weights, brightness)  # (B, S, H, W)
    slices = _scan(slices, is_stripped, config, draw)
    is_shown = _field_of_view(config, count, draw)  # (B, H, W)
    slices = slices * is_shown[:, None]
    labels = labels * (is_shown[:, None] if config.labels_of_all else is_shown)
    # 4. Where every pixel lies, as well as it can be known from an image.
    jitter = draw.normal(count, 1, 1, 3) * config.position_jitter_mm
    jitter[..., 0] *= 0.6
    jitter *= torch.where(draw.uniform(count, 1, 1, 1) < config.lost_share, 3.0, 1.0)
    error = 1 + config.position_scaling * draw.normal(count, 3)
    scale = to_standard_size(maps.sizes[head] / shrinking / error)[:, None, None]  # (B, 1, 1, 3)
    position = (centred[:, middle] * scale + jitter) / POSITION_SCALE_MM  # (B, H, W, 3)
    return Slabs(torch.cat([slices, position.permute(0, 3, 1, 2)], dim=1), labels)


class _Draw:
    """Random numbers from one generator, on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.device = generator.device

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        share = torch.rand(shape, generator=self.generator, device=self.device)
        return low + (high - low) * share

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def integers(self, count: int, high: int) -> Tensor:
        return torch.randint(high, (count,), generator=self.generator, device=self.device)

    def happens(self, share: float) -> bool:
        return bool(self.uniform(1) < share)


def _planes_around(config: SyntheticConfig, count: int, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Choose the planes to sample around a slice (B, K) in mm, and how slices mix them (B, S, K).

    A thin scan samples the slices themselves. A thick one averages planes over the thickness of
    each acquired slice and interpolates linearly between these, as a reader of the scan does.
    """
    half = config.slices // 2
    wanted = torch.arange(-half, half + 1, device=draw.device) * config.neighbour_mm  # (S,)
    if not draw.happens(config.thick_share):
        identity = torch.eye(config.slices, device=draw.device)
        return wanted.expand(count, -1), identity.expand(count, -1, -1)
    spacing = draw.uniform(count, 1, 1, low=2.0, high=config.thickest_mm)  # (B, 1, 1)
    thickness = spacing * draw.uniform(count, 1, 1, low=0.7, high=1.0)
    phase = -spacing * draw.uniform(count, 1, 1)
    reach = half * config.neighbour_mm + spacing[:, 0]  # (B, 1)
    offsets = reach * torch.linspace(-1, 1, 9, device=draw.device)  # (B, K)
    below = torch.floor((wanted[None, :, None] - phase) / spacing)  # (B, S, 1)
    share = (wanted[None, :, None] - phase) / spacing - below

    def acquired(index: Tensor) -> Tensor:
        distance = (offsets[:, None] - (phase + index * spacing)).abs()  # (B, S, K)
        profile = F.relu(1 - distance / (0.75 * thickness))
        return profile / profile.sum(2, keepdim=True).clamp_min(1e-6)

    return offsets, (1 - share) * acquired(below) + share * acquired(below + 1)


def _pixel_positions(
    maps: LabelMaps,
    config: SyntheticConfig,
    head: Tensor,
    axes: Tensor,
    offsets: Tensor,
    draw: _Draw,
) -> Tensor:
    """Place the pixels of every plane: mm from the head's centre along RAS, (B, K, H, W, 3)."""
    count = len(head)
    extent = maps.extents[head] - maps.centres[head][..., None]  # (B, 3, 2)
    extent = extent.gather(1, axes[:, 2, None, None].expand(-1, 1, 2))[:, 0]  # (B, 2)
    low, high = extent[:, 0] - 8, extent[:, 1] + 8
    anywhere = low + (high - low) * draw.uniform(count)  # (B,)
    central = config.central_mm * draw.normal(count)
    slice_mm = torch.where(draw.uniform(count) < config.central_share, central, anywhere)
    reach = config.shift_mm + torch.tensor(config.roam_mm, device=draw.device)
    shift = reach * draw.uniform(count, 2, low=-1, high=1)
    rows = (
        torch.arange(config.height, device=draw.device) - (config.height - 1) / 2
    ) * config.pixel_mm
    columns = (
        torch.arange(config.width, device=draw.device) - (config.width - 1) / 2
    ) * config.pixel_mm
    unit = F.one_hot(axes, 3).float()  # (B, 3, RAS): the directions of rows, columns, normal
    along_rows = (rows + shift[:, :1])[:, :, None] * unit[:, None, 0]  # (B, H, 3)
    along_columns = (columns + shift[:, 1:])[:, :, None] * unit[:, None, 1]  # (B, W, 3)
    along_normal = (slice_mm[:, None] + offsets)[:, :, None] * unit[:, None, 2]  # (B, K, 3)
    return (
        along_normal[:, :, None, None]
        + along_rows[:, None, :, None]
        + along_columns[:, None, None, :]
    )  # (B, K, H, W, 3)


def _deform(
    centred: Tensor, centre: Tensor, config: SyntheticConfig, draw: _Draw
) -> tuple[Tensor, Tensor]:
    """Move positions (B, K, H, W, 3) in the image to voxels of the label map, same shape.

    Returns also by what share of its size the head became smaller along each axis, (B, 3).
    """
    count, _, height, width, _ = centred.shape
    angles = (draw.uniform(count, 3, low=-1, high=1)) * math.radians(config.rotation_deg)
    scale = 1 + config.scaling * draw.uniform(count, 3, low=-1, high=1)
    shear = config.shear * draw.uniform(count, 3, 3, low=-1, high=1)
    matrix = _rotation(angles) @ (torch.diag_embed(scale) + torch.triu(shear, 1))  # (B, 3, 3)
    moved = torch.einsum("bij,bkhwj->bkhwi", matrix, centred) + centre[:, None, None, None]
    # smooth displacements: a coarse random grid, finer grids with smaller ones
    knots = int(draw.integers(1, 9)) + 4
    amplitude = config.elastic_mm * math.sqrt(4 / knots) * draw.uniform(count, 1, 1, 1)
    coarse = draw.normal(count, 3, knots, knots) * amplitude
    field = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    return moved + field.permute(0, 2, 3, 1)[:, None], scale


def _rotation(angles: Tensor) -> Tensor:
    """Rotation matrices (B, 3, 3) from angles (B, 3) in radians about R, A and S."""
    matrix = torch.eye(3, device=angles.device).expand(len(angles), 3, 3)
    for axis, (a, b) in enumerate(((1, 2), (2, 0), (0, 1))):
        turn = torch.eye(3, device=angles.device).repeat(len(angles), 1, 1)
        sine, cosine = angles[:, axis].sin(), angles[:, axis].cos()
        turn[:, a, a] = turn[:, b, b] = cosine
        turn[:, a, b], turn[:, b, a] = -sine, sine
        matrix = matrix @ turn
    return matrix


def _look_up(
    maps: LabelMaps, config: SyntheticConfig, head: Tensor, points: Tensor, draw: _Draw
) -> Tensor:
    """Return the tissue (B, K, H, W) at points (B, K, H, W, 3) in voxels.

    Half of the heads are mirrored, some have wider or narrower ventricles.
    """
    count = len(head)
    mirror = draw.uniform(count) < 0.5  # (B,)
    sign = torch.where(mirror, -1.0, 1.0)[:, None, None, None]
    centre = maps.centres[head][:, 0, None, None, None]
    x = (points[..., 0] - centre) * sign + centre
    places = torch.stack([x, points[..., 1], points[..., 2]], dim=-1)
    low, high = config.ventricle_mm
    wider = draw.uniform(count, low=low, high=high)
    wider = wider * (draw.uniform(count) < config.ventricle_share)
    places = ventricles.moved(places, head, maps.towards_ventricles, wider)
    voxel = places.round().long().movedim(-1, 0)  # (3, B, K, H, W)
    shape = torch.tensor(maps.tissues.shape[1:], device=draw.device)[:, None, None, None, None]
    is_inside = ((voxel >= 0) & (voxel < shape)).all(0)
    voxel = voxel.clamp_min(0).minimum(shape - 1)
    flat = head[:, None, None, None]
    for axis in range(3):
        flat = flat * maps.tissues.shape[axis + 1] + voxel[axis]
    tissue = torch.take(maps.tissues, flat).long() * is_inside
    return torch.where(mirror[:, None, None, None], maps.mirrored[tissue], tissue)


def _draw_lesions(
    maps: LabelMaps,
    config: SyntheticConfig,
    head: Tensor,
    points: Tensor,
    centred: Tensor,
    tissue: Tensor,
    draw: _Draw,
) -> Tensor:
    """Heal the lesions of some heads, and put those of a mask into others: (B, K, H, W).

    Lesions are put where the white matter of the cerebrum is, at the place in the head where they
    lie in MNI space. `points` are voxels of the label map, `centred` mm in the image.
    """
    if LESIONS not in maps.names:
        return tissue
    is_lesion = _is_any(maps, (LESIONS,), draw.device)
    left, right = _white_matter(maps)
    chance = draw.uniform(len(head))[:, None, None, None]  # (B, 1, 1, 1)
    white = torch.where(centred[..., 0] < 0, left, right)
    tissue = torch.where((chance < config.healed_share) & is_lesion[tissue], white, tissue)
    if not len(maps.lesions):
        return tissue
    # where a point of this head lies in MNI space, relative to the masks' first voxel
    standard = torch.tensor(MNI_CEREBRUM_MM, device=draw.device) / maps.sizes[head]  # (B, 3)
    away = points - maps.centres[head][:, None, None, None]
    flip = torch.where(draw.uniform(len(head), 1) < 0.5, -1.0, 1.0)
    scale = standard * torch.cat([flip, torch.ones(len(head), 2, device=draw.device)], 1)
    origin = torch.tensor(maps.lesion_origin, device=draw.device)
    shift = torch.tensor(MNI_CENTRE_MM, device=draw.device) - origin
    voxel = (away * scale[:, None, None, None] + shift).round().long()  # (B, K, H, W, 3)
    shape = torch.tensor(maps.lesions.shape[1:], device=draw.device)
    is_inside = ((voxel >= 0) & (voxel < shape)).all(-1)
    i, j, k = voxel.clamp_min(0).minimum(shape - 1).unbind(-1)
    mask = draw.integers(len(head), len(maps.lesions))[:, None, None, None]
    is_hit = (maps.lesions[mask, i, j, k] > 0) & is_inside & (chance > 1 - config.lesion_share)
    is_hit &= _is_white_matter(maps, tissue)
    return torch.where(is_hit, maps.names.index(LESIONS), tissue)


def _white_matter(maps: LabelMaps) -> tuple[int, int]:
    """The tissues of the cerebrum's white matter, left and right; 0 where there is none."""
    sides = ("left cerebral white matter", "right cerebral white matter")
    left, right = (maps.names.index(side) if side in maps.names else 0 for side in sides)
    return left, right


def _is_white_matter(maps: LabelMaps, tissue: Tensor) -> Tensor:
    """Where tissues of any shape are the cerebrum's white matter."""
    left, right = _white_matter(maps)
    return ((tissue == left) | (tissue == right)) & (tissue > 0)


def _is_any(maps: LabelMaps, names: tuple[str, ...], device: torch.device) -> Tensor:
    """Which tissues (T,) have one of these names."""
    return torch.tensor([name in names for name in maps.names], device=device)


SCATTERED = 8
"""How many small lesions are put into a slice, or less where they meet something else."""


def _scatter_lesions(
    maps: LabelMaps, config: SyntheticConfig, centred: Tensor, tissue: Tensor, draw: _Draw
) -> Tensor:
    """Put small lesions into the white matter that is seen in some slices: (B, K, H, W).

    `centred` is mm in the image, (B, K, H, W, 3).
    """
    samples = (draw.uniform(len(tissue)) < config.scattered_share).nonzero()[:, 0]  # (B',)
    if LESIONS not in maps.names or not len(samples):
        return tissue
    before, places = tissue[samples], centred[samples]
    is_white = _is_white_matter(maps, before)
    middle = before.shape[1] // 2
    count = len(samples)
    weights = is_white[:, middle].flatten(1) + 1e-6  # (B', H·W)
    chosen = torch.multinomial(weights, SCATTERED, generator=draw.generator)  # (B', N)
    centre = places[:, middle].flatten(1, 2).gather(1, chosen[..., None].expand(-1, -1, 3))
    low, high = config.scattered_mm
    radius = low + (high - low) * draw.uniform(count, SCATTERED) ** 2
    # as few as one, and cut anywhere by the slice
    radius[:, 1:] *= draw.uniform(count, SCATTERED - 1) < draw.uniform(count, 1)
    centre = centre + 0.7 * radius[..., None] * draw.uniform(count, SCATTERED, 3, low=-1, high=1)
    stretch = (0.25 * draw.normal(count, 1, 3)).exp()
    away = torch.cdist(places.flatten(1, 3) * stretch, centre * stretch)  # (B', K·H·W, N)
    is_hit = (away < radius[:, None]).any(2).view_as(before) & is_white
    changed = torch.where(is_hit, maps.names.index(LESIONS), before)
    return tissue.index_copy(0, samples, changed)


class _Ill(NamedTuple):
    """The samples that have a tumour, (B',), and their tumours."""

    samples: Tensor
    tumours: tumours.Tumours


def _draw_tumours(
    maps: LabelMaps, config: SyntheticConfig, positions: Tensor, draw: _Draw
) -> _Ill | None:
    """Draw tumours for some samples, about where a cerebrum is; positions (B, H, W, 3) in mm.

    Returns None where no sample gets one.
    """
    if tumours.TISSUES[0] not in maps.names or config.tumour_share == 0:
        return None
    half_axes = torch.tensor([52.0, 68.0, 45.0], device=draw.device)
    is_cerebrum = (positions / half_axes).square().sum(-1) < 1  # (B, H, W)
    drawn = tumours.draw_tumours(is_cerebrum, positions, config.tumour_share, draw.generator)
    samples = (drawn.radius > 0).nonzero()[:, 0]
    return _Ill(samples, drawn.select(samples)) if len(samples) else None


def _may_grow(maps: LabelMaps) -> Tensor:
    """Return for each tissue (T,): 2 where oedema spreads, 1 in the rest of the brain, else 0."""
    plain = [name.removeprefix("left ").removeprefix("right ") for name in maps.names]
    spreads = torch.tensor([name in _OEDEMA_SPREADS for name in plain])
    inside = ~_is_any(maps, _AROUND_BRAIN, maps.is_outside.device) & ~maps.is_outside
    return inside.long() + (inside & spreads.to(inside.device)).long()


def _strip(
    maps: LabelMaps, tissue: Tensor, config: SyntheticConfig, draw: _Draw
) -> tuple[Tensor, Tensor]:
    """Take skull and skin away from some heads; from half of these the fluid too."""
    count = len(tissue)
    is_stripped = draw.uniform(count) < config.stripped_share  # (B,)
    is_tight = is_stripped & (draw.uniform(count) < 0.5)
    around = _is_any(maps, _AROUND_BRAIN, draw.device)
    gone = maps.is_outside[tissue] & is_stripped[:, None, None, None]
    gone |= around[tissue] & is_tight[:, None, None, None]
    return tissue.masked_fill(gone, 0), is_stripped


def _brightness(maps: LabelMaps, tissue: Tensor, config: SyntheticConfig, draw: _Draw) -> Tensor:
    """Draw the brightness of every tissue of each sample and paint it: (B, K, H, W)."""
    count, tissues = len(tissue), len(maps.names)
    mean = draw.uniform(count, tissues)
    others = config.other_looks
    looks = torch.full((1 + len(others), tissues), torch.nan)
    for row, look in enumerate(("T1", *others)):
        for column, name in enumerate(maps.names):
            plain = name.removeprefix("left ").removeprefix("right ")
            looks[row, column] = _LOOKS.get(look, {}).get(plain, torch.nan)
    other = 1 + draw.integers(count, max(1, len(others)))
    is_t1 = draw.uniform(count) < (config.t1_share if others else 1.0)
    chosen = looks.to(draw.device)[torch.where(is_t1, 0, other)]  # (B, T)
    is_tumour = _is_any(maps, tumours.TISSUES, draw.device)
    is_lesion = _is_any(maps, (LESIONS,), draw.device)
    jitter = torch.where(is_tumour, config.tumour_jitter, config.look_jitter)  # (T,)
    typical = chosen + jitter * draw.normal(count, tissues)
    mean = torch.where(chosen.isnan(), mean, typical).clamp(0.02, 1.1)
    mean = _fade(maps, mean, config, draw)
    # both sides look alike, up to a little
    first = torch.minimum(maps.mirrored, torch.arange(tissues, device=draw.device))
    mean = mean[:, first] * (1 + 0.02 * draw.normal(count, tissues))
    has_dark_air = draw.uniform(count) < 0.8
    mean[:, 0] = torch.where(has_dark_air, 0.0, 0.2 * draw.uniform(count))
    spread = draw.uniform(count, tissues, low=0.01, high=0.07)
    spread[:, 0] *= ~has_dark_air
    spread = torch.where(is_tumour, 2.5 * spread, spread)
    sample = torch.arange(count, device=draw.device)[:, None, None, None]
    painted = mean[sample, tissue] + spread[sample, tissue] * draw.normal(*tissue.shape)
    # brightness also changes from place to place, within a tumour more than elsewhere
    strength = config.texture * draw.normal(count, tissues)
    strength[:, 0] = 0
    strength = torch.where(is_tumour, config.tumour_texture, strength)
    strength = torch.where(is_lesion, config.lesion_texture, strength) * draw.uniform(count, 1)
    texture = F.interpolate(draw.normal(count, 1, 10, 12), tissue.shape[2:], mode="bicubic")
    return painted + strength[sample, tissue] * texture


def _fade(maps: LabelMaps, mean: Tensor, config: SyntheticConfig, draw: _Draw) -> Tensor:
    """Let lesions and oedema look more like white matter, or less: brightness (B, T)."""
    white = mean[:, _white_matter(maps)[0], None]
    low, high = config.lesion_contrast
    contrast = draw.uniform(*mean.shape, low=low, high=high)
    fades = _is_any(maps, (LESIONS, tumours.TISSUES[0]), draw.device)
    return torch.where(fades, torch.lerp(white, mean, contrast), mean)


def _scan(slices: Tensor, is_stripped: Tensor, config: SyntheticConfig, draw: _Draw) -> Tensor:
    """Blur, lower the resolution, add a bias field, gamma and noise, normalise: (B, S, H, W)."""
    count, _, height, width = slices.shape
    # squares of random numbers: most scans are clean, a few are anything but
    sigma_mm = 0.5 + 1.8 * draw.uniform(count, 2) ** 2
    slices = _blur(slices, sigma_mm / config.pixel_mm)
    if draw.happens(0.25):
        factor = draw.uniform(2, low=1.0, high=6.0 / config.pixel_mm).tolist()
        small = (round(height / factor[0]), round(width / factor[1]))
        slices = F.interpolate(slices, small, mode="area")
        slices = F.interpolate(slices, (height, width), mode="bilinear")
    strength = 0.4 * draw.uniform(count, 1, 1, 1) ** 2
    bias = F.interpolate(draw.normal(count, 1, 4, 4) * strength, (height, width), mode="bicubic")
    slices = slices.clamp_min(0) * bias.exp()
    slices = slices.pow((0.25 * draw.normal(count, 1, 1, 1)).exp())
    slices = _ghosts(slices, config, draw)
    level = 0.13 * draw.uniform(count, 1, 1, 1) ** 2
    noise = level * draw.normal(*slices.shape)
    is_masked = is_stripped & (draw.uniform(count) < 0.8)
    is_clean_air = is_masked[:, None, None, None] & (slices < 0.02)
    slices = (slices + noise.masked_fill(is_clean_air, 0)).abs()
    return slices / bright_end(slices) * draw.uniform(count, 1, 1, 1, low=0.75, high=1.2)


def _ghosts(slices: Tensor, config: SyntheticConfig, draw: _Draw) -> Tensor:
    """Add faint shifted copies along rows or columns, as of a head that moved."""
    strength = 0.3 * draw.uniform(len(slices), 1, 1, 1)
    strength *= draw.uniform(len(slices), 1, 1, 1) < config.ghost_share
    axis = 2 + int(draw.integers(1, 2))
    shift = int(draw.integers(1, slices.shape[axis]))
    return (1 - strength) * slices + strength * slices.roll(shift, axis)


def _field_of_view(config: SyntheticConfig, count: int, draw: _Draw) -> Tensor:
    """What lies inside the field of view (B, H, W): of some images, one side is cut off."""
    size = torch.tensor([config.height, config.width], device=draw.device)
    across = draw.integers(count, 2)  # (B,): whether rows or columns are cut
    cut = 0.4 * draw.uniform(count) * (draw.uniform(count) < config.cropped_share)
    share = torch.where(draw.uniform(count) < 0.5, cut, -cut)  # from which side
    rows = torch.arange(config.height, device=draw.device)[None, :, None]
    columns = torch.arange(config.width, device=draw.device)[None, None, :]
    place = torch.where(across[:, None, None] == 0, rows, columns)  # (B, H, W)
    first = (share.clamp_min(0) * size[across])[:, None, None]
    last = ((1 + share.clamp_max(0)) * size[across])[:, None, None]
    return (place >= first) & (place < last)


SPIKE = 4.0
"""How many times the 99.9th percentile an image's brightest may be; scans reach half of it."""


def bright_end(slices: Tensor) -> Tensor:
    """Return the 99.5th percentile (B, 1, 1, 1), air left out, of images (B, S, H, W)."""
    sparse = slices[:, :, ::3, ::3].flatten(1)  # (B, N)
    ordered = sparse.sort(dim=1).values
    # A few voxels far above all others, as of metal or a damaged file, don't make air of the rest.
    rank = ordered.shape[1] - 1 - (ordered > 0).sum(1, keepdim=True) // 1000
    brightest = torch.minimum(ordered[:, -1:], SPIKE * ordered.gather(1, rank))
    is_air = ordered < 0.05 * brightest
    start = is_air.sum(1)
    index = start + (0.995 * (sparse.shape[1] - 1 - start)).long()
    return ordered.gather(1, index[:, None]).clamp_min(1e-3)[..., None, None]


def _blur(slices: Tensor, sigma: Tensor) -> Tensor:
    """Blur (B, S, H, W) by Gaussians of sigma (B, 2) pixels along rows and columns."""
    count, depth, height, width = slices.shape
    reach = math.ceil(2.5 * float(sigma.max()))
    taps = torch.arange(-reach, reach + 1, device=slices.device)
    kernel = torch.exp(-0.5 * (taps / sigma[..., None]) ** 2)  # (B, 2, K)
    kernel = (kernel / kernel.sum(2, keepdim=True)).repeat_interleave(depth, 0)[:, :, None]
    flat = slices.reshape(1, count * depth, height, width)
    flat = F.conv2d(flat, kernel[:, 0, :, :, None], padding=(reach, 0), groups=count * depth)
    flat = F.conv2d(flat, kernel[:, 1, :, None, :], padding=(0, reach), groups=count * depth)
    return flat.reshape(slices.shape)
