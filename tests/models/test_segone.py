"""SegOne as a whole: names, seeds, and unions of classes."""

from dataclasses import replace

import pytest
import torch

from segone_napari.models.answers import Answers
from segone_napari.models.segone import SegOneModel, prompt_logit, untaught_answers
from segone_napari.models.text import TextTower
from segone_napari.runtime import BadInput
from segone_napari.training import base
from tests.tiny import NETWORK, TEXT, TRAINING, small_vocabulary

VOCABULARY = small_vocabulary()
NAMES = VOCABULARY.class_names
PHRASES = [(name, *VOCABULARY.phrases(name)) for name in NAMES]
PRIORS = [VOCABULARY.prior(name) for name in NAMES]
ANSWERS = untaught_answers(PRIORS, NETWORK.features, torch.Generator().manual_seed(2))


def untrained(seed: int = 0) -> SegOneModel:
    torch.manual_seed(seed)
    text = replace(TEXT, hidden=32)
    return SegOneModel(NETWORK, TextTower.create(text, [p for row in PHRASES for p in row], seed))


def share_understood(model: SegOneModel) -> float:
    """Share of all phrases whose answer is nearest to that of their own canonical name."""
    with torch.no_grad():
        canonical = model.answers(NAMES).vectors
        nearest = [
            torch.cdist(model.answers(phrases).vectors, canonical).argmin(1) == index
            for index, phrases in enumerate(PHRASES)
        ]
    return float(torch.cat(nearest).float().mean())


@pytest.fixture(scope="module")
def taught() -> SegOneModel:
    model = untrained()
    model.learn_names(PHRASES, ANSWERS, torch.Generator().manual_seed(1))
    return model


def test_learning_names_tells_structures_apart(taught):
    assert share_understood(taught) > 0.9
    assert share_understood(taught) > share_understood(untrained()) + 0.1


def test_learning_names_spreads_the_answers(taught):
    def spread(model: SegOneModel) -> float:
        with torch.no_grad():
            vectors = model.answers(NAMES).vectors
        return float(torch.pdist(vectors).min())

    assert spread(taught) > 2 * spread(untrained())


def test_canonical_names_get_exactly_their_answers(taught):
    with torch.no_grad():
        read = taught.answers(NAMES)
    torch.testing.assert_close(read.vectors, ANSWERS.vectors, rtol=0, atol=0.01)
    torch.testing.assert_close(read.biases, ANSWERS.biases, rtol=0, atol=0.02)


def test_biases_start_from_how_common_a_structure_is():
    torch.testing.assert_close(ANSWERS.biases, torch.tensor(PRIORS).log())


def test_a_frozen_tower_is_frozen_again_when_it_has_learnt():
    model = untrained()
    model.tower.requires_grad_(False)
    model.learn_names(PHRASES, ANSWERS, torch.Generator().manual_seed(1), steps=3)
    assert not any(parameter.requires_grad for parameter in model.tower.parameters())
    assert all(parameter.requires_grad for parameter in model.to_answer.parameters())


def test_learning_names_repeats_exactly_by_its_generator():
    def learn(seed: int) -> torch.Tensor:
        model = untrained()
        model.learn_names(PHRASES, ANSWERS, torch.Generator().manual_seed(seed), steps=5)
        return model.to_answer.weight.detach()

    assert torch.equal(learn(1), learn(1))
    assert not torch.equal(learn(1), learn(2))


@pytest.mark.parametrize("system", ["segone", "unet"])
def test_the_same_seed_makes_the_same_model(system):
    def weights(seed: int) -> dict[str, torch.Tensor]:
        config = replace(TRAINING, system=system, seed=seed)
        return base.build_model(config, VOCABULARY).state_dict()

    torch.manual_seed(99)
    first = weights(1)
    torch.manual_seed(100)
    again, other = weights(1), weights(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_an_answer_is_the_product_of_features_and_the_prompt():
    model = untrained()
    slabs = torch.randn(2, 6, 8, 12)
    with torch.no_grad():
        features, answers = model.features(slabs), model.answers(["left hippocampus", "brainstem"])
        logits = answers.logits(features)
    assert logits.shape == (2, 2, 8, 12)
    by_hand = features[1, :, 3, 5] @ answers.vectors[1] + answers.biases[1]
    torch.testing.assert_close(logits[1, 1, 3, 5], by_hand)


def test_denoising_gives_features_of_one_prompt_a_sample():
    model = untrained()
    seen = model.network.encode(torch.randn(2, 6, 8, 12))
    answer = model.answers(["left hippocampus", "brainstem"])
    state, share = torch.randn(2, 2, 8, 12), torch.rand(2)
    features = model.denoise(seen, share, state, answer)
    assert features.shape == (2, NETWORK.features, 8, 12)


@pytest.mark.parametrize("members", [[1], [0, 2], [1, 2, 3]])
def test_a_union_has_the_summed_probability_of_its_classes(members):
    logits = 3 * torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    chosen = torch.zeros(2, 4, dtype=torch.bool)
    chosen[:, members] = True
    expected = logits.softmax(1)[:, members].sum(1)
    torch.testing.assert_close(prompt_logit(logits, chosen).sigmoid(), expected)


def test_each_sample_may_ask_for_another_class():
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    chosen = torch.tensor([[True, False, False], [False, False, True]])
    probability = logits.softmax(1)
    expected = torch.stack([probability[0, 0], probability[1, 2]])
    torch.testing.assert_close(prompt_logit(logits, chosen).sigmoid(), expected)


def test_answers_follow_the_precision_of_the_features():
    answers = Answers(torch.randn(3, 4), torch.randn(3))
    assert answers.logits(torch.randn(1, 4, 2, 2).bfloat16()).dtype == torch.bfloat16


def test_the_unet_answers_with_the_channel_of_the_class():
    model = base.build_model(replace(TRAINING, system="unet"), VOCABULARY).eval()
    with torch.no_grad():
        features = model.features(torch.randn(1, 6, 8, 12))
        logits = model.answers(["brainstem", "left hippocampus"]).logits(features)
    assert features.shape[1] == len(NAMES)
    expected = features[:, [NAMES.index("brainstem"), NAMES.index("left hippocampus")]]
    torch.testing.assert_close(logits, expected)


def test_the_unet_says_what_it_does_not_know():
    model = base.build_model(replace(TRAINING, system="unet"), VOCABULARY)
    with pytest.raises(BadInput, match="'left knee'"):
        model.answers(["brainstem", "left knee"])


def test_an_overview_is_the_mean_of_the_features_without_detail():
    model = untrained_without_detail()
    slabs = torch.randn(2, 6, 16, 32)
    expected = torch.nn.functional.avg_pool2d(model.features(slabs), model.config.stem)
    torch.testing.assert_close(model.overview(slabs), expected, rtol=1e-4, atol=1e-4)
    unet = base.build_model(replace(TRAINING, system="unet"), VOCABULARY).eval()
    torch.testing.assert_close(unet.overview(slabs), unet.features(slabs))


def test_a_grown_model_answers_fine_pixels_as_their_mean():
    model = untrained_without_detail()
    grown = model.grown(replace(model.config, stem=2 * model.config.stem, detail_blocks=1))
    fine = torch.randn(1, 6, 16, 32)
    coarse = model.features(torch.nn.functional.avg_pool2d(fine, 2))
    expected = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(grown.features(fine), expected, rtol=1e-4, atol=1e-4)


def test_blocks_that_are_added_change_nothing_at_first():
    model = untrained_without_detail()
    deeper = {
        "encoder_blocks": tuple(count + 1 for count in model.config.encoder_blocks),
        "decoder_blocks": tuple(count + 1 for count in model.config.decoder_blocks),
    }
    grown = model.grown(replace(model.config, **deeper))
    slabs = torch.randn(1, 6, 16, 32)
    assert sum(p.numel() for p in grown.parameters()) > sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(grown.features(slabs), model.features(slabs), rtol=1e-4, atol=1e-4)


def test_a_network_of_other_sizes_does_not_grow_out_of_this_one():
    model = untrained_without_detail()
    deeper = replace(model.config, encoder_blocks=(2,) * len(model.config.encoder_blocks))
    with pytest.raises(ValueError, match="other sizes"):
        model.grown(replace(model.config, features=4))
    with pytest.raises(ValueError, match="other sizes"):
        model.grown(deeper).grown(model.config)


def untrained_without_detail() -> SegOneModel:
    text = replace(TEXT, hidden=32)
    return SegOneModel(replace(NETWORK, detail_blocks=0), TextTower.create(text, NAMES, 0))


def test_detail_blocks_see_the_pixels_again():
    model = SegOneModel(NETWORK, TextTower.create(replace(TEXT, hidden=32), NAMES, 0))
    torch.nn.init.normal_(model.network.decoder.detail.weight)
    slab = torch.randn(1, 6, 16, 16)
    changed = slab.clone()
    changed[0, 1, 8, 8] += 0.3
    seen, other = model.network.encode(slab), model.network.encode(changed)
    same_encoder = seen._replace(slab=other.slab)
    difference = model.network.dense_from(same_encoder) - model.network.dense_from(seen)
    where = difference.abs().amax((0, 1)).nonzero()
    assert {(8, 8)} <= {tuple(place) for place in where.tolist()}
    assert (where - 8).abs().max() <= 1


def test_new_names_are_learnt_and_known_ones_keep_their_answers(taught):
    model = untrained()
    model.load_state_dict(taught.state_dict())
    with torch.no_grad():
        before = model.answers(NAMES)
    phrases = [*PHRASES, ("tumour", "glioma", "neoplasm")]
    new = untaught_answers([0.01], NETWORK.features, torch.Generator().manual_seed(4))
    wanted = Answers(*(torch.cat(parts) for parts in zip(before, new, strict=True)))
    model.learn_names(phrases, wanted, torch.Generator().manual_seed(3))
    with torch.no_grad():
        after = model.answers(NAMES)
        read = model.answers(["tumour", "glioma"]).vectors
    torch.testing.assert_close(after.vectors, before.vectors, rtol=0.0, atol=0.02)
    assert (read[0] - read[1]).norm() < 0.3 * torch.cdist(read[:1], after.vectors).min()
