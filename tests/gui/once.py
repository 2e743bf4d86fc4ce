"""What every new window of napari does again, with the same outcome each time, done once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
from napari.settings import get_settings
from npe2 import PluginManager
from vispy.gloo import Program
from vispy.visuals.shaders import Function


@contextmanager
def repeated_work_done_once() -> Iterator[None]:
    """Find the installed plugins and read each shader once, and write no settings of napari's.

    That is an eighth of the time that a window takes. A person's own settings stay as they are.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(get_settings(), "_save_on_change", False)
        patch.setattr(PluginManager, "discover", cache(PluginManager.discover))
        patch.setattr(Function, "_clean_code", _tidied_once(Function._clean_code))
        patch.setattr(Program, "_parse_variables_from_code", _parsed_once())
        yield


def _tidied_once(tidy: Any) -> Any:
    known: dict[str, str] = {}

    def tidied(self: Any, code: str) -> str:
        if code not in known:
            known[code] = tidy(self, code)
        return known[code]

    return tidied


def _parsed_once() -> Any:
    parse = Program._parse_variables_from_code
    known: dict[tuple[str, ...], dict[str, Any]] = {}

    def parsed(self: Any, update_variables: bool = True) -> None:
        code = tuple(shader.code for shader in self._shaders)
        if code not in known:
            parse(self, update_variables=False)
            known[code] = self._code_variables
        self._code_variables = dict(known[code])
        if update_variables:
            self._process_pending_variables()

    return parsed
