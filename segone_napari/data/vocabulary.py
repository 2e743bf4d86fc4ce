"""The structures that the model knows: names, synonyms, colours and label values.

A *class* is what the network tells apart ("left hippocampus"); a *term* is what a person can ask
for: a class, a pair of them, or a group ("basal ganglia"). All of it is read from
``vocabulary.json``. Knows nothing of images or networks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from segone_napari.data.lexicon import How
from segone_napari.data.matching import SEVERAL, Matcher, learnt_key
from segone_napari.data.prompts import Side, split_prompts
from segone_napari.data.terms import Colour, Match, Structure, Term
from segone_napari.runtime import BadCheckpoint

__all__ = ["Colour", "How", "Match", "Side", "Structure", "Term", "Vocabulary", "split_prompts"]

BACKGROUND = "background"
FORMAT = 1
FIELD_OF_VIEW_ML = 12_000.0
"""About what a whole-head scan of 256 x 256 x 180 mm shows."""

# Sides in training phrases, as people and atlases write them.
_SIDE_PATTERNS: Mapping[str, tuple[str, ...]] = {
    "left": ("left {}", "{} left", "{} on the left side", "lt {}", "L {}", "{} sinistra"),
    "right": ("right {}", "{} right", "{} on the right side", "rt {}", "R {}", "{} dextra"),
}


class Vocabulary:
    """All structures and groups, in a fixed order of classes.

    Two vocabularies with the same `class_names` fit the same weights.

    Attributes
    ----------
    structures, groups : as they stand in the file.
    learnt : terms that corrections taught.
    class_names : what the network tells apart; background comes first.
    entries : canonical name, without a side, to structure or group.
    words : other forms of words, what they stand for, and which of them tell little or nothing.
    languages : language to canonical name to names in that language.
    elsewhere : words for what lies elsewhere than in the brain.
    unknown : names of what is in a head, or near it, and isn't known.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self.structures = tuple(_structure(entry) for entry in document["structures"])
        self.groups = tuple(_structure(entry) for entry in document["groups"])
        self.learnt = tuple(_structure(entry) for entry in document.get("learnt", ()))
        self.class_names: tuple[str, ...] = (
            BACKGROUND,
            *(name for structure in self.structures for name in _class_names(structure)),
        )
        self.entries = {entry.name: entry for entry in (*self.structures, *self.groups)}
        self.words: Mapping[str, Any] = document.get("words", {})
        self.languages: Mapping[str, Mapping[str, Sequence[str]]] = document.get("languages", {})
        self.elsewhere: Sequence[str] = document.get("elsewhere", ())
        self.unknown: Sequence[str] = document.get("unknown", ())
        self._structure_of = {c: s for s in self.structures for c in _class_names(s)}

    @classmethod
    def load(cls, path: str | Path | None = None) -> Vocabulary:
        """Read a vocabulary file; without a path, the one that comes with the package.

        Raises
        ------
        BadCheckpoint
            If the file is missing, damaged or of another format version.
        """
        source = files("segone_napari.data") / "vocabulary.json" if path is None else Path(path)
        try:
            document = json.loads(source.read_text(encoding="utf-8"))
            if document["format"] != FORMAT:
                raise BadCheckpoint(
                    f"{source} is a vocabulary of format {document['format']!r}, and this program "
                    f"reads format {FORMAT}; update segone-napari or use another checkpoint"
                )
            return cls(document)
        except OSError as error:
            raise BadCheckpoint(f"can't read the vocabulary {source}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BadCheckpoint(
                f"the vocabulary {source} is damaged ({error}); copy the checkpoint anew"
            ) from error

    @classmethod
    @cache
    def packaged(cls) -> Vocabulary:
        """Return the vocabulary that comes with the package, read once."""
        return cls.load()

    def brought_up_to_date(self) -> Vocabulary:
        """Return the package's vocabulary if it has the same classes: it may know more names."""
        packaged = self.packaged()
        if packaged.class_names != self.class_names:
            return self
        return packaged.with_learnt(self._document["learnt"]) if self.learnt else packaged

    def with_learnt(self, entries: Sequence[Mapping[str, Any]]) -> Vocabulary:
        """Return a vocabulary with the same classes whose learnt terms are these.

        A *learnt* term is one that corrections taught: no class of the base model.
        """
        other = Vocabulary({**self._document, "learnt": [dict(entry) for entry in entries]})
        # These depend on the base alone, and take a second to fill.
        other._matcher = Matcher(other, like=self._matcher)
        return other

    def with_term(self, name: str, synonyms: Sequence[str] = ()) -> Vocabulary:
        """Return a vocabulary that knows one learnt term more, or more synonyms of it.

        A synonym that already means something else is left out.
        """
        entries = [dict(entry) for entry in self._document.get("learnt", ())]
        entry = next((e for e in entries if learnt_key(e["name"]) == learnt_key(name)), None)
        if entry is None:
            colour = _LEARNT_COLOURS[len(entries) % len(_LEARNT_COLOURS)]
            entry = {"name": name, "sides": False, "colour": list(colour), "synonyms": []}
            entries.append(entry)
        taken = {learnt_key(word) for word in (entry["name"], *entry["synonyms"])}
        free = [s for s in synonyms if learnt_key(s) not in taken and not self.match(s).named]
        entry["synonyms"] = list(dict.fromkeys([*entry["synonyms"], *free]))
        return self.with_learnt(entries)

    def save(self, path: str | Path) -> None:
        """Write the vocabulary so that `load` gives the same one back."""
        text = json.dumps(self._document, indent=1, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    # Classes -------------------------------------------------------------------------------

    @cached_property
    def labels(self) -> Mapping[int, str]:
        """FreeSurfer value to class name. A value that is not in it is background.

        Values in `split_labels` are left out.
        """
        table = {0: BACKGROUND}
        for structure in self.structures:
            for side, values in structure.labels.items():
                if side == "split":
                    continue
                name = structure.name if side == "midline" else f"{side} {structure.name}"
                table.update(dict.fromkeys(values, name))
        return table

    @cached_property
    def split_labels(self) -> Mapping[int, str]:
        """FreeSurfer value to the name of a paired structure whose sides share that value.

        The reader of the label map tells the sides apart by the head's midline.
        """
        return {v: s.name for s in self.structures for v in s.labels.get("split", ())}

    def swap_side(self, class_name: str) -> str:
        """Return the class on the other side; what has no side stays.

        Examples
        --------
        >>> Vocabulary.load().swap_side("left thalamus")
        'right thalamus'
        """
        side, _, rest = class_name.partition(" ")
        if self._structure(class_name) is None or side not in ("left", "right"):
            return class_name
        return f"{'right' if side == 'left' else 'left'} {rest}"

    def prior(self, class_name: str) -> float:
        """Rough share of the voxels of a whole-head scan, 0 to 1; all classes add up to 1."""
        structure = self._structure(class_name)
        if structure is None:
            return 1.0 - sum(self.prior(name) for name in self.class_names[1:])
        low, high = structure.volume_ml
        return float((low * high) ** 0.5 / FIELD_OF_VIEW_ML)

    def colour(self, class_name: str) -> Colour:
        """Display colour of a class: left lighter than right, the same hue."""
        structure = self._structure(class_name)
        if structure is None:
            return (0, 0, 0)
        return _sided_colour(structure, class_name.split(" ")[0])

    def phrases(self, class_name: str) -> tuple[str, ...]:
        """Return the names that a text model is trained on, the canonical one first."""
        structure = self._structure(class_name)
        if structure is None:
            return (BACKGROUND, *self._document["background"]["synonyms"])
        if not structure.sides:
            return structure.names
        side = class_name.split(" ")[0]
        names = (*structure.names, *structure.synonyms_with_side)
        return tuple(p.format(name) for name in names for p in _SIDE_PATTERNS[side])

    # Terms ---------------------------------------------------------------------------------

    def terms(self) -> tuple[Term, ...]:
        """Return all that can be asked for: both sides, left, right of each, groups, learnt."""
        return tuple(
            self.term(entry.name, side)
            for entry in (*self.structures, *self.groups)
            for side in (("both", "left", "right") if entry.sides else (None,))
        ) + tuple(self.term(entry.name) for entry in self.learnt)

    def term(self, name: str, side: Side | None = None) -> Term:
        """Return the term of a canonical name without side ("hippocampus") and a side.

        Without a side, what is paired means both sides.
        """
        learnt = next((entry for entry in self.learnt if entry.name == name), None)
        if learnt is not None:
            return Term(name, None, (name,), learnt.colour)
        entry = self.entries[name]
        if entry.sides and side is None:
            side = "both"
        if not entry.sides:
            side = None
        members = [self.entries[m] for m in entry.members] or [entry]
        classes = tuple(c for m in members for c in _class_names(m) if _is_on(side, c, m))
        return Term(name, side, classes, _sided_colour(entry, side))

    def synonyms(self, name: str) -> tuple[str, ...]:
        """Other names of a structure or group, given its canonical name without side."""
        learnt = {entry.name: entry for entry in self.learnt}
        return (learnt.get(name) or self.entries[name]).synonyms

    # Matching ------------------------------------------------------------------------------

    def separate(self, text: str) -> list[str]:
        """Split a prompt that names several known structures into one prompt each.

        Anything else is returned as it came, to be understood or refused as a whole.

        Examples
        --------
        >>> Vocabulary.load().separate("left caudate and putamen")
        ['left caudate', 'left putamen']
        """
        match = self.match(text)
        return match.suggestions[0].split("; ") if match.reason == SEVERAL else [text]

    def match(self, text: str) -> Match:
        """Understand one prompt, or refuse it and say what comes near.

        Names the side in any usual way; a paired structure without a side means both. An unknown
        word, a negation or a side of what has none refuses it; only what a sentence tells around
        its request, for whom or why, is left out. Several structures in one prompt are refused
        too: the first suggestion gives each its own mask ("caudate; putamen"), the second is their
        union where it has a name ("dorsal striatum").
        """
        return self._matcher.match(text)

    def named(self, text: str) -> Term | None:
        """Return the term that a text is a name of, neither mistyped nor described."""
        match = self.match(text)
        return match.term if match.how in ("exact", "synonym") else None

    @cached_property
    def _matcher(self) -> Matcher:
        return Matcher(self)

    def _structure(self, class_name: str) -> Structure | None:
        """Return the structure of a class; None for background."""
        if class_name == BACKGROUND:
            return None
        return self._structure_of[class_name]


# Far from each other, and from the colours of the structures beside them.
_LEARNT_COLOURS: tuple[Colour, ...] = (
    (255, 215, 0), (0, 200, 255), (255, 0, 170), (120, 255, 60), (255, 130, 0), (150, 110, 255),
)  # fmt: skip


def _structure(entry: Mapping[str, Any]) -> Structure:
    red, green, blue = entry["colour"]
    low, high = entry.get("volume_ml", (0.0, 0.0))
    return Structure(
        name=entry["name"],
        sides=bool(entry["sides"]),
        colour=(int(red), int(green), int(blue)),
        synonyms=tuple(entry["synonyms"]),
        synonyms_with_side=tuple(entry.get("synonyms_with_side", ())),
        also=tuple(entry.get("also", ())),
        descriptions=tuple(entry.get("descriptions", ())),
        parts=tuple(entry.get("parts", ())),
        volume_ml=(float(low), float(high)),
        labels={side: _values(ranges) for side, ranges in entry.get("labels", {}).items()},
        members=tuple(entry.get("members", ())),
    )


def _values(ranges: Iterable[int | list[int]]) -> tuple[int, ...]:
    """Write out label values: ``[2, [10, 12]]`` is 2, 10, 11, 12."""
    values: list[int] = []
    for item in ranges:
        first, last = (item, item) if isinstance(item, int) else item
        values.extend(range(first, last + 1))
    return tuple(values)


def _class_names(structure: Structure) -> tuple[str, ...]:
    if not structure.sides:
        return (structure.name,)
    return (f"left {structure.name}", f"right {structure.name}")


def _is_on(side: Side | None, class_name: str, structure: Structure) -> bool:
    """Whether a class belongs to a side; what has no side belongs to the whole only."""
    return side in (None, "both") or (structure.sides and class_name.startswith(f"{side} "))


def _sided_colour(structure: Structure, side: str | None) -> Colour:
    red, green, blue = structure.colour
    if not structure.sides or side not in ("left", "right"):
        return structure.colour
    if side == "left":
        return (red + (255 - red) // 3, green + (255 - green) // 3, blue + (255 - blue) // 3)
    return (red * 3 // 5, green * 3 // 5, blue * 3 // 5)
