"""One head, stored in many ways, gives one answer. With the bundled checkpoint."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.orientations import answers, reordered, tilted
from segone_napari.data import formats
from segone_napari.data.samples import SAMPLES
from segone_napari.session import Session
from segone_napari.volume import Volume

PROMPTS = [
    f"{side} {name}"
    for name in ("thalamus", "caudate", "putamen", "hippocampus", "lateral ventricle")
    for side in ("left", "right")
]


@pytest.fixture(scope="module")
def image() -> Volume:
    return formats.read(SAMPLES["t1"].image_path)


@pytest.fixture(scope="module")
def session(bundled_checkpoint: Path) -> Session:
    return Session(device="cpu", checkpoint=bundled_checkpoint)


@pytest.fixture(scope="module")
def wanted(session: Session, image: Volume) -> list[np.ndarray]:
    return answers(session, image, PROMPTS, image)


@pytest.fixture(scope="module")
def coarse(image: Volume) -> Volume:
    """Every second voxel: what doesn't depend on fine edges is quicker to see on it."""
    return Volume.from_affine(
        np.ascontiguousarray(image.data[::2, ::2, ::2]),
        image.affine @ np.diag([2, 2, 2, 1]),
        "2 mm",
    )


@pytest.fixture(scope="module")
def wanted_of_coarse(session: Session, coarse: Volume) -> list[np.ndarray]:
    return [result.mask.data > 0 for result in session.segment(coarse, PROMPTS)]


def _mean_dice(wanted: list[np.ndarray], found: list[np.ndarray]) -> float:
    pairs = zip(wanted, found, strict=True)
    return float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))


def test_another_storage_order_gives_the_same_voxels(
    session: Session, coarse: Volume, wanted_of_coarse: list[np.ndarray]
) -> None:
    order, flips = (2, 0, 1), (1, -1, 1)
    stored = session.segment(reordered(coarse, order, flips), PROMPTS)
    steps = tuple(slice(None, None, flip) for flip in flips)
    found = [(one.mask.data > 0)[steps].transpose(np.argsort(order)) for one in stored]
    assert _mean_dice(wanted_of_coarse, found) > 0.9999


def test_a_tilted_copy_of_other_spacing_gives_the_same_anatomy(
    session: Session, image: Volume, wanted: list[np.ndarray]
) -> None:
    copy = tilted(image, 15, (0.9, 0.9, 1.3), spline=1)
    assert _mean_dice(wanted, answers(session, copy, PROMPTS, image)) >= 0.95


def test_left_is_left(session: Session, image: Volume, wanted: list[np.ndarray]) -> None:
    for prompt, mask in zip(PROMPTS, wanted, strict=True):
        voxels = np.argwhere(mask)
        x = (voxels @ image.affine[:3, :3].T + image.affine[:3, 3])[:, 0].mean()
        assert (x < 0) == prompt.startswith("left"), prompt


@pytest.mark.parametrize("cut", ["left two fifths", "back third"])
def test_what_is_left_of_a_cut_head_is_outlined_like_in_the_whole_one(
    cut: str,
    session: Session,
    coarse: Volume,
    wanted_of_coarse: list[np.ndarray],
) -> None:
    axis = 0 if cut.startswith("left") else 1
    linear = coarse.affine[:3, :3]
    along = int(np.abs(linear)[axis].argmax())  # the array axis
    lines = np.flatnonzero(
        (coarse.data > 0.1 * coarse.data.max()).any(axis=tuple({0, 1, 2} - {along}))
    )
    share = (np.arange(coarse.data.shape[along]) - lines[0]) / (lines[-1] - lines[0])
    share = share if linear[axis, along] > 0 else 1 - share
    kept = np.flatnonzero(share > (0.4 if axis == 0 else 0.33))
    first, last = int(kept[0]), int(kept[-1]) + 1
    part = [slice(None)] * 3
    part[along] = slice(first, last)
    affine = coarse.affine.copy()
    affine[:3, 3] += first * linear[:, along]
    piece = Volume.from_affine(np.ascontiguousarray(coarse.data[tuple(part)]), affine, cut)
    results = session.segment(piece, PROMPTS)
    session.forget(piece)
    pairs = [
        (whole[tuple(part)], result.draft_mask.data > 0)
        for whole, result in zip(wanted_of_coarse, results, strict=True)
        if whole[tuple(part)].sum() > 0.9 * whole.sum()
    ]
    assert len(pairs) >= 5
    whole, cut_off = zip(*pairs, strict=True)
    assert _mean_dice(list(whole), list(cut_off)) > 0.85
