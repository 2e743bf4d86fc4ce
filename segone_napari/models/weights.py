"""What safetensors says of a disk that refuses, in the system's own words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

_NUMBER = re.compile(r"\(os error (\d+)\)")


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise an OSError with its number where safetensors couldn't write a file.

    Its own error is none, so that a full disk would look like a fault of the program.
    """
    try:
        yield
    except SafetensorError as error:
        found = _NUMBER.search(str(error))
        if found is None:
            raise
        number = int(found.group(1))
        raise OSError(number, os.strerror(number)) from error
