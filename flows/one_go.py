"""Whether a study was made in one go, and in how many seconds: each stage notes the run that made its outputs.

A run is one ``make study``, ``python -m flows.study`` or ``dvc repro``, known by the time when it began. The notes lie
in .scratch/made/, never in an output, so that outputs do not differ from run to run by them. A stage that DVC finds up
to date, or takes from its cache, is no process and notes nothing: its last note is of the earlier run that did make it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

import psutil

from pipeline.artifacts import Workspace, read_json, write_json

BEGAN_VARIABLE = "SPARSE_CIRCUITS_STUDY_BEGAN"  # seconds since 1970; set by make study and by flows.study
FIRST_WORDS = 3  # of a command: python -m dvc, or python and the script dvc


class StageNote(TypedDict):
    """How a stage was last made."""

    run: str | None  # when the run began that made it; None for none that is known
    finished: bool  # whether it came to its end
    n_reused: int  # units that were there from before


def current_run() -> str | None:
    """When the run that this process belongs to began, in seconds since 1970 as text; None for a stage run by hand."""
    return os.environ.get(BEGAN_VARIABLE) or _began_of_dvc()


def _began_of_dvc() -> str | None:
    """When the ``dvc`` that started this process began."""
    try:
        for process in psutil.Process().parents():
            if any(Path(word).name == "dvc" for word in process.cmdline()[:FIRST_WORDS]):
                return f"{process.create_time():.2f}"
    except psutil.Error:  # a parent that is gone, or not ours to see
        pass
    return None


def address(stage: str, parameters: Mapping[str, object]) -> str:
    """The name that DVC has for a stage, of one model where it has a parameter ``model``."""
    return f"{stage}@{parameters['model']}" if "model" in parameters else stage


def begin(workspace: Workspace, stage: str) -> None:
    """Note that this run makes a stage; one that was interrupted goes on from there, and stays of the run it was."""
    before = _note(workspace, stage)
    if before is None or before["finished"]:
        write_json(_path(workspace, stage), StageNote(run=current_run(), finished=False, n_reused=0))


def reuse(workspace: Workspace, stage: str, n: int) -> None:
    """Note that so many of a stage's units were there from before."""
    if n and (made := _note(workspace, stage)):
        write_json(_path(workspace, stage), made | {"n_reused": made["n_reused"] + n})


def finish(workspace: Workspace, stage: str) -> None:
    """Note that a stage came to its end."""
    if made := _note(workspace, stage):
        write_json(_path(workspace, stage), made | {"finished": True})


def seconds_in_one_go(workspace: Workspace, stages: Iterable[str]) -> float | None:
    """Wall time in seconds since this run began; None unless this run made all of ``stages`` from their beginning."""
    run = current_run()
    if run is None:
        return None
    afresh = StageNote(run=run, finished=True, n_reused=0)
    return time.time() - float(run) if all(_note(workspace, stage) == afresh for stage in stages) else None


def _note(workspace: Workspace, stage: str) -> StageNote | None:
    path = _path(workspace, stage)
    return read_json(path) if path.is_file() else None


def _path(workspace: Workspace, stage: str) -> Path:
    return workspace.scratch / "made" / f"{stage}.json"
