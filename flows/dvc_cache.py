"""Whether DVC can keep what a stage makes: else work of hours would be made in vain, and again by the next command."""

from __future__ import annotations

import os
from pathlib import Path

from flows.environment import ServiceError
from pipeline.artifacts import Workspace

DVC_ROOT = "DVC_ROOT"  # set by DVC for the stages that it starts


def check_cache(workspace: Workspace) -> None:
    """Raises ServiceError where DVC started this stage, and its cache takes no files."""
    if DVC_ROOT not in os.environ:
        return
    inside = folder_of(workspace) / "files" / "md5"
    place = next(path for path in (inside, *inside.parents) if path.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise ServiceError(
            f"{place}: DVC's cache takes no files (read-only, or another user's), so it could not keep what this "
            "stage makes; make it writable, or set another: dvc cache dir --local FOLDER"
        )


def folder_of(workspace: Workspace) -> Path:
    """The folder of DVC's cache, as its settings have it."""
    from dvc.config import Config  # every worker imports this module, and none asks

    described = workspace.root / ".dvc"
    return Path(Config(dvc_dir=str(described))["cache"].get("dir", described / "cache"))
