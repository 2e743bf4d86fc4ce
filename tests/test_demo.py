"""The demo on the bundled head, and the picture that it draws."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from segone_napari import cli, demo, montage
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.runtime import BadInput
from segone_napari.session import Session, label_map
from segone_napari.systems.base import EMPTY_BOX, Result
from segone_napari.volume import Volume

from .fakes import ThresholdSystem, head, head_affine, put_in_registry

# FreeSurfer's values of a few prompts, from its own table.
VALUES = {
    "left hippocampus": 17,
    "right hippocampus": 53,
    "left globus pallidus": 13,
    "third ventricle": 14,
    "brain stem": 16,
    "left cerebral white matter": 2,
    "right cerebral white matter": 41,
    "right cerebellar cortex": 47,
}


class ReferenceSystem(ThresholdSystem):
    """Answers with the bundled reference for what is in `VALUES`; the rest is not found."""

    def _answer(self, image: Volume, prompt: str, box: Any = None) -> Result:
        if prompt not in VALUES:
            nothing = np.zeros((0, 0, 0), dtype=np.float16)
            return Result(prompt, None, None, image.grid, EMPTY_BOX, nothing, False, 0.0, 0.0)
        mask = reference() == VALUES[prompt]
        box = tuple(slice(int(where.min()), int(where.max()) + 1) for where in np.nonzero(mask))
        values = mask[box].astype(np.float16)
        return Result(prompt, prompt, None, image.grid, box, values, True, 0.9, 0.1)


def reference() -> np.ndarray:
    return np.asarray(nib.load(demo.SAMPLE.truth_path).dataobj)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> demo.Demo:
    with pytest.MonkeyPatch.context() as monkeypatch:
        put_in_registry(monkeypatch, ReferenceSystem())
        return demo.run(tmp_path_factory.mktemp("demo") / "new" / "out")


def test_every_prompt_but_the_last_is_known_and_in_the_reference(shown: demo.Demo) -> None:
    vocabulary = Vocabulary.load()
    assert vocabulary.match(demo.PROMPTS[-1]).term is None
    assert list(shown.dice) == list(demo.PROMPTS[:-1])


def test_dice_compares_each_prompt_with_its_own_label(shown: demo.Demo) -> None:
    for prompt, dice in shown.dice.items():
        if prompt not in VALUES:
            assert dice == 0.0
        elif "cerebral white matter" in prompt:
            # The reference counts the corpus callosum to the white matter of its side as well.
            assert 0.98 < dice < 1.0
        else:
            assert dice == pytest.approx(1.0)
    assert shown.mean_dice == pytest.approx(np.mean(list(shown.dice.values())))


def test_demo_writes_label_map_table_and_picture(shown: demo.Demo) -> None:
    assert sorted(p.name for p in shown.written) == sorted(demo.FILES)
    labels = np.asarray(nib.load(shown.written[0]).dataobj)
    number = demo.PROMPTS.index("right hippocampus") + 1
    assert np.array_equal(labels == number, reference() == 53)
    with Image.open(next(p for p in shown.written if p.suffix == ".png")) as picture:
        assert picture.width > 1000


def test_second_demo_overwrites_its_own_files_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shown: demo.Demo
) -> None:
    put_in_registry(monkeypatch, ReferenceSystem())
    monkeypatch.setattr(demo, "PROMPTS", ("left hippocampus",))
    (tmp_path / "labels.nii.gz").write_text("of an earlier demo")
    demo.run(tmp_path)
    assert (tmp_path / "labels.tsv").read_text().splitlines()[1].startswith("1\tleft hippocampus")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"holds other files \(thesis\.txt\).*--out"):
        demo.run(tmp_path)
    assert demo.run(tmp_path, force=True).written
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.slow
def test_bundled_model_outlines_the_bundled_head(
    bundled_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", "--headless", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    [mean] = [line for line in said.splitlines() if line.startswith("mean Dice")]
    assert float(mean.split()[-1]) >= 0.70
    refused = [line.split() for line in said.splitlines() if "not found" in line]
    assert ["liver", "–", "not", "found"] in [words[:4] for words in refused]
    for name in demo.FILES:
        assert f"wrote {tmp_path / 'out' / name}" in said


# The picture -------------------------------------------------------------------------------------


def picture_of(volume: Volume, prompts: list[str]) -> np.ndarray:
    session = Session()
    results = session.segment(volume, prompts)
    return np.asarray(montage.draw(volume, label_map(results), results, title="head"))


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> ThresholdSystem:
    system = ThresholdSystem()
    put_in_registry(monkeypatch, system)
    return system


FLIPPED = head_affine() @ np.array(
    [[-1, 0, 0, 47], [0, -1, 0, 43], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=float
)


@pytest.mark.parametrize("affine", [head_affine(), FLIPPED], ids=["RAS", "LPS"])
def test_left_is_on_the_right_of_the_picture(painted: ThresholdSystem, affine: np.ndarray) -> None:
    pixels = picture_of(head(affine), ["left amygdala", "right hippocampus"]).astype(int)
    # The axial slice in the middle shows both.
    top, left = montage.MARGIN + 46, montage.MARGIN + montage.PANEL + montage.GAP
    axial = pixels[top : top + montage.PANEL - 60, left : left + montage.PANEL]
    is_cyan = axial[..., 2] > axial[..., 0] + 40
    is_yellow = axial[..., 0] > axial[..., 2] + 40
    amygdala, hippocampus = np.argwhere(is_cyan).mean(axis=0), np.argwhere(is_yellow).mean(axis=0)
    assert amygdala[1] > hippocampus[1] + 50
    # ... and the front, where the amygdala is, at the top.
    assert amygdala[0] < hippocampus[0] - 20


def test_axis_order_does_not_change_the_picture(painted: ThresholdSystem) -> None:
    prompts = ["left hippocampus", "right amygdala"]
    assert np.array_equal(picture_of(head(), prompts), picture_of(head(FLIPPED), prompts))


def test_nothing_found_still_shows_the_head(painted: ThresholdSystem) -> None:
    pixels = picture_of(head(), ["liver"]).astype(int)
    top = montage.MARGIN + 46
    panel = pixels[top : top + 200, montage.MARGIN : montage.MARGIN + montage.PANEL]
    assert (panel.min(axis=2) > 10).mean() > 0.1
