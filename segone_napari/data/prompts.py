"""Turns what a person types into words that can be looked up: "Outline the L. hippocampi, please".

Knows how prompts are written, not what structures there are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right", "both"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LEFT = _words(
    "left l lt lft lefft letf leftt sin sinist sinister sinistra sinistrum sinistri "
    "sinistrae sinistro sinistral sx lh lhs leftward lefthand lefthanded leftside leftsided "
    "linke linker linken linkes linksseitig linksseitige gauche izquierdo izquierda izquierdos "
    "izquierdas izq esquerdo esquerda"
)
RIGHT = _words(
    "right r rt rgt rght rigth rihgt riht righ rigt dex dext dextr dexter dextra dextrum dextri "
    "dextrae dextro dextral dx rh rhs rightward righthand righthanded rightside rightsided "
    "rechts rechte rechter rechten rechtes rechtsseitig rechtsseitige droit droite derecho derecha "
    "derechos derechas direito direita destro destra"
)
BOTH = _words(
    "both bilateral bilaterally bilat bil bilaterals lr rl either each bilateralis ambo ambae "
    "paired pair pairs two twin beide beider beiden beidseits beidseitig ambos ambas entrambi "
    "entrambe deux bilaterale bilaterales"
)
PAIRS = _words("two twin pair pairs paired each either")
"""Of `BOTH`, the words that a named side overrides: "the outer of the two nuclei on the left"."""
SIDE_COMPANIONS = _words("side sides sided hand handed lateralized half hemi ones one")
"""Words that say nothing more once a side was named: "left-sided", "on the left hand side"."""

NEGATIONS = _words(
    "no not non none without except excluding exclude excludes minus but ignore ignoring "
    "dont never neither nor absent lacking remove removing other instead besides apart avoid skip "
    "skipping doesnt isnt outwith"
)

FILLERS = _words(
    # asking
    "please pls kindly segment segmented segmenting segmentation outline outlined outlining "
    "delineate delineated delineation contour contours contouring trace mark highlight highlighted "
    "label labelled labels find locate show display draw drawing paint mask masked masks extract "
    "isolate identify detect give get select annotate map see view check look looking interested "
    "measure quantify compute calculate estimate determine make create want wish need like love "
    "would could can you do does be being been was were has have had should shall must will may "
    "might try work working return produce generate add fill pick cut out colour color located "
    "called just only render visualise visualize reveal present output result results predict "
    "me i us we let lets to where is are what which whats wheres how it so as if ll ve re d m am "
    "analyse analyze analysis examine inspect evaluate assess report exact exactly accurate "
    "accurately precise precisely carefully clearly automatically auto possible use using go ahead "
    "focus concentrate mind letting able help them they ones about regarding concerning every "
    "segmentations outlines masks delineations annotation annotations overlay overlaid focusing "
    "red green blue yellow orange pink purple "
    # being polite, and going on from the last prompt
    "hi hello hey dear thank thanks thx cheers ok okay quickly again also too start begin next "
    "now finally same once more together altogether "
    # measuring
    "size sizes volume volumes volumetry volumetric vol amount voxel voxels "
    "pixel pixels belong belongs belonging extent "
    # articles and the like
    "the a an of in on at for from within by this that these those my your its his her their "
    "here there any some "
    "de la le les el los las del du des der das dem den die il di della dello bitte por favor "
    # what the prompt is about anyway
    "mri mr t1 t2 t1w t2w flair weighted scan scans image images picture slice dataset study "
    "sequence acquisition patient patients subject subjects person persons human structure "
    "son sons daughter daughters mother father mum mom dad grandma grandmother grandpa grandfather "
    "gran wife husband brother sister uncle aunt friend "
    "structures region regions area areas roi rois anatomical anatomic anatomy entire complete "
    "full proper visible 3d 2d"
)

TELLING = _words("t1 t2 t1w t2w flair red green blue yellow orange pink purple")
"""Fillers that tell names apart which a person gave: "red nucleus", "T2 black hole"."""

ALIASES = {
    "gray": "grey", "3rd": "third", "iii": "third", "3": "third", "4th": "fourth", "iv": "fourth",
    "4": "fourth", "1st": "first", "2nd": "second", "tertius": "tertius",
    "hippocampi": "hippocampus", "hippocampuses": "hippocampus", "thalami": "thalamus",
    "amygdalae": "amygdala", "putamina": "putamen", "nuclei": "nucleus", "pallidi": "pallidum",
    "pallida": "pallidum", "globi": "globus", "cortices": "cortex", "plexi": "plexus",
    "ganglia": "ganglion", "cerebella": "cerebellum", "cerebra": "cerebrum", "horns": "horn",
    "striata": "striatum", "ventriculi": "ventriculus", "chiasmata": "chiasma",
    "corpora": "corpus", "center": "centre", "fiber": "fibre", "tumor": "tumour",
    "accumbentes": "accumbens", "matters": "matter", "bodies": "body", "cavities": "cavity",
    "caudati": "caudatus", "caudates": "caudate",
}  # fmt: skip
"""Plurals and spellings that a plain "drop the s" does not mend."""

_NUMBERING = re.compile(r"(?:^|(?<=[\s,;]))\(?\d{1,2}[.)]\s*(?=[^\W\d])")
_CONJUNCTIONS = re.compile(
    r"[&+]|\b(?:and|or|plus|as well as|(?:(?:together|along) )?with|in addition to|followed by|"
    r"then)\b",
    re.IGNORECASE,
)
_JOINERS = re.compile(rf"[/,()\[\]]|{_CONJUNCTIONS.pattern}", re.IGNORECASE)

_L, _R = r"(?:left|l|lt|lh)\b\.?", r"(?:right|r|rt|rh)\b\.?"
_OF = r"\s+(?:side|hemisphere)\s+(?:and|or|&|\+)\s+(?:(?:of|in|on|from)\s+)?(?:the\s+)?"
_BOTH_SIDES = re.compile(
    rf"\b(?:{_L}\s*(?:and|or|&|\+|/)\s*(?:the\s+)?{_R}|{_R}\s*(?:and|or|&|\+|/)\s*(?:the\s+)?{_L}"
    rf"|{_L}{_OF}{_R}|{_R}{_OF}{_L})",
    re.IGNORECASE,
)
"""Both sides joined at once: "left and right", "R/L", "of the left side and of the right"."""

_BOTH_OF_A_SIDE = re.compile(rf"\bboth\s+(?=(?:of\s+)?(?:the\s+)?(?:{_L}|{_R}))", re.IGNORECASE)

_SCREEN = r"(?:image|images|screen|picture|display|view|viewer|window|slice|scan|panel|monitor)"
_SCREEN_SIDE = re.compile(
    r"\b(?:left|right)(?:[- ]hand)?(?: side| half| part)? (?:of|in|on) (?:the |this |my )?"
    rf"{_SCREEN}\b|\b{_SCREEN} (?:left|right)\b"
    r"|\b(?:on|to|at|from) my (?:left|right)\b|\bmy (?:left|right)\b(?! \w)"
    r"|\b(?:viewer|observer|reader|radiologist)['\u2019]?s (?:left|right)\b",
    re.IGNORECASE,
)
"""A side of what is seen, which may be either side of the patient."""

_BODY = (
    r"(?:arm|hand|leg|foot|fingers?|face|limbs?|body|eye|ear|visual field|weakness|paralysis|palsy|"
    r"paresis|hemi(?:paresis|plegia|anopia|neglect|chorea|ballismus)|numbness|neglect|seizures?)"
)
_SIDE_OF_BODY = re.compile(
    rf"\b(?:left|right)(?:[- ]sided)?(?: (?:side|half) of (?:the|his|her|my|a))?(?: \w+)? {_BODY}\b"
    r"(?! side\b)|\b(?:his|her|their) (?:left|right) side\b",
    re.IGNORECASE,
)
"""A side of the body, which mostly is the other one of the brain: "what moves the left hand"."""

_OPEN_SIDE = re.compile(
    r"\b(?:maybe|perhaps|possibly|probably) (?:the )?(?:left|right)\b|\bopposite (?:the|to)\b"
    r"|\b[LR]\s?\?|\bwhichever\b|\b(?:ipsi|contra)lateral\b"
    r"|(?<!left )(?<!right )\bsides? (?:to be|is|isn['\u2019]?t|not|un(?:known|clear|decided)|"
    r"tbd|tbc|doesn['\u2019]?t|(?:of|with) the (?:lesion|stroke|tumou?r|pain|bleed|mass))\b"
    r"|\b(?:one|an?|affected|unaffected|healthy|good|bad|wrong|same|opposite|symptomatic|paretic|"
    r"dominant|nondominant|which|larger|smaller|worse)[- ](?:side|hemisphere)\b"
    rf"|\b(?:{_L} or (?:the )?{_R}|{_R} or (?:the )?{_L})"
    r"|\b(?:left|right)(?:[- ]sided)? (?:left|right)\b(?!.*\b(?:left|right)\b)",
    re.IGNORECASE,
)
"""One side of the two, but not which; and "left right" with nothing between."""
_ONE_OF_TWO = re.compile(
    r"\bone of (?:the|his|her|their|both|these|those|two)\b|\beither (?!sides?\b|of\b)"
    r"|\b(?:only|just) (?:1|one|a single) (?!mask|layer|label|file|colou?r|lesion|tumou?r)"
    r"|\bthat (?:looks|is|seems|appears) (?:smaller|larger|bigger|brighter|darker|worse|affected)\b"
    r"|\b(?:smaller|larger|bigger|better|worse) (?:one )?of the\b",
    re.IGNORECASE,
)
"""One of a pair, but not which, unless a side is named as well."""

_PERSON = r"(?:patient|person|subject|individual|adult|male|female|man|woman|boy|girl|child)"
_NO_SIDE = re.compile(
    rf"\b(?:left|right)[- ]?handed(?=\s+(?:\w+\s+)?{_PERSON}|\s*(?:[,.:]|$))"
    r"|\ball right\b|\bright (?=(?:now|away|then|there|here|at|where|in (?:front|the middle)|"
    r"on top|below|beneath|under|underneath|above|over|behind|beside|next|between|inside|outside|"
    r"around)\b)"
    r"|\bleft[- ]?overs?\b|\b(?:what|whatever)(?: is|['\u2019]?s) left\b",
    re.IGNORECASE,
)
"""What says "left" or "right" and means no side: "right-handed patient", "what is left of"."""

_ASKING = re.compile(
    r"\b(?:draw|trace|circle|outline|contour|line|mask)(?: a (?:line|circle))? around\b"
    r"|\b(?:start|begin|continue|proceed|go on|carry on|help me|help) with\b"
    r"|\b(?:from|in) the (?:beginning|end|meantime)\b|\bfor (?:me|us|now|today|example)\b"
    r"|\bhow (?:big|large|much|many|small|wide)\b",
    re.IGNORECASE,
)
RELATIONS = _words(
    "behind infrontof above below medialto lateralto beside between around inside outside under "
    "beneath near within bordering along over"
)
_RELATIONS = tuple(
    (re.compile(rf"\b(?:{said})\b", re.IGNORECASE), relation)
    for said, relation in (
        (r"(?:posterior|dorsal|caudal) to|at the back of|in back of", "behind"),
        (r"(?:anterior|rostral) to|in front of", "infrontof"),
        (r"superior to|on top of", "above"),
        (r"inferior to|ventral to", "below"),
        (r"medial to|inward (?:from|of)|inside of", "medialto"),
        (r"lateral to|outward (?:from|of)", "lateralto"),
        (r"next to|adjacent to|close to|on (?:either|each) side of|beside of", "beside"),
        (r"(?:part|region|area|structure) of (?:the )?(?:human )?brain(?= [a-z])", ""),
    )
)
"""Where something lies relative to another: "posterior to the pons", unlike "posterior pons"."""
_ELISION = re.compile(r"\b[ld]['\u2018\u2019](?=[^\W\d_]{2})", re.IGNORECASE)
"""An article of a French or Italian word, no side: "l'hippocampe"."""
_LINKS = re.compile(r"^\s*links\b|\blinks\s*$", re.IGNORECASE)
"""The German "left"; within an English prompt the word is another."""
_MATTER = re.compile(r"(?<=\bwhite )mater\b|(?<=\bgr[ae]y )mater\b", re.IGNORECASE)
_GLUED_WORD = re.compile(r"^(left|right)([a-z]{3,})$|^([LR])([A-Z][A-Za-z]+)$")


@dataclass(frozen=True)
class Request:
    """A prompt taken apart.

    Attributes
    ----------
    words : what is asked for, without side and fillers, in the singular and in lower case.
    side : the side that was named, or None when none was.
    negated : the word that turns the prompt round ("without"), or None.
    """

    words: tuple[str, ...]
    side: Side | None
    negated: str | None


def split_prompts(text: str) -> list[str]:
    """Split a line of prompts at ``;``, at line breaks and at the numbers of a list ("1. a 2. b").

    Blank ones are left out.

    An empty list means that nothing was asked: the caller says so to the person.
    """
    if len(_NUMBERING.findall(text)) > 1 and _NUMBERING.match(text.strip()):
        text = _NUMBERING.sub(";", text)
    return [part.strip() for part in re.split(r"[;\n\r]+", text) if part.strip()]


def parse(
    text: str,
    is_name: Callable[[str], bool] = lambda _: False,
    kept: frozenset[str] = frozenset(),
) -> Request:
    """Take one prompt apart into words, side and negation.

    With `is_name`, which says whether a word alone names something, a side may be glued to it:
    "LHipp", "leftthalamus". Fillers that are `kept` count as words.
    """
    tokens = tokenize(text, is_name)
    negated = next((t for t in tokens if t in NEGATIONS), None)
    side = _side(tokens)
    tokens = [t for t in tokens if t not in LEFT | RIGHT | BOTH]
    if side is not None:
        tokens = _trim_joiner([t for t in tokens if t not in SIDE_COMPANIONS])
    return Request(key(tokens, kept), side, negated)


def tokenize(text: str, is_name: Callable[[str], bool] = lambda _: False) -> list[str]:
    """Lower-case words and numbers without accents, punctuation and possessives."""
    text = unicodedata.normalize("NFKD", text)
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = _ELISION.sub(" ", _NO_SIDE.sub(" ", text))
    text = _MATTER.sub("matter", _LINKS.sub("left", text))
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text)
    text = re.sub(r"[^\W_]+", lambda word: _unglued(word[0], is_name), text)
    text = _ASKING.sub("outline", text).lower()
    for said, relation in _RELATIONS:
        text = said.sub(relation, text)
    text = re.sub(r"['\u2018\u2019\u02bc`](?=s\b)", " '", text)
    text = re.sub(r"(?<=\w)['\u2018\u2019\u02bc](?=t\b)", "", text)
    text = re.sub(r"\bw/o\b|\bleav(?:e|ing) (?:away|out)\b", "without", text)
    text = text.replace("&", " and ").replace("+", " and ")
    return [t for t in re.findall(r"'s\b|[^\W_]+", text) if t != "'s"]


def key(tokens: list[str], kept: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Words to look up: fillers left out but those `kept`, singular, one spelling."""
    return tuple(singular(t) for t in tokens if t in kept or t not in FILLERS)


def singular(word: str) -> str:
    """Bring a word to the form that both prompts and the vocabulary are compared in.

    Examples
    --------
    >>> singular("hippocampi"), singular("ventricles"), singular("thalamus")
    ('hippocampus', 'ventricle', 'thalamus')
    """
    if word in ALIASES:
        return ALIASES[word]
    if len(word) > 5 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 5 and word.endswith(("xes", "uses", "ches", "shes", "sses")):
        return word[:-2]
    if len(word) > 4 and word.endswith("s") and not word.endswith(("ss", "us", "is", "ens")):
        return word[:-1]
    return word


def conjuncts(text: str) -> list[str]:
    """Split a prompt where a word joins several structures: "a and b", "a + b"."""
    return _pieces(_CONJUNCTIONS, text)


def parts(text: str) -> list[str]:
    """Split a prompt where anything may join several structures: "a/b", "a, b", "a (b)"."""
    return _pieces(_JOINERS, text)


def both_sides_as_one(text: str) -> str:
    """Write "left and right hippocampus" as "bilateral hippocampus", so that it isn't split; and
    "both the left caudate and …" without the "both" that only joins.
    """
    return _BOTH_OF_A_SIDE.sub("", _BOTH_SIDES.sub("bilateral", text))


def alternatives(pattern: str) -> list[list[str]]:
    """Take a description apart into places and what may stand there.

    Examples
    --------
    >>> alternatives("(fluid|cavity) behind the pons")
    [['fluid', 'cavity'], ['behind the pons']]
    """
    pieces = [piece.strip().split("|") for piece in re.split(r"[()]", pattern)]
    return [piece for piece in pieces if piece != [""]]


def names_side_of_screen(text: str) -> bool:
    """Whether a prompt names a side of what is seen rather than of the patient."""
    return _SCREEN_SIDE.search(text) is not None


def names_side_of_body(text: str) -> bool:
    """Whether a prompt names a side of the body rather than of the brain."""
    return _SIDE_OF_BODY.search(text) is not None


def leaves_side_open(text: str) -> bool:
    """Whether a prompt speaks of one side without telling which: "on the affected side"."""
    if _OPEN_SIDE.search(text):
        return True
    return _ONE_OF_TWO.search(text) is not None and (LEFT | RIGHT).isdisjoint(tokenize(text))


def names_two_sides_of_one(text: str) -> bool:
    """Whether a prompt names two sides that it doesn't join: "left hippocampus on the right"."""
    return any(_is_torn(tokenize(part)) for part in parts(text))


def _is_torn(tokens: list[str]) -> bool:
    tokens = [token for token in tokens if token not in FILLERS | SIDE_COMPANIONS]
    sides = [n for n, token in enumerate(tokens) if token in LEFT | RIGHT]
    if not sides or sides[-1] != len(tokens) - 1:
        return False  # "L hippocampus R hippocampus": each side has its own
    says_more = len(sides) < len(tokens) - sides[0]
    return says_more and len({tokens[n] in LEFT for n in sides}) == 2


def side_comes_last(text: str) -> bool:
    """Whether a prompt ends with its side: "amygdala on the right"."""
    tokens = [t for t in tokenize(text) if t not in FILLERS | SIDE_COMPANIONS | {"hemisphere"}]
    return len(tokens) > 1 and tokens[-1] in LEFT | RIGHT and tokens[0] not in LEFT | RIGHT


def without_both(pieces: list[str]) -> list[str]:
    """Drop the "both" that only joins: "both caudate and putamen on the left"; not that of "both
    caudates and the putamen on the left".
    """
    last = pieces[0].split()[-1].lower()
    if singular(last) != last or not side_comes_last(pieces[-1]):
        return pieces
    return [re.sub(r"\bboth\b", "", pieces[0], flags=re.IGNORECASE), *pieces[1:]]


def _side(tokens: list[str]) -> Side | None:
    left = any(t in LEFT for t in tokens)
    right = any(t in RIGHT for t in tokens)
    both = BOTH - PAIRS if left or right else BOTH
    if (left and right) or any(t in both for t in tokens):
        return "both"
    if left:
        return "left"
    return "right" if right else None


def _trim_joiner(tokens: list[str]) -> list[str]:
    """Drop the "and" that joined two sides: "left and right hippocampus"."""
    while tokens and tokens[0] == "and":
        tokens = tokens[1:]
    while tokens and tokens[-1] == "and":
        tokens = tokens[:-1]
    return tokens


def _unglued(word: str, is_name: Callable[[str], bool]) -> str:
    """Write "LHipp" and "leftthalamus" as two words, where the rest is a name and all is none."""
    glued = _GLUED_WORD.match(word)
    if not glued or is_name(word.lower()):
        return word
    side, rest = glued[1] or glued[3], glued[2] or glued[4]
    return f"{side} {rest}" if is_name(rest.lower()) else word


def _pieces(joiner: re.Pattern[str], text: str) -> list[str]:
    return [piece.strip() for piece in joiner.split(text) if piece.strip()]
