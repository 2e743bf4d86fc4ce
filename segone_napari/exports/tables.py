"""Tables of numbers as text: comma-separated values, and which names a table may have."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segone_napari.runtime import BadInput

ENDINGS = (".json", ".csv")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A heading and a line a row; what is None stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def check_table_name(path: Path) -> None:
    """Raise `BadInput` unless a table can have this name."""
    if path.suffix.lower() not in ENDINGS:
        raise BadInput(
            f"can't write a table to {path}; use a name that ends in {' or '.join(ENDINGS)}"
        )
