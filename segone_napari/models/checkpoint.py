"""Checkpoint folders: how a model is saved and loaded.

A folder holds ``checkpoint.json`` (format version, system, parent, how it was trained, metrics),
``vocabulary.json``, one folder a component with ``config.json`` and ``model.safetensors``, and
``text/`` in transformers' format. What corrections taught is one folder a lesson under
``lessons/``. Nothing pickled is ever opened. A folder is written under a temporary name and then
renamed, so that it is whole or not there.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.models.learnt import Lesson, LessonConfig, LessonNetwork
from segone_napari.models.network import NetworkConfig
from segone_napari.models.segone import SegOneModel
from segone_napari.models.text import TextTower
from segone_napari.models.unet import UNetConfig, UNetModel
from segone_napari.models.weights import disk_errors
from segone_napari.runtime import BadCheckpoint

FORMAT = 1
BUNDLED = Path(__file__).resolve().parents[1] / "checkpoints"
"""Where the checkpoints lie that come with the package, one folder a name."""

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_PACKAGES = ("torch", "transformers", "safetensors", "numpy")


@dataclass(frozen=True)
class Manifest:
    """What ``checkpoint.json`` says.

    Attributes
    ----------
    system : the row of the systems' table that it belongs to.
    parent : the checkpoint that it was trained further from, if any.
    training : how it was trained: data, options, steps, seed, seconds.
    metrics : what was measured on it, by name.
    created : ISO time, UTC.
    versions : of the packages that made it.
    """

    system: str
    parent: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT


def resolve_checkpoint(name: str | Path | None, system: str) -> Path:
    """Find a checkpoint folder: a path, the name of a bundled one, or the system's own default.

    The name of a bundled one always means that; a folder of the same name is ``./NAME``.

    Raises
    ------
    BadCheckpoint
        If there is no such folder.
    """
    if name is None:
        folder = BUNDLED / system
    elif str(name) in {path.name for path in BUNDLED.glob("*")}:
        folder = BUNDLED / name
    else:
        folder = Path(name)
    if not folder.is_dir():
        answering = [p.name for p in BUNDLED.glob("*") if (p / "vocabulary.json").is_file()]
        bundled = ", ".join(sorted(answering)) or "none"
        raise BadCheckpoint(
            f"no checkpoint {str(name or system)!r}; give a checkpoint folder or a bundled one: "
            f"{bundled}"
        )
    return folder


def read_manifest(folder: Path) -> Manifest:
    """Read ``checkpoint.json``.

    Raises
    ------
    BadCheckpoint
        If it is missing or damaged, of an unknown format version, or stands beside pickles only.
    """
    file = folder / "checkpoint.json"
    if not file.is_file():
        pickles = [p.name for p in folder.rglob("*") if p.suffix in _PICKLED]
        what = f"only pickled weights ({pickles[0]})" if pickles else "no checkpoint.json"
        raise BadCheckpoint(
            f"{folder} holds {what}; a checkpoint is a folder with checkpoint.json and "
            "safetensors, and pickles are never opened"
        )
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        version = document["format"]
        if version != FORMAT:
            raise BadCheckpoint(
                f"{folder} has format version {version!r} and this program reads {FORMAT}; "
                "update segone-napari"
            )
        known = Manifest.__dataclass_fields__
        return Manifest(**{key: value for key, value in document.items() if key in known})
    except (ValueError, KeyError, TypeError) as error:
        raise BadCheckpoint(f"{file} is damaged ({error}); copy the checkpoint anew") from error


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write ``checkpoint.json``, with the time and the versions of this moment."""
    document = asdict(manifest) | {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    (folder / "checkpoint.json").write_text(json.dumps(document, indent=2) + "\n")


def save_checkpoint(
    model: SegOneModel | UNetModel,
    vocabulary: Vocabulary,
    manifest: Manifest,
    folder: Path,
    lessons: Sequence[Lesson] = (),
) -> None:
    """Write a model to `folder`, in place of what was there, with weights as float16."""
    with new_checkpoint(folder, manifest) as new:
        _write_component(new, "network", _config_of(model), _network_weights(model))
        if isinstance(model, SegOneModel):
            model.tower.save(new / "text", half=True)
        for number, lesson in enumerate(lessons, start=1):
            _write_lesson(new, number, lesson)
        vocabulary.save(new / "vocabulary.json")


def save_lesson(lesson: Lesson, manifest: Manifest, folder: Path) -> None:
    """Write a lesson alone to `folder`, in place of what was there, with weights as float16."""
    with new_checkpoint(folder, manifest) as new:
        _write_lesson(new, 1, lesson)


@contextmanager
def new_checkpoint(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """Give an empty folder for a checkpoint; once that is whole, it takes the place of `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        write_manifest(manifest, temporary)
        temporary.chmod(0o755)
        replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`, which may exist."""
    old = _aside(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Undo a `replace_folder` that was killed after it had put the old folder aside."""
    if not folder.exists() and _aside(folder).exists():
        _aside(folder).rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-old")


def load_checkpoint(folder: Path) -> tuple[SegOneModel | UNetModel, Vocabulary, Manifest]:
    """Read a model in float32 and evaluation mode, on the CPU.

    Raises
    ------
    BadCheckpoint
        If anything is missing, damaged, or doesn't fit together.
    """
    manifest = read_manifest(folder)
    if manifest.system not in ("segone", "unet"):
        raise BadCheckpoint(
            f"{folder} belongs to the system {manifest.system!r}, which answers no prompts; give "
            "a checkpoint of segone or unet"
        )
    vocabulary = Vocabulary.load(folder / "vocabulary.json").brought_up_to_date()
    document, weights = _read_component(folder, "network")
    try:
        model: SegOneModel | UNetModel
        if manifest.system == "segone":
            model = SegOneModel(NetworkConfig(**document), TextTower.load(folder / "text"))
        else:
            model = UNetModel(UNetConfig(**document), vocabulary.class_names)
        missing = model.load_state_dict(weights, strict=False).missing_keys
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadCheckpoint(f"the network in {folder} doesn't fit its config: {error}") from error
    missing = [key for key in missing if not key.startswith("tower.")]
    if missing:
        raise BadCheckpoint(f"{folder} lacks weights ({missing[0]}, …); copy it anew")
    return model.eval(), vocabulary, manifest


def load_lessons(folder: Path) -> tuple[Lesson, ...]:
    """Read what corrections taught a checkpoint, on the CPU; empty where there were none.

    Raises
    ------
    BadCheckpoint
        If a lesson is damaged, or its weights don't fit its config.
    """
    lessons = []
    for path in sorted(folder.glob("lessons/[0-9]*"), key=lambda p: p.name.zfill(6)):
        document, weights = _read_component(folder, f"lessons/{path.name}")
        try:
            document["box_mm"] = tuple((float(a), float(b)) for a, b in document["box_mm"])
            config = LessonConfig(**document)
            network = LessonNetwork(config)
            network.load_state_dict(weights)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BadCheckpoint(
                f"the lesson in {path} is damaged ({error}); copy the checkpoint anew, "
                "or go back to an earlier version"
            ) from error
        lessons.append(Lesson(config, network.eval()))
    return tuple(lessons)


def _config_of(model: SegOneModel | UNetModel) -> dict[str, Any]:
    return asdict(model.config)


def _network_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("tower.")}
    return _half(own)


def _half(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in weights.items()}


def _write_lesson(folder: Path, number: int, lesson: Lesson) -> None:
    (folder / "lessons").mkdir(exist_ok=True)
    weights = _half(lesson.network.state_dict())
    _write_component(folder, f"lessons/{number}", asdict(lesson.config), weights)


def _write_component(
    folder: Path, name: str, config: dict[str, Any], weights: dict[str, torch.Tensor]
) -> None:
    target = folder / name
    target.mkdir()
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    with disk_errors():
        save_file(weights, target / "model.safetensors")


def _read_component(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        document = json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / name / "model.safetensors")
        if not isinstance(document, dict):
            raise ValueError("config.json holds no table of options")
    except (OSError, ValueError, SafetensorError) as error:
        raise BadCheckpoint(
            f"{folder / name} is missing or damaged ({error}); copy the checkpoint anew"
        ) from error
    lists_to_tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
    return lists_to_tuples, {key: value.float() for key, value in weights.items()}
