"""How the widget looks: a style sheet made from napari's theme, dark or light."""

from __future__ import annotations

from napari.utils.theme import get_theme

_SHEET = """
QLabel#header, QLabel#sides, QLabel#status, QLabel#image_label {{
    color: {muted};
}}
QLabel#sides {{ color: {text}; }}
QLabel#warning {{
    color: {text}; background-color: {warning_faint}; border-left: 3px solid {warning};
    padding: 5px 6px;
}}
QLineEdit#prompt {{ padding: 4px 6px; font-size: {large}; border: 1px solid {secondary}; }}
QLineEdit#prompt:focus {{ border: 1px solid {current}; }}
QPushButton#segment {{ background-color: {current}; padding: 5px 12px; font-weight: 600; }}
QPushButton#segment:hover {{ background-color: {current_hover}; }}
QPushButton#segment:focus, QPushButton#cancel:focus {{ border: 1px solid {text}; }}
QPushButton#cancel {{ padding: 3px 10px; }}
QProgressBar#progress::chunk {{ background-color: {current}; }}
QScrollArea#results_area, QWidget#results {{ background: transparent; border: 0px; }}
QFrame#row {{ background-color: {foreground}; border-radius: 4px; border: 1px solid {foreground}; }}
QFrame#row[chosen="true"] {{ border: 1px solid {current}; }}
QFrame#row:focus {{ border: 1px solid {text}; }}
QFrame#row QLabel {{ background: transparent; }}
QFrame#row QLabel#note {{ color: {muted}; }}
QLabel#confidence {{ color: {muted}; }}
QLabel#swatch[empty="true"] {{ border: 1px solid {muted}; }}
QLabel#understood_as[absent="true"] {{ color: {muted}; }}
QToolButton#show {{
    background: transparent; border: 0px; width: 18px; height: 18px;
    image: url("theme_{id}:/visibility_off_50.svg");
}}
QToolButton#show:checked {{ image: url("theme_{id}:/visibility.svg"); }}
QToolButton#show:focus {{ border: 1px solid {text}; }}
"""

_POPUP = """
QListView {{
    background-color: {primary}; color: {text}; border: 1px solid {current}; padding: 2px;
    selection-background-color: {current}; selection-color: {text};
}}
"""


def style_sheet(theme_id: str) -> str:
    """The widget's style sheet in a theme's colours."""
    theme = get_theme(theme_id)
    return _SHEET.format(
        id=theme.id,
        text=theme.text.as_rgb(),
        muted=_faded(theme.text.as_rgb_tuple(alpha=False), 0.72),
        foreground=theme.foreground.as_rgb(),
        secondary=theme.secondary.as_rgb(),
        current=theme.current.as_rgb(),
        current_hover=_faded(theme.current.as_rgb_tuple(alpha=False), 0.85),
        warning=theme.warning.as_rgb(),
        warning_faint=_faded(theme.warning.as_rgb_tuple(alpha=False), 0.16),
        large=f"{int(theme.font_size.removesuffix('pt')) + 2}pt",
    )


def popup_style_sheet(theme_id: str) -> str:
    """The style sheet of a list that pops up, which is a window of its own."""
    theme = get_theme(theme_id)
    return _POPUP.format(
        primary=theme.primary.as_rgb(), text=theme.text.as_rgb(), current=theme.current.as_rgb()
    )


def link_colour(theme_id: str) -> str:
    """The colour of a link: the theme's text, which is readable on every theme's background."""
    return str(get_theme(theme_id).text.as_hex(format="long"))


def _faded(colour: tuple[int, ...], opacity: float) -> str:
    red, green, blue = colour[:3]
    return f"rgba({red}, {green}, {blue}, {round(opacity * 255)})"
