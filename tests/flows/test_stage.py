"""How a later run sees that the process of a run died."""

from __future__ import annotations

import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from prefect.client.schemas.objects import FlowRun

from flows import stage
from flows.environment import ServiceError
from pipeline.artifacts import Workspace


def run_of(process: str | None) -> FlowRun:
    return FlowRun(flow_id=uuid.uuid4(), infrastructure_pid=process)


def test_a_run_of_a_living_process_is_alive_and_of_one_that_ended_is_dead() -> None:
    host, pid, created = stage.process_name().rsplit(":", 2)
    assert host == socket.gethostname()
    assert not stage._is_dead(run_of(stage.process_name()))
    assert stage._is_dead(run_of(f"{host}:{pid}:{float(created) - 100:.2f}"))  # the number was given to another
    with subprocess.Popen(["true"]) as ended:
        pass
    assert stage._is_dead(run_of(f"{host}:{ended.pid}:{created}"))


@pytest.mark.parametrize("process", [None, "", "another-machine:1:2.0", "something else"])
def test_nothing_is_said_of_runs_of_other_machines_or_other_programs(process: str | None) -> None:
    assert not stage._is_dead(run_of(process))


HOLDS = """
import sys
from pathlib import Path
from flows.stage import alone
from pipeline.artifacts import Workspace
with alone(Workspace(Path(sys.argv[1])), "prune@tiny"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_stage_is_made_by_one_process_at_a_time_and_is_free_when_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "WAIT_SECONDS", 0.1)
    workspace = Workspace(tmp_path)
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(ServiceError, match="another process makes prune@tiny in .*wait until it has ended"):
            with stage.alone(workspace, "prune@tiny"):
                pass
        with stage.alone(workspace, "prune@other"):
            pass
        other.kill()
        other.wait()
        with stage.alone(workspace, "prune@tiny"):
            pass
