"""How the widget looks: a style sheet made from napari's theme, dark or light."""

from __future__ import annotations

import colorsys

from napari.utils.theme import get_theme

_SHEET = """
QLabel#header, QLabel#sides, QLabel#status, QLabel#image_label, QLabel#saved,
QLabel#improve_short, QLabel#version_in_use, QLabel#version_words, QLabel#card_head {{
    color: {muted};
}}
QScrollArea#improve_area, QWidget#improve_body {{ background: transparent; border: 0px; }}
QToolButton#improve_toggle {{ padding: 2px 4px; font-weight: 600; }}
QFrame#outcome QLabel#verdict, QLabel#version_title {{ font-weight: 600; }}
QLabel#card_title {{ font-size: {large}; font-weight: 600; }}
QPushButton#train, QPushButton[wanted="true"] {{ background-color: {current}; font-weight: 600; }}
QPushButton#train:hover, QPushButton[wanted="true"]:hover {{ background-color: {current_hover}; }}
QPushButton#train:disabled {{ background-color: {foreground}; color: {disabled}; }}
QProgressBar#training_progress::chunk {{ background-color: {current}; }}
QFrame#version {{
    background-color: {foreground}; border-radius: 4px; border: 1px solid {foreground};
}}
QFrame#version[chosen="true"] {{ border: 1px solid {current}; }}
QFrame#version QLabel {{ background: transparent; }}
QLabel#sides {{ color: {text}; }}
QLabel#warning, QLabel#not_saved {{
    color: {text}; background-color: {warning_faint}; border-left: 3px solid {warning};
    padding: 5px 6px;
}}
QFrame[offers="true"], QFrame#preview {{
    background-color: {current_faint}; border-left: 3px solid {current};
}}
QFrame[offers="true"] QLabel, QFrame#preview QLabel {{ background: transparent; }}
QFrame#line {{ background-color: {foreground}; max-height: 1px; border: 0px; }}
QLineEdit#prompt {{ padding: 4px 6px; font-size: {large}; border: 1px solid {secondary}; }}
QLineEdit#prompt:focus {{ border: 1px solid {current}; }}
QPushButton {{ padding: 3px 8px; }}
QPushButton:focus {{ border: 1px solid {text}; }}
QPushButton#segment, QPushButton#offer_yes, QPushButton#room_yes, QPushButton#preview_take {{
    background-color: {current}; padding: 5px 10px; font-weight: 600;
}}
QPushButton#offer_yes, QPushButton#room_yes, QPushButton#preview_take {{ padding: 3px 10px; }}
QPushButton#segment:hover, QPushButton#offer_yes:hover, QPushButton#preview_take:hover {{
    background-color: {current_hover};
}}
QPushButton#cheat_sheet {{ padding: 3px 9px; font-weight: 600; }}
QProgressBar#progress::chunk {{ background-color: {current}; }}
QScrollArea#results_area, QWidget#results {{ background: transparent; border: 0px; }}
QScrollArea#panel_area, QWidget#panel {{ background: transparent; border: 0px; }}
QFrame#row {{
    background-color: {foreground}; border-radius: 4px; border: 1px solid {foreground};
    border-left: 3px solid {foreground};
}}
QFrame#row[chosen="true"] {{ border: 1px solid {current}; border-left: 3px solid {text}; }}
QFrame#row:focus {{ border: 1px solid {text}; }}
QFrame#row QLabel {{ background: transparent; }}
QFrame#row QLabel#understood_as {{ font-weight: 600; }}
QFrame#row QLabel#note, QFrame#row QLabel#facts {{ color: {muted}; }}
QLabel#swatch[empty="true"] {{ border: 1px solid {muted}; }}
QLabel#understood_as[absent="true"] {{ color: {muted}; }}
QPushButton#show_anyway {{ background-color: {primary}; padding: 2px 8px; }}
QToolButton {{ background: transparent; border: 1px solid transparent; border-radius: 3px; }}
QFrame#row QToolButton {{ width: 18px; height: 18px; padding: 1px; }}
QToolButton:hover {{ background-color: {primary}; }}
QToolButton:focus {{ border: 1px solid {text}; }}
QToolButton#show {{ image: url("theme_{id}:/visibility_off_50.svg"); }}
QToolButton#show:checked {{ image: url("theme_{id}:/visibility.svg"); }}
QToolButton#accept {{ image: url("theme_{id}:/lock_open.svg"); padding: 3px; }}
QToolButton#accept:checked {{ image: url("theme_{id}:/lock.svg"); padding: 3px; }}
QToolButton#remove {{ image: url("theme_{id}:/delete.svg"); }}
QToolButton#tool_paint {{ image: url("theme_{id}:/paint.svg"); }}
QToolButton#tool_erase {{ image: url("theme_{id}:/erase.svg"); }}
QToolButton#tool_fill {{ image: url("theme_{id}:/fill.svg"); }}
QToolButton#tool_pan_zoom {{ image: url("theme_{id}:/pan_arrows.svg"); }}
QToolButton#tool_paint:disabled {{ image: url("theme_{id}:/paint_50.svg"); }}
QToolButton#tool_erase:disabled {{ image: url("theme_{id}:/erase_50.svg"); }}
QToolButton#tool_fill:disabled {{ image: url("theme_{id}:/fill_50.svg"); }}
QToolButton#tool_pan_zoom:disabled {{ image: url("theme_{id}:/pan_arrows_50.svg"); }}
QWidget#fix QToolButton {{ padding: 2px; background: {foreground}; }}
QWidget#fix QPushButton {{ padding: 3px 7px; }}
QWidget#fix QPushButton:checked {{
    background-color: {current}; border-bottom: 2px solid {text}; padding-bottom: 1px;
}}
QWidget#fix QPushButton:disabled {{ color: {disabled}; }}
QWidget#fix QToolButton:checked {{ background-color: {current}; border-bottom: 2px solid {text}; }}
QWidget#fix QToolButton:disabled {{ background: transparent; border: 1px solid {foreground}; }}
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
        disabled=_faded(theme.text.as_rgb_tuple(alpha=False), 0.45),
        foreground=theme.foreground.as_rgb(),
        primary=theme.primary.as_rgb(),
        secondary=theme.secondary.as_rgb(),
        current=theme.current.as_rgb(),
        current_hover=_faded(theme.current.as_rgb_tuple(alpha=False), 0.85),
        current_faint=_faded(theme.current.as_rgb_tuple(alpha=False), 0.18),
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


def colour_of_row(number: int) -> tuple[int, int, int]:
    """A bright colour (0 to 255) for a row that has none; neighbouring numbers differ much."""
    hue = (0.08 + number * 0.618) % 1.0  # the golden ratio spreads them evenly
    red, green, blue = (round(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.75, 1.0))
    return red, green, blue


def link_colour(theme_id: str) -> str:
    """The colour of a link: the theme's text, which is readable on every theme's background."""
    return str(get_theme(theme_id).text.as_hex(format="long"))


def _faded(colour: tuple[int, ...], opacity: float) -> str:
    red, green, blue = colour[:3]
    return f"rgba({red}, {green}, {blue}, {round(opacity * 255)})"
