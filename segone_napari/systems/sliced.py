"""The engine of every system that looks at slabs: find the brain, encode slices, answer prompts.

`encode` asks the model once for all classes, in every view, and keeps the mean probability of
each class in the box where it was seen at all. A prompt is then the sum of its classes.

Dimension key: x y z RAS axes of the working grid, B batch, H W pixels, C classes, N slices.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segone_napari.data.resample import (
    canonical_grid,
    canonical_tensor,
    through_plane_axis,
    to_native,
    to_stored,
    to_working,
    working_grid,
)
from segone_napari.data.slices import Head, SlabLayout, cut_slabs, slab_layout, to_volume
from segone_napari.data.synthetic import (
    CEREBRUM,
    LESIONS,
    PLANES,
    TUMOUR,
    SyntheticConfig,
    bright_end,
)
from segone_napari.data.vocabulary import Match, Term, Vocabulary
from segone_napari.models.answers import Answers, DenseModel
from segone_napari.models.checkpoint import Manifest, load_checkpoint
from segone_napari.models.network import POSITION_CHANNELS
from segone_napari.runtime import (
    BadCheckpoint,
    BadInput,
    Progress,
    choose_device,
    fast_precision,
    no_progress,
)
from segone_napari.systems.base import EMPTY_BOX, Box, Result
from segone_napari.systems.finding import (
    centred_on,
    first_centre,
    foreground_box,
    is_cut_in_width,
    is_settled,
    largest_piece,
    with_air_at_zero,
)
from segone_napari.systems.sharpening import SparseClasses, sharpen
from segone_napari.volume import Grid, Volume

NEIGHBOUR_MM = SyntheticConfig.neighbour_mm
STEP_MM = 2.0
"""Distance of the slices that are looked at."""
LOCATE_STEP_MM = 6.0
"""Distance of the slices that the brain is looked for on."""
SLABS_AT_ONCE = 4
"""What fits a CPU's cache."""
SLABS_AT_ONCE_ON_GPU = 32
PROGRESS_STEPS = 1000
"""Progress counts in shares of this, since how many slices there are is known only on the way."""
LOOKING_SHARE = 0.7
"""How much of encoding is looking; the rest is sharpening."""
FAINT = 0.02
"""Probabilities up to this count as nothing."""
SMALLEST_ML = 0.015
LEAST_CERTAINTY = 0.2
LEAST_CERTAINTY_OF = {LESIONS: 0.6, TUMOUR: 0.5}
"""A structure smaller, or a mask that expects less Dice than this before its outline is `evened`,
counts as not found. What need not be in a head at all has to be surer."""
MAY_BE_OFF = 0.5
"""By how many voxels an outline may be off (standard deviation), for confidence and uncertainty."""
SURE_IF_SMALL = {LESIONS: (1.5, 0.6), TUMOUR: (8.0, 0.7)}
"""Lesions or tumours of no more mL than this, all together, count as not found below this
confidence."""

ODDS_OF = {TUMOUR: 2.0}
"""By how much the odds of a class are higher than the network says, where it is asked for: it knows
tumours from drawings only, and is too careful about those that look otherwise."""
OUTLINED_GENEROUSLY = frozenset({LESIONS, TUMOUR})
"""Classes whose mask, once they are found, is the one that expects the most Dice, not what is more
likely than not."""

_AROUND_BRAIN = ("background", "cerebrospinal fluid", "blood vessels")


@dataclass(frozen=True)
class View:
    """One way to look at a head: a plane, mirrored or shifted."""

    plane: str
    is_mirrored: bool = False
    shift: int = 0
    """Voxels by which the blocks of the pixel-unshuffle are shifted."""


def preset_views(preset: str, through_plane: int | None, planes: Sequence[str]) -> list[View]:
    """Choose the views of a preset among the planes that a model was trained on.

    `fast` cuts a thick-sliced scan along its own slices where the model knows that plane, other
    scans in the first one. `balanced` looks in every plane, or mirrored where there is only one;
    `best` in every plane, mirrored and not, with the blocks of pixels in two places.
    """
    of_normal = {PLANES[plane][2]: plane for plane in planes}
    main = of_normal.get(2 if through_plane is None else through_plane, planes[0])
    if preset == "fast":
        return [View(main)]
    if preset == "balanced" and len(planes) > 1:
        return [View(plane) for plane in planes]
    shifts = (0,) if preset == "balanced" else (0, 5)
    return [
        View(plane, is_mirrored=m, shift=s)
        for plane in planes
        for s in shifts
        for m in (False, True)
    ]


class Part(NamedTuple):
    """Probabilities (x, y, z), half precision, in a box of the working grid, and where it starts.

    They are zero outside; the box is empty where a class is nowhere.
    """

    values: Tensor
    origin: tuple[int, int, int]


NOWHERE = Part(torch.zeros(0, 0, 0, dtype=torch.float16), (0, 0, 0))


@dataclass(frozen=True, eq=False)
class EncodedHead:
    """An encoded image; `classes` are in the vocabulary's order.

    `sharp` holds them on the image's own grid; without it they are interpolated.
    """

    grid: Grid
    working: Grid
    head: Head
    classes: tuple[Part, ...]
    sharp: SparseClasses | None = None


class SlicedSystem:
    """A dense model of slabs as a system."""

    def __init__(
        self,
        name: str,
        checkpoint: str,
        model: DenseModel,
        vocabulary: Vocabulary,
        *,
        device: torch.device,
        planes: Sequence[str] = ("axial",),
        pixel_mm: float = SyntheticConfig.pixel_mm,
        preset: str = "balanced",
    ) -> None:
        self.name, self.checkpoint = name, checkpoint
        self.model, self.vocabulary = model, vocabulary
        self.device, self.planes, self.pixel_mm = device, tuple(planes), pixel_mm
        self.preset = preset
        self.has_uncertainty = preset != "fast"
        self._located: weakref.WeakKeyDictionary[Volume, tuple[Grid, Head]] = (
            weakref.WeakKeyDictionary()
        )
        with torch.inference_mode():
            names = vocabulary.class_names
            self._brain = _indices([n not in _AROUND_BRAIN for n in names], device)
            self._cerebrum = _indices([n in CEREBRUM for n in names], device)
            self._classes = model.answers(names)
            self._mirrored = model.answers([vocabulary.swap_side(name) for name in names])
        self._at_once = SLABS_AT_ONCE if device.type == "cpu" else SLABS_AT_ONCE_ON_GPU
        if device.type != "cpu":
            self._warm_up()

    @classmethod
    def from_checkpoint(cls, name: str, folder: Path, *, device: str, preset: str) -> Self:
        """Load a checkpoint folder of the system `name`.

        Raises
        ------
        BadCheckpoint
            If the folder can't be used, or belongs to another system.
        """
        model, vocabulary, manifest = load_checkpoint(folder)
        if manifest.system != name:
            raise BadCheckpoint(
                f"{folder} is a checkpoint of {manifest.system}, not of {name}; "
                f"add --system {manifest.system}, or give another"
            )
        planes, pixel_mm = trained_on(manifest, folder)
        place = choose_device(device)
        return cls(
            name,
            folder.name,
            model.to(place),
            vocabulary,
            device=place,
            planes=planes,
            pixel_mm=pixel_mm,
            preset=preset,
        )

    # --- the protocol ---------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, image: Volume, *, progress: Progress = no_progress) -> EncodedHead:
        """Find the brain and compute the features of every view."""
        working, head = self.locate(image, progress=progress)
        views = preset_views(self.preset, through_plane_axis(image.grid), self.planes)
        layouts = [
            slab_layout(
                _mirror(head) if v.is_mirrored else head,
                v.plane,
                STEP_MM,
                self.model.stride,
                shift=v.shift,
            )
            for v in views
        ]
        total = sum(len(layout.indices) for layout in layouts)
        looking = round(PROGRESS_STEPS * LOOKING_SHARE)
        done = 0
        by_class: list[list[Part]] = [[] for _ in self.vocabulary.class_names]
        for view, layout in zip(views, layouts, strict=True):
            start = done

            def report(slices: int, start: int = start) -> None:
                progress(round(looking * (start + slices) / total), PROGRESS_STEPS)

            for parts, part in zip(by_class, self._look(head, view, layout, report), strict=True):
                parts.append(part)
            done += len(layout.indices)
        classes = tuple(_sum(parts, 1 / len(views)) for parts in by_class)

        def sharpening(done: int, of: int) -> None:
            progress(looking + round((PROGRESS_STEPS - looking) * done / of), PROGRESS_STEPS)

        sharp = self._sharpened(image, working, classes, sharpening)
        progress(PROGRESS_STEPS, PROGRESS_STEPS)
        return EncodedHead(image.grid, working, head, classes, sharp)

    @torch.inference_mode()
    def segment(
        self,
        encoded: EncodedHead,
        prompts: Sequence[str],
        *,
        progress: Progress = no_progress,
    ) -> list[Result]:
        """Answer each prompt, in order."""
        results = []
        for done, prompt in enumerate(prompts):
            progress(done, len(prompts))
            results.append(self._answer(encoded, prompt))
        progress(len(prompts), len(prompts))
        return results

    @torch.inference_mode()
    def preview(
        self,
        image: Volume,
        prompts: Sequence[str],
        axis: int,
        index: int,
        *,
        progress: Progress = no_progress,
    ) -> list[Result]:
        """Answer for one slice alone, where it lies in a plane that the model was trained on."""
        working, head = self.locate(image, progress=progress)
        place = _working_slice(image.grid, working, axis, index)
        if place is None:
            return []
        normal, middle = place
        plane = next((name for name in self.planes if PLANES[name][2] == normal), None)
        if plane is None:
            return []
        # three voxels thick, so that the slice lies between samples on any grid
        box = list(head.box)
        box[normal] = slice(middle - 1, middle + 2)
        thin = replace(head, box=(box[0], box[1], box[2]))
        layout = slab_layout(thin, plane, 1.0, self.model.stride)
        one = replace(layout, indices=(middle,))
        parts = self._look(head, View(plane), one, lambda seen: progress(seen, 1))
        classes = tuple(_thickened(part, normal) for part in parts)
        encoded = EncodedHead(image.grid, working, thin, classes)
        return [_only_slice(self._answer(encoded, p), axis, index) for p in prompts]

    def forget(self, image: Volume | None = None) -> None:
        """Give back the memory of one image, or of all."""
        if image is None:
            self._located.clear()
        else:
            self._located.pop(image, None)

    # --- encoding -------------------------------------------------------------------------------

    @torch.inference_mode()
    def _warm_up(self) -> None:
        """Look at nothing: a GPU loads what it computes with when that is first used."""
        side = 4 * self.model.stride
        slabs = torch.zeros(
            self._at_once, self.model.slices + POSITION_CHANNELS, side, side, device=self.device
        )
        for look in (self.model.overview, self.model.features):
            with fast_precision(self.device):
                features = look(slabs)
            _class_probabilities(self._classes, features).half().amax().item()

    def locate(self, image: Volume, *, progress: Progress = no_progress) -> tuple[Grid, Head]:
        """Bring an image to the working grid and find the brain in it; kept while the image is."""
        if image not in self._located:
            progress(0, PROGRESS_STEPS)
            working = working_grid(image.grid, self.pixel_mm)
            raw = to_working(with_air_at_zero(image), working, self.device)
            image_box = foreground_box(raw)
            bright = bright_end(raw[image_box][::2, ::2, ::2].reshape(1, 1, 1, -1)).squeeze()
            guess = first_centre(image_box, working.spacing)
            head = Head((raw / bright).clamp(0, 2), working.spacing, guess, image_box)
            main = preset_views("fast", through_plane_axis(image.grid), self.planes)[0].plane
            every = tuple(dict.fromkeys((main, *self.planes)))
            for planes in ((main,), every, every):
                before = head
                head = self._look_for_brain(head, image_box, planes, progress)
                if is_settled(before, head):
                    break
            self._located[image] = working, head
        return self._located[image]

    def _look_for_brain(
        self, head: Head, image_box: Box, planes: Sequence[str], progress: Progress
    ) -> Head:
        """Segment a few slices of the whole head; return it with the brain's centre and box.

        What slices of one plane can't tell, where the cerebrum ends across them, those of another
        show: the mean over the planes counts.
        """
        whole = replace(head, box=image_box)
        shares = []  # of the brain and of the cerebrum, (x, y, z) in `image_box`
        for plane in planes:
            layout = slab_layout(whole, plane, LOCATE_STEP_MM, self.model.stride)
            seen = []
            for slabs in _batched(layout.indices, 2 * self._at_once):
                progress(0, PROGRESS_STEPS)
                features = self._features(head, layout, slabs, self.model.overview)
                probability = _class_probabilities(self._classes, features)  # (B, h, w, C)
                both = [probability[..., w].sum(3) for w in (self._brain, self._cerebrum)]
                seen.append(torch.stack(both, 1))
            size = [layout.box[a].stop - layout.box[a].start for a in layout.axes[:2]]
            masks = F.interpolate(torch.cat(seen), size, mode="bilinear").transpose(0, 1)
            inside = tuple(
                slice(b.start - of.start, b.stop - of.start)
                for b, of in zip(image_box, layout.box, strict=True)
            )
            shares.append(torch.stack([to_volume(mask, layout)[inside] for mask in masks]))
        mean = torch.stack(shares).mean(0)
        is_brain, is_cerebrum = (largest_piece(share > 0.5) for share in mean)
        return centred_on(head, is_brain, is_cerebrum, image_box)

    def _features(
        self,
        head: Head,
        layout: SlabLayout,
        indices: tuple[int, ...],
        look: Callable[[Tensor], Tensor],
    ) -> Tensor:
        slabs = cut_slabs(head, layout, indices, self.model.slices, NEIGHBOUR_MM)
        with fast_precision(self.device):
            return look(slabs)  # (B, D, H, W)

    def _look(
        self, head: Head, view: View, layout: SlabLayout, progress: Callable[[int], None]
    ) -> list[Part]:
        """Ask in one view; return the probability of every class."""
        head = _mirror(head) if view.is_mirrored else head
        classes = self._mirrored if view.is_mirrored else self._classes
        slabs, seen = [], []
        done = 0
        for indices in _batched(layout.indices, self._at_once):
            progress(done)
            features = self._features(head, layout, indices, self.model.features)
            probability = (
                _class_probabilities(classes, features).half().permute(0, 3, 1, 2).contiguous()
            )
            seen.append(_seen_lines(probability))  # (B, C, H, W)
            slabs.append(probability)
            done += len(indices)
        progress(done)
        width = head.image.shape[0] if view.is_mirrored else None
        return [
            _part([slab[:, index] for slab in slabs], layout, extent, width)
            for index, extent in enumerate(_extents(seen))
        ]

    def _sharpened(
        self, image: Volume, working: Grid, classes: tuple[Part, ...], progress: Progress
    ) -> SparseClasses:
        native = canonical_grid(image.grid)

        def probability(index: int) -> tuple[Box, NDArray[np.float16]]:
            values, origin = classes[index]
            return to_native(values, working, native, FAINT, origin=origin)

        brightness = canonical_tensor(with_air_at_zero(image), self.device)
        brightness -= brightness.min().clamp_max(0)
        names = self.vocabulary.class_names
        return sharpen(brightness, native.spacing, names, probability, progress=progress)

    # --- answering ------------------------------------------------------------------------------

    def _answer(self, encoded: EncodedHead, prompt: str) -> Result:
        started = time.monotonic()
        match = self.vocabulary.match(prompt)
        if match.term is None:
            return _refusal(encoded.grid, prompt, match, time.monotonic() - started)
        term, indices = match.term, self._indices_of(match.term)
        probability, origin = self._probability(encoded, term)
        native = encoded.grid
        box, values = self._on_image(encoded, term)
        first = term.classes[0]
        if first in ODDS_OF:
            values = with_odds(values, ODDS_OF[first])
        mask = values > 0.5
        doubtful = evened(values)
        volume_ml = int(mask.sum()) * native.voxel_volume_ml
        confidence = expected_dice(doubtful, mask)
        least = LEAST_CERTAINTY_OF.get(first, LEAST_CERTAINTY)
        found = volume_ml >= SMALLEST_ML and expected_dice(values, mask) >= least
        warnings = self._side_warnings(encoded, term, probability, origin) if found else ()
        if found and (why := _why_not(encoded, term, indices[0], volume_ml, confidence)):
            found, warnings = False, (why,)
        if found and first in OUTLINED_GENEROUSLY:
            values = with_odds(values, 1 / best_threshold(values) - 1)
            confidence = expected_dice(doubtful, values > 0.5)
            doubtful = evened(values)
        return Result(
            prompt=prompt,
            resolved=term.canonical,
            side=term.side,
            grid=native,
            box=box,
            probability=values,
            found=found,
            confidence=confidence,
            seconds=time.monotonic() - started,
            uncertainty=entropy(doubtful) if self.has_uncertainty else None,
            colour=term.colour,
            warnings=warnings,
        )

    def _on_image(self, encoded: EncodedHead, term: Term) -> tuple[Box, NDArray[np.float16]]:
        """Probability of a term, the sum over its classes, in a box of the image's grid."""
        if encoded.sharp is not None:
            return to_stored(*encoded.sharp.probability(self._indices_of(term)), encoded.grid)
        probability, origin = self._probability(encoded, term)
        return to_native(probability, encoded.working, encoded.grid, FAINT, origin=origin)

    def _probability(self, encoded: EncodedHead, term: Term) -> tuple[Tensor, tuple[int, int, int]]:
        """Probability of a term, the sum over its classes, on a box of the working grid."""
        values, origin = _sum([encoded.classes[i] for i in self._indices_of(term)])
        return values.float().clamp_max(1), origin

    def _indices_of(self, term: Term) -> list[int]:
        return [self.vocabulary.class_names.index(name) for name in term.classes]

    def _side_warnings(
        self, encoded: EncodedHead, term: Term, probability: Tensor, origin: tuple[int, int, int]
    ) -> tuple[str, ...]:
        """Check from the image alone that a left mask lies left of the brain's middle."""
        if term.side not in ("left", "right"):
            return ()
        if is_cut_in_width(encoded.head):
            return ("only a part of the brain's width is seen; left and right may be wrong",)
        mass = probability.float().sum((1, 2)).cpu()
        x = float((mass * torch.arange(len(mass))).sum() / mass.sum()) + origin[0]
        beyond_mm = (x - encoded.head.centre[0]) * encoded.head.spacing[0]
        is_wrong = beyond_mm > 2 if term.side == "left" else beyond_mm < -2
        if not is_wrong:
            return ()
        return (f"the {term.canonical} lies on the other side of the brain's middle; check it",)


def _why_not(
    encoded: EncodedHead, term: Term, index: int, volume_ml: float, confidence: float
) -> str:
    """Say why what need not be in a head, as lesions, doesn't count; else nothing.

    `index` is that of the term's first class. Of a term of several, such as the brain, lesions may
    be a part. A preview of one slice, which isn't sharpened, can't tell.
    """
    if encoded.sharp is None or len(term.classes) > 1:
        return ""
    if encoded.sharp.is_clear(index) is False:
        return "what was seen hardly differs from its surroundings"
    most_ml, least = SURE_IF_SMALL.get(term.classes[0], (0.0, 0.0))
    if volume_ml <= most_ml and confidence < least:
        return "what was seen is small and unsure"
    return ""


def trained_on(manifest: Manifest, folder: Path) -> tuple[tuple[str, ...], float]:
    """The planes, and the mm of a pixel, that a checkpoint says it was trained on."""
    try:
        synthetic = manifest.training["config"]["synthetic"]
        planes = tuple(dict.fromkeys(synthetic["planes"]))
        pixel_mm = float(synthetic["pixel_mm"])
    except (KeyError, TypeError, ValueError):
        planes, pixel_mm = (), 0.0
    if not planes or not set(planes) <= set(PLANES) or not 0.2 <= pixel_mm <= 5:
        raise BadCheckpoint(
            f"{folder / 'checkpoint.json'} doesn't say which planes and pixels it was trained on; "
            "copy the checkpoint anew"
        )
    return planes, pixel_mm


def evened(probability: NDArray[np.float16]) -> NDArray[np.float32]:
    """Probabilities (i, j, k) of an answer whose outline may be off by half a voxel.

    The network's views and the brightness agree on an outline too soon: where it runs exactly is
    open in any case. Found on real scans, with `benchmarks/uncertainty.py`.
    """
    values = probability.astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(values, MAY_BE_OFF, mode="constant", truncate=2))


def expected_dice(probability: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Dice that a mask can expect if the probabilities are true."""
    values = probability.astype(np.float32)
    total = float(values.sum()) + int(mask.sum())
    return 2 * float(values[mask].sum()) / total if mask.any() else float(values.max(initial=0.0))


def with_odds(probability: NDArray[np.float16], times: float) -> NDArray[np.float16]:
    """Probabilities whose odds are so many times higher."""
    p = probability.astype(np.float32)
    return np.asarray(times * p / (1 + (times - 1) * p), dtype=np.float16)


def best_threshold(probability: NDArray[np.float16]) -> float:
    """Probability from which on voxels make the mask that expects the most Dice, at most 0.5.

    It is half of that Dice: what is seen less surely has to be outlined more generously. Source:
    Lipton et al., *Optimal thresholding of classifiers to maximize F1 measure*, ECML PKDD 2014.
    """
    ordered = np.sort(probability[probability > FAINT].astype(np.float64))[::-1]
    if not ordered.size:
        return 0.5
    expected = 2 * np.cumsum(ordered) / (np.arange(1, ordered.size + 1) + ordered.sum())
    return min(0.5, float(ordered[expected.argmax()]))


def entropy(probability: NDArray[np.floating]) -> NDArray[np.float16]:
    """Binary entropy of probabilities in bits, 0 (sure) to 1 (even odds)."""
    p = np.clip(probability.astype(np.float32), 1e-6, 1 - 1e-6)
    bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return bits.astype(np.float16)


def _indices(flags: list[bool], device: torch.device) -> Tensor:
    return torch.tensor(flags, device=device).nonzero().flatten()


def _mirror(head: Head) -> Head:
    """The head with left and right exchanged."""
    width = head.image.shape[0]
    x, y, z = head.box
    return replace(
        head,
        image=head.image.flip(0),
        centre=(width - 1 - head.centre[0], *head.centre[1:]),
        box=(slice(width - x.stop, width - x.start), y, z),
    )


# --- views --------------------------------------------------------------------------------------


def _batched(indices: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    return [indices[i : i + size] for i in range(0, len(indices), size)]


def _class_probabilities(classes: Answers, features: Tensor) -> Tensor:
    """Probability (B, H, W, C) of every class from features (B, D, H, W).

    Classes come last, as they lie in memory: a CPU is several times faster along them.
    """
    return classes.logits(features).permute(0, 2, 3, 1).float().softmax(3)


def _seen_lines(probability: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which slices (B, C), rows (C, H) and columns (C, W) show each class, from (B, C, H, W)."""
    by_row = probability.amax(3) > FAINT  # (B, C, H)
    by_column = probability.amax(2) > FAINT  # (B, C, W)
    return by_row.any(2).cpu(), by_row.any(0).cpu(), by_column.any(0).cpu()


def _extents(seen: list[tuple[Tensor, Tensor, Tensor]]) -> NDArray[np.int64]:
    """First and last + 1 line of every class along slices, rows and columns: (C, 3, 2)."""
    slices = torch.cat([s for s, _, _ in seen]).T  # (C, N)
    rows = torch.stack([r for _, r, _ in seen]).any(0)  # (C, H)
    columns = torch.stack([c for _, _, c in seen]).any(0)  # (C, W)
    out = np.zeros((len(slices), 3, 2), dtype=np.int64)
    for place, lines in enumerate((slices, rows, columns)):
        flags = lines.numpy()
        first = flags.argmax(1)
        last = flags.shape[1] - flags[:, ::-1].argmax(1)
        out[:, place, 0], out[:, place, 1] = first, np.where(flags.any(1), last, first)
    return out


def _part(
    slabs: list[Tensor], layout: SlabLayout, extent: NDArray[np.int64], mirrored_width: int | None
) -> Part:
    """Cut one class out of its slabs (B, H, W), in its extent (3, 2), as a part (x, y, z).

    In a mirrored view x of the layout runs from the right of `mirrored_width` voxels.
    """
    if (extent[:, 1] <= extent[:, 0]).any():
        return NOWHERE
    of_slices, of_rows, of_columns = (slice(int(a), int(b)) for a, b in extent)
    # between the last slice that shows it and the next one it fades
    of_slices = slice(max(0, of_slices.start - 1), of_slices.stop + 1)
    pixels = torch.cat([slab[:, of_rows, of_columns] for slab in slabs])[of_slices]  # (n, h, w)
    row_axis, column_axis, normal = layout.axes
    indices = layout.indices[of_slices]
    box = list(layout.box)
    box[normal] = slice(indices[0], indices[-1] + 1)
    for axis, lines in ((row_axis, of_rows), (column_axis, of_columns)):
        start = layout.box[axis].start
        box[axis] = slice(start + lines.start, start + lines.stop)
    volume = to_volume(pixels, SlabLayout(layout.axes, (box[0], box[1], box[2]), indices))
    first_x = box[0].start
    if mirrored_width is not None:
        volume, first_x = volume.flip(0), mirrored_width - box[0].stop
    return Part(volume, (first_x, box[1].start, box[2].start))


def _sum(parts: list[Part], share: float = 1.0) -> Part:
    """Add parts up, each at its place, and multiply by `share`."""
    parts = [part for part in parts if part.values.numel()]
    if not parts:
        return NOWHERE
    if len(parts) == 1:
        values, origin = parts[0]
        return Part(values.mul(share).contiguous(), origin)
    starts = np.array([part.origin for part in parts])
    stops = starts + np.array([part.values.shape for part in parts])
    origin = starts.min(0)
    total = torch.zeros((stops.max(0) - origin).tolist(), device=parts[0].values.device)
    for part, start in zip(parts, starts - origin, strict=True):
        sides = zip(start, part.values.shape, strict=True)
        total[tuple(slice(s, s + n) for s, n in sides)] += part.values
    return Part(total.mul_(share).half(), (int(origin[0]), int(origin[1]), int(origin[2])))


def _thickened(part: Part, axis: int) -> Part:
    """Repeat a part of one slice on both sides of it."""
    if not part.values.numel():
        return part
    origin = [first - (1 if a == axis else 0) for a, first in enumerate(part.origin)]
    shape = [3 if a == axis else n for a, n in enumerate(part.values.shape)]
    return Part(part.values.expand(shape), (origin[0], origin[1], origin[2]))


# --- preview and refusal ------------------------------------------------------------------------


def _working_slice(native: Grid, working: Grid, axis: int, index: int) -> tuple[int, int] | None:
    """Find the working axis and index of a native slice; None where the axes don't run along."""
    if not 0 <= index < native.shape[axis]:
        raise BadInput(f"there is no slice {index} along axis {axis} of {native.shape}")
    to_working_index = np.linalg.inv(working.affine) @ native.affine
    direction = to_working_index[:3, axis] / np.linalg.norm(to_working_index[:3, axis])
    normal = int(np.abs(direction).argmax())
    if abs(direction[normal]) < 0.999:
        return None
    centre = [(n - 1) / 2 for n in native.shape]
    centre[axis] = index
    middle = round(float((to_working_index @ np.array([*centre, 1.0]))[normal]))
    return normal, min(max(middle, 1), working.shape[normal] - 2)


def _only_slice(result: Result, axis: int, index: int) -> Result:
    """Keep one slice of a result."""
    box = list(result.box)
    start = box[axis].start
    if not start <= index < box[axis].stop:
        return replace(
            result, box=EMPTY_BOX, probability=np.zeros((0, 0, 0), np.float16), uncertainty=None
        )
    keep = [slice(None)] * 3
    keep[axis] = slice(index - start, index - start + 1)
    box[axis] = slice(index, index + 1)
    at = (keep[0], keep[1], keep[2])
    return replace(
        result,
        box=(box[0], box[1], box[2]),
        probability=result.probability[at],
        uncertainty=None if result.uncertainty is None else result.uncertainty[at],
    )


def _refusal(grid: Grid, prompt: str, match: Match, seconds: float) -> Result:
    """The answer to a prompt that isn't understood."""
    return Result(
        prompt=prompt,
        resolved=None,
        side=None,
        grid=grid,
        box=EMPTY_BOX,
        probability=np.zeros((0, 0, 0), dtype=np.float16),
        found=False,
        confidence=0.0,
        seconds=seconds,
        warnings=(match.reason,) if match.reason else (),
        suggestions=match.suggestions,
    )
