"""The answer to a wrong setting: its full path, what is wrong, and the nearest name that is allowed."""

from __future__ import annotations

import difflib
import re
import reprlib
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", re.ASCII)
YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)  # not YAML, not UTF-8, nested too deep
SHOWN = reprlib.Repr()  # writes a value in a message, however large it is
SHOWN.maxstring = SHOWN.maxother = 80
SHOWN.maxlevel = 2
MAX_LINE = 1000  # characters of a line of an error's message


class RefusalError(Exception):
    """Something is refused for what a file or a user gives. Long lines of what is said, which quote it, are cut."""

    def __init__(self, said: object = "") -> None:
        lines = str(said).splitlines()
        super().__init__("\n".join(line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} …" for line in lines))


def checked_name(name: str) -> str:
    """A name that is a folder's, a word of a shell's and a key of DVC's. Raises ValueError for any other."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{SHOWN.repr(name)} names no model; allowed: letters a to z, digits, _ and -, no - first, at most 64"
        )
    return name


ModelName = Annotated[str, AfterValidator(checked_name)]


class UniqueKeys(yaml.SafeLoader):
    """A reader of YAML that refuses a key given twice, of which the plain one silently keeps the last, and whose merges
    of merges (``<<``) grow no larger than their keys are many."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)  # puts what is merged in front of the mapping's own
        node.value = list({_identity(key): (key, value) for key, value in node.value}.values())

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key.value} twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _identity(key: yaml.Node) -> object:
    return key.value if isinstance(key, yaml.ScalarNode) else id(key)


def read_yaml(path: Path) -> Any:
    """The value in a YAML file. Raises one of ``YAML_ERRORS``."""
    return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=UniqueKeys)


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
    shown = "" if isinstance(value, dict) or key.endswith("[key]") else f" (got {SHOWN.repr(value)})"
    return f"{key.removesuffix('.[key]')}: {message}{shown}"


def _known_names(loc: tuple[Any, ...], root: type[BaseModel]) -> list[str]:
    """The names that are allowed where an unknown key was found; in a mapping, any name leads to what it maps to."""
    section: Any = root
    for part in loc[:-1]:
        fields = getattr(section, "model_fields", {})
        if part in fields:
            section = fields[part].annotation
            section = get_args(section)[-1] if get_origin(section) is dict else section
    return list(getattr(section, "model_fields", {}))
