"""What the bundled checkpoint answers on the bundled FLAIR, whatever its numbers are."""

from pathlib import Path

import numpy as np
import pytest

from segone_napari.data import formats
from segone_napari.data.samples import SAMPLES
from segone_napari.session import Session
from segone_napari.systems.base import Result
from segone_napari.volume import Volume

THERE = ["left hippocampus", "white matter", "brain", "cerebrum", "supratentorial brain"]
NOT_THERE = ["white matter lesions", "brain tumour"]


@pytest.fixture(scope="module")
def image() -> Volume:
    return formats.read(SAMPLES["flair"].image_path)


@pytest.fixture(scope="module")
def session(bundled_checkpoint: Path) -> Session:
    return Session(device="cpu", preset="fast", checkpoint=bundled_checkpoint)


@pytest.fixture(scope="module")
def results(session: Session, image: Volume) -> list[Result]:
    return session.segment(image, THERE + NOT_THERE)


def test_the_brain_is_found_where_lesions_and_tumours_are_not(results: list[Result]) -> None:
    found = {result.prompt: result.found for result in results}
    assert found == dict.fromkeys(THERE, True) | dict.fromkeys(NOT_THERE, False)


@pytest.mark.parametrize(
    "change",
    [lambda x: x - 1024, lambda x: x / x.max() * 2 - 1, lambda x: (x - x.mean()) / x.std(),
     lambda x: x * 1e-12],
    ids=["shifted", "scaled to -1 … 1", "standardised", "tiny"],
)  # fmt: skip
def test_the_answer_does_not_depend_on_how_brightness_is_counted(
    change, session: Session, image: Volume, results: list[Result]
) -> None:
    other = image.with_data(change(image.data.astype(np.float64)).astype(np.float32))
    for one, wanted in zip(session.segment(other, THERE[:2]), results, strict=False):
        a, b = one.mask.data > 0, wanted.mask.data > 0
        assert 2 * np.count_nonzero(a & b) >= 0.98 * (np.count_nonzero(a) + np.count_nonzero(b))
