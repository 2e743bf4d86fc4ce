"""What to say when a worker fails for want of memory, of a file or of the GPU."""

from __future__ import annotations

from segone_napari.gui.layers import LayerImage
from segone_napari.runtime import BadInput, SegOneError, is_out_of_memory


def gpu_trouble(error: Exception) -> str | None:
    """What to say if a GPU is full or gone; None for every other error."""
    words = str(error)
    is_gpu = any(name in words for name in ("CUDA", "cuDNN", "CUBLAS", "MPS", "HIP "))
    if not isinstance(error, RuntimeError) or not is_gpu:
        return None
    what = "is full" if "out of memory" in words.lower() else "stopped answering"
    return f"The GPU {what}, so SegOne now works on the CPU: the masks are as good, but slower"


def as_sentence(error: Exception) -> str:
    """What to show of an error: its own words, if they were written for a person."""
    if isinstance(error, SegOneError):
        words = str(error)
        return words[:1].upper() + words[1:]
    return f"Something unexpected went wrong: {type(error).__name__}: {error}"


def in_words(error: Exception, image: LayerImage, preset: str = "") -> Exception:
    """The error in words that help, if it is one of a lost file or of too little memory."""
    if isinstance(error, OSError):
        return BadInput(
            f"'{image.name}' can't be read any more ({error.strerror or error}); open it again"
        )
    if not is_out_of_memory(error):
        return error
    size = " × ".join(str(n) for n in image.grid.shape)
    return BadInput(
        f"the memory isn't enough for '{image.name}' ({size} voxels); close other images "
        f"or programs{', or choose the preset Fast,' if preset not in ('', 'fast') else ''} "
        "and ask again"
    )
