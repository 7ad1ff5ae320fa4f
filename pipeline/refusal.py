"""The answer to a wrong setting: its full path, what is wrong, and the nearest name that is allowed."""

from __future__ import annotations

import difflib
from typing import Any, get_args, get_origin

from pydantic import BaseModel


def sentence(detail: dict[str, Any], root: type[BaseModel]) -> str:
    """One sentence of what is wrong at one key, with the nearest valid name for an unknown one.

    ``detail``: an entry of pydantic's list of errors; ``root``: the class of all settings.
    """
    key = ".".join(str(part) for part in detail["loc"]) or "file"
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(detail["loc"][-1]), _known_names(detail["loc"], root), n=1)
        hint = f"; did you mean {'.'.join([*map(str, detail['loc'][:-1]), near[0]])}?" if near else ""
        return f"unknown key {key}{hint}"
    if detail["type"] == "missing":
        return f"missing key {key}"
    message = detail["msg"].removeprefix("Value error, ")
    value = detail.get("input")
    shown = "" if isinstance(value, dict) else f" (got {value!r})"
    return f"{key}: {message}{shown}"


def _known_names(loc: tuple[Any, ...], root: type[BaseModel]) -> list[str]:
    """The names that are allowed where an unknown key was found; in a mapping, any name leads to what it maps to."""
    section: Any = root
    for part in loc[:-1]:
        fields = getattr(section, "model_fields", {})
        if part in fields:
            section = fields[part].annotation
            section = get_args(section)[-1] if get_origin(section) is dict else section
    return list(getattr(section, "model_fields", {}))
