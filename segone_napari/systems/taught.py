"""A sliced system that corrections taught: lessons answer in the base's place where there are any.

The base (`systems.sliced`) is asked as ever; a term with a lesson is answered by that
(`systems.lessons`), and what a person corrected in an image is the answer there. Knows nothing of
how a lesson is learnt.

Dimension key: x y z RAS axes of a lesson's grid, T terms.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segone_napari.data.resample import to_working
from segone_napari.data.vocabulary import Term, Vocabulary
from segone_napari.models.checkpoint import load_lessons
from segone_napari.models.learnt import Lesson
from segone_napari.runtime import BadCheckpoint, Progress, no_progress
from segone_napari.systems import lessons as taught
from segone_napari.systems.base import EMPTY_BOX, Encoded, Result, Told
from segone_napari.systems.looking import look
from segone_napari.systems.sliced import (
    LEAST_CERTAINTY,
    EncodedHead,
    SlicedSystem,
    entropy,
    evened,
    expected_dice,
)
from segone_napari.volume import Box, Grid, Volume, bounding_box, joined

FEWEST_VOXELS = 8
"""A mask smaller than this counts as not found: lessons' images may have voxels of any size."""

OWN_OUTLINE = "this is your own outline alone; the model finds nothing beyond it"

BoxedValues = tuple[Box, NDArray[np.float16]]
"""Probability in a box of an image's grid, zero outside."""

NOTHING: BoxedValues = (EMPTY_BOX, np.zeros((0, 0, 0), dtype=np.float16))


@dataclass(frozen=True, eq=False)
class TaughtHead(EncodedHead):
    """An encoded image with its voxels, for lessons to look at.

    `looked` keeps, by lesson, the scene and the probabilities (T, x, y, z) in it, and what had
    been told of the image when it was looked at.
    """

    image: Volume | None = None
    looked: dict[int, tuple[object, taught.Scene, Tensor]] = field(default_factory=dict)


class TaughtSystem(SlicedSystem):
    """A dense model of slabs with lessons beside it."""

    lessons: tuple[Lesson, ...] = ()

    @classmethod
    def from_checkpoint(cls, name: str, folder: Path, *, device: str, preset: str) -> Self:
        """Load a checkpoint folder with its lessons.

        Raises
        ------
        BadCheckpoint
            If the folder can't be used, or belongs to another system.
        """
        system = super().from_checkpoint(name, folder, device=device, preset=preset)
        lessons = load_lessons(folder)
        _check_lessons(lessons, system.vocabulary, folder)
        system.lessons = tuple(
            Lesson(lesson.config, lesson.network.to(system.device)) for lesson in lessons
        )
        return system

    # --- the protocol ---------------------------------------------------------------------------

    def encode(self, image: Volume, *, progress: Progress = no_progress) -> TaughtHead:
        """Look at an image once; lessons look when they are first asked."""
        seen = super().encode(image, progress=progress)
        return TaughtHead(**{f.name: getattr(seen, f.name) for f in fields(seen)}, image=image)

    def preview(
        self,
        image: Volume,
        prompts: Sequence[str],
        axis: int,
        index: int,
        *,
        progress: Progress = no_progress,
    ) -> list[Result]:
        """Answer for one slice alone. There is no quick answer where more than the base counts."""
        if any(self._has_more_to_say(image, prompt) for prompt in prompts):
            return []
        return super().preview(image, prompts, axis, index, progress=progress)

    def forget(self, image: Volume | None = None) -> None:
        """Give back the memory of one image, or of all."""
        super().forget(image)
        if image is None:
            self._told.clear()
        else:
            self._told.pop(image, None)

    def taken_over(self, encoded: Encoded, former: object) -> TaughtHead | None:
        """Take over what another version of the same base has seen; lessons look anew."""
        if not isinstance(encoded, TaughtHead) or not isinstance(former, TaughtSystem):
            return None
        is_same_view = (former.preset, former.device) == (self.preset, self.device)
        return replace(encoded, looked={}) if is_same_view and is_same_base(former, self) else None

    def tell(self, image: Volume, corrections: Mapping[str, Told]) -> None:
        """Say what a person corrected in an image, by canonical term.

        Lessons are shown it, and in those voxels the person's answer is the answer: also for a
        union, where it holds for a part, and for a part, where it lies outside of the union.
        """
        self._told[image] = dict(corrections)

    @property
    def _told(self) -> weakref.WeakKeyDictionary[Volume, dict[str, Told]]:
        kept: weakref.WeakKeyDictionary[Volume, dict[str, Told]] = self.__dict__.setdefault(
            "_told_by_image", weakref.WeakKeyDictionary()
        )
        return kept

    # --- answering ------------------------------------------------------------------------------

    def lesson_of(self, term: str, image: Volume) -> Lesson | None:
        """The lesson that answers a canonical term on an image, the latest one, or None."""
        lesson = self._latest_on(term)
        if lesson is None or lesson.config.is_general(term):
            return lesson
        return lesson if term in self._told.get(image, {}) else None

    def _latest_on(self, term: str) -> Lesson | None:
        return next((one for one in reversed(self.lessons) if term in one.config.terms), None)

    def _has_more_to_say(self, image: Volume, prompt: str) -> bool:
        term = self.vocabulary.match(prompt).term
        return term is not None and (
            self._is_taught(term, image) or bool(self._told_of(term, image))
        )

    def _is_taught(self, term: Term, image: Volume) -> bool:
        """Whether there is a lesson on a term or its parts, or a person drew one of them."""
        is_drawn = any(not of > {*term.classes} for of, _ in self._told_of(term, image))
        return is_drawn or any(
            self.lesson_of(name, image) is not None for name in (term.canonical, *term.classes)
        )

    def _told_of(self, term: Term, image: Volume) -> list[tuple[set[str], Told]]:
        """What was told of all that shares classes with a term; with each its classes."""
        found = []
        for name, told in self._told.get(image, {}).items():
            other = self.vocabulary.match(name).term
            if other is not None and other.canonical == name and {*other.classes} & {*term.classes}:
                found.append(({*other.classes}, told))
        return found

    def _answer(self, encoded: EncodedHead, prompt: str) -> Result:
        term = self.vocabulary.match(prompt).term
        if term is None or not isinstance(encoded, TaughtHead) or encoded.image is None:
            return super()._answer(encoded, prompt)
        if not self._is_taught(term, encoded.image):
            return super()._answer(encoded, prompt)
        started = time.monotonic()
        box, values = self._values(encoded, term)
        mask, doubtful = values > 0.5, evened(values)
        is_large = np.count_nonzero(mask) >= FEWEST_VOXELS
        told = self._told_of(term, encoded.image)
        is_drawn = any(of <= {*term.classes} and bool(one.mask.any()) for of, one in told)
        found = is_drawn or bool(is_large and expected_dice(values, mask) >= LEAST_CERTAINTY)
        own = [one for of, one in told if of <= {*term.classes}]
        is_own = is_drawn and not _without_told((box, mask), own).any()
        return Result(
            prompt=prompt,
            resolved=term.canonical,
            side=term.side,
            grid=encoded.grid,
            box=box,
            probability=values,
            found=found,
            confidence=None if is_own else expected_dice(doubtful, mask),
            seconds=time.monotonic() - started,
            uncertainty=entropy(doubtful) if self.has_uncertainty else None,
            colour=term.colour,
            warnings=(OWN_OUTLINE,) if is_own else self._warnings(encoded, term, found=found),
        )

    def _values(self, encoded: TaughtHead, term: Term) -> BoxedValues:
        """Probability of a term in a box of the image's grid."""
        assert encoded.image is not None
        lesson = self.lesson_of(term.canonical, encoded.image)
        classes = {*term.classes}
        told = self._told_of(term, encoded.image)
        if lesson is not None:
            outside = [one for of, one in told if of >= classes]
            found = _cleared(self._by_lesson(encoded, lesson, term.canonical), outside)
        else:
            found = self._by_classes(encoded, term.classes, told)
        # what a part isn't, another part may be; of the term itself all counts, and so it is last
        for of, one in sorted(told, key=lambda pair: len(pair[0])):
            if of <= classes:
                known = one.known if of == classes else one.mask > 0
                found = _with_told(found, Told(one.mask, known))
        return found

    def _by_classes(
        self, encoded: TaughtHead, classes: Sequence[str], told: Sequence[tuple[set[str], Told]]
    ) -> BoxedValues:
        """A union of classes, each by its lesson or by the base, and only where it may be."""
        assert encoded.image is not None
        pieces: list[BoxedValues] = []
        of_base: dict[tuple[int, ...], list[str]] = {}
        for name in classes:
            holding = tuple(n for n, (of, _) in enumerate(told) if name in of)
            lesson = self.lesson_of(name, encoded.image)
            if lesson is None:
                of_base.setdefault(holding, []).append(name)
            else:
                values = self._by_lesson(encoded, lesson, name)
                pieces.append(_cleared(values, [told[n][1] for n in holding]))
        seen = [
            _cleared(self._by_base(encoded, names), [told[n][1] for n in holding])
            for holding, names in of_base.items()
        ]
        return _joined([*pieces, _joined(seen, np.add)])

    def _by_base(self, encoded: EncodedHead, classes: Sequence[str]) -> BoxedValues:
        """What the base says of a union of classes, on the image's grid."""
        union = Term(" or ".join(classes), None, tuple(classes), (0, 0, 0))
        return super()._on_image(encoded, union)

    def _on_image(self, encoded: EncodedHead, term: Term) -> BoxedValues:
        """What the base says of a term, but not outside of what it is a part of."""
        found = super()._on_image(encoded, term)
        if not isinstance(encoded, TaughtHead) or encoded.image is None:
            return found
        return _cleared(found, [told for _, told in self._told_of(term, encoded.image)])

    @torch.inference_mode()
    def _by_lesson(self, encoded: TaughtHead, lesson: Lesson, term: str) -> BoxedValues:
        """Ask a lesson's network, once for all of its terms."""
        assert encoded.image is not None
        number = next(n for n, known in enumerate(self.lessons) if known is lesson)
        told = self._told.get(encoded.image)
        if number not in encoded.looked or encoded.looked[number][0] is not told:
            own = self.scene(encoded, lesson)
            if own is None:
                return NOTHING
            drawn = _drawn(lesson, own, encoded.grid, told or {})
            encoded.looked[number] = told, own, look(lesson, own, drawn)
        _, scene, probability = encoded.looked[number]
        return taught.on_image(probability[lesson.config.terms.index(term)], scene, encoded.grid)

    @torch.inference_mode()
    def answer_in(
        self, encoded: TaughtHead, term: str, scene: taught.Scene, told: Mapping[str, Told]
    ) -> Tensor:
        """Probability (x, y, z) of a canonical term in a scene's box, on the scene's device.

        It is the answer that `segment` would give of an image that was corrected: the term's own
        lesson counts where there is one, and is shown the corrected slices.

        Parameters
        ----------
        told : what a person corrected in the image, by canonical term, in place of what the
            system was told; it is looked at, but isn't itself the answer.
        """
        lesson = self._latest_on(term)
        is_told = term in told and bool(told[term].known.any())
        if lesson is None or not (is_told or lesson.config.is_general(term)):
            source = self.class_map(encoded, term, scene.grid)
        else:
            own = self.scene(encoded, lesson)
            if own is None:
                return torch.zeros_like(scene.image)
            drawn = _drawn(lesson, own, encoded.grid, told)
            place = lesson.config.terms.index(term)
            source = taught.on_image(look(lesson, own, drawn)[place], own, scene.grid)
        return taught.pasted(source, scene.box, scene.image.device).float()

    def scene(self, encoded: TaughtHead, lesson: Lesson) -> taught.Scene | None:
        """Cut out what a lesson looks at; None where that lies outside of the image."""
        assert encoded.image is not None

        def class_map(name: str, grid: Grid) -> BoxedValues:
            return self.class_map(encoded, name, grid)

        return taught.make_scene(lesson.config, encoded.image, encoded, class_map, self.device)

    def class_map(self, encoded: EncodedHead, name: str, grid: Grid) -> BoxedValues:
        """The base's probability of a class or a term in a box of any grid."""
        classes: tuple[str, ...] = (name,)
        if name not in self.vocabulary.class_names:
            term = self.vocabulary.match(name).term
            classes = term.classes if term else ()
        if not classes or not set(classes) <= set(self.vocabulary.class_names):
            return NOTHING
        box, values = self._by_base(encoded, classes)
        if not values.size:
            return NOTHING
        there = Volume(values, _grid_of(box, encoded.grid))
        sampled = to_working(there, grid, self.device).half().cpu().numpy()
        i, j, k = (slice(0, n) for n in grid.shape)
        return (i, j, k), sampled

    def _warnings(self, encoded: TaughtHead, term: Term, *, found: bool) -> tuple[str, ...]:
        """Sentences that a person must see beside the answer."""
        assert encoded.image is not None
        lesson = self.lesson_of(term.canonical, encoded.image)
        if lesson is not None and lesson.config.in_head != taught.is_head(encoded.head):
            if lesson.config.in_head:
                return (f"{term.canonical!r} was learnt on whole heads, and this image shows none",)
            if found:
                return (
                    f"{term.canonical!r} was learnt on images that show no whole head; check it",
                )
        if not found:
            return ()
        if term.side not in ("left", "right"):
            return ()
        probability, origin = self._probability(encoded, term)
        if not bool(probability.sum() > 0):
            return ()
        return self._side_warnings(encoded, term, probability, origin)


def _drawn(
    lesson: Lesson, scene: taught.Scene, native: Grid, told: Mapping[str, Told]
) -> dict[str, taught.Drawn]:
    """By plane, the corrected slices that a lesson is shown."""
    if not told.keys() & set(lesson.config.terms):
        return {}
    truth, known = taught.told_on(scene, native, lesson.config.terms, told)
    return {plane: taught.drawn_slices(truth, known, plane) for plane in lesson.config.planes}


def _check_lessons(lessons: Sequence[Lesson], vocabulary: Vocabulary, folder: Path) -> None:
    terms = {term for lesson in lessons for term in lesson.config.terms}
    missing = [entry.name for entry in vocabulary.learnt if entry.name not in terms]
    context = {name for lesson in lessons for name in lesson.config.context}
    unknown = context - set(vocabulary.class_names)
    if missing or unknown:
        what = f"no lesson on {missing[0]!r}" if missing else f"no class {min(unknown)!r}"
        raise BadCheckpoint(f"{folder} has {what}; copy the checkpoint anew")


def is_same_base(one: TaughtSystem, other: TaughtSystem) -> bool:
    """Whether two versions see the same in an image: equal classes and weights."""
    ours, theirs = (
        system.model.state_dict() if isinstance(system.model, nn.Module) else {}
        for system in (one, other)
    )
    return (
        one.vocabulary.class_names == other.vocabulary.class_names
        and bool(ours)
        and ours.keys() == theirs.keys()
        and all(torch.equal(ours[key], theirs[key]) for key in ours)
    )


# --- probabilities in boxes ---------------------------------------------------------------------


def _joined(pieces: Sequence[BoxedValues], join: np.ufunc = np.maximum) -> BoxedValues:
    """Join probabilities, each in its box, into one box; where they overlap the largest counts,
    or the sum.
    """
    pieces = [(box, values) for box, values in pieces if values.size]
    if not pieces:
        return NOTHING
    return _in_box(pieces, joined(*(box for box, _ in pieces)), join)


def _in_box(pieces: Sequence[BoxedValues], whole: Box, join: np.ufunc = np.maximum) -> BoxedValues:
    out = np.zeros([s.stop - s.start for s in whole], dtype=np.float16)
    for box, values in pieces:
        inside = tuple(
            slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, whole, strict=True)
        )
        join(out[inside], values, out=out[inside])
    return whole, np.minimum(out, 1)


def _grid_of(box: Box, grid: Grid) -> Grid:
    """The grid of a box of another one."""
    affine = grid.affine.copy()
    affine[:3, 3] += grid.affine[:3, :3] @ [s.start for s in box]
    i, j, k = (s.stop - s.start for s in box)
    return Grid((i, j, k), affine)


def _cleared(found: BoxedValues, told: Sequence[Told]) -> BoxedValues:
    """Take away what lies outside of what a person drew, in the voxels that they corrected."""
    box, values = found
    if values.size:
        for one in told:
            values = np.where(one.known[box] & (one.mask[box] == 0), np.float16(0), values)
    return box, values


def _without_told(found: tuple[Box, NDArray[np.bool_]], told: Sequence[Told]) -> NDArray[np.bool_]:
    """Take what a person drew out of a mask in a box."""
    box, mask = found
    for one in told:
        mask = mask & (one.mask[box] == 0)
    return mask


def _with_told(found: BoxedValues, own: Told) -> BoxedValues:
    """Put the person's own answer into the voxels that they corrected."""
    pieces = [found] if found[1].size else []
    box = joined(bounding_box(own.mask), *(box for box, _ in pieces))
    if box == EMPTY_BOX:
        return found
    whole, values = _in_box(pieces, box)
    return whole, np.where(own.known[whole], own.mask[whole].astype(np.float16), values)
