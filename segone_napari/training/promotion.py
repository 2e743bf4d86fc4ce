"""Whether a new version is better, and the card that says so.

Measured are corrections that were held back, the structures known before on the bundled sample,
and how long an answer takes. Knows nothing of how anything is learnt.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segone_napari.data import formats
from segone_napari.data.samples import SAMPLES
from segone_napari.evaluation.metrics import dice_by_prompt
from segone_napari.evaluation.reference import reference_classes
from segone_napari.runtime import BadInput
from segone_napari.systems.segone import SegOne
from segone_napari.systems.taught import TaughtHead, is_same_base
from segone_napari.training.wording import found_words

LEAST_GAIN = 0.01
"""A mean Dice must rise by more than this, and by more than twice its standard error."""
LEAST_GAIN_OF_ONE = 0.02
"""The same where there is only one held-back correction, and so no standard error."""
MOST_LOSS = 0.01
MOST_MEAN_LOSS = 0.005
"""What any old structure, and their mean, may lose."""
PICTURES = 6
PICTURE_HEIGHT = 320


class Measured(Protocol):
    """A correction that was held back, with Dice before and after, and a slice to show."""

    @property
    def term(self) -> str: ...  # noqa: D102
    @property
    def patient(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def before(self) -> float: ...  # noqa: D102
    @property
    def after(self) -> float: ...  # noqa: D102
    @property
    def image(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def truth(self) -> NDArray[np.bool_]: ...  # noqa: D102
    @property
    def old(self) -> NDArray[np.bool_]: ...  # noqa: D102
    @property
    def new(self) -> NDArray[np.bool_]: ...  # noqa: D102
    @property
    def is_absent(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Old:
    """The structures known before: Dice by name before and after, and seconds an answer takes."""

    before: Mapping[str, float]
    after: Mapping[str, float]
    seconds: tuple[float, float]


HELD_BACK = {
    "patient": "patients that were held back",
    "slice": "slices between corrected ones, which were held back (expect less on other images)",
}
"""What it was measured on, by how it was held back."""


def make_card(
    before: SegOne,
    after: SegOne,
    held_back: Sequence[Measured],
    remarks: Sequence[str],
    started: datetime,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Measure, decide, and put it all into plain values.

    Parameters
    ----------
    before, after : the version in use and the new one.
    held_back : what was measured while learning.
    remarks : what a person must know of the corrections.
    progress : called with the share of the measuring that is done.
    """
    old = old_structures(before, after, progress)
    is_better, reason = judge(held_back, old)
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
        "better": is_better,
        "reason": reason,
        "held_back_by": held_back[0].kind if held_back else "nothing",
        "held_back": [
            {
                "term": h.term,
                "before": round(h.before, 4),
                "after": round(h.after, 4),
                "absent": h.is_absent,
            }
            for h in held_back
        ],
        "old_structures": None if old is None else _old_as_json(old),
        "remarks": list(remarks),
    }


def judge(held_back: Sequence[Measured], old: Old | None) -> tuple[bool, str]:
    """Say whether the new version should be used, and why, in a sentence."""
    if not held_back:
        return False, (
            "too few corrections to hold any back, so nothing could be measured; "
            "look at its masks and decide"
        )
    gains = np.array([h.after - h.before for h in held_back])
    gain = float(gains.mean())
    least = LEAST_GAIN_OF_ONE
    if len(gains) > 1:
        least = max(LEAST_GAIN, 2 * float(gains.std(ddof=1)) / len(gains) ** 0.5)
    words = _agreement(held_back)
    if gain <= least:
        return False, f"{words}; that is not more than chance ({least:.3f})"
    if old is not None and old.before:
        losses = {name: old.before[name] - old.after[name] for name in old.before}
        worst = max(losses, key=lambda name: losses[name])
        mean = float(np.mean(list(losses.values())))
        if losses[worst] > MOST_LOSS:
            return False, f"{words}; but the {worst} known before lost {losses[worst]:.3f}"
        if mean > MOST_MEAN_LOSS:
            return False, f"{words}; but the structures known before lost {mean:.3f} in the mean"
    return True, words


def _agreement(held_back: Sequence[Measured]) -> str:
    """Mean Dice of what was outlined; of what is not there, whether it was found."""
    parts = []
    if drawn := [h for h in held_back if not h.is_absent]:
        before, after = np.mean([(h.before, h.after) for h in drawn], axis=0)
        measured_on = HELD_BACK[drawn[0].kind]
        parts.append(f"mean Dice on {measured_on}: {before:.3f} before, {after:.3f} now")
    for term in dict.fromkeys(h.term for h in held_back if h.is_absent):
        same = [h for h in held_back if h.is_absent and h.term == term]
        was, now = found_words([h.before for h in same]), found_words([h.after for h in same])
        parts.append(f"{term}, where it is not there: {was} before, {now} now")
    return "; ".join(parts)


def old_structures(
    before: SegOne, after: SegOne, progress: Callable[[float], None] = lambda share: None
) -> Old | None:
    """Dice of all classes on the bundled sample; None where it isn't installed."""
    sample = SAMPLES["t1"]
    try:
        image = formats.read(sample.image_path)
        reference = formats.read(sample.truth_path)
    except BadInput:
        return None
    vocabulary = before.vocabulary
    truth = reference_classes(reference, vocabulary, sample.truth_labels)
    names = vocabulary.class_names[1:]
    progress(0.1)
    before, after = _quick(before), _quick(after)
    seen = before.encode(image)
    progress(0.5)
    # equal weights see the same: the second look would only take time
    again = replace(seen, looked={}) if is_same_base(before, after) else after.encode(image)
    dice, seconds = [], []
    for system, encoded in ((before, seen), (after, again)):
        dice.append(dice_by_prompt(system.segment(encoded, names), truth, vocabulary))
        seconds.append(_seconds_to_answer(system, encoded, after))
        progress(0.6 if len(dice) == 1 else 1.0)
    return Old(dice[0], dice[1], (seconds[0], seconds[1]))


def _quick(system: SegOne) -> SegOne:
    """The same system, looking in one plane only."""
    quick = copy.copy(system)
    quick.preset = "fast"
    return quick


def _seconds_to_answer(system: SegOne, encoded: TaughtHead, after: SegOne) -> float:
    """Mean seconds for one more prompt: the terms of the new version's last lesson."""
    fresh = replace(encoded, looked={})
    prompts = after.lessons[-1].config.terms if after.lessons else after.vocabulary.class_names[1:2]
    started = time.monotonic()
    system.segment(fresh, prompts)
    return (time.monotonic() - started) / len(prompts)


def _old_as_json(old: Old) -> dict[str, Any]:
    def mean(values: Mapping[str, float]) -> float:
        return round(float(np.mean(list(values.values()))), 4) if values else 0.0

    changes = {n: round(old.after[n] - old.before[n], 4) for n in old.before}
    return {
        "on": "the bundled T1",
        "mean_before": mean(old.before),
        "mean_after": mean(old.after),
        "changes": {n: c for n, c in sorted(changes.items(), key=lambda nc: nc[1]) if c},
        "seconds_a_prompt_before": round(old.seconds[0], 3),
        "seconds_a_prompt_after": round(old.seconds[1], 3),
    }


# --- writing ------------------------------------------------------------------------------------


def write_card(card: Mapping[str, Any], folder: Path) -> None:
    """Write ``card.json`` and ``card.md``. Raises OSError if the disk refuses.

    Remarks are left out: they name files, and a version may be passed on.
    """
    card = {**card, "remarks": []}
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (folder / "card.md").write_text(as_markdown(card), encoding="utf-8")


def write_pictures(held_back: Sequence[Measured], folder: Path) -> list[Path]:
    """Draw the biggest changes, the largest first: truth, before and now over the image.

    They show a patient's image, and so don't belong into a checkpoint that is passed on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changed = sorted(held_back, key=lambda h: -int((h.old ^ h.new).sum()))[:PICTURES]
    paths = []
    for number, one in enumerate(changed, start=1):
        path = folder / f"change_{number}.png"
        draw_change(one).save(path)
        paths.append(path)
    return paths


def draw_change(one: Measured) -> Image.Image:
    """Three panels: the correction green, the answer before red, the answer now blue."""
    panels = [
        _overlaid(one.image, mask, colour)
        for mask, colour in (
            (one.truth, (60, 220, 90)), (one.old, (255, 80, 60)), (one.new, (70, 150, 255)),
        )
    ]  # fmt: skip
    size = max(1, round(PICTURE_HEIGHT * panels[0].width / panels[0].height)), PICTURE_HEIGHT
    canvas = Image.new("RGB", (3 * size[0] + 8, PICTURE_HEIGHT), (16, 18, 22))
    for number, panel in enumerate(panels):
        canvas.paste(panel.resize(size, Image.Resampling.NEAREST), (number * (size[0] + 4), 0))
    return canvas


def _overlaid(
    image: NDArray[np.float32], mask: NDArray[np.bool_], colour: tuple[int, int, int]
) -> Image.Image:
    grey = np.clip(image, 0, 1)[..., None] * np.array([255, 255, 255])
    mixed = np.where(mask[..., None], 0.55 * grey + 0.45 * np.array(colour), grey)
    # the first axis of a slice grows to the patient's right or front, the second one to the front
    # or head: seen as radiologists hang it
    return Image.fromarray(mixed.astype(np.uint8).swapaxes(0, 1)[::-1, ::-1])


def as_markdown(card: Mapping[str, Any]) -> str:
    """The card for a person to read."""
    lines = [
        "# What this training changed",
        "",
        f"{'Better' if card['better'] else 'Not better'}: {card['reason']}.",
        "",
        f"Corrections were held back by {card['held_back_by']}.",
        "",
    ]
    if card["held_back"]:
        lines += ["| held back | before | now |", "|---|---|---|"]
        lines += [_table_line(h) for h in card["held_back"]]
        lines.append("")
    old = card["old_structures"]
    if old:
        lines += [
            f"Structures known before, on {old['on']}: mean Dice {old['mean_before']:.3f} before, "
            f"{old['mean_after']:.3f} now; changed: "
            + (", ".join(f"{n} {c:+.3f}" for n, c in old["changes"].items()) or "none")
            + f". A prompt took {old['seconds_a_prompt_before']:.2f} s before, "
            f"{old['seconds_a_prompt_after']:.2f} s now.",
            "",
        ]
    lines += [f"- {remark}" for remark in card["remarks"]]
    return "\n".join(lines).rstrip() + "\n"


def _table_line(held: Mapping[str, Any]) -> str:
    dice = held["before"], held["after"]
    if held["absent"]:
        before, after = (found_words([value]) for value in dice)
        return f"| {held['term']}, not there | {before} | {after} |"
    return f"| {held['term']} | {dice[0]:.3f} | {dice[1]:.3f} |"
