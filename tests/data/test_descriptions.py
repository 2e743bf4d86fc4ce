"""What a description in other words than names is understood as."""

from itertools import pairwise

import numpy as np
import pytest

from segone_napari.data.descriptions import (
    FEATURES,
    NOTHING,
    Describer,
    features,
    read_descriptions,
)
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.exports.content import known_term

VOCABULARY = Vocabulary.packaged()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the place in my head where new memories get stored for the long run", "hippocampus"),
        ("what gets compressed by a pituitary tumour with bitemporal hemianopia", "optic chiasm"),
        ("the nucleus in the floor of the right temporal horn", "right hippocampus"),
        ("grey matter nucleus between the putamen and the internal capsule", "pallidum"),
        ("stalk of the brain that runs on into the spinal cord", "brainstem"),
        ("almond-like alarm bell for fear and panic on the left", "left amygdala"),
        ("outer of the two nuclei that make up the right lentiform nucleus", "right putamen"),
        ("my right seahorse-shaped memory thing", "right hippocampus"),
        (
            "please show me the fluid cavity in front of the cerebellum behind the pons",
            "fourth ventricle",
        ),
    ],
)
def test_a_description_is_understood(text, expected):
    assert text not in {t for texts in read_descriptions().values() for t in texts}
    match = VOCABULARY.match(text)
    assert match.term is not None
    assert match.term.canonical == expected
    assert match.how == "description"


@pytest.mark.parametrize(
    "text",
    [
        "pumps blood around the whole body",
        "the gland that makes the sleep hormone at night",
        "area in the left frontal lobe for producing speech",
        "how does memory work in old age",
        "my neighbour's new garden fence and gate",
        "necrotic core of the tumour",
        "front half of the memory structure",
        "amygdala beside the hippocampus",
        "oedema around the tumour",
        "space between the dura and the skull",
    ],
)
def test_a_description_of_something_else_is_refused(text):
    assert VOCABULARY.match(text).term is None


@pytest.mark.parametrize(
    "text",
    [
        "the cerebral hemisphere that moves the left arm",
        "basal ganglia that control the left hand",
        "cerebellar half that coordinates the right leg",
        "thalamus of a man with left sided weakness",
        "the hemisphere that controls the left side of the body",
    ],
)
def test_a_side_of_the_body_is_not_that_of_the_brain(text):
    match = VOCABULARY.match(text)
    assert match.term is None
    assert "body" in match.reason
    assert not any("left" in name or "right" in name for name in match.suggestions)


def test_right_before_a_place_is_no_side():
    term = VOCABULARY.match("the area of nuclei right below the thalamus").term
    assert term is not None
    assert term.canonical == "ventral diencephalon"


def test_a_description_may_be_the_name_of_what_a_person_teaches():
    words = "fluid cavity behind the pons after surgery"
    assert VOCABULARY.match(words).how == "description"
    assert known_term(words) is None  # nor is it exported as the ventricle
    taught = VOCABULARY.with_term("postoperative hole", [words])
    assert taught.match(words).term.canonical == "postoperative hole"


def test_what_comes_nearest_is_suggested_where_a_description_is_not_sure():
    match = VOCABULARY.match("the metal clip near the brainstem")
    assert match.term is None
    assert match.suggestions == ("brainstem",)


def test_descriptions_mean_what_the_vocabulary_knows():
    known = {entry.name for entry in (*VOCABULARY.structures, *VOCABULARY.groups)}
    assert set(read_descriptions()) <= known | {NOTHING}
    assert set(Describer.packaged().entries) <= known | {NOTHING}


def test_no_description_means_two_things():
    texts = sorted(t.lower() for some in read_descriptions().values() for t in some)
    assert not [a for a, b in pairwise(texts) if a == b]


def test_every_word_of_a_text_counts_once():
    assert len(features(("fear", "fear"))) == 2  # the word and the pair
    assert features(("fear",)).max() < FEATURES
    assert len(set(features(("memory",))) & set(features(("memories",)))) == 1  # both begin alike


def test_probabilities_add_up_to_one_even_for_words_never_seen():
    for words in (("memory", "place"), ("qzxv", "wvvq", "jjkp")):
        shares = Describer.packaged().probabilities(words).values()
        assert sum(shares) == pytest.approx(1)


def test_what_is_saved_is_read_again(tmp_path):
    before = Describer.packaged()
    before.save(tmp_path / "copy.safetensors")
    after = Describer.load(tmp_path / "copy.safetensors")
    assert after.entries == before.entries
    for name in ("weights", "offsets", "rarity"):
        assert np.array_equal(getattr(after, name), getattr(before, name))
