"""A Prefect server that is killed, or falls silent, while a stage runs: it is finished, says it once, and ends soon."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx
import pytest

from flows import environment, server_gone
from flows.environment import ServiceError
from flows.smoke import workspace_environment

ROOT = Path(__file__).parents[2]
MOST_SECONDS = 150.0  # after the server's death; without end, it waits for minutes or for ever
STAGE = """
    import os, sys, time
    from flows import environment, server_gone
    from prefect import task
    from flows.mapped import UNIT, progress
    from flows.stage import guarded, run, stage_flow
    from flows.workers import Workers, begin_worker, finished

    server = environment.read_record(environment.server_record(environment.find_root()))["pid"]

    def kill():
        os.kill(server, int(sys.argv[1]))
        print("killed at", time.time(), flush=True)

    @task(name="unit", **UNIT)
    def unit(task, inputs):
        return {"task": task}

    @stage_flow
    def stage():
        kill()
        with progress("unit", "m", 3) as on_done:
            rows = finished(lambda name: unit.submit(name, {"model": "m"}), ["a", "b", "c"], on_done, "stage")
        print("made", sorted(rows[name].result()["task"] for name in rows))

    def main():
        pool = Workers(2, initializer=begin_worker)
        state = run(stage.with_options(task_runner=pool), "stage", {})
        print(f"state {state.name}: {state.message}")
        return 0 if state.is_completed() else 1

    if __name__ == "__main__":
        server_gone.leave(guarded(main))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_stage_is_finished_though_its_server_is_gone(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "flow.py").write_text(textwrap.dedent(STAGE), encoding="utf-8")
    variables = workspace_environment() | {"PYTHONPATH": str(ROOT), "PREFECT_CLIENT_MAX_RETRIES": "1"}
    variables |= {"PREFECT_API_REQUEST_TIMEOUT": "3"}
    subprocess.run([sys.executable, "-m", "flows.services", "up"], cwd=tmp_path, env=variables, check=True)
    command = [sys.executable, "flow.py", str(int(number))]
    try:
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=500)
    finally:
        subprocess.run([sys.executable, "-m", "flows.services", "down"], cwd=tmp_path, env=variables, check=True)
    said = done.stdout.splitlines()
    assert "made ['a', 'b', 'c']" in said, done.stderr
    assert said[-1] == "state Completed: None" and done.returncode == 0
    assert done.stderr.count("does not answer any more") == 1 and "Traceback" not in done.stderr, done.stderr
    [killed] = [float(line.split()[-1]) for line in said if line.startswith("killed at")]
    assert time.time() - killed < MOST_SECONDS


def test_what_is_not_finished_is_a_line_with_the_servers_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_gone, "_ended", [])
    with pytest.raises(ServiceError, match="the Prefect server .* does not answer any more") as caught:
        server_gone.state_without_it(httpx.ConnectError("refused"))
    assert environment.KEPT in str(caught.value)
