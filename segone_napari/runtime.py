"""What every long call needs: errors with words for a person, progress, cancelling, a device.

Knows nothing of images or models. torch is imported inside functions only.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)`` between steps. It may raise `Cancelled` to stop the work."""


_ONE_AT_A_TIME = threading.RLock()


class SegOneError(Exception):
    """Something a person can mend. The message says what came, what was wanted and what to do."""


class BadInput(SegOneError):
    """A file, prompt or option that can't be used."""


class BadCheckpoint(SegOneError):
    """A checkpoint folder that is missing, damaged or of an unknown version."""


class Cancelled(Exception):
    """Raised from a progress callback: the person asked to stop."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, numpy's and torch's own words."""
    signs = ("out of memory", "can't allocate memory", "unable to allocate", "not enough memory")
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in signs)


def make_folder(folder: Path, option: str) -> None:
    """Make the folder that an option of the command line names, unless it is there.

    Raises
    ------
    BadInput
        If that can't be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"can't make the folder {folder}: {error.strerror}; choose another with {option}"
        ) from error


def no_progress(done: int, total: int) -> None:
    """A progress callback that does nothing."""


@contextmanager
def silenced(logger: str) -> Iterator[None]:
    """Keep a library's logger, and those below it, from printing; in one thread at a time.

    Of two at once the later one would take the other's silence for what to go back to.
    """
    with _ONE_AT_A_TIME:
        log = logging.getLogger(logger)
        before = log.level
        log.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            log.setLevel(before)


def choose_device(name: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` (or ``cuda:1``) or ``mps`` into a device that works here.

    Raises
    ------
    BadInput
        If the device was named and isn't available; ``auto`` never fails.
    """
    import torch

    if name == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if _is_available(d)))
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise BadInput(f"unknown device {name!r}; use auto, cpu, cuda or mps")
    if not _is_available(kind):
        raise BadInput(
            f"the device {name!r} is not available here; use --device auto, "
            "or run 'segone doctor' to see what is missing"
        )
    return torch.device(name)


def _is_available(kind: str) -> bool:
    import torch

    if kind == "cuda":
        return torch.cuda.is_available()
    if kind == "mps":
        return torch.backends.mps.is_available()
    return True


@contextmanager
def fast_precision(device: torch.device) -> Iterator[None]:
    """Autocast to bfloat16 where it beats float32 (GPUs, CPUs with AMX or AVX512-BF16)."""
    import torch

    with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device)):
        yield


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is computed in hardware on this device."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for its next tensors: for long work with large ones.

    glibc gives large blocks back at once, and then each new tensor costs a page fault per 4 KiB.
    Other systems' libraries have no such switch, and nothing happens there.
    """
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
