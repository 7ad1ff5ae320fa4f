"""Signals and the death of a starter end a program and all that it started; a worker that is killed is begun again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from flows.smoke import workspace_environment

ROOT = Path(__file__).parent.parent.parent
STARTS = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
WAITS = "import time\nopen('ready', 'w').close()\ntry:\n    time.sleep(300)\nfinally:\n    open('tidy', 'w').close()\n"
STUCK = """
import time
open('ready', 'w').close()
while True:
    try:
        time.sleep(300)
    except BaseException:
        pass
"""
INSTALL = "from flows import interruption\ninterruption.install(2)\n"


def started(folder: Path, source: str, name: str = "program.py", *, of: str = "") -> subprocess.Popen[bytes]:
    """A Python program that runs and said so."""
    (folder / name).write_text(STARTS + textwrap.dedent(source), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, of or name],
        cwd=folder,
        env=workspace_environment() | {"PYTHONPATH": str(ROOT)},
        preexec_fn=heed_signals,
    )
    wait_for(lambda: (folder / "ready").exists())
    return process


def heed_signals() -> None:
    """Signals do what they do at a terminal, though these tests run under nohup or behind a shell."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def wait_for(true, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
def test_a_signal_lets_a_program_tidy_up(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path, INSTALL + WAITS) as process:
        process.send_signal(number)
        process.wait(30)
    assert (tmp_path / "tidy").exists()


def test_a_program_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    child = "import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
    with started(tmp_path, INSTALL + child + STUCK) as process:
        [below] = psutil.Process(process.pid).children()
        process.terminate()
        assert process.wait(30) == 130
    wait_for(lambda: not below.is_running() or below.status() == psutil.STATUS_ZOMBIE, 10)


def test_a_stage_ends_when_the_program_that_started_it_is_killed(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(STARTS + INSTALL + WAITS, encoding="utf-8")
    starter = "import subprocess, sys\nsubprocess.run([sys.executable, 'stage.py'])\n"
    with started(tmp_path, starter, name="dvc.py") as dvc:
        [stage] = psutil.Process(dvc.pid).children()
        dvc.kill()
    wait_for(lambda: (tmp_path / "tidy").exists(), 20)
    wait_for(lambda: not stage.is_running(), 20)


BEGINS_LATE = """
import multiprocessing, os, time

def late():
    from flows import interruption
    while os.getppid() == multiprocessing.parent_process().pid:
        open('ready', 'w').write(str(os.getpid()))
        time.sleep(0.1)
    interruption.end_with_parent()
    time.sleep(300)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=late).start()
    time.sleep(300)
"""


def test_a_worker_ends_whose_stage_was_killed_while_it_began(tmp_path: Path) -> None:
    with started(tmp_path, BEGINS_LATE) as stage:
        wait_for(lambda: (tmp_path / "ready").read_text())
        worker = psutil.Process(int((tmp_path / "ready").read_text()))
        stage.kill()
    wait_for(lambda: not worker.is_running(), 20)


FLOW = """
    import os, sys
    from flows import interruption
    from prefect import flow, task
    from flows.mapped import UNIT
    from flows.stage import run
    from flows.workers import Workers, begin_worker, finished

    @task(name="unit", **UNIT)
    def unit(task, inputs):
        seen = os.path.join(inputs["folder"], task)
        n = sum(name.startswith(f"{task}.") for name in os.listdir(inputs["folder"]))
        open(f"{seen}.{n}", "w").close()
        if task in inputs["killed"] and n < inputs["most"]:
            os.kill(os.getpid(), 9)
        return {"task": task}

    @flow(task_runner=Workers(2, initializer=begin_worker))
    def stage(folder, killed, most):
        inputs = {"folder": folder, "killed": killed, "most": most}
        rows = finished(lambda name: unit.submit(name, inputs), ["a", "b", "c"], lambda: None, "stage")
        print(sorted(rows[name].result()["task"] for name in rows))

    if __name__ == "__main__":
        os.mkdir("seen")
        state = run(stage, "stage", {"folder": os.path.abspath("seen"), "killed": ["b"], "most": int(sys.argv[1])})
        sys.exit(0 if state.is_completed() else state.message)
"""


def run_flow(folder: Path, most: int) -> subprocess.CompletedProcess[str]:
    (folder / "flow.py").write_text(textwrap.dedent(FLOW), encoding="utf-8")
    variables = workspace_environment() | {
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / ".prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "400",  # a busy machine
    }
    command = [sys.executable, "flow.py", str(most)]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_unit_whose_worker_is_killed_is_made_again(tmp_path: Path) -> None:
    done = run_flow(tmp_path, most=1)
    assert done.returncode == 0, done.stderr
    assert "['a', 'b', 'c']" in done.stdout
    assert "a worker of stage was killed, perhaps for want of memory; begun again, 1 of 2" in done.stderr


@pytest.mark.slow
def test_a_unit_that_always_kills_its_worker_is_named_after_three(tmp_path: Path) -> None:
    done = run_flow(tmp_path, most=1000)
    assert done.returncode != 0
    assert "workers were killed 3 times while they made b" in done.stderr
    assert len(os.listdir(tmp_path / "seen")) <= 9
