"""Codes: every structure has one, and each is what the standard's own dictionary says."""

import pytest
from pydicom.sr._concepts_dict import concepts

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.exports.terminology import PRIVATE_SCHEME, Code, coding_of

VOCABULARY = Vocabulary.load()
ALL_MEANINGS = {
    (scheme, code, meaning.lower().removesuffix(" (body structure)"))
    for scheme in ("SCT", "DCM", "FMA")
    for concept in concepts[scheme].values()
    for code, (meaning, _) in concept.items()
}


@pytest.mark.parametrize("structure", [s.name for s in VOCABULARY.structures])
def test_every_structure_has_a_standard_code(structure: str) -> None:
    assert coding_of(structure).type.scheme in ("SCT", "DCM")


def test_codes_and_meanings_are_the_dictionary_s() -> None:
    for term in VOCABULARY.terms():
        coding = coding_of(term.canonical)
        for code in (coding.category, coding.type, coding.side, coding.region):
            if code is not None and code.scheme != PRIVATE_SCHEME:
                assert (code.scheme, code.value, code.meaning.lower()) in ALL_MEANINGS, code


def test_groups_are_coded_or_marked_as_private() -> None:
    for group in VOCABULARY.groups:
        code = coding_of(group.name).type
        assert len(code.meaning) <= 64
        assert code.scheme in ("SCT", "FMA", PRIVATE_SCHEME)
    assert coding_of("left cerebrum").type == Code("SCT", "11628009", "Telencephalon")
    assert coding_of("basal ganglia").type.scheme == PRIVATE_SCHEME


def test_sides_are_coded() -> None:
    left, right, both = (coding_of(f"{side}caudate") for side in ("left ", "right ", ""))
    assert left.type == right.type == both.type
    assert [c.side.meaning for c in (left, right, both) if c.side] == ["Left", "Right", "Bilateral"]
    assert coding_of("brainstem").side is None


def test_unknown_structure_gets_a_private_code_of_its_name() -> None:
    assert coding_of("Koch's cyst").type == Code(PRIVATE_SCHEME, "koch-s-cyst", "Koch's cyst")
