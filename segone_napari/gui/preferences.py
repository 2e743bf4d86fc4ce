"""What the panel remembers from one day to the next: choices and typed prompts, never images."""

from __future__ import annotations

import os
from pathlib import Path

from qtpy.QtCore import QSettings, QStandardPaths

PROMPTS_KEPT = 100


class Preferences:
    """Settings in the person's own configuration folder."""

    def __init__(self) -> None:
        self._settings = QSettings(
            QSettings.Format.IniFormat, QSettings.Scope.UserScope, "segone-napari", "panel"
        )

    def text(self, key: str, default: str) -> str:
        """A remembered choice."""
        value = self._settings.value(key, default)
        return value if isinstance(value, str) else default

    def set_text(self, key: str, value: str) -> None:
        """Remember a choice."""
        self._settings.setValue(key, value)

    def flag(self, key: str, default: bool) -> bool:
        """A remembered yes or no."""
        return self.text(key, "yes" if default else "no") == "yes"

    def set_flag(self, key: str, value: bool) -> None:
        """Remember a yes or no."""
        self.set_text(key, "yes" if value else "no")

    @property
    def prompts(self) -> list[str]:
        """What was typed, the oldest first."""
        value = self._settings.value("prompts", [])
        texts = [value] if isinstance(value, str) else list(value or [])
        return [text for text in texts if isinstance(text, str) and text]

    def add_prompt(self, text: str) -> None:
        """Remember what was typed; the same again moves to the end."""
        kept = [one for one in self.prompts if one != text]
        self._settings.setValue("prompts", [*kept, text][-PROMPTS_KEPT:])


def project_folder() -> Path:
    """Where a person's work is kept: ``SEGONE_PROJECT``, or a folder of their own."""
    chosen = os.environ.get("SEGONE_PROJECT")
    if chosen:
        return Path(chosen)
    place = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.GenericDataLocation)
    return Path(place or Path.home()) / "segone-napari"
