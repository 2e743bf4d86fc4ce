"""Every row of the systems' table keeps the same promises."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segone_napari.data.synthetic import PLANES
from segone_napari.runtime import BadCheckpoint, BadInput, Cancelled
from segone_napari.systems import registry, sliced
from segone_napari.systems.base import Result, System
from segone_napari.volume import Grid, Volume
from tests.tiny import LEFT, RIGHT, SYNTHETIC, centred_affine, head, labels, one_thread

PROMPTS = (RIGHT, "brainstem", LEFT)
VALUES = {LEFT: 17, RIGHT: 53, "brainstem": 16}
ORDERS = ["RAS", "LPI", "SRA", "PIL"]
PRESETS = ("fast", "balanced", "best")

Make = Callable[..., System]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def ask(system: System, image: Volume, *prompts: str) -> list[Result]:
    return system.segment(system.encode(image), prompts)


def dice(mask: NDArray[Any], truth: NDArray[Any]) -> float:
    return float(2 * np.count_nonzero(mask & truth) / (mask.sum() + truth.sum()))


def reoriented(volume: Volume, order: str) -> Volume:
    """The same head stored with other array axes."""
    image = nib.Nifti1Image(volume.data, volume.affine)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(order))
    )
    turned = image.as_reoriented(turn)
    return Volume.from_affine(np.asarray(turned.dataobj), turned.affine, volume.name)


class Calls:
    """Counts the batches of slabs that a system's model looks at."""

    def __init__(self, system: Any) -> None:
        self.count = 0
        look = system.model.features

        def counted(slabs: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return look(slabs)  # type: ignore[no-any-return]

        system.model.features = counted


# --- the answer ---------------------------------------------------------------------------------


def test_structures_are_found_on_their_own_side(make: Make):
    for result in ask(make(), head(), LEFT, RIGHT):
        mask = result.mask.data.astype(bool)
        assert result.found, result
        assert dice(mask, labels() == VALUES[result.prompt]) > 0.6
        x = np.argwhere(mask).mean(0)[0] - (mask.shape[0] - 1) / 2
        assert (x < 0) == (result.prompt == LEFT)
        assert result.warnings == ()


def test_a_result_lies_on_the_grid_of_the_image(make: Make):
    oblique = centred_affine()
    oblique[:3, :3] = nib.eulerangles.euler2mat(0.2, 0.1, 0.3) @ np.diag([-1.0, 1.0, 1.0])
    image = Volume(head().data, Grid(head().grid.shape, oblique, 2, 3), "oblique")
    results = ask(make(), image, *PROMPTS, "left knee")
    for result in results:
        for volume, dtype in (
            (result.mask, np.uint8),
            (result.draft_mask, np.uint8),
            (result.probability_volume, np.float16),
        ):
            assert volume.grid is image.grid
            assert volume.data.shape == image.grid.shape
            assert volume.data.dtype == dtype
        assert set(np.unique(result.mask.data)) <= {0, 1}
        assert result.probability.dtype == np.float16
    assert any(result.probability.size for result in results)


@pytest.mark.gpu
def test_a_gpu_answers_as_the_cpu_does(make: Make):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    answers = [ask(make(device=device), head(), *PROMPTS) for device in ("cpu", "cuda")]
    for here, there in zip(*answers, strict=True):
        assert dice(here.mask.data > 0, there.mask.data > 0) > 0.95
        assert here.confidence == pytest.approx(there.confidence, abs=0.02)


def test_warming_up_needs_no_image_and_changes_no_answer(make: Make):
    system: Any = make()
    before = ask(system, head(), LEFT)[0]
    calls = Calls(system)
    system._warm_up()
    assert calls.count >= 1
    np.testing.assert_array_equal(before.probability, ask(system, head(), LEFT)[0].probability)


@pytest.mark.parametrize("preset", PRESETS)
def test_probabilities_confidence_and_doubt_lie_between_0_and_1(make: Make, preset):
    system = make(preset=preset)
    for result in ask(system, head(), *PROMPTS):
        assert result.probability.size > 0
        assert 0 <= result.probability.min() <= result.probability.max() <= 1
        assert 0 <= result.confidence <= 1
        assert result.seconds >= 0
        assert (result.uncertainty is not None) == system.has_uncertainty == (preset != "fast")
        if result.uncertainty is not None:
            assert result.uncertainty.shape == result.probability.shape
            assert result.uncertainty.dtype == np.float16
            assert 0 <= result.uncertainty.min() <= result.uncertainty.max() <= 1


def test_odds_are_corrected_for_the_class_that_is_asked_for_only(make: Make, monkeypatch):
    system = make()
    encoded = system.encode(head())
    before = system.segment(encoded, PROMPTS)
    monkeypatch.setitem(sliced.ODDS_OF, "brainstem", 3.0)
    after = system.segment(encoded, PROMPTS)
    for one, other in zip(before, after, strict=True):
        expected = one.probability
        if one.prompt == "brainstem":
            expected = sliced.with_odds(expected, 3.0)
        np.testing.assert_allclose(other.probability, expected, atol=2e-3)
    assert after[1].mask.data.sum() > before[1].mask.data.sum()


def test_the_mask_of_the_best_threshold_expects_the_most_dice():
    draw = np.random.default_rng(0)
    for exponent in (0.5, 1.0, 4.0):
        probability = (draw.uniform(0.03, 1, (6, 7, 8)) ** exponent).astype(np.float16)
        best = sliced.best_threshold(probability)
        reached = sliced.expected_dice(probability, probability >= best)
        for other in np.linspace(0.05, 0.5, 40):
            assert sliced.expected_dice(probability, probability >= other) <= reached + 1e-6
        assert best == pytest.approx(reached / 2, abs=0.02)
    assert sliced.best_threshold(np.ones((2, 2, 2), np.float16)) == 0.5
    assert sliced.best_threshold(np.zeros((2, 2, 2), np.float16)) == 0.5


def test_what_is_seen_unsurely_is_outlined_generously_once_it_is_found(make: Make, monkeypatch):
    system: Any = make()
    encoded = system.encode(head())
    (before,) = system.segment(encoded, ["brainstem"])
    monkeypatch.setattr(sliced, "OUTLINED_GENEROUSLY", {"brainstem"})
    (found,) = system.segment(encoded, ["brainstem"])
    assert found.mask.data.sum() > before.mask.data.sum()
    monkeypatch.setitem(sliced.LEAST_CERTAINTY_OF, "brainstem", 1.1)
    (missed,) = system.segment(encoded, ["brainstem"])
    assert not missed.found
    np.testing.assert_array_equal(missed.draft_mask.data, before.mask.data)


def test_what_looks_too_much_like_its_surroundings_is_not_found_and_can_be_shown(make: Make):
    system: Any = make()
    encoded = system.encode(head())
    assert system.segment(encoded, ["brainstem"])[0].found
    brainstem = system.vocabulary.class_names.index("brainstem")
    voxels = encoded.sharp.parts[brainstem].voxels
    for is_clear in (True, False):
        unclear = torch.full(voxels.shape, not is_clear)
        sharp = replace(encoded.sharp, unclear={brainstem: unclear})
        result, other = system.segment(replace(encoded, sharp=sharp), ["brainstem", LEFT])
        assert result.found == is_clear
        assert bool(result.warnings) != result.found
        assert result.draft_mask.data.any()
        assert other.found


def test_a_few_specks_have_to_be_surer_than_a_large_lesion(
    make: Make, monkeypatch: pytest.MonkeyPatch
):
    system: Any = make()
    encoded = system.encode(head())
    (seen,) = system.segment(encoded, ["brainstem"])
    ml = seen.mask.data.sum() * seen.grid.voxel_volume_ml
    for most_ml, sure, found in (
        (0.9 * ml, 1.01, True),
        (1.1 * ml, 1.01, False),
        (1.1 * ml, seen.confidence - 0.01, True),
    ):
        monkeypatch.setitem(sliced.SURE_IF_SMALL, "brainstem", (most_ml, sure))
        assert system.segment(encoded, ["brainstem"])[0].found == found
    monkeypatch.setitem(sliced.SURE_IF_SMALL, "brainstem", (1.1 * ml, 1.01))
    middle = int(np.argwhere(seen.mask.data)[:, 2].mean())
    assert system.preview(head(), ["brainstem"], 2, middle)[0].found, "a slice is always small"


def test_answers_come_in_the_order_of_the_prompts(make: Make):
    results = ask(make(), head(), *PROMPTS)
    assert [r.prompt for r in results] == list(PROMPTS)
    assert [r.resolved for r in results] == list(PROMPTS)
    assert [r.side for r in results] == ["right", None, "left"]
    backwards = ask(make(), head(), *reversed(PROMPTS))
    assert [r.prompt for r in backwards] == list(reversed(PROMPTS))
    for result, again in zip(results, reversed(backwards), strict=True):
        assert np.array_equal(result.probability, again.probability)


def test_a_pair_is_the_union_of_its_sides(make: Make):
    both, left, right = ask(make(), head(), "both hippocampi", LEFT, RIGHT)
    assert both.resolved == "hippocampus"
    assert both.side == "both"
    parts = (left.mask.data | right.mask.data).astype(bool)
    assert dice(both.mask.data.astype(bool), parts) > 0.9


def test_the_same_question_is_answered_exactly_the_same_whatever_the_seed(make: Make):
    for first, again in zip(
        ask(make(seed=3), head(), *PROMPTS), ask(make(seed=4), head(), *PROMPTS), strict=True
    ):
        assert first.box == again.box
        assert first.probability.size > 0
        assert np.array_equal(first.probability, again.probability)
        assert first.confidence == again.confidence


# --- not found ----------------------------------------------------------------------------------


def test_an_unknown_prompt_is_answered_not_found(make: Make):
    unknown, known = ask(make(), head(), "left knee", LEFT)
    assert not unknown.found
    assert unknown.resolved is None
    assert not unknown.mask.data.any()
    assert unknown.volume_ml == 0
    assert unknown.confidence == 0
    assert known.found


def test_a_misspelt_prompt_is_understood_or_answered_with_suggestions(make: Make):
    (result,) = ask(make(), head(), "left hipocampus")
    assert result.resolved == LEFT or LEFT in result.suggestions


def test_a_structure_that_is_absent_is_answered_not_found(make: Make):
    absent, present = ask(make(), head(), "left thalamus", LEFT)
    assert absent.resolved == "left thalamus"
    assert not absent.found
    assert not absent.mask.data.any()
    assert absent.volume_ml == 0
    assert present.found


def test_an_image_without_a_head_shows_nothing(make: Make):
    noise = np.random.default_rng(1).normal(0, 1, (24, 24, 24)).astype(np.float32)
    image = Volume.from_affine(abs(noise), np.diag([1.0, 1.0, 1.0, 1.0]))
    for result in ask(make(), image, LEFT, "left thalamus"):
        if not result.found:
            assert not result.mask.data.any()
        assert result.probability.dtype == np.float16


# --- progress and cancelling --------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_progress_rises_to_its_total(make: Make, preset):
    system = make(preset=preset)
    calls: list[tuple[int, int]] = []
    encoded = system.encode(head(), progress=lambda *call: calls.append(call))
    done, totals = [c[0] for c in calls], {c[1] for c in calls}
    assert len(totals) == 1
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == totals.pop()
    calls.clear()
    system.segment(encoded, PROMPTS, progress=lambda *call: calls.append(call))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_encoding_can_be_cancelled_within_one_batch(make: Make):
    system = make()
    system.encode(head())  # the brain is found once an image
    batches = Calls(system)
    at_call = []

    def cancel_at_the_third(done: int, total: int) -> None:
        at_call.append(batches.count)
        if len(at_call) == 3:
            raise Cancelled

    image = head()
    with pytest.raises(Cancelled):
        system.encode(image, progress=cancel_at_the_third)
    assert batches.count == at_call[-1]
    assert max(np.diff(at_call)) <= 1
    assert ask(system, image, LEFT)[0].found


def test_first_slice_can_be_cancelled_within_one_batch(make: Make):
    system = make()
    batches = Calls(system)
    at_call = []

    def count(done: int, total: int) -> None:
        at_call.append(batches.count)

    system.preview(head(), [LEFT], 2, 16, progress=count)
    assert max(np.diff([*at_call, batches.count])) <= 1

    def cancel(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        system.preview(head(), [LEFT], 2, 16, progress=cancel)


def test_answering_can_be_cancelled_between_prompts(make: Make):
    system = make()
    encoded = system.encode(head())

    def cancel(done: int, total: int) -> None:
        if done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        system.segment(encoded, PROMPTS, progress=cancel)
    assert len(system.segment(encoded, PROMPTS)) == 3


# --- encoding once ------------------------------------------------------------------------------


def test_prompts_do_not_look_at_the_image_again(make: Make):
    system = make()
    batches = Calls(system)
    encoded = system.encode(head())
    assert batches.count > 0
    before = batches.count
    first = system.segment(encoded, [LEFT])
    second = system.segment(encoded, [RIGHT, LEFT])
    assert batches.count == before
    assert np.array_equal(first[0].probability, second[1].probability)


def test_an_image_can_be_forgotten_and_asked_about_again(make: Make):
    system, image = make(), head()
    (before,) = ask(system, image, LEFT)
    for what in (image, None, image):
        system.forget(what)
    (after,) = ask(system, image, LEFT)
    assert np.array_equal(before.probability, after.probability)


@pytest.mark.parametrize("order", ORDERS)
def test_the_axis_order_of_the_image_changes_nothing_but_the_grid(make: Make, order):
    system, image = make(), head()
    turned = reoriented(image, order)
    expected, encoded = system.encode(image), system.encode(turned)
    for part, same in zip(encoded.classes, expected.classes, strict=True):
        assert part.origin == same.origin
        assert torch.equal(part.values, same.values)
    (result,), (straight,) = (
        system.segment(encoded, [LEFT]), system.segment(expected, [LEFT])
    )  # fmt: skip
    assert result.grid is turned.grid
    values = result.probability_volume.data.astype(np.float32)
    back = reoriented(Volume(values, turned.grid), "RAS")
    np.testing.assert_allclose(back.data, straight.probability_volume.data, atol=1e-3)


# --- the slice that is seen first ---------------------------------------------------------------


@pytest.mark.parametrize("anatomical_axis", sorted({PLANES[p][2] for p in SYNTHETIC.planes}))
@pytest.mark.parametrize("order", ["RAS", "SLA"])
def test_a_preview_is_one_voxel_thick(make: Make, anatomical_axis, order):
    system, image = make(), reoriented(head(), order)
    axis = next(
        n for n, letter in enumerate(order) if letter in ("RL", "AP", "SI")[anatomical_axis]
    )
    (whole,) = ask(system, image, LEFT)
    index = round(np.argwhere(whole.mask.data).mean(0)[axis])
    previews = system.preview(image, [LEFT, "left knee"], axis, index)
    assert [p.prompt for p in previews] == [LEFT, "left knee"]
    assert previews[0].box[axis] == slice(index, index + 1)
    assert previews[0].probability.shape[axis] == 1
    assert previews[0].grid is image.grid
    shown = previews[0].draft_mask.data.astype(bool)
    assert set(np.argwhere(shown)[:, axis]) == {index}
    assert not previews[1].found
    assert not previews[1].mask.data.any()


def test_there_is_no_preview_in_a_plane_that_was_not_trained_on(make: Make):
    assert make().preview(head(), [LEFT], 0, 12) == []


def test_a_preview_looks_like_the_answer(make: Make):
    system, image = make(preset="fast"), head()
    (whole,) = ask(system, image, LEFT)
    index = round(np.argwhere(whole.mask.data).mean(0)[2])
    (preview,) = system.preview(image, [LEFT], 2, index)
    shown = preview.draft_mask.data[:, :, index].astype(bool)
    assert dice(shown, whole.mask.data[:, :, index].astype(bool)) > 0.7


def test_a_preview_of_a_slice_without_the_structure_is_empty(make: Make):
    (preview,) = make().preview(head(), [LEFT], 1, 46)
    assert not preview.mask.data.any()


def test_a_preview_beyond_the_image_is_refused(make: Make):
    with pytest.raises(BadInput, match="no slice 36 along axis 2"):
        make().preview(head(), [LEFT], 2, 36)


# --- the table ----------------------------------------------------------------------------------


def test_every_row_follows_the_protocol(make: Make):
    assert isinstance(make(), System)


def test_the_names_are_those_of_the_table_and_segone_comes_first():
    assert registry.names() == tuple(registry.SYSTEMS)
    assert registry.names()[0] == "segone"


def test_a_system_made_from_a_folder_carries_its_names(checkpoints):
    for name, folder in checkpoints.items():
        system = registry.create(name, checkpoint=str(folder), device="cpu")
        assert (system.name, system.checkpoint) == (name, folder.name)


@pytest.mark.parametrize(
    ("name", "words"),
    [("segon", "did you mean 'segone'"), ("U-Net", "did you mean 'unet'"), ("zzz", "there are: ")],
)
def test_an_unknown_system_is_refused_with_suggestions(name, words):
    with pytest.raises(BadInput, match=words):
        registry.create(name)


def test_an_unknown_device_is_refused(checkpoints):
    with pytest.raises(BadInput, match="unknown device 'abacus'"):
        registry.create("segone", checkpoint=checkpoints["segone"], device="abacus")


def test_the_baseline_says_how_to_get_weights():
    with pytest.raises(BadCheckpoint, match=r"segone train .* --system unet"):
        registry.create("unet", device="cpu")


@pytest.mark.parametrize("training", [{}, None, {"config": {"synthetic": {"planes": ["oblique"]}}}])
def test_a_checkpoint_that_does_not_name_its_planes_is_refused(checkpoints, tmp_path, training):
    folder = shutil.copytree(checkpoints["unet"], tmp_path / "unet")
    manifest = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps(manifest | {"training": training}))
    with pytest.raises(BadCheckpoint, match="planes and pixels it was trained on"):
        registry.create("unet", checkpoint=folder, device="cpu")
