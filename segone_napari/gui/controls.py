"""Small controls, and words, that several parts of the window use."""

from __future__ import annotations

from qtpy.QtWidgets import QLabel, QPushButton, QWidget


def push(name: str, title: str, hint: str) -> QPushButton:
    """A button with a name for style sheets and tests; Enter elsewhere doesn't press it."""
    button = QPushButton(title)
    button.setObjectName(name)
    button.setToolTip(hint)
    button.setAccessibleName(title)
    button.setAutoDefault(False)
    return button


def open_alone(window: QWidget, parent: QWidget) -> None:
    """Show a window; an earlier one of its kind is closed."""
    for other in parent.findChildren(type(window)):
        if other is not window:
            other.close()
    window.show()
    window.raise_()


def wrapped(name: str, words: str = "") -> QLabel:
    """A label whose words take as many lines as they need."""
    label = QLabel(words)
    label.setObjectName(name)
    label.setWordWrap(True)
    return label


def left_in_words(seconds: float | None) -> str:
    """The time left, to be put behind other words (" · 4 s left"); empty where there is none."""
    if seconds is None or seconds < 1:
        return ""
    return f" · {seconds:.0f} s left" if seconds < 90 else f" · {seconds / 60:.0f} min left"
