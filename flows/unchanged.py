"""Whether what a stage follows from stayed the same while it was made: its settings and its code.

DVC notes both when a stage has ended. Where they were edited meanwhile, its lock would say that the new ones made what
the old ones did.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.artifacts import Workspace, file_hash
from pipeline.refusal import YAML_ERRORS, read_yaml

CODE = ("flows/", "pipeline/", "requirements.lock")


class ChangedError(ValueError):
    """Settings or code of a stage were edited while it was made."""


def inputs_of(workspace: Workspace, address: str) -> dict[str, Any]:
    """Key of a setting or path of a file of code → its value or hash, of a stage as dvc.yaml describes it.

    Empty where it does not. What cannot be read is None.
    """
    name, _, key = address.partition("@")
    try:
        stage = read_yaml(workspace.root / "dvc.yaml")["stages"][name]
        settings = read_yaml(workspace.params)
    except (OSError, KeyError, TypeError, *YAML_ERRORS):
        return {}
    stage = stage.get("do", stage)
    keys = [named.replace("${key}", key) for named in stage.get("params", []) if isinstance(named, str)]
    deps = [dep for dep in stage.get("deps", []) if dep.startswith(CODE)]
    return {one: _value(settings, one) for one in keys} | {dep: _hash(workspace.root / dep) for dep in deps}


def check_unchanged(before: dict[str, Any], workspace: Workspace, address: str) -> None:
    """Raises ChangedError that names the settings and files which are not as they were."""
    now = inputs_of(workspace, address)
    changed = [name for name, value in before.items() if now.get(name) != value]
    if changed:
        raise ChangedError(
            f"{', '.join(changed)}: changed while {address} was made from what was there before; "
            "run the same command again, which makes it from what is there now"
        )


def _value(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings.get(part) if isinstance(settings, dict) else None
    return settings


def _hash(path: Path) -> str | None:
    """The hash of a file, or of all files of a folder but compiled ones."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    files = [one for one in files if "__pycache__" not in one.parts]
    return file_hash(*files) if files else None
