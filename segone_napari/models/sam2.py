"""SAM2 as the sam2 package builds it: in Meta's sizes, or small enough to ship and to train here.

A checkpoint folder holds ``checkpoint.json`` (how it was trained), ``config.json`` (`Sam2Config`)
and ``model.safetensors`` (float16). Meta's own weights are read from a safetensors file or from the
hub. Pickles (Meta's .pt files) are never opened. Knows nothing of slices, prompts in millimetres
or training; `models.teacher` asks it and `training.teacher` trains it.

Source: Ravi et al., *SAM 2: Segment Anything in Images and Videos*, 2024.

Dimension key: B images, N objects, P points, C channels, S side of the square that it looks at.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segone_napari.models.checkpoint import (
    Manifest,
    new_checkpoint,
    read_manifest,
    resolve_checkpoint,
)
from segone_napari.models.torchvision_ops import mend_torchvision
from segone_napari.models.weights import disk_errors
from segone_napari.runtime import BadCheckpoint

TEACHER = "teacher"
"""What a SAM2 checkpoint says it is, and the name of the bundled one."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What SAM2 subtracts from the colours, 0 to 1, and divides them by."""
MASK_STRIDE = 4
"""SAM2's masks, in and out, have pixels of so many of the image's."""
INSIDE, OUTSIDE, PADDING, FIRST_CORNER, LAST_CORNER = 1, 0, -1, 2, 3
"""What a point given to SAM2 says."""

_IN_BOX, _OUT_OF_BOX, _SURE, _DOT = 2.0, -4.0, 12.0, 1.5
"""Logits that a box and a point are drawn with, and the radius of a point in pixels of a mask."""
_PACKAGE_CONFIGS = {
    f"{version}_hiera_{size}": f"configs/{version}/{version}_hiera_{size}.yaml"
    for version in ("sam2", "sam2.1")
    for size in ("t", "s", "b+", "l")
}
_SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
"""Meta's sizes by the channels of the first stage and the number of blocks."""
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Trunk:
    """Sizes of an image encoder (Hiera). A block of global attention can't open a stage."""

    embed_dim: int = 32
    """Channels of the first stage; each further stage has twice as many."""
    heads: int = 1
    """Attention heads of the first stage; each further stage has twice as many."""
    stages: tuple[int, int, int, int] = (1, 2, 4, 1)
    """Blocks of each stage."""
    global_blocks: tuple[int, ...] = (4, 6)
    """Blocks that attend over the whole image, counted through all stages from 0."""
    windows: tuple[int, int, int, int] = (8, 4, 8, 8)
    """Side of the windows that the other blocks of each stage attend within."""


@dataclass(frozen=True)
class Sam2Config:
    """Which SAM2. The default is the small one that is trained here.

    Only sizes can be chosen, not the package's free-form overrides: these can name any class, and
    a checkpoint from elsewhere must not run code.
    """

    base: str = "sam2.1_hiera_t"
    """The package's config that everything else is taken from."""
    image_size: int = 128
    """S: side of the square of pixels that it looks at."""
    trunk: Trunk | None = Trunk()
    """None for Meta's own."""
    memory_layers: int | None = 1
    """Layers of the memory for videos, which images don't need; None for Meta's own."""
    memory_width: int | None = 256
    """Width of these layers' inner part."""
    is_close_up: bool = True
    """Whether it looks at a square around what is asked about, with boxes and points drawn into the
    mask that it is given (`drawn`); else at the whole slice."""


def meta_config(base: str) -> Sam2Config:
    """Return the config of one of Meta's own models, such as ``sam2.1_hiera_l``."""
    return Sam2Config(base, 1024, None, None, None, is_close_up=False)


def build_sam2(config: Sam2Config) -> Any:
    """Make a SAM2 with random weights, on the CPU, in training mode.

    Raises
    ------
    ValueError
        If the sizes don't fit together.
    """
    mend_torchvision()
    from sam2.build_sam import build_sam2 as build

    if config.base not in _PACKAGE_CONFIGS:
        raise ValueError(f"unknown SAM2 {config.base!r}; known: {', '.join(_PACKAGE_CONFIGS)}")
    if config.image_size % 64:
        raise ValueError(f"the image size {config.image_size} is no multiple of 64")
    return build(
        _PACKAGE_CONFIGS[config.base],
        device="cpu",
        mode="train",
        apply_postprocessing=False,
        hydra_overrides_extra=_overrides(config),
    )


def _overrides(config: Sam2Config) -> list[str]:
    """Turn sizes into the words of sam2's own configs."""
    out = [f"model.image_size={int(config.image_size)}"]
    encoder, memory = "model.image_encoder", "model.memory_attention"
    if config.trunk is not None:
        trunk = config.trunk
        channels = [trunk.embed_dim * 2**stage for stage in (3, 2, 1, 0)]
        out += [
            f"{encoder}.trunk.embed_dim={int(trunk.embed_dim)}",
            f"{encoder}.trunk.num_heads={int(trunk.heads)}",
            f"{encoder}.trunk.stages={_numbers(trunk.stages)}",
            f"{encoder}.trunk.global_att_blocks={_numbers(trunk.global_blocks)}",
            f"++{encoder}.trunk.window_spec={_numbers(trunk.windows)}",
            f"{encoder}.neck.backbone_channel_list={_numbers(channels)}",
        ]
    if config.memory_layers is not None:
        out.append(f"{memory}.num_layers={int(config.memory_layers)}")
    if config.memory_width is not None:
        out.append(f"{memory}.layer.dim_feedforward={int(config.memory_width)}")
    return out


def _numbers(values: tuple[int, ...] | list[int]) -> str:
    return f"[{','.join(str(int(value)) for value in values)}]"


# --- looking and answering ----------------------------------------------------------------------


class Seen(NamedTuple):
    """What SAM2 made of images: `embedding` (B, C, S/16, S/16), and finer features."""

    embedding: Tensor
    fine: tuple[Tensor, ...]

    def repeat(self, times: int) -> Seen:
        """Return the features of every image so many times, one beside the other."""
        return Seen(
            self.embedding.repeat_interleave(times, 0),
            tuple(features.repeat_interleave(times, 0) for features in self.fine),
        )


class Prompts(NamedTuple):
    """What is known of N objects, in pixels of the square.

    `points` is (N, P, 2) as (x, y), pixel centres at whole numbers; `says` (N, P) what each point
    says, a box being two; `masks` (N, 1, S/4, S/4) logits, which count where `has_mask` (N,).
    """

    points: Tensor
    says: Tensor
    masks: Tensor
    has_mask: Tensor


def look(model: Any, images: Tensor) -> Seen:
    """Look at grey images (B, 1, S, S), 0 to 1, with gradients."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    pyramid = model.forward_image((images - mean) / std)["backbone_fpn"]
    embedding = pyramid[-1] + model.no_mem_embed.reshape(1, -1, 1, 1)
    return Seen(embedding, tuple(pyramid[:-1]))


def answer(model: Any, seen: Seen, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Return four masks an object: logits (N, 4, S/4, S/4), and their quality (N, 4), 0 to 1.

    The first mask is for prompts that say enough; the others are three readings of one that
    doesn't.
    """
    encoder = model.sam_prompt_encoder
    points = (prompts.points, prompts.says) if prompts.points.shape[1] else None
    sparse, shown = encoder(points=points, boxes=None, masks=prompts.masks)
    nothing = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand_as(shown)
    logits, quality, _, _ = model.sam_mask_decoder.predict_masks(
        image_embeddings=seen.embedding,
        image_pe=encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=torch.where(
            prompts.has_mask[:, None, None, None], shown, nothing.to(shown.dtype)
        ),
        repeat_image=False,
        high_res_features=list(seen.fine),
    )
    return logits.float(), quality.float()


def drawn(prompts: Prompts) -> Prompts:
    """Draw the boxes and points of prompts into their masks as well.

    A small network that was trained for an hour finds a place sooner in a picture of it than in its
    coordinates.
    """
    small = prompts.masks.shape[-1]
    lines = torch.arange(small, device=prompts.masks.device)
    x, y = lines[None, None, :], lines[None, :, None]
    places = (prompts.points + 0.5) / MASK_STRIDE - 0.5  # (N, P, 2)
    masks = prompts.masks[:, 0] * prompts.has_mask[:, None, None]  # (N, S/4, S/4)
    for number in range(places.shape[1]):
        at = places[:, number, :, None, None]  # (N, 2, 1, 1)
        says = prompts.says[:, number, None, None]
        if number + 1 < places.shape[1]:
            end = places[:, number + 1, :, None, None]
            inside = (at[:, 0] - 0.5 <= x) & (x <= end[:, 0] + 0.5)
            inside = inside & (at[:, 1] - 0.5 <= y) & (y <= end[:, 1] + 0.5)
            box = torch.where(inside, _IN_BOX, _OUT_OF_BOX)
            is_box = (says == FIRST_CORNER) & ~prompts.has_mask[:, None, None]
            masks = torch.where(is_box, box, masks)
        is_near = (at[:, 0] - x) ** 2 + (at[:, 1] - y) ** 2 <= _DOT**2
        masks = torch.where(is_near & (says == INSIDE), _SURE, masks)
        masks = torch.where(is_near & (says == OUTSIDE), -_SURE, masks)
    return prompts._replace(masks=masks[:, None], has_mask=torch.ones_like(prompts.has_mask))


def mask_logits(probability: Tensor) -> Tensor:
    """Turn how likely pixels are inside, 0 to 1, into the logits that SAM2 takes as a mask."""
    return probability.float().clamp(3e-4, 1 - 3e-4).logit()


# --- checkpoints --------------------------------------------------------------------------------


def save_sam2(model: nn.Module, config: Sam2Config, manifest: Manifest, folder: Path) -> None:
    """Write a SAM2 to `folder`, in place of what was there, with weights as float16."""
    with new_checkpoint(folder, manifest) as new:
        weights = {
            key: value.detach().to("cpu", torch.float16).contiguous()
            for key, value in model.state_dict().items()
        }
        with disk_errors():
            save_file(weights, new / "model.safetensors")
        (new / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")


def load_sam2(source: str | Path | None = None) -> tuple[Any, Sam2Config]:
    """Read a SAM2 in float32 and evaluation mode, on the CPU.

    Parameters
    ----------
    source : a checkpoint folder or the name of a bundled one (None: the one that comes with the
        program), a safetensors file of Meta's weights under sam2's or transformers' names, or the
        name of a model on the hub, such as ``facebook/sam2.1-hiera-tiny``.

    Raises
    ------
    BadCheckpoint
        If there is no such checkpoint, or it is damaged, pickled or doesn't fit its config.
    """
    path = Path(TEACHER if source is None else source)
    if path.suffix in _PICKLES:
        raise BadCheckpoint(
            f"{path.name} is a pickle, and those can run code and are never opened; give the "
            "same weights as safetensors, or a name on the hub such as facebook/sam2.1-hiera-tiny"
        )
    if path.suffix == ".safetensors":
        config, weights = _read_meta(path)
    elif not path.exists() and _HUB_NAME.fullmatch(str(source)):
        config, weights = _read_meta(_download(str(source)))
    else:
        folder = resolve_checkpoint(source, TEACHER)
        path, (config, weights) = folder, _read_folder(folder)
    try:
        model = build_sam2(config)
        # transformers' models have no memory for videos, and nothing here uses it
        has_memory = any(key.startswith("memory_attention.") for key in weights)
        lacks = model.load_state_dict(weights, strict=has_memory).missing_keys
        if missing := [key for key in lacks if is_for_images(key)]:
            raise ValueError(f"{missing[0]} is missing")
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadCheckpoint(f"the SAM2 in {path} doesn't fit its config: {error}") from error
    return model.eval(), config


def _read_folder(folder: Path) -> tuple[Sam2Config, dict[str, Tensor]]:
    manifest = read_manifest(folder)
    if manifest.system != TEACHER:
        raise BadCheckpoint(f"{folder} is a checkpoint of {manifest.system}, not a SAM2 teacher")
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        trunk = document.pop("trunk")
        config = Sam2Config(**document, trunk=None if trunk is None else _trunk(trunk))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadCheckpoint(
            f"{folder / 'config.json'} is missing or damaged ({error}); copy the checkpoint anew"
        ) from error
    return config, _read_weights(folder / "model.safetensors")


def _trunk(document: dict[str, Any]) -> Trunk:
    sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
    return Trunk(**sizes)


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        return {key: value.float() for key, value in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise BadCheckpoint(
            f"{file} is missing or damaged ({error}); copy the checkpoint anew"
        ) from error


def _read_meta(file: Path) -> tuple[Sam2Config, dict[str, Tensor]]:
    """Read Meta's weights and tell from them which of the models they belong to."""
    weights = _read_weights(file)
    if "shared_image_embedding.positional_embedding" in weights:
        weights = package_names(weights)
    start = "image_encoder.trunk."
    if f"{start}patch_embed.proj.weight" not in weights:
        raise BadCheckpoint(f"{file} holds no SAM2 under sam2's or transformers' names")
    numbers = {key.split(".")[3] for key in weights if key.startswith(f"{start}blocks.")}
    size = _SIZES.get((len(weights[f"{start}patch_embed.proj.weight"]), len(numbers)))
    if size is None:
        raise BadCheckpoint(f"{file} is of none of Meta's sizes; give a checkpoint folder")
    version = "sam2.1" if "no_obj_embed_spatial" in weights else "sam2"
    if not any(key.startswith("memory_attention.") for key in weights):
        version = "sam2.1"  # transformers' names: both versions look at images alike
    return meta_config(f"{version}_hiera_{size}"), weights


_RENAMED = (
    (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
    (r"^vision_encoder\.neck\.convs\.(\d)\.", r"image_encoder.neck.convs.\1.conv."),
    (r"^prompt_encoder\.shared_embedding\.positional_embedding$",
     "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "sam_prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "sam_prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "sam_prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "sam_prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "sam_prompt_encoder.mask_downscaling.6."),
    (r"^prompt_encoder\.", "sam_prompt_encoder."),
    (r"^mask_decoder\.upscale_conv1\.", "sam_mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "sam_mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "sam_mask_decoder.output_upscaling.3."),
    (r"^mask_decoder\.", "sam_mask_decoder."),
    (r"^no_memory_embedding$", "no_mem_embed"),
    (r"(mlps\.\d|head)\.layers\.0\.", r"\1.layers.1."),
    (r"(mlps\.\d|head)\.proj_in\.", r"\1.layers.0."),
    (r"(mlps\.\d|head)\.proj_out\.", r"\1.layers.2."),
    (r"\.mlp\.proj_in\.", ".mlp.layers.0."),
    (r"\.mlp\.proj_out\.", ".mlp.layers.1."),
    (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
)  # fmt: skip
"""Names of weights in transformers, and in sam2; applied in this order."""
_POINTS = "sam_prompt_encoder.point_embed.weight"


def package_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring weights under transformers' names to sam2's; only what looks at single images.

    The memory for videos stays out: nothing here uses it.
    """
    out: dict[str, Tensor] = {}
    for name, value in weights.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        if name == _POINTS:
            rows = {
                f"sam_prompt_encoder.point_embeddings.{i}.weight": value[i : i + 1]
                for i in range(len(value))
            }
            out |= rows
        elif is_for_images(name):
            out[name] = value
    return out


def is_for_images(name: str) -> bool:
    """Whether a weight, by sam2's name, is used when a single image is looked at."""
    parts = ("image_encoder.", "sam_prompt_encoder.", "sam_mask_decoder.")
    return name == "no_mem_embed" or name.startswith(parts)


def _download(name: str) -> Path:
    """Find the safetensors of a model on the hub where they were kept, or fetch them."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its tries aren't for people
    with suppress(LocalEntryNotFoundError):  # without a network it would try for half a minute
        return Path(hf_hub_download(name, "model.safetensors", local_files_only=True))
    try:
        return Path(hf_hub_download(name, "model.safetensors"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]  # its first sentence
        raise BadCheckpoint(
            f"can't get {name} from the hub ({reason}); look whether its name is right and this "
            "computer is connected, or leave --teacher out for the one that comes with the program"
        ) from error
