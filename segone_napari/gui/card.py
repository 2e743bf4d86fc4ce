"""What a training changed, in plain words, and the window that shows it with its pictures.

The words are made of the card that `training.promotion` writes; the window knows nothing of how a
version is put to use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import (
    QDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from segone_napari.gui.controls import push, wrapped
from segone_napari.training.wording import found_words

USE = ("Use it", "Answer with the new version from now on; any earlier one can be brought back")
KEEP = ("Keep the old one", "Throw the new version away; your corrections stay")
PICTURE_PX = 560
TALLEST_PX = 640
LEAST_SEEN = 0.005
"""A change of Dice smaller than this is called none."""
LEAST_LOSS = 0.01
"""What one structure known before must lose to be named."""
LEAST_TOLD_S = 0.05
"""A new term was refused before, in next to no time."""

Kind = Literal["better", "no better", "lost", "not measured"]


@dataclass(frozen=True)
class Verdict:
    """Whether the new version is better.

    Attributes
    ----------
    kind : in a word.
    sign : stands before the title, so that colour is never the only sign.
    title, words : a short and a whole sentence.
    """

    kind: Kind
    sign: str
    title: str
    words: str


@dataclass(frozen=True)
class Line:
    """One structure on held-back corrections.

    Attributes
    ----------
    before, now : mean Dice.
    found : where a person said that it is not there, whether it was found before and is now, in
        words; empty for what was outlined.
    """

    term: str
    before: float
    now: float
    found: tuple[str, str] | None = None

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """What a table says: the term, before, now, and the change with an arrow: "▲ +0.21"."""
        change = self.now - self.before
        arrow = "=" if abs(change) < LEAST_SEEN else "▲" if change > 0 else "▼"
        if self.found:
            return f"{self.term}, not there", *self.found, arrow
        return self.term, f"{self.before:.2f}", f"{self.now:.2f}", f"{arrow} {_signed(change)}"


@dataclass(frozen=True)
class Card:
    """What a window shows of a training.

    Attributes
    ----------
    version : number of the new version.
    verdict : whether it is better.
    lines : by structure, on corrections that were held back.
    facts : sentences on the structures known before, on speed and on how it was measured.
    remarks : what a person should know of the corrections.
    pictures : of the biggest changes.
    """

    version: int
    verdict: Verdict
    lines: tuple[Line, ...]
    facts: tuple[str, ...]
    remarks: tuple[str, ...]
    pictures: tuple[Path, ...]


def read_card(version: int, card: Mapping[str, Any], pictures: Path) -> Card:
    """Put a training's card into words.

    Parameters
    ----------
    pictures : the folder that its pictures lie in.
    """
    lines = lines_of(card.get("held_back", ()))
    old = card.get("old_structures") or None
    return Card(
        version,
        _verdict(lines, old, is_better=bool(card.get("better"))),
        lines,
        tuple(filter(None, (_held_back(card), _old(old), _speed(old)))),
        tuple(str(remark) for remark in card.get("remarks", ())),
        tuple(sorted(pictures.glob("change_*.png"))),
    )


def lines_of(held_back: Sequence[Mapping[str, Any]]) -> tuple[Line, ...]:
    """Means by structure, in the order in which they were measured."""
    by_term: dict[tuple[str, bool], list[Mapping[str, Any]]] = {}
    for one in held_back:
        key = str(one["term"]), bool(one.get("absent"))
        by_term.setdefault(key, []).append(one)
    lines = []
    for (term, is_absent), same in by_term.items():
        before, now = ([float(one[when]) for one in same] for when in ("before", "after"))
        found = (found_words(before), found_words(now)) if is_absent else None
        lines.append(Line(term, sum(before) / len(same), sum(now) / len(same), found))
    return tuple(lines)


def mean_dice(lines: Sequence[Line]) -> tuple[float, float] | None:
    """Mean Dice of what was outlined, before and now; None where a person outlined nothing."""
    drawn = [line for line in lines if not line.found]
    if not drawn:
        return None
    before, now = sum(line.before for line in drawn), sum(line.now for line in drawn)
    return before / len(drawn), now / len(drawn)


def _signed(change: float) -> str:
    return f"{change:+.2f}".replace("-", "−")


def _verdict(lines: Sequence[Line], old: Mapping[str, Any] | None, *, is_better: bool) -> Verdict:
    if not lines:
        return Verdict(
            "not measured",
            "?",
            "Not measured",
            "Too few corrections to hold any back. Look at what it outlines, and decide.",
        )
    before = sum(line.before for line in lines) / len(lines)
    now = sum(line.now for line in lines) / len(lines)
    agreement = _agreement(lines)
    if is_better:
        return Verdict("better", "✓", "The new version is better", f"{agreement}.")
    lost = _lost(old)
    if now > before and lost:
        return Verdict("lost", "⚠", "It lost something", f"{agreement}. But {lost}.")
    if now > before + LEAST_SEEN:
        return Verdict(
            "no better", "=", "No better", f"{agreement}. That may be chance: correct some more."
        )
    return Verdict("no better", "=", "No better", f"{agreement}.")


def _agreement(lines: Sequence[Line]) -> str:
    """Say how far a version agrees with a person, without a full stop."""
    sentences = []
    if dice := mean_dice(lines):
        sentences.append(
            f"On corrections that it hadn't seen, it agrees with you by {dice[1]:.2f}, before by "
            f"{dice[0]:.2f}; 1 is the same outline"
        )
    for line in lines:
        if line.found:
            was, now = line.found
            sentences.append(f"{line.term}, where it is not there: {was} before, {now} now")
    return ". ".join(sentences)


def _lost(old: Mapping[str, Any] | None) -> str:
    """What got worse of what was known before; empty if nothing did."""
    if old is None:
        return ""
    changes: dict[str, float] = dict(old.get("changes", {}))
    worst = min(changes, key=lambda name: changes[name], default="")
    if worst and changes[worst] <= -LEAST_LOSS:
        return f"the {worst}, which it knew before, lost {-changes[worst]:.2f}"
    lost = float(old.get("mean_before", 0)) - float(old.get("mean_after", 0))
    return f"what it knew before lost {lost:.3f} in the mean" if lost >= LEAST_SEEN else ""


def _held_back(card: Mapping[str, Any]) -> str:
    by = card.get("held_back_by")
    if not card.get("held_back"):
        return ""
    if by == "patient":
        return "Measured on patients that it hadn't learnt from."
    return (
        "Measured on slices that it hadn't learnt from, between others that you corrected; "
        "on an image without corrections expect less."
    )


def _old(old: Mapping[str, Any] | None) -> str:
    if old is None:
        return ""
    changes = {name: c for name, c in old.get("changes", {}).items() if abs(c) >= LEAST_SEEN}
    where = old.get("on", "the bundled T1")
    mean = f"{old.get('mean_after', 0):.2f} in the mean on {where}"
    if not changes:
        return f"What it knew before is as good as it was: {mean}."
    most = sorted(changes, key=lambda name: changes[name])
    listed = ", ".join(f"{name} {_signed(changes[name])}" for name in most[:3])
    return f"Of what it knew before, {listed} changed; {mean}, before {old['mean_before']:.2f}."


def _speed(old: Mapping[str, Any] | None) -> str:
    if old is None or "seconds_a_prompt_after" not in old:
        return ""
    now, before = old["seconds_a_prompt_after"], old["seconds_a_prompt_before"]
    words = f"One more prompt takes {now:.1f} s"
    return f"{words}, before {before:.1f} s." if before >= LEAST_TOLD_S else f"{words}."


class CardWindow(QDialog):
    """A card with its table and pictures; it stays beside the work until a person decides.

    Signals
    -------
    decided : True to use the new version, False to keep the old one.
    """

    decided = Signal(bool)

    def __init__(self, card: Card, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("card_window")
        self.setWindowTitle(f"SegOne: what version {card.version} learnt")
        self.setModal(False)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        inside = QWidget()
        inside.setObjectName("card_inside")
        column = QVBoxLayout(inside)
        column.setSpacing(10)
        title = wrapped("card_title", f"{card.verdict.sign}  {card.verdict.title}")
        column.addWidget(title)
        column.addWidget(wrapped("card_words", card.verdict.words))
        if card.lines:
            column.addWidget(_table(card.lines))
        for number, fact in enumerate(card.facts, start=1):
            column.addWidget(wrapped(f"card_fact_{number}", fact))
        for number, remark in enumerate(card.remarks, start=1):
            column.addWidget(wrapped(f"card_remark_{number}", f"⚠ {remark}"))
        if card.pictures:
            words = "Where most changed. Left: your outline · middle: before · right: now"
            column.addWidget(wrapped("card_pictures", words))
        for number, path in enumerate(card.pictures, start=1):
            column.addWidget(_picture(number, path))
        column.addStretch(1)
        area = QScrollArea()
        area.setObjectName("card_area")
        area.setAccessibleName("What was measured")
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(inside)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 8)
        whole.addWidget(area, 1)
        whole.addLayout(self._buttons(card))
        self.resize(PICTURE_PX + 60, min(TALLEST_PX, inside.sizeHint().height() + 60))

    def _buttons(self, card: Card) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setContentsMargins(10, 0, 10, 0)
        row.addStretch(1)
        for name, (title, hint), is_used in (("card_use", USE, True), ("card_keep", KEEP, False)):
            button = push(name, title, hint)
            button.setProperty("wanted", is_used == (card.verdict.kind == "better"))
            button.clicked.connect(lambda _=False, is_used=is_used: self._decide(is_used))
            row.addWidget(button)
        hint = "Close this window; nothing is changed   (Esc)"
        later = push("card_later", "Decide later", hint)
        later.clicked.connect(self.close)
        row.addWidget(later)
        return row

    def _decide(self, is_used: bool) -> None:
        self.close()
        self.decided.emit(is_used)


def _table(lines: Sequence[Line]) -> QWidget:
    table = QWidget()
    table.setObjectName("card_table")
    grid = QGridLayout(table)
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setHorizontalSpacing(18)
    grid.setVerticalSpacing(2)
    for place, words in enumerate(("Agreement with you", "before", "now", "")):
        grid.addWidget(_cell(words, place, is_head=True), 0, place)
    for number, line in enumerate(lines, start=1):
        for place, words in enumerate(line.cells):
            grid.addWidget(_cell(words, place), number, place)
    grid.setColumnStretch(4, 1)
    return table


def _cell(words: str, place: int, *, is_head: bool = False) -> QLabel:
    cell = QLabel(words)
    cell.setObjectName("card_head" if is_head else "card_cell")
    if place:
        cell.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return cell


def _picture(number: int, path: Path) -> QLabel:
    label = QLabel()
    label.setObjectName(f"card_picture_{number}")
    label.setAccessibleName(f"Picture {number} of a change: your outline, before, and now")
    pixmap = QPixmap(str(path))
    if pixmap.width() > PICTURE_PX:
        smooth = Qt.TransformationMode.SmoothTransformation
        pixmap = pixmap.scaledToWidth(PICTURE_PX, smooth)
    label.setPixmap(pixmap)
    return label
