"""What corrections teach: figures of the learning loop on real data.

    python benchmarks/learning_loop.py DATA [--only PART …] [--teacher PATH] [--quick]

DATA holds ``hippocampus`` and ``validation``. Patients that are learnt from and those that are
measured on are apart. Seconds are those of the wall clock and, in brackets, of the processor; on a
machine with other work only the latter say something. They are without what a card measures on the
bundled head, since old structures are measured here on more scans. Parts:

``few``, ``whole``   a new term, from 5 slices in 5 cases, from 20 whole cases; 40 other cases
``same``             the rest of a volume, from 3 slices of the structure that is worst there
``between``          *Interpolate*: the slices between 3 corrected ones of every structure of a
                     scan, without training, beside outlines in between by their shapes alone
``other``            an object in an image unlike a head, from 3 slices; three such images
``curve``            Dice by the number of corrected slices: learnt from these alone, also from the
                     slices beside them as they are followed, and with a teacher as well
``accepted``         the same where a reader also looks at proposals for the slices beside each
                     corrected one, and accepts those that are right (Dice 0.8 or more there):
                     spread by SAM2 as in the window, and copied from the corrected slice
``reader``           slices needed for Dice 0.9: the doubtful ones first, and in random order

After ``few``, ``whole``, ``same`` and ``other`` the structures known before are measured on the
validation scans: after a new term on all, after ``same`` on that scan, after ``other`` on one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parent))
from accuracy import OTHERS, PAIRED, SCANS, data_with

from segone_napari.data import formats
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.evaluation.metrics import dice_by_prompt
from segone_napari.models import spreading
from segone_napari.models.teacher import Teacher
from segone_napari.project import ImageRef, Project
from segone_napari.project.versions import Versions
from segone_napari.session import Session
from segone_napari.systems.base import Told
from segone_napari.systems.following import follow
from segone_napari.training import promotion
from segone_napari.training.finetune import finetune
from segone_napari.training.teaching import FineTuneConfig
from segone_napari.volume import Volume

PARTS = ("few", "whole", "same", "between", "other", "curve", "accepted", "reader")
HIPPOCAMPUS = {"anterior hippocampus": 1, "posterior hippocampus": 2}
OLD = [f"{side} {name}" for name in PAIRED for side in ("left", "right")] + list(OTHERS)
CURVE_CASES = 20
"""So many of the cases that are measured on make a point of the curve."""
ACCEPTABLE = 0.8
"""Dice of a proposed slice from which on a reader takes it as it is."""
AXIS = 2
"""Slices of the crops are corrected along this array axis: the axial ones."""
Choose = Callable[[NDArray[np.bool_], int, int], list[int]]
"""From a mask, an axis and a number, so many slices along that axis."""


class Bench:
    """Options, and what is used again and again."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        torch.set_num_threads(args.threads)
        promotion.old_structures = lambda *_: None  # measured here, on other scans
        self.base = Session(device="cpu")
        self.figures: dict[str, object] = {}
        self._scans: dict[str, tuple[Volume, NDArray[np.uint8]]] = {}
        self._seen: dict[str, tuple[Any, float]] = {}
        files = sorted((args.data / "hippocampus" / "images").glob("*.nii.gz"))
        order = np.random.default_rng(0).permutation(len(files))
        # the cases between were used to choose how to learn
        self.tests = [files[n] for n in order[: 6 if args.quick else 40]]
        self.cases = [files[n] for n in order[60:]]

    def config(self, minutes: float, *, with_teacher: bool = False) -> FineTuneConfig:
        """How to train; with --unhurried the steps limit it, not the clock."""
        teacher = self.args.teacher if with_teacher else None
        limit = 24 * 60.0 if self.args.unhurried else minutes
        steps = 60 if self.args.quick else None
        seed = self.args.seed
        return FineTuneConfig(limit, steps, teacher, promote=True, device="cpu", seed=seed)

    def scan(self, name: str) -> tuple[Volume, NDArray[np.uint8]]:
        """A validation scan and its reference, read once."""
        if name not in self._scans:
            folder = self.args.data / "validation" / name
            self._scans[name] = SCANS[name](folder, self.base.system.vocabulary)
        return self._scans[name]

    def seen(self, scan: str) -> tuple[Any, float]:
        """The base's look at a validation scan, and its mean Dice there; found once."""
        if scan not in self._seen:
            image, classes = self.scan(scan)
            encoded = self.base.system.encode(image)
            results = self.base.system.segment(encoded, OLD)
            scores = dice_by_prompt(results, classes, self.base.system.vocabulary)
            self._seen[scan] = encoded, float(np.mean(list(scores.values())))
        return self._seen[scan]

    def say(self, what: str, value: object) -> None:
        """Print a figure and keep it."""
        print(f"{what}: {value}", flush=True)
        self.figures[what] = value


def main() -> None:
    """Run the parts and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=data_with("hippocampus", "validation"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--teacher", default="", help="another SAM2 than the bundled one")
    parser.add_argument("--scans", nargs="+", default=list(SCANS))
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--unhurried", action="store_true", help="let steps limit, not minutes")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--plot", type=Path, help="draw the curves into this .png")
    bench = Bench(parser.parse_args())
    for part in bench.args.only:
        globals()[f"measure_{part}"](bench)
    if bench.args.json:
        bench.args.json.write_text(json.dumps(bench.figures, indent=2) + "\n")


# --- a new term ---------------------------------------------------------------------------------


def measure_few(bench: Bench) -> None:
    """5 slices in each of 5 cases."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(folder)
        for path in bench.cases[:5]:
            correct_crop(project, path, 5)
        train(bench, project, "new term, 5 slices in 5 cases", bench.config(5))
        measure_crops(bench, project, "new term, 5 slices in 5 cases")
        measure_old(bench, project, "new term, 5 slices in 5 cases")


def measure_whole(bench: Bench) -> None:
    """20 whole cases."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(folder)
        for path in bench.cases[: 4 if bench.args.quick else 20]:
            correct_crop(project, path, None)
        train(bench, project, "new term, 20 whole cases", bench.config(20))
        measure_crops(bench, project, "new term, 20 whole cases")
        measure_old(bench, project, "new term, 20 whole cases")


def correct_crop(
    project: Project, path: Path, slices: int | None, choose: Choose | None = None
) -> None:
    """Correct slices of a crop, spread from end to end of the hippocampus, or all of it."""
    image, labels = formats.read(path), crop_labels(path)
    ref = ImageRef.of(image, path)
    chosen = None if slices is None else (choose or spread)(labels > 0, AXIS, slices)
    for term, value in HIPPOCAMPUS.items():
        project.add_correction(term, ref, labels == value, axis=AXIS, slices=chosen)


def crop_labels(path: Path) -> NDArray[np.int64]:
    """The manual labels of a crop (i, j, k)."""
    return formats.read(path.parents[1] / "labels" / path.name).data.astype(np.int64)


def shown_in(mask: NDArray[np.bool_], axis: int) -> NDArray[np.intp]:
    """The slices along an axis that show something."""
    return np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))


def spread(mask: NDArray[np.bool_], axis: int, count: int) -> list[int]:
    """`count` slices that show something, evenly from near the first to near the last."""
    shown = shown_in(mask, axis)
    inset = min(1, (len(shown) - 1) // 2)
    places = np.linspace(inset, len(shown) - 1 - inset, count).round().astype(int)
    return sorted({int(shown[p]) for p in places})


def amid(mask: NDArray[np.bool_], axis: int, count: int) -> list[int]:
    """`count` slices in the middle of as many equal parts of what shows something."""
    shown = shown_in(mask, axis)
    return [int(shown[int((n + 0.5) / count * len(shown))]) for n in range(count)]


def train(bench: Bench, project: Project, name: str, config: FineTuneConfig) -> None:
    """Train, and print how long it took."""
    started, started_cpu = time.monotonic(), time.process_time()
    outcome = finetune(project, config)
    wall, cpu = time.monotonic() - started, time.process_time() - started_cpu
    bench.say(f"{name}: seconds (processor's)", f"{wall:.0f} ({cpu:.0f})")
    if config.teacher is not None:
        bench.say(f"{name}: teacher", outcome.card["teacher"])
        for remark in outcome.card["remarks"]:
            print(f"  {remark}")


def measure_crops(bench: Bench, project: Project, name: str, most: int | None = None) -> float:
    """Mean Dice of both terms on the cases that are measured on, or the first so many."""
    session = Session(project=project.folder, device="cpu")
    scores = []
    for path in bench.tests[:most]:
        image, labels = formats.read(path), crop_labels(path)
        results = session.segment(image, list(HIPPOCAMPUS))
        scores.append(
            [
                dice(result.mask.data > 0, labels == value)
                for result, value in zip(results, HIPPOCAMPUS.values(), strict=True)
            ]
        )
        session.forget(image)
    mean = np.mean(scores, axis=0)
    words = ", ".join(f"{t} {m:.3f}" for t, m in zip(HIPPOCAMPUS, mean, strict=True))
    bench.say(f"{name}: Dice on {len(scores)} other cases", f"{mean.mean():.3f} ({words})")
    return float(mean.mean())


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Overlap of two masks, 1 where both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0


def measure_old(bench: Bench, project: Project, name: str, scans: Sequence[str] = ()) -> None:
    """What the structures known before lost on some validation scans, or on all."""
    losses = []
    after = Session(project=project.folder, device="cpu").system
    scans = scans or bench.args.scans
    for scan in scans[: 1 if bench.args.quick else None]:
        _, classes = bench.scan(scan)
        seen, before = bench.seen(scan)
        # a version holds the base as it is, so the base's look at the scan is also its own
        results = after.segment(replace(seen, looked={}), OLD)
        scores = dice_by_prompt(results, classes, bench.base.system.vocabulary)
        losses.append(before - float(np.mean(list(scores.values()))))
    what = f"{name}: lost by old structures on {len(losses)} scans, mean Dice"
    bench.say(what, f"{np.mean(losses):+.4f}")


# --- the rest of the same volume ----------------------------------------------------------------


def measure_same(bench: Bench) -> None:
    """3 slices of the structure that the base gets worst on each validation scan."""
    falls = []
    for scan in bench.args.scans:
        image, classes = bench.scan(scan)
        vocabulary = bench.base.system.vocabulary
        term, mask, axis, chosen = worst_structure(bench, scan, classes, vocabulary)
        with tempfile.TemporaryDirectory() as folder:
            project = Project(folder)
            ref = ImageRef.of(image)
            project.keep_image(image, ref)
            project.add_correction(term, ref, mask, axis=axis, slices=chosen)
            train(bench, project, f"rest of {scan}", bench.config(1))
            rest = np.ones(image.data.shape, dtype=bool)
            np.moveaxis(rest, axis, 0)[chosen] = False
            errors = []
            seen, _ = bench.seen(scan)
            after = Session(project=folder, device="cpu")
            after.recall(image)
            for system in (bench.base.system, after.system):
                result = system.segment(replace(seen, looked={}), [term])[0]
                errors.append(1 - dice((result.mask.data > 0) & rest, mask & rest))
            fall = 1 - errors[1] / errors[0]
            falls.append(fall)
            bench.say(
                f"rest of {scan}: {term}, 3 slices along {'ijk'[axis]}",
                f"error {errors[0]:.3f} before, {errors[1]:.3f} now, {100 * fall:.0f} % less",
            )
            measure_old(bench, project, f"rest of {scan}", [scan])
        if bench.args.quick:
            break
    bench.say("rest of the same volume: mean fall of the error", f"{100 * np.mean(falls):.0f} %")


def worst_structure(
    bench: Bench, scan: str, classes: NDArray[np.uint8], vocabulary: Vocabulary
) -> tuple[str, NDArray[np.bool_], int, list[int]]:
    """The worst structure with room for 3 corrected slices and as many others; in the plane in
    which the fewest slices show it.
    """
    results = bench.base.system.segment(bench.seen(scan)[0], OLD)
    scores = dice_by_prompt(results, classes, vocabulary)
    for term in sorted(scores, key=lambda name: scores[name]):
        mask = np.isin(classes, [vocabulary.class_names.index(term)])
        counts = [
            int(mask.any(axis=tuple(a for a in range(3) if a != axis)).sum()) for axis in range(3)
        ]
        fitting = [axis for axis in range(3) if counts[axis] >= 6]
        if fitting:
            axis = min(fitting, key=lambda a: counts[a])
            return term, mask, axis, spread(mask, axis, 3)
    raise SystemExit("no structure of this scan has six slices")


# --- between corrected slices -------------------------------------------------------------------


def measure_between(bench: Bench) -> None:
    """What *Interpolate* makes of 3 corrected slices of each structure, of the slices between."""
    rows = []
    for scan in bench.args.scans:
        image, classes = bench.scan(scan)
        of_scan = []
        for term in OLD:
            mask = classes == bench.base.system.vocabulary.class_names.index(term)
            counts = [len(shown_in(mask, axis)) for axis in range(3)]
            fitting = [axis for axis in range(3) if counts[axis] >= 6]
            if fitting:
                axis = min(fitting, key=lambda a: counts[a])
                of_scan.append(_between(bench, scan, image, term, mask, axis))
            if bench.args.quick and len(of_scan) == 2:
                break
        rows += of_scan
        _say_between(bench, f"between, {scan}", of_scan)
        if bench.args.quick:
            break
    _say_between(bench, "between, all", rows)


def _between(
    bench: Bench, scan: str, image: Volume, term: str, mask: NDArray[np.bool_], axis: int
) -> list[float]:
    """Errors between the slices: the model's answer, by shapes, following with and without it."""
    chosen = spread(mask, axis, 3)
    places = [n for n in range(chosen[0], chosen[-1]) if n not in chosen]
    answer = bench.base.system.segment(bench.seen(scan)[0], [term])[0].mask.data
    corrected, nothing = answer.copy(), np.zeros_like(answer)
    np.moveaxis(corrected, axis, 0)[chosen] = np.moveaxis(mask, axis, 0)[chosen]
    truth = np.moveaxis(mask, axis, 0)[places]
    shown = (
        answer,
        by_shapes(corrected, chosen, axis, image.grid.spacing),
        follow(image, corrected, answer, chosen, axis),
        follow(image, corrected, nothing, chosen, axis),
    )
    return [1 - dice(np.moveaxis(one, axis, 0)[places] > 0, truth) for one in shown]


def by_shapes(
    mask: NDArray[np.uint8], slices: Sequence[int], axis: int, spacing: Sequence[float]
) -> NDArray[np.uint8]:
    """Fill in the slices between given ones by the mean of their signed distances in mm."""
    result = mask.copy()
    planes = np.moveaxis(result, axis, 0)
    sampling = [mm for n, mm in enumerate(spacing) if n != axis]
    for first, last in pairwise(slices):
        ends = [
            ndimage.distance_transform_edt(shape, sampling)
            - ndimage.distance_transform_edt(~shape, sampling)
            for shape in (planes[first] > 0, planes[last] > 0)
        ]
        for place in range(first + 1, last):
            share = (place - first) / (last - first)
            planes[place] = (1 - share) * ends[0] + share * ends[1] > 0
    return result


def _say_between(bench: Bench, what: str, rows: Sequence[Sequence[float]]) -> None:
    names = ("answer", "by shapes", "followed", "followed without an answer")
    words = ", ".join(f"{n} {v:.3f}" for n, v in zip(names, np.mean(rows, 0), strict=True))
    bench.say(f"{what}: mean error of {len(rows)} structures", words)


# --- an image unlike a head ---------------------------------------------------------------------


def measure_other(bench: Bench) -> None:
    """Three synthetic blocks: a bent tube, a lobed body, and a bottle with walls."""
    for name, (image, mask) in {"tube": tubes(), "bean": bean(), "bottle": bottle()}.items():
        with tempfile.TemporaryDirectory() as folder:
            project = Project(folder)
            ref = ImageRef.of(image)
            project.keep_image(image, ref)
            chosen = spread(mask, 2, 3)
            project.add_correction(f"odd {name}", ref, mask, axis=2, slices=chosen)
            train(bench, project, f"other image, {name}", bench.config(1))
            result = Session(project=folder, device="cpu").segment(image, [f"odd {name}"])[0]
            rest = np.ones(mask.shape, dtype=bool)
            rest[:, :, chosen] = False
            score = dice((result.mask.data > 0) & rest, mask & rest)
            bench.say(f"other image, {name}: Dice on its other slices, from 3", f"{score:.3f}")
            measure_old(bench, project, f"other image, {name}", bench.args.scans[:1])
        if bench.args.quick:
            break


def tubes() -> tuple[Volume, NDArray[np.bool_]]:
    """A synthetic block (64, 64, 40) with three tubes, and the mask of the bent one."""
    draw = np.random.default_rng(3)
    x, y, z = np.indices((64, 64, 40)).astype(float)
    coarse = draw.normal(0, 1, (8, 8, 5))
    image = 60 + 8 * np.kron(coarse, np.ones((8, 8, 8)))
    image[np.hypot(x - 14, y - 48) < 5] = 130
    image[np.hypot(x - 50, y - 14) < 6] = 95
    bend = 30 + 12 * np.sin(z / 12), 32 + 10 * np.cos(z / 15)
    inside = (np.hypot(x - bend[0], y - bend[1]) < 6 + 2 * np.sin(z / 9)) & (z > 4) & (z < 36)
    image[inside] = 95
    image += draw.normal(0, 6, image.shape)
    affine = np.diag([0.5, 0.5, 0.8, 1.0])
    return Volume.from_affine(image.astype(np.float32), affine, "tubes"), inside


def bean() -> tuple[Volume, NDArray[np.bool_]]:
    """A block (56, 60, 48) with a lobed dark body in a textured bright one, another beside it."""
    draw = np.random.default_rng(21)
    places = np.indices((56, 60, 48)).astype(float)
    image = 100 + 60 * ndimage.gaussian_filter(draw.normal(0, 1, places.shape[1:]), 2.5)
    inside = np.zeros(image.shape, dtype=bool)
    for _ in range(4):
        centre = np.array([26.0, 30.0, 22.0]) + draw.uniform(-7, 7, 3)
        inside |= from_centre(places, centre, draw.uniform(5, 9, 3)) < 1
    image[inside | (from_centre(places, (8.0, 50.0, 24.0), (6.0, 7.0, 9.0)) < 1)] = 62
    image = ndimage.gaussian_filter(image, 0.8) + draw.normal(0, 8, image.shape)
    return Volume.from_affine(image.astype(np.float32), np.diag([1.0, 1, 1, 1]), "bean"), inside


def bottle() -> tuple[Volume, NDArray[np.bool_]]:
    """A block (60, 60, 40) with a bottle on its side: the mask is what is in it, the wall not."""
    draw = np.random.default_rng(22)
    x, y, z = np.indices((60, 60, 40)).astype(float)
    image = 70 + 50 * ndimage.gaussian_filter(draw.normal(0, 1, x.shape), 3)
    radius = np.interp(z, [0, 6, 20, 28, 40], [9, 12, 13, 5, 5])
    from_axis = np.hypot(x - 24 - 0.3 * z, y - 34 + 0.2 * z)
    is_along = (z > 3) & (z < 37)
    image[(from_axis < radius + 2) & is_along] = 20
    inside = (from_axis < radius) & is_along
    image[inside] = 80
    image += draw.normal(0, 9, image.shape)
    return Volume.from_affine(
        image.astype(np.float32), np.diag([0.9, 0.9, 1.2, 1]), "bottle"
    ), inside


def from_centre(
    places: NDArray[np.float64], centre: Sequence[float], radii: Sequence[float]
) -> NDArray[np.float64]:
    """Squared distance of places (3, x, y, z) from a centre, 1 on an ellipsoid with these radii."""
    scaled = [(p - c) / r for p, c, r in zip(places, centre, radii, strict=True)]
    return np.sum(np.square(scaled), axis=0)


# --- how many slices are needed -----------------------------------------------------------------


def measure_curve(bench: Bench) -> None:
    """Dice on other cases by the slices corrected in each of 5: in the middle of equal parts."""
    followed, with_teacher = bench.config(5), bench.config(5, with_teacher=True)
    alone = replace(followed, learn=replace(followed.learn, followed_weight=0.0))
    kinds = {"alone": alone, "with what follows": followed, "and a teacher": with_teacher}
    curves: dict[str, list[tuple[int, float]]] = {}
    for kind, config in kinds.items():
        for slices in (1, 3) if bench.args.quick else (1, 2, 4):
            with tempfile.TemporaryDirectory() as folder:
                project = Project(folder)
                for path in bench.cases[:5]:
                    correct_crop(project, path, slices, amid)
                name = f"{slices} slices in 5 cases, {kind}"
                train(bench, project, name, config)
                score = measure_crops(bench, project, name, most=CURVE_CASES)
                curves.setdefault(kind, []).append((slices, score))
    bench.figures["curves"] = curves
    if bench.args.plot:
        plot(curves, bench.args.plot)


def measure_accepted(bench: Bench) -> None:
    """Dice on other cases by the slices corrected in each of 5, without and with accepted ones."""
    teacher = Teacher.load(bench.args.teacher or None, device="cpu")
    kinds = {"nothing proposed": None, "copies": _copies, "SAM2": partial(_spread_by, teacher)}
    curves: dict[str, list[tuple[int, float]]] = {}
    for slices in (1,) if bench.args.quick else (1, 2, 3):
        for kind, propose in kinds.items():
            with tempfile.TemporaryDirectory() as folder:
                project = Project(folder)
                taken = [accept_in_crop(project, path, slices, propose) for path in bench.cases[:5]]
                name = f"{slices} slices in 5 cases, {kind}"
                accepted, looked_at = np.sum(taken, axis=0)
                bench.say(f"{name}: accepted (of)", f"{accepted} ({looked_at})")
                train(bench, project, name, bench.config(5))
                score = measure_crops(bench, project, name, most=CURVE_CASES)
                curves.setdefault(kind, []).append((slices, score))
    bench.figures["curves with accepted slices"] = curves


Propose = Callable[[Volume, int, NDArray[np.bool_]], dict[int, NDArray[np.bool_]]]
"""From an image, a slice along `AXIS` and its mask, masks of the slices beside it."""


def _spread_by(
    teacher: Teacher, image: Volume, start: int, mask: NDArray[np.bool_]
) -> dict[int, NDArray[np.bool_]]:
    found = spreading.spread(teacher, image.data, AXIS, start, mask, image.grid.spacing)
    return {found.first + n: one != 0 for n, one in enumerate(found.masks)}


def _copies(image: Volume, start: int, mask: NDArray[np.bool_]) -> dict[int, NDArray[np.bool_]]:
    reach = max(1, round(spreading.REACH_MM / image.grid.spacing[AXIS]))
    beside = range(max(0, start - reach), min(image.grid.shape[AXIS], start + reach + 1))
    return dict.fromkeys(beside, mask)


def accept_in_crop(
    project: Project, path: Path, slices: int, propose: Propose | None
) -> tuple[int, int]:
    """Correct slices of a crop and accept what is proposed beside them: how many, and of how many.

    A proposal that one term has for a corrected slice, or a second one for the same slice, counts
    for nothing.
    """
    image, labels = formats.read(path), crop_labels(path)
    ref = ImageRef.of(image, path)
    corrected = amid(labels > 0, AXIS, slices)
    accepted, looked_at = 0, 0
    for term, value in HIPPOCAMPUS.items():
        truth = labels == value
        mask, known = truth.copy(), set(corrected)
        seen: set[int] = set()
        for start in corrected if propose is not None else ():
            if not truth[:, :, start].any():
                continue
            for place, one in propose(image, start, truth[:, :, start]).items():
                if place in corrected or place in seen:
                    continue
                seen.add(place)
                if dice(one, truth[:, :, place]) >= ACCEPTABLE:
                    mask[:, :, place] = one
                    known.add(place)
        project.add_correction(term, ref, mask, axis=AXIS, slices=sorted(known))
        accepted += len(known) - len(corrected)
        looked_at += len(seen)
    return accepted, looked_at


def plot(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Draw Dice over corrected slices."""
    from PIL import Image, ImageDraw, ImageFont

    width, height, edge = 640, 420, 50
    canvas = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    most = max(n for curve in curves.values() for n, _ in curve)

    def place(n: float, score: float) -> tuple[float, float]:
        return edge + (width - 2 * edge) * n / most, height - edge - (height - 2 * edge) * score

    for tenth in range(0, 11, 2):
        pen.line([place(0, tenth / 10), place(most, tenth / 10)], fill=(220, 220, 220))
        pen.text((12, place(0, tenth / 10)[1] - 8), f"{tenth / 10:.1f}", fill="black", font=font)
    for number, (kind, curve) in enumerate(curves.items()):
        colour = ((200, 60, 40), (40, 90, 200), (30, 140, 70))[number % 3]
        pen.line([place(n, score) for n, score in curve], fill=colour, width=3)
        pen.text((edge + 20, 12 + 18 * number), kind, fill=colour, font=font)
    for n in range(most + 1):
        pen.text((place(n, 0)[0] - 4, height - edge + 8), str(n), fill="black", font=font)
    pen.text((width // 2 - 90, height - 24), "corrected slices a case", fill="black", font=font)
    canvas.save(path)


def measure_reader(bench: Bench) -> None:
    """One crop, one slice at a time, until the whole mask, what was corrected in it, has 0.9.

    The model saw 3 slices in 5 other cases, and is shown every slice that is corrected.
    """
    with tempfile.TemporaryDirectory() as folder:
        start = Project(folder)
        for path in bench.cases[:5]:
            correct_crop(start, path, 3)
        train(bench, start, "reader's start", bench.config(5))
        version = Versions(start.folder).folder_of(1)
        system = Session(checkpoint=version, device="cpu").system
        needed: dict[str, list[int]] = {"doubtful first": [], "random": []}
        for path in bench.cases[30 : 32 if bench.args.quick else 40]:
            for order in needed:
                needed[order].append(slices_needed(system, path, order))
        for order, counts in needed.items():
            bench.say(f"slices until Dice 0.9, {order}", f"{np.mean(counts):.1f} {counts}")


def slices_needed(system: Any, path: Path, order: str) -> int:
    """How many slices of the anterior hippocampus are corrected until its mask has 0.9."""
    term = "anterior hippocampus"
    image, truth = formats.read(path), crop_labels(path) == HIPPOCAMPUS[term]
    draw = np.random.default_rng(0)
    known = np.zeros(truth.shape, dtype=bool)
    encoded = system.encode(image)
    while True:
        system.tell(image, {term: Told((truth & known).astype(np.uint8), known)})
        result = system.segment(replace(encoded, looked={}), [term])[0]
        count = int(known.any(axis=(0, 1)).sum())
        free = np.flatnonzero(~known.any(axis=(0, 1)))
        if dice(result.draft_mask.data > 0, truth) >= 0.9 or not len(free):
            return count
        doubt = np.zeros(truth.shape)
        if result.uncertainty is not None:
            doubt[result.box] = result.uncertainty
        by_slice = doubt.sum(axis=(0, 1))[free]
        candidates = free[by_slice > 0] if (by_slice > 0).any() else free
        worst = free[int(by_slice.argmax())]
        known[:, :, worst if order == "doubtful first" else draw.choice(candidates)] = True


if __name__ == "__main__":
    main()
