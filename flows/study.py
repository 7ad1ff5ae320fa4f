"""The whole study as one Prefect flow run: ``python -m flows.study``, or the deployment in prefect.yaml.

Stages and their order come from DVC's graph (dvc.yaml). Each is a task that runs ``dvc repro --single-item <stage>``,
so that DVC still decides what is out of date; the flow run of a stage that does run is a sub-run of the study's.
"""

from __future__ import annotations

import argparse
import graphlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import environment, interruption, services
from flows.one_go import BEGAN_VARIABLE
from flows.server_gone import ends, leave
from flows.stage import PARENT_VARIABLE, TASK_VARIABLE, guarded, load_study, run

SIDE_BY_SIDE = 2  # stages at once; each takes compute.threads threads
RETRY_SECONDS = 5.0


class StudyError(ValueError):
    """The study's graph cannot be read, or one of its stages failed."""


def stage_graph(root: Path) -> dict[str, list[str]]:
    """Every stage of dvc.yaml with the stages that make what it reads, each after those. Raises StudyError."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        with Repo(str(root)) as repo:
            graph = repo.index.graph  # an edge leads from a stage to one that it needs
            needs = {_address(stage): sorted(map(_address, graph.successors(stage))) for stage in graph}
    except (DvcException, SCMError) as error:
        raise StudyError(f"{root}: DVC cannot read the study's graph: {error}") from error
    return {name: needs[name] for name in graphlib.TopologicalSorter(needs).static_order()}


def needed_for(stage: str, graph: Mapping[str, Sequence[str]]) -> set[str]:
    """The stages that a stage needs, those that they need among them."""
    return {found for needed in graph[stage] for found in (needed, *needed_for(needed, graph))}


def _address(stage: Any) -> str:
    """The name of a stage for ``dvc repro`` in the workspace; its own ``addressing`` is for the current directory."""
    return stage.name if stage.path_in_repo == "dvc.yaml" else f"{stage.path_in_repo}:{stage.name}"


@task(cache_policy=NO_CACHE, retries=1, retry_delay_seconds=RETRY_SECONDS, task_run_name="dvc repro {stage}")
def repro(stage: str, root: Path, study_run: str | None, began: str) -> None:
    """Bring one stage up to date, its output on the terminal. Raises StudyError where DVC cannot."""
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
    parent = {PARENT_VARIABLE: study_run, TASK_VARIABLE: str(runtime.task_run.id)} if study_run else {}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # dvc.yaml says `python`
    status = subprocess.run(
        command, cwd=root, env=os.environ | parent | {"PATH": path, BEGAN_VARIABLE: began}
    ).returncode
    if status:
        raise StudyError(f"stage {stage} failed (dvc repro ended with status {status}); its output says why")


_thread_pool: Any = ThreadPoolTaskRunner(max_workers=SIDE_BY_SIDE)  # Any: Prefect's types do not let it in as it is


@flow(name="study", task_runner=_thread_pool)
def study() -> State[None]:
    """Completed when every stage is up to date, else Failed, naming what failed and what could not run for it."""
    interruption.keep()
    root = environment.find_root()
    study_run, began = runtime.flow_run.id, os.environ.get(BEGAN_VARIABLE) or f"{time.time():.2f}"
    futures: dict[str, PrefectFuture[None]] = {}
    for stage, needed in stage_graph(root).items():
        before = [futures[name] for name in needed]
        futures[stage] = repro.submit(stage, root, study_run, began, return_state=False, wait_for=before)
    try:
        wait(list(futures.values()))
    except BaseException:  # interrupted, or cancelled by Prefect: no dvc may stay behind
        interruption.tell_children()
        raise
    return ends(final_state({stage: future.state for stage, future in futures.items()}))


def final_state(states: dict[str, State[None]]) -> State[None]:
    """How the study ended, from the last state of each stage's task."""
    failed = [stage for stage, state in states.items() if state.is_failed() or state.is_crashed()]
    waiting = [stage for stage, state in states.items() if not state.is_final()]
    if not failed and not waiting:
        return Completed(message=f"{len(states)} stages are up to date")
    message = f"failed: {', '.join(failed)}"
    if waiting:
        message += f"; not run, for want of what those make: {', '.join(waiting)}"
    return Failed(message=message)


def main() -> int:
    """Exit status of the study as one flow run on the user's Prefect server, or a local one that stays up."""
    argparse.ArgumentParser(prog="python -m flows.study", description=__doc__).parse_args()
    os.environ.setdefault(BEGAN_VARIABLE, f"{psutil.Process().create_time():.2f}")
    workspace, _ = load_study()
    stage_graph(workspace.root)
    url = services.start_prefect(workspace.root)
    os.environ["PREFECT_API_URL"] = url
    print(f"Prefect UI: {environment.redacted(url.removesuffix('/api'))} (make down stops it)", flush=True)
    with temporary_settings({PREFECT_API_URL: url}):
        state = run(study, "study", {})
    print(f"study: {state.message}", file=sys.stdout if state.is_completed() else sys.stderr)
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    leave(guarded(main, seconds=interruption.GRACE_OF_STARTER_SECONDS))
