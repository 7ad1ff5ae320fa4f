"""How a stage runs as a program: its flow run, its errors in one line, its place under a study's run.

``python -m flows.prune --model NAME`` is what dvc.yaml calls. Settings are checked before Prefect is touched. Errors
that a user can mend end in one line and status 1; everything else keeps its traceback (and ``--debug`` gives it for
all).
"""

from __future__ import annotations

import argparse
import functools
import os
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec

import httpx
import psutil
from filelock import FileLock, Timeout
from prefect import Flow, Task, flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRunResult
from prefect.exceptions import PrefectException
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Crashed, Failed

from flows import environment, interruption, one_go, server_gone
from flows.dvc_cache import check_cache
from flows.environment import DEBUG_VARIABLE, EXPECTED, ServiceError
from flows.unchanged import check_unchanged, inputs_of
from flows.workers import Workers, begin_worker
from pipeline.artifacts import Workspace
from pipeline.config import Params, load_params

PARENT_VARIABLE = "SPARSE_CIRCUITS_PARENT_FLOW_RUN"  # set by flows.study for the stages it starts
TASK_VARIABLE = "SPARSE_CIRCUITS_PARENT_TASK_RUN"  # the task run of that flow run which started the stage
WAIT_SECONDS = 20.0  # how long a stage waits for one that was interrupted and is about to end

P = ParamSpec("P")


def load_study() -> tuple[Workspace, Params]:
    """The workspace of the current directory and its checked settings. Raises ConfigError."""
    workspace = environment.workspace()
    return workspace, load_params(workspace.params)


def stage_flow(function: Callable[P, None]) -> Flow[P, Any]:
    """A decorator like Prefect's ``flow``; an expected error ends the run Failed, with its message."""

    @functools.wraps(function)
    def refusing_plainly(*args: P.args, **kwargs: P.kwargs) -> State[Any]:
        interruption.keep()
        return server_gone.ends(_state_after(lambda: function(*args, **kwargs)))

    return flow(name=function.__name__, validate_parameters=False)(refusing_plainly)


def _state_after(work: Callable[[], None]) -> State[Any]:
    """Completed, or Failed with the message of an expected error."""
    try:
        work()
        return Completed()
    except EXPECTED as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        return Failed(message=environment.redacted(f"{error}") or type(error).__name__)
    except (MemoryError, RuntimeError) as error:
        if os.environ.get(DEBUG_VARIABLE) or (why := environment.out_of_memory(error)) is None:
            raise
        return Failed(message=why)


def main(stage: Flow[Any, Any], *, per_model: bool, mapped: bool = False) -> None:
    """Run a stage from the command line, leave with its status.

    The units of a mapped stage run side by side in processes: much of their work is done by the interpreter, which
    threads share.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    if per_model:
        parser.add_argument("--model", required=True, help="a key of params.yaml: models")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of expected errors too")
    arguments = vars(parser.parse_args())
    if arguments.pop("debug"):
        os.environ[DEBUG_VARIABLE] = "1"
    server_gone.leave(guarded(lambda: _run_checked(stage, arguments, mapped)))


def guarded(action: Callable[[], int], *, seconds: float = interruption.GRACE_SECONDS) -> int:
    """The status of ``action`` as ``environment.guarded`` has it; Prefect's errors are expected ones too.

    ``seconds``: how long it may take to end when it is interrupted.
    """
    interruption.install(seconds)
    return environment.guarded(action, PrefectException)


def _run_checked(stage: Flow[Any, Any], parameters: dict[str, Any], mapped: bool) -> int:
    workspace, params = load_study()
    if "model" in parameters:
        params.model(parameters["model"])
    environment.check_prefect()
    check_cache(workspace)
    if mapped:
        pool: Any = Workers(params.compute.workers, initializer=begin_worker)
        stage = stage.with_options(task_runner=pool)
    address = one_go.address(stage.name, parameters)
    with alone(workspace, address):
        one_go.begin(workspace, address)
        before = inputs_of(workspace, address)
        state = run(stage, " ".join([stage.name, *map(str, parameters.values())]), parameters)
        if state.is_completed():
            check_unchanged(before, workspace, address)
            one_go.finish(workspace, address)
            return 0
    print(f"error: {state.message or state.name}", file=sys.stderr)
    return 1


@contextmanager
def alone(workspace: Workspace, address: str) -> Iterator[None]:
    """Only one process at a time makes a stage in a workspace. Raises ServiceError where another goes on with it."""
    path = workspace.scratch / "making" / f"{address}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=WAIT_SECONDS):
            yield
    except Timeout:
        raise ServiceError(
            f"another process makes {address} in {workspace.root}; wait until it has ended, or end it (Ctrl-C there)"
        ) from None


def run(stage: Flow[Any, Any], title: str, parameters: dict[str, Any]) -> State[Any]:
    """The final state of a flow run named ``title``, which is a sub-run of the study's run where there is one.

    Raises ServiceError where the server goes away before the work is done and the work needs it.
    """
    try:
        return _run(stage, title, parameters)
    except httpx.HTTPError as error:
        return server_gone.state_without_it(error)


def _run(stage: Flow[Any, Any], title: str, parameters: dict[str, Any]) -> State[Any]:
    with get_client(sync_client=True) as client:
        _crash_dead_runs(client)
        flow_run = client.create_flow_run(
            stage,
            name=title,
            parameters=parameters,
            parent_task_run_id=_place_under_study(client, title),
        )
        client.update_flow_run(flow_run.id, infrastructure_pid=process_name())
        interruption.at_the_end(lambda: _crash(flow_run.id))
        # Where no server runs, Prefect starts one for this process; told of it, the workers start none of their own.
        with temporary_settings({PREFECT_API_URL: str(client.api_url)}):
            state: Any = run_flow(stage, flow_run=flow_run, parameters=parameters, return_type="state")
        return state


def _place_under_study(client: SyncPrefectClient, title: str) -> uuid.UUID | None:
    """A task run in the study's flow run that stands for this stage, as Prefect makes for a sub-flow; else None."""
    parent = os.environ.get(PARENT_VARIABLE)
    if not parent:
        return None
    stands_for_it = Task(name=title, fn=lambda: None)
    started_by = os.environ.get(TASK_VARIABLE)
    after: Any = {"wait_for": [TaskRunResult(id=uuid.UUID(started_by))]} if started_by else {}  # an arrow in the graph
    return client.create_task_run(
        stands_for_it, uuid.UUID(parent), dynamic_key=uuid.uuid4().hex, name=title, task_inputs=after
    ).id


def process_name() -> str:
    """Machine, process number and start time of this process: how a later run sees that this one died."""
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def _crash(flow_run: uuid.UUID) -> None:
    """Set a run to Crashed whose process does not end by itself."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run, Crashed(message="interrupted"), force=True)


def _crash_dead_runs(client: SyncPrefectClient) -> None:
    """Set runs to Crashed, of any flow, that were killed and so still say Running."""
    running = FlowRunFilter.model_validate({"state": {"type": {"any_": [StateType.RUNNING, StateType.PENDING]}}})
    for flow_run in client.read_flow_runs(flow_run_filter=running):
        if _is_dead(flow_run):
            client.set_flow_run_state(flow_run.id, Crashed(message="the process was killed"), force=True)


def _is_dead(flow_run: FlowRun) -> bool:
    """Whether the process of a run was on this machine and is gone."""
    host, pid, created = ((flow_run.infrastructure_pid or "").rsplit(":", 2) + [""] * 2)[:3]
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(created)) > 1
    except (psutil.NoSuchProcess, ValueError):
        return True
