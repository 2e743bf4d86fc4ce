"""What a card's numbers mean to a person, for its file and its window alike.

Light, as the window asks it.
"""

from __future__ import annotations

from collections.abc import Sequence


def found_words(dice: Sequence[float]) -> str:
    """Say whether what a person said is not there was found: "found in 2 of 3".

    Parameters
    ----------
    dice : of each such answer; 1 where nothing was found, and else 0.
    """
    count = sum(value < 0.5 for value in dice)
    if 0 < count < len(dice):
        return f"found in {count} of {len(dice)}"
    return "found" if count else "not found"
