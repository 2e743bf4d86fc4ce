"""SAM2: it loads beside a torchvision that doesn't fit, from safe files only, and in the slice's
own pixels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import save_file

from segone_napari.models import checkpoint, sam2
from segone_napari.models.checkpoint import Manifest, read_manifest
from segone_napari.models.sam2 import (
    MEAN,
    STD,
    Prompts,
    Sam2Config,
    Trunk,
    answer,
    build_sam2,
    load_sam2,
    look,
    meta_config,
    save_sam2,
)
from segone_napari.models.teacher import Teacher, box_around
from segone_napari.runtime import BadCheckpoint, BadInput

SMALL = Sam2Config(image_size=64, trunk=Trunk(embed_dim=8, stages=(1, 1, 2, 1), global_blocks=(3,)))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_sam2(SMALL).eval()


@pytest.fixture
def folder(model, tmp_path) -> Path:
    save_sam2(model, SMALL, Manifest("teacher", metrics={"dice": 0.5}), tmp_path / "teacher")
    return tmp_path / "teacher"


# --- torchvision --------------------------------------------------------------------------------

BROKEN = "import torch\n@torch.library.register_fake('torchvision::nms')\ndef nms(*a): ...\n"
WORSE = "raise RuntimeError('no space left')\n"
MEND = """
from segone_napari.models.torchvision_ops import mend_torchvision
print(mend_torchvision())
import torchvision
"""


@pytest.mark.parametrize(
    ("torchvision", "says"),
    [(BROKEN, "True"), ("version = 1\n", "False"), (WORSE, "no space left")],
    ids=["another torch's", "fits", "another error"],
)
def test_torchvision_is_mended_only_where_its_operators_are_missing(torchvision, says, tmp_path):
    (tmp_path / "torchvision.py").write_text(torchvision)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{MEND}"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert says in done.stdout + done.stderr
    assert (done.returncode == 0) == (says in ("True", "False"))


# --- checkpoints --------------------------------------------------------------------------------


def test_a_saved_teacher_comes_back_from_three_plain_files(model, folder):
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.json",
        "config.json",
        "model.safetensors",
    ]
    assert {array.dtype for array in load_arrays(folder / "model.safetensors").values()} == {
        np.dtype(np.float16)
    }
    assert read_manifest(folder).metrics == {"dice": 0.5}
    again, config = load_sam2(folder)
    assert config == SMALL
    assert not again.training
    for key, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=1e-3, atol=1e-3)


def test_none_is_the_bundled_teacher_and_a_path_is_a_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "BUNDLED", tmp_path / "bundled")
    monkeypatch.chdir(folder.parent)
    assert load_sam2("./teacher")[1] == SMALL
    with pytest.raises(BadCheckpoint, match="no checkpoint 'teacher'"):
        load_sam2(None)


def test_the_default_size_fits_into_25_mib():
    size = sum(2 * value.numel() for value in build_sam2(Sam2Config()).state_dict().values())
    assert size < 25 * 2**20


def test_meta_s_weights_say_themselves_which_model_they_are(tmp_path):
    config = meta_config("sam2.1_hiera_t")
    weights = build_sam2(config).state_dict()
    file = tmp_path / "weights.safetensors"
    save_file({k: v.half().contiguous() for k, v in weights.items()}, file)
    loaded, found = load_sam2(file)
    assert found == config
    assert loaded.image_size == 1024
    key = "image_encoder.trunk.blocks.11.mlp.layers.0.weight"
    torch.testing.assert_close(loaded.state_dict()[key], weights[key], rtol=1e-3, atol=1e-3)


def test_transformers_weights_answer_as_they_do_there(tmp_path, monkeypatch):
    from transformers import Sam2Config as TheirConfig
    from transformers import Sam2Model

    torch.manual_seed(0)
    theirs = Sam2Model(
        TheirConfig(
            vision_config={
                "backbone_config": {"model_type": "sam2_hiera_det_model", "image_size": [256, 256]},
                "backbone_feature_sizes": [[64, 64], [32, 32], [16, 16]],
            },
            prompt_encoder_config={"image_size": 256},
        )
    ).eval()
    theirs.save_pretrained(tmp_path)
    file = str(tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: file)
    small = Sam2Config("sam2.1_hiera_t", 256, None, None, None)
    monkeypatch.setattr(sam2, "meta_config", lambda _: small)
    ours, _ = load_sam2("facebook/sam2.1-hiera-tiny")
    image = torch.rand(1, 1, 256, 256)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    points, says = torch.tensor([[[90.0, 50.0], [200.0, 120.0]]]), torch.tensor([[1, 0]])
    nothing = Prompts(points, says, torch.zeros(1, 1, 64, 64), torch.tensor([False]))
    with torch.no_grad():
        logits, quality = answer(ours, look(ours, image), nothing)
        other = theirs(
            pixel_values=(image - mean) / std, input_points=points[:, None],
            input_labels=says[:, None], multimask_output=True,
        )  # fmt: skip
    torch.testing.assert_close(logits[:, 1:], other.pred_masks[:, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(quality[:, 1:], other.iou_scores[:, 0], rtol=1e-3, atol=1e-3)


def test_a_name_on_the_hub_that_can_not_be_had_is_said(monkeypatch):
    def offline(*_: object, local_files_only: bool = False) -> str:
        raise LocalEntryNotFoundError("not kept") if local_files_only else OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(BadCheckpoint, match=r"facebook/sam2\.1-hiera-tiny .*no network.*--teacher"):
        load_sam2("facebook/sam2.1-hiera-tiny")


def test_what_was_fetched_once_is_read_without_asking_the_network(monkeypatch, tmp_path):
    file = tmp_path / "model.safetensors"
    asked: list[dict] = []

    def kept(*_: object, **options: bool) -> str:
        asked.append(options)
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", kept)
    with pytest.raises(BadCheckpoint, match="missing or damaged"):  # it was kept, and then lost
        load_sam2("facebook/sam2.1-hiera-tiny")
    assert asked == [{"local_files_only": True}]


def test_pickles_are_never_opened(tmp_path):
    file = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": {}}, file)
    with pytest.raises(BadCheckpoint, match=r"pickle.*safetensors"):
        load_sam2(file)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("config.json", {"image_size": 100}, "no multiple of 64"),
        ("config.json", {"base": "sam3"}, "unknown SAM2 'sam3'"),
        ("config.json", {"model._target_": "os.system"}, "damaged"),
        ("config.json", {"memory_layers": 2}, "doesn't fit its config"),
        ("checkpoint.json", {"system": "segone"}, "not a SAM2 teacher"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(folder, name, change, words):
    document = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(document | change))
    with pytest.raises(BadCheckpoint, match=words):
        load_sam2(folder)


def test_damaged_and_foreign_weights_are_refused(folder, tmp_path):
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BadCheckpoint, match="damaged"):
        load_sam2(folder)
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(BadCheckpoint, match="holds no SAM2"):
        load_sam2(tmp_path / "foreign.safetensors")
    with pytest.raises(BadCheckpoint, match="no checkpoint 'nowhere'"):
        load_sam2("nowhere")


# --- the teacher asks SAM2 as it is trained ------------------------------------------------------


def test_the_teacher_s_answer_is_what_training_sees(model):
    image = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    image[:2, :2] = 1.0
    teacher = Teacher(model, CPU)
    teacher.set_slice(image)
    rough = np.zeros((64, 64))
    rough[10:30, 20:40] = 1
    from segone_napari.models.teacher import normalised

    square = torch.from_numpy(normalised(image)).clamp(0, 1)[None, None]
    points = torch.tensor([[[20.0, 10.0], [39.0, 29.0], [30.0, 12.0]]])
    coarse = torch.nn.functional.avg_pool2d(torch.tensor(rough)[None, None].float(), 4)
    prompts = Prompts(
        points, torch.tensor([[2, 3, 0]]), sam2.mask_logits(coarse), torch.tensor([True])
    )
    with torch.no_grad():
        logits, quality = answer(model, look(model, square), prompts)
    fine = torch.nn.functional.interpolate(logits[:, :1], (64, 64), mode="bilinear")
    given = teacher.predict(box=(10, 20, 29, 39), points=[[12, 30]], labels=[0], mask=rough)
    np.testing.assert_allclose(given.probability, fine[0, 0].sigmoid(), atol=0.02)
    assert given.quality == pytest.approx(float(quality[0, 0]), abs=0.02)


def test_one_click_takes_the_best_of_three_readings(model):
    image = np.random.default_rng(1).random((64, 64), dtype=np.float32)
    teacher = Teacher(model, CPU)
    teacher.set_slice(image)
    one, two = teacher.predict(points=[[9, 9]]), teacher.predict(points=[[9, 9], [9, 9]])
    assert not np.allclose(one.probability, two.probability)


def test_boxes_and_points_are_drawn_where_they_are():
    points = torch.tensor([[[8.0, 16.0], [40.0, 32.0], [50.0, 50.0], [20.0, 20.0]]])
    says = torch.tensor([[2, 3, 0, 1]])
    empty = Prompts(points, says, torch.zeros(1, 1, 16, 16), torch.tensor([False]))
    shown = sam2.drawn(empty).masks[0, 0]
    assert shown[6, 8] > 0 > shown[2, 8]  # in the box, and above it
    assert shown[5, 5] > shown[6, 8]  # a click inside says more than the box
    assert shown[12, 12] < shown[2, 8]  # and one outside, too
    rough = empty._replace(masks=torch.full((1, 1, 16, 16), 0.5), has_mask=torch.tensor([True]))
    assert sam2.drawn(rough).masks[0, 0, 2, 8] == 0.5  # a mask says more than a box


# --- geometry ------------------------------------------------------------------------------------


class Echo:
    """Draws what it is asked: a disc around a point, a box's inside, or the mask itself."""

    def __init__(self, model: object) -> None:
        self.side = model.image_size
        self.image = np.zeros(0)

    def set_image(self, image: np.ndarray) -> None:
        assert image.shape == (self.side, self.side, 3)
        self.image = image[..., 0]

    def predict(self, *, point_coords, point_labels, box, mask_input, **_: object):
        y, x = np.indices((self.side, self.side))
        if point_coords is not None:
            distance = np.hypot(x - point_coords[0, 0], y - point_coords[0, 1])
            logits = 8 - distance
            # what the image shows where the point is
            row, column = np.rint(point_coords[0, ::-1]).astype(int)
            self.brightness = self.image[row, column]
        elif box is not None:
            x0, y0, x1, y1 = box
            inside = np.minimum.reduce([x - x0, x1 - x, y - y0, y1 - y]) + 0.5
            logits = 4 * inside
        else:
            assert mask_input.shape == (1, self.side // 4, self.side // 4)
            logits = np.kron(mask_input[0], np.ones((4, 4)))
        return logits[None].astype(np.float32), np.array([0.7]), None


SLICES = [((96, 128), (1.0, 1.0)), ((40, 128), (3.0, 1.0)), ((200, 60), (0.5, 1.2))]


@pytest.fixture(params=[False, True], ids=["whole slice", "close-up"])
def echo(monkeypatch, request) -> Teacher:
    made = []

    class Recorded(Echo):
        def __init__(self, model: object) -> None:
            super().__init__(model)
            made.append(self)

    monkeypatch.setattr("sam2.sam2_image_predictor.SAM2ImagePredictor", Recorded)
    model = SimpleNamespace(image_size=128)
    model.to = lambda _: model
    model.eval = lambda: model
    teacher = Teacher(model, CPU, is_close_up=request.param)
    teacher.echo = made[0]  # type: ignore[attr-defined]
    return teacher


@pytest.mark.parametrize(("shape", "spacing"), SLICES)
def test_a_click_lies_where_it_was_made_and_is_round_in_millimetres(echo, shape, spacing):
    row, column = shape[0] // 3, 2 * shape[1] // 3
    image = np.full(shape, 0.1)
    reach = [round(4 / mm) for mm in spacing]
    image[row - reach[0] : row + reach[0] + 1, column - reach[1] : column + reach[1] + 1] = 1.0
    echo.set_slice(image, spacing)
    shown = echo.predict(points=[[row, column]])
    assert shown.probability.shape == shape
    assert echo.echo.brightness > 0.5
    inside = np.argwhere(shown.probability > 0.5)
    np.testing.assert_allclose(inside.mean(0), (row, column), atol=0.75)
    high, wide = (np.ptp(inside, axis=0) + 1) * spacing
    assert high == pytest.approx(wide, abs=2 * max(spacing))
    assert shown.quality == pytest.approx(0.7)


@pytest.mark.parametrize(("shape", "spacing"), SLICES)
def test_boxes_and_masks_keep_their_place(echo, shape, spacing):
    truth = np.zeros(shape)
    truth[shape[0] // 4 : shape[0] // 2, shape[1] // 2 : shape[1] - 9] = 1
    echo.set_slice(np.ones(shape), spacing)
    for prompt in ({"box": box_around(truth)}, {"mask": truth}):
        shown = echo.predict(**prompt).probability > 0.5
        assert 2 * (shown * truth).sum() / (shown.sum() + truth.sum()) > 0.9
    assert box_around(truth)[0] == shape[0] // 4
    assert box_around(truth)[3] == shape[1] - 10


def test_what_is_no_slice_or_no_prompt_is_refused(echo):
    with pytest.raises(BadInput, match="one slice"):
        echo.set_slice(np.zeros((3, 4, 5)))
    with pytest.raises(RuntimeError, match="set_slice"):
        echo.predict(points=[[1, 1]])
    echo.set_slice(np.full((8, 8), np.nan))
    echo.predict(points=[[4, 4]])
    assert echo.echo.image.max() == 0
    with pytest.raises(BadInput, match="asked about nothing"):
        echo.predict()
    with pytest.raises(BadInput, match="2 points have 1 labels"):
        echo.predict(points=[[1, 1], [2, 2]], labels=[1])
    with pytest.raises(BadInput, match=r"\(4, 8\) and the slice \(8, 8\)"):
        echo.predict(mask=np.zeros((4, 8)))


def test_sam2_s_own_transform_agrees_with_ours():
    from sam2.utils.transforms import SAM2Transforms

    transforms = SAM2Transforms(64, 0.0)
    assert (tuple(transforms.mean), tuple(transforms.std)) == (MEAN, STD)


@pytest.mark.parametrize("value", [1e6, 1e20])
def test_one_damaged_pixel_does_not_darken_the_others(value):
    from segone_napari.models.teacher import normalised

    pixels = np.random.default_rng(0).uniform(10, 300, (96, 96)).astype(np.float32)
    spoilt = pixels.copy()
    spoilt[40, 41] = value
    there = np.ones(pixels.shape, dtype=bool)
    there[40, 41] = False
    np.testing.assert_allclose(normalised(spoilt)[there], normalised(pixels)[there], rtol=0.03)
    assert not normalised(np.zeros((8, 8), np.float32)).any()
