"""How a later run sees that the process of a run died."""

from __future__ import annotations

import socket
import subprocess
import uuid

import pytest
from prefect.client.schemas.objects import FlowRun

from flows import stage


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
