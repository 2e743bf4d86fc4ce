"""``segone doctor``: what is installed, what is missing, and one line on how to mend each problem.

Every check stands alone and survives a broken installation: libraries are imported inside it. Qt
is tried in a process of its own, because it ends the program when a system library is missing.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from segone_napari.runtime import SegOneError

GIB = 2**30
ENOUGH_MEMORY = 3 * GIB
ENOUGH_DISK = 1 * GIB

ENGINE_PACKAGES = (
    "numpy",
    "scipy",
    "scikit-image",
    "nibabel",
    "torch",
    "transformers",
    "safetensors",
    "accelerate",
    "monai",
    "rich",
    "pillow",
)
QT_BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")
LINUX_LIBRARIES = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libOpenGL.so.0": "libopengl0",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-xinerama.so.0": "libxcb-xinerama0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
}
"""What Qt and napari load on Linux, and the Debian package that brings it."""

Kind = Literal["ok", "note", "problem"]
MARKS = {"ok": "✓", "note": "·", "problem": "✗"}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    kind : "ok"; "note" for what only some need (a GPU, a display); "problem" for what stops
        segmenting.
    text : what was found.
    mend : what to do about it; empty when there is nothing to do.
    """

    kind: Kind
    text: str
    mend: str = ""


def main() -> int:
    """Print the report; return 0 if segmenting works here, else 1."""
    found = list(examine())
    for finding in found:
        print(f"{MARKS[finding.kind]} {finding.text}")
        if finding.mend:
            print(f"    → {finding.mend}")
    problems = sum(finding.kind == "problem" for finding in found)
    print()
    print(f"{problems} to mend, marked {MARKS['problem']}" if problems else "ready to segment")
    return 1 if problems else 0


def examine() -> Iterator[Finding]:
    """Run every check, in the order in which one would mend things."""
    for check in CHECKS:
        try:
            yield from check()
        # A broken library may raise anything; the rest of the report must still appear.
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            yield Finding("problem", f"{check.__name__.strip('_')}: {reason}", REINSTALL)


REINSTALL = "install anew: python -m pip install --upgrade --force-reinstall segone-napari"


def _python_and_packages() -> Iterator[Finding]:
    yield Finding("ok", f"segone-napari {_version_of('segone-napari') or 'not installed'}")
    yield Finding("ok", f"Python {platform.python_version()} on {platform.platform()}")
    versions = {name: _version_of(name) for name in ENGINE_PACKAGES}
    yield Finding("ok", ", ".join(f"{name} {v}" for name, v in versions.items() if v))
    missing = [name for name, found in versions.items() if found is None]
    if missing:
        mend = f"python -m pip install {' '.join(missing)}"
        yield Finding("problem", f"not installed: {', '.join(missing)}", mend)


def _torch_libraries() -> Iterator[Finding]:
    try:
        from segone_napari.models.torchvision_ops import mend_torchvision

        mend_torchvision()
        from transformers import CLIPTextModelWithProjection  # noqa: F401
    # A broken torchvision raises RuntimeError, a missing library OSError.
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        mend = "install matching builds of torch and torchvision: https://pytorch.org/get-started"
        yield Finding("problem", f"torch or transformers does not load: {reason}", mend)
    else:
        yield Finding("ok", "torch and transformers load")


def _devices() -> Iterator[Finding]:
    import psutil
    import torch

    from segone_napari.runtime import has_fast_bfloat16

    memory = psutil.virtual_memory()
    cpu = f"CPU: {os.cpu_count()} cores, {torch.get_num_threads()} threads used, "
    cpu += f"{_gib(memory.available)} of {_gib(memory.total)} memory free, "
    cpu += _bfloat16(has_fast_bfloat16(torch.device("cpu")))
    is_tight = memory.available < ENOUGH_MEMORY
    mend = f"close other programs: a large head takes up to {_gib(ENOUGH_MEMORY)}"
    yield Finding("note", cpu, mend) if is_tight else Finding("ok", cpu)
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        with torch.cuda.device(device):
            free, total = torch.cuda.mem_get_info()
            fast = _bfloat16(has_fast_bfloat16(device))
        name = torch.cuda.get_device_name(device)
        yield Finding("ok", f"cuda:{index}: {name}, {_gib(free)} of {_gib(total)} free, {fast}")
    if torch.backends.mps.is_available():
        yield Finding("ok", "mps: the GPU of this Mac")
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        mend = "install a CUDA build of torch for this driver: https://pytorch.org/get-started"
        yield Finding("note", f"an NVIDIA GPU that torch {torch.__version__} can't use", mend)


def _checkpoints() -> Iterator[Finding]:
    from segone_napari.models.checkpoint import BUNDLED

    folders = sorted(path for path in BUNDLED.glob("[!.]*") if path.is_dir())
    if not folders:
        yield Finding("problem", f"no trained checkpoint in {BUNDLED}", REINSTALL)
    for folder in folders:
        try:
            what, created = _loaded(folder)
        except SegOneError as error:
            yield Finding("problem", f"checkpoint {folder.name}: {error}", REINSTALL)
            continue
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        text = f"checkpoint {folder.name}: {what}, {size / 2**20:.1f} MiB, made {created[:10]}"
        yield Finding("ok", text)


def _loaded(folder: Path) -> tuple[str, str]:
    """Load a checkpoint; say what it is, and when it was made."""
    from segone_napari.models.checkpoint import load_checkpoint, load_lessons, read_manifest
    from segone_napari.models.sam2 import TEACHER, load_sam2
    from segone_napari.systems.propagation import PROPAGATION

    manifest = read_manifest(folder)
    if manifest.system == TEACHER:
        load_sam2(folder)
        return "a SAM2 for clicks and boxes", manifest.created
    if manifest.system == PROPAGATION:
        load_lessons(folder)
        return "what follows drawn slices through a volume", manifest.created
    _, vocabulary, _ = load_checkpoint(folder)
    return (
        f"system {manifest.system}, {len(vocabulary.class_names) - 1} structures",
        manifest.created,
    )


def _systems() -> Iterator[Finding]:
    from segone_napari.systems import registry

    yield Finding("ok", f"systems: {', '.join(registry.names())}")


def _samples() -> Iterator[Finding]:
    from segone_napari.data.samples import SAMPLES

    missing = [str(s.image_path) for s in SAMPLES.values() if not s.image_path.is_file()]
    if missing:
        mend = "segone demo needs it; " + REINSTALL
        yield Finding("note", f"sample scan missing: {missing[0]}", mend)
    else:
        yield Finding("ok", f"sample scans: {', '.join(SAMPLES)}")


def _napari_and_qt() -> Iterator[Finding]:
    napari = _version_of("napari")
    bindings = [f"{name} {_version_of(name)}" for name in QT_BINDINGS if _version_of(name)]
    if napari is None or not bindings:
        missing = "napari" if napari is None else "a Qt binding (PyQt6 or PySide6)"
        mend = "for the viewer: python -m pip install 'segone-napari[qt]'"
        yield Finding("note", f"{missing} is not installed", mend)
        return
    yield Finding("ok", f"napari {napari}, {', '.join(bindings)}")
    missing_packages = [p for name, p in LINUX_LIBRARIES.items() if not _can_load(name)]
    if sys.platform.startswith("linux") and missing_packages:
        mend = f"for the viewer: sudo apt-get install {' '.join(missing_packages)}"
        yield Finding("note", "system libraries of Qt and OpenGL are missing", mend)
    elif not has_display():
        mend = "for the viewer, log in with a desktop; segone segment and demo --headless need none"
        yield Finding("note", "no display", mend)
    else:
        yield _try_window()


def _disk() -> Iterator[Finding]:
    for folder in dict.fromkeys((Path.cwd(), Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free
        text = f"{_gib(free)} free in {folder}"
        if free < ENOUGH_DISK:
            yield Finding("note", text, "free some space: results of a large head take 100 MB")
        else:
            yield Finding("ok", text)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python_and_packages,
    _torch_libraries,
    _devices,
    _systems,
    _checkpoints,
    _samples,
    _napari_and_qt,
    _disk,
)


def has_display() -> bool:
    """Whether a window could be opened here."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _try_window() -> Finding:
    """Make an OpenGL context as napari does, in a process that may die of it."""
    script = (
        "from qtpy.QtGui import QGuiApplication, QOffscreenSurface, QOpenGLContext\n"
        "app = QGuiApplication([])\n"
        "surface, context = QOffscreenSurface(), QOpenGLContext()\n"
        "surface.create()\n"
        "assert context.create() and context.makeCurrent(surface), 'no OpenGL context'\n"
        "v = context.format().version()\n"
        "print(f'OpenGL {v[0]}.{v[1]}')\n"
    )
    mend = "install the graphics driver, or Mesa: sudo apt-get install libgl1-mesa-dri"
    try:
        run = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding("note", "Qt does not answer on this display", mend)
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"exit status {run.returncode}"]
        return Finding("note", f"Qt can't open a window: {lines[-1]}", mend)
    return Finding("ok", f"a window can be opened, {run.stdout.strip()}")


def _can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _bfloat16(is_fast: bool) -> str:
    return "bfloat16 in hardware" if is_fast else "bfloat16 not in hardware (float32 is used)"


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / GIB:.1f} GiB"
