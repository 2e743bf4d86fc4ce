"""What the command line, the widget and a script all do: segment, and write the answers down.

Knows nothing of Qt or of a terminal, starts no threads, and loads torch only when a system is
first needed.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from segone_napari.config import SegmentOptions
from segone_napari.data import formats
from segone_napari.data.vocabulary import Vocabulary, split_prompts
from segone_napari.exports import provenance
from segone_napari.exports.content import labels_in, numbered_names
from segone_napari.exports.label_map import MASKS_TABLE, table_beside, table_of
from segone_napari.exports.registry import format_named, former_files
from segone_napari.exports.staging import Occupied, write_together
from segone_napari.exports.tables import check_table_name, csv_text
from segone_napari.project import Project
from segone_napari.project.versions import Versions
from segone_napari.runtime import BadCheckpoint, BadInput, Progress, no_progress
from segone_napari.systems import registry
from segone_napari.systems.base import Encoded, Result, System, Teachable
from segone_napari.volume import Grid, Volume

IMAGES_KEPT = 2
"""How many encoded images a session keeps: the one at hand, and the one before it."""

LEAST_KEPT = 0.95
"""A structure that keeps less of its voxels in a label map is told."""

ENCODING_SHARE = 20
"""How many prompts' worth of progress encoding an image counts for."""

TABLE_COLUMNS = (
    "prompt",
    "resolved",
    "side",
    "label",
    "found",
    "confidence",
    "volume_ml",
    "seconds",
)


_T = TypeVar("_T")
# Makes the image or the text of a file.
_Make = Callable[[], Volume | str]
# Writes a file itself.
_Write = Callable[[Path], None]
# What is in a folder of masks.
_MASK_NAME = re.compile(rf"\d{{2,}}_.+\.nii\.gz$|{re.escape(MASKS_TABLE)}$")


class Session:
    """One system, loaded once, and the last images that it has looked at.

    The options are those of `SegmentOptions`. With a `project`, the version of the model that it
    uses is taken where no checkpoint is named, and in an image that was corrected there, the
    corrections count. Nothing slow happens before the first image.

    Raises
    ------
    BadInput
        If an option can't be used, no system has that name, or the project is a file or was made
        by a later version. A project that isn't there yet is an empty one.
    """

    def __init__(
        self,
        *,
        system: str = "segone",
        checkpoint: str | Path | None = None,
        device: str = "auto",
        preset: str = "balanced",
        seed: int = 0,
        project: str | Path | None = None,
    ) -> None:
        self.options = SegmentOptions(system, checkpoint, device, preset, seed)
        registry.check_name(system)
        self.project = None if project is None else Project(project)
        self._system: System | None = None
        self._encoded: dict[int, tuple[Volume, Encoded]] = {}
        # A widget asks from one worker after another: the later one waits for what the
        # earlier one is loading or encoding rather than doing it a second time.
        self._loading = threading.Lock()
        self._encoding = threading.Lock()

    @property
    def system(self) -> System:
        """The system, loaded when it is first asked for.

        Raises
        ------
        BadInput, BadCheckpoint
            If the device isn't available or the checkpoint can't be used.
        """
        with self._loading:
            if self._system is None:
                self._system = self._load()
            return self._system

    def segment(
        self, image: Volume, prompts: Sequence[str], *, progress: Progress = no_progress
    ) -> list[Result]:
        """Answer each prompt, in order, on the image's grid.

        An image is encoded when it is first seen, which takes most of the time; asking again
        about the same `Volume` object is cheap. A prompt with ``;`` inside is several prompts.

        Raises
        ------
        BadInput
            If a prompt is empty.
        Cancelled
            When `progress` raises it.
        """
        prompts = as_prompts(prompts)
        system = self.system
        encoding_share = 0 if self._is_encoded(image) else ENCODING_SHARE
        total = encoding_share + len(prompts)
        encoded = self._encode(image, _part(progress, 0, encoding_share, total))
        return system.segment(
            encoded, prompts, progress=_part(progress, encoding_share, total, total)
        )

    def _load(self) -> System:
        options = self.options
        is_own = options.checkpoint is None and options.system == "segone"
        versions = Versions(self.project.folder) if self.project is not None and is_own else None
        number = versions.used() if versions is not None else 0
        folder = versions.folder_of(number) if versions is not None else options.checkpoint
        try:
            return registry.create(
                options.system,
                checkpoint=folder,
                device=options.device,
                preset=options.preset,
                seed=options.seed,
            )
        except BadCheckpoint as error:
            if not number or self.project is None:
                raise
            raise BadCheckpoint(
                f"version {number}, which is in use, can't be loaded ({error}); use another one: "
                f"Versions… in the window, or 'segone checkpoints {self.project.folder} --use 0'"
            ) from error

    def reload(self) -> None:
        """Take the version that the project uses by now.

        Versions differ in what they were taught beside the base. What the base has seen of an
        image stays, where it is the same base; other images are encoded anew.

        Raises
        ------
        BadCheckpoint
            If the version can't be used.
        """
        # in the order in which `_encode` takes them, or each would wait for the other
        with self._encoding, self._loading:
            former: object = self._system
            seen = dict(self._encoded)
            self._system = None
            self._encoded.clear()
        if not seen or not isinstance(former, Teachable):
            return
        system = self.system
        for image, encoded in seen.values():
            again = system.taken_over(encoded, former) if isinstance(system, Teachable) else None
            if again is not None:
                self.recall(image)
                with self._encoding:
                    self._encoded.setdefault(id(image), (image, again))

    def recall(self, image: Volume) -> None:
        """Look again at what the project says of an image, after new corrections of it."""
        if self.project is None or not isinstance(self.system, Teachable):
            return
        from segone_napari.training.cases import told_about

        self.system.tell(image, told_about(self.project, image, self.system.vocabulary))

    def preview(
        self,
        image: Volume,
        prompts: Sequence[str],
        axis: int,
        index: int,
        *,
        progress: Progress = no_progress,
    ) -> list[Result]:
        """Answer quickly for slice `index` of array axis `axis` alone.

        Each result's `box` is one voxel thick along `axis`. The list may be empty: not every
        system has a quick answer.

        Raises
        ------
        Cancelled
            When `progress` raises it.
        """
        return self.system.preview(image, as_prompts(prompts), axis, index, progress=progress)

    def forget(self, image: Volume | None = None) -> None:
        """Give back the memory that `image`, or every image, takes once it is encoded."""
        if image is None:
            self._encoded.clear()
        else:
            self._encoded.pop(id(image), None)
        if self._system is not None:
            self._system.forget(image)
        gc.collect()
        _release_device_memory()

    def _is_encoded(self, image: Volume) -> bool:
        return id(image) in self._encoded

    def _encode(self, image: Volume, progress: Progress) -> Encoded:
        with self._encoding:
            # The image is kept with its encoding, so that its id can't become another's.
            kept = self._encoded.pop(id(image), None)
            if kept is None:
                kept = (image, self.system.encode(image, progress=progress))
                self.recall(image)
            self._encoded[id(image)] = kept
            while len(self._encoded) > IMAGES_KEPT:
                del self._encoded[next(iter(self._encoded))]
            return kept[1]


def segment(
    image: Volume | str | Path,
    prompts: Sequence[str] | str,
    *,
    series: int | str | None = None,
    volume: int | None = None,
    progress: Progress = no_progress,
    **options: Any,
) -> list[Result]:
    """Segment one image, given as a path or a `Volume`, in one call.

    Parameters
    ----------
    image : what to segment.
    prompts : one or several; ``;`` separates them inside a string.
    series : which series of a DICOM folder: its number in the list, or its UID.
    volume : which volume of a 4-D file or series, counted from 0.
    options : those of `segone_napari.config.SegmentOptions`.

    Raises
    ------
    BadInput, BadCheckpoint
        If the image, a prompt, an option or the checkpoint can't be used.
    """
    prompts = as_prompts(prompts)
    session = Session(**options)
    if not isinstance(image, Volume):
        image = formats.read(image, volume=volume, series=series)
    return session.segment(image, prompts, progress=progress)


def as_prompts(texts: Sequence[str] | str) -> list[str]:
    """Split what was typed at every ``;``, and where it names several structures, into prompts.

    Raises
    ------
    BadInput
        If nothing was typed, or one of the texts is empty.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]  # of any terminal
    split = [split_prompts(text) for text in texts]
    if not split or not all(split):
        raise BadInput("the prompt is empty; type what to outline, such as 'left hippocampus'")
    vocabulary = Vocabulary.packaged()
    return [one for prompts in split for prompt in prompts for one in vocabulary.separate(prompt)]


def _part(progress: Progress, start: int, stop: int, total: int) -> Progress:
    """Make a callback that fills the steps from `start` to `stop` of a longer piece of work."""
    fine = 100

    def report(done: int, of: int) -> None:
        share = done / of if of else 1.0
        progress(start * fine + round((stop - start) * fine * share), total * fine)

    return report


def _release_device_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


# --- writing the answers down -------------------------------------------------------------------


@dataclass(frozen=True)
class Outputs:
    """Which files to write. They appear together or not at all.

    Attributes
    ----------
    label_map : one integer image for all prompts; its table ``OUT.tsv`` is written beside it.
    masks : a folder for one mask a prompt, and their table ``masks.tsv``; made where it is missing.
    table : ``.json`` or ``.csv``.
    uncertainty : an image, at each voxel the largest uncertainty of any prompt.
    force : whether what exists is overwritten.
    """

    label_map: Path | None = None
    masks: Path | None = None
    table: Path | None = None
    uncertainty: Path | None = None
    force: bool = False

    def check(self, image: Path | None = None) -> None:
        """Find out before the slow work whether everything can be written.

        Raises
        ------
        BadInput
            If a name's ending is unknown, a file exists and `force` is not set, two outputs or
            an output and `image` are the same file, or a folder is missing or can't be written.
        """
        for path in (self.label_map, self.uncertainty):
            if path is not None:
                _check_image_name(path)
        if self.table is not None:
            check_table_name(self.table)
        self._check_distinct(image)
        for path in self.files():
            if self.label_map is not None and path == table_beside(self.label_map):
                _check_label_table(path, self.label_map, force=self.force)
            _check_file(path, force=self.force)
        if self.masks is not None:
            _check_masks_folder(self.masks, force=self.force)

    def files(self) -> list[Path]:
        """The files whose names are known before the prompts are answered."""
        beside = None if self.label_map is None else table_beside(self.label_map)
        return [p for p in (self.label_map, beside, self.table, self.uncertainty) if p is not None]

    def _check_distinct(self, image: Path | None) -> None:
        seen = {} if image is None else {image.resolve(): "the image that is read"}
        for path in [*self.files(), *([] if self.masks is None else [self.masks])]:
            if path.resolve() in seen:
                raise BadInput(
                    f"{path} would overwrite {seen[path.resolve()]}; choose another name"
                )
            seen[path.resolve()] = "another output"


def write_outputs(
    results: Sequence[Result],
    outputs: Outputs,
    *,
    image: str = "",
    system: str = "",
    checkpoint: str = "",
    options: Mapping[str, Any] = MappingProxyType({}),
    others: Mapping[Path, _Write] = MappingProxyType({}),
) -> list[Path]:
    """Write all of `outputs`, or nothing; return what was written, the label map first.

    Parameters
    ----------
    image, system, checkpoint, options : what the table says that the results come from.
    others : more files to write with them, each with what writes it.

    Raises
    ------
    BadInput
        As `Outputs.check`; if a folder can't be written or the disk is full; or if the
        uncertainty was asked for and the system has none.
    """
    outputs.check()
    origin = {
        "image": image,
        "system": system,
        "checkpoint": checkpoint,
        "options": dict(options),
        "made_at": provenance.now(),
    }
    files = _files(results, outputs, origin)
    named = [*files, *others]
    folders = dict.fromkeys(path.parent for path in named)
    # What an export wrote there goes, with its record, which would be taken for the new one's.
    former = []
    if outputs.label_map is not None:
        former = [provenance.beside(outputs.label_map)]
    if outputs.masks is not None:
        former += former_files(outputs.masks, format_named("masks"))
        former += [provenance.beside(outputs.masks)] if outputs.masks.is_dir() else []
    written = write_together(
        {
            folder: partial(_fill, _inside(files, folder), _inside(others, folder))
            for folder in folders
        },
        target=next(iter(named), Path()),
        force=outputs.force,
        former=former,
    )
    return [*named, *(path for path in written if path not in named)]


def write_label_map(results: Sequence[Result], path: str | Path, *, force: bool = False) -> Path:
    """Write `label_map` to `path`, and beside it ``OUT.tsv`` with index, name and colour."""
    return write_outputs(results, Outputs(label_map=Path(path), force=force))[0]


def write_masks(
    results: Sequence[Result], folder: str | Path, *, force: bool = False
) -> list[Path]:
    """Write one uint8 mask a prompt, overlaps kept: ``01_left-hippocampus.nii.gz`` and so on.

    The mask of what was not found is empty. Their names and colours are in ``masks.tsv``, which
    comes last in what is returned.
    """
    return write_outputs(results, Outputs(masks=Path(folder).expanduser(), force=force))


def write_table(
    results: Sequence[Result],
    path: str | Path,
    *,
    image: str,
    system: str,
    checkpoint: str,
    force: bool = False,
) -> Path:
    """Write the numbers of each result: ``.json`` with its origin, or ``.csv``."""
    outputs = Outputs(table=Path(path), force=force)
    return write_outputs(results, outputs, image=image, system=system, checkpoint=checkpoint)[0]


def label_map(results: Sequence[Result]) -> Volume:
    """Put all results into one image: label *i* is the *i*-th result, 0 is none of them.

    Where masks overlap the more probable wins, and the earlier one if they are equal.

    Returns
    -------
    Volume of uint8, or uint16 above 255 results, on the results' grid.
    """
    pieces = [
        (result.box, (result.probability > 0.5) & result.found, result.probability)
        for result in results
    ]
    return labels_in(_common_grid(results), pieces)


def losses_by_overlap(results: Sequence[Result]) -> list[str]:
    """Say in sentences which masks are not whole in the `label_map`, since others lie over them."""
    kept = np.bincount(label_map(results).data.ravel(), minlength=len(results) + 1)
    sentences = []
    for result, voxels in zip(results, kept[1:], strict=True):
        share = voxels / max(1, np.count_nonzero(result.probability > 0.5))
        if result.found and share < LEAST_KEPT:
            sentences.append(
                f"{result.resolved or result.prompt} keeps {share:.0%} of its voxels in the label "
                "map, as another structure lies over it; --masks keeps all"
            )
    return sentences


def uncertainty_map(results: Sequence[Result]) -> Volume:
    """Give at each voxel the largest uncertainty of any result that was found.

    Returns
    -------
    Volume of float32, 0 to 1, on the results' grid.

    Raises
    ------
    BadInput
        If the system that answered has no uncertainty.
    """
    grid = _common_grid(results)
    largest = np.zeros(grid.shape, dtype=np.float32)
    for result in results:
        if not result.found:
            continue
        if result.uncertainty is None:
            raise no_uncertainty()
        np.maximum(largest[result.box], result.uncertainty, out=largest[result.box])
    return Volume(largest, grid, "uncertainty")


def no_uncertainty() -> BadInput:
    """Make the error for an uncertainty that was asked for and doesn't exist."""
    return BadInput(
        "this system and preset have no uncertainty; leave out --uncertainty, "
        "or try another --preset or --system"
    )


def table_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """List what a table says of each result; the keys are `TABLE_COLUMNS`."""
    return [
        {
            "prompt": result.prompt,
            "resolved": result.resolved,
            "side": result.side,
            "label": label,
            "found": result.found,
            "confidence": None if result.confidence is None else round(float(result.confidence), 4),
            "volume_ml": round(result.volume_ml, 4),
            "seconds": round(result.seconds, 4),
        }
        for label, result in enumerate(results, start=1)
    ]


def _files(
    results: Sequence[Result], outputs: Outputs, origin: Mapping[str, Any]
) -> dict[Path, _Make]:
    """List all files, the label map first, each with what makes its image or its text."""
    files: dict[Path, _Make] = {}
    if outputs.label_map is not None:
        files[outputs.label_map] = lambda: label_map(results)
        files[table_beside(outputs.label_map)] = lambda: _label_table(results)
    if outputs.masks is not None:
        for name, result in zip(numbered_names(_names(results)), results, strict=True):
            files[outputs.masks / f"{name}.nii.gz"] = partial(getattr, result, "mask")
        files[outputs.masks / MASKS_TABLE] = lambda: _label_table(results)
    if outputs.table is not None:
        files[outputs.table] = partial(_table_text, results, outputs.table, origin)
    if outputs.uncertainty is not None:
        files[outputs.uncertainty] = lambda: uncertainty_map(results)
    return files


def _inside(files: Mapping[Path, _T], folder: Path) -> dict[str, _T]:
    """The files of one folder, by their names."""
    return {path.name: make for path, make in files.items() if path.parent == folder}


def _fill(files: Mapping[str, _Make], others: Mapping[str, _Write], folder: Path) -> None:
    for name, write in others.items():
        write(folder / name)
    for name, make in files.items():
        what = make()
        if isinstance(what, Volume):
            formats.write(what, folder / name)
        else:
            # a file's name may hold bytes that are no text
            (folder / name).write_text(what, encoding="utf-8", errors="backslashreplace")


def _names(results: Sequence[Result]) -> list[str]:
    return [result.resolved or result.prompt for result in results]


def _common_grid(results: Sequence[Result]) -> Grid:
    grid = results[0].grid
    assert all(result.grid.is_same_as(grid) for result in results), "results of several images"
    return grid


def _label_table(results: Sequence[Result]) -> str:
    colours = [result.colour for result in results]
    return table_of(zip(_names(results), colours, strict=True))


def _table_text(results: Sequence[Result], path: Path, origin: Mapping[str, Any]) -> str:
    rows = table_rows(results)
    if path.suffix.lower() == ".csv":
        return csv_text(TABLE_COLUMNS, rows)
    return json.dumps({**origin, "results": rows}, indent=2, ensure_ascii=False) + "\n"


def _image_ending(path: Path) -> str:
    fitting = [e for e in formats.WRITABLE if path.name.lower().endswith(e)]
    return max(fitting, key=len, default="")


def _check_image_name(path: Path) -> None:
    ending = _image_ending(path)
    if not ending or len(path.name) == len(ending):
        raise BadInput(
            f"can't write an image to {path}; use a name that ends in {', '.join(formats.WRITABLE)}"
        )


def _check_label_table(table: Path, label_map: Path, *, force: bool) -> None:
    """Say what the table is for, which nobody has named: the label map's own name may be free."""
    if table.is_file() and not force:
        raise Occupied(table, label_map)


def _check_file(path: Path, *, force: bool) -> None:
    # Renaming a file over /dev/null would replace it.
    if path.exists() and not path.is_file() and not path.is_dir():
        raise BadInput(f"{path} is not a file; choose another name to write to")
    formats.check_output(path, force=force)
    _check_folder(path.parent)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; choose another")
    # Permissions alone don't tell: the disk may be full or mounted read-only.
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(
            f"can't write into the folder {folder}: {reason}; choose another folder"
        ) from error


def _check_masks_folder(folder: Path, *, force: bool) -> None:
    if not folder.exists():
        _check_folder(_nearest_existing(folder))
        return
    _check_folder(folder)
    # What the masks will be called is known only when the prompts are answered.
    before = sorted(path.name for path in folder.iterdir() if _MASK_NAME.match(path.name))
    if before and not force:
        raise BadInput(
            f"{folder} already holds masks ({before[0]} ...); "
            "use --force to overwrite them, or choose another folder"
        )


def _nearest_existing(folder: Path) -> Path:
    return next(parent for parent in folder.absolute().parents if parent.exists())
