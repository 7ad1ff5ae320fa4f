"""What a kill costs: CPU seconds of training, and of pruning, killed once and given again, over those of unbroken ones.

``python -m benchmarks.resume`` takes data and a model from a smoke study (``make smoke``), trains the model and prunes
it for its tasks, one after the other as the stages do: unbroken, and killed (SIGKILL) when a random part
of the unbroken one's seconds is used up. A ratio is that of both parts without the second one's start-up, until its
first step, to the unbroken one. Minutes; seconds are of the processor, so that a busy machine matters little.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.interleave import show
from pipeline.artifacts import Workspace
from pipeline.config import load_params

POLL_SECONDS = 0.02
WARM_UP_SECONDS = 20.0


def main() -> int:
    """Exit status of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume", description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path(".smoke"), help="of a study (default: .smoke)")
    parser.add_argument("--model", default="sparse_d96")
    parser.add_argument("--tasks", type=int, help="how many of the tasks are pruned (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        WORK[asked.work](asked.model, asked.tasks)
        return 0
    rng, rows = random.Random(asked.seed), []
    for work in WORK:  # kernels are compiled once a machine
        spend(work, asked, WARM_UP_SECONDS)
    for _ in range(asked.rounds):
        rows += [measured(work, asked, rng) for work in WORK]
        show("CPU seconds of a kill", [*rows, *medians(rows)], asked.json)
    return 0


def measured(work: str, asked: argparse.Namespace, rng: random.Random) -> dict[str, str | float]:
    """A row: seconds unbroken, where it was killed, both parts, start-up, ratio."""
    start_up, unbroken = spend(work, asked, None)[0]
    at = start_up + rng.random() * (unbroken - start_up)
    (_, first), (again, second) = spend(work, asked, at)
    ratio = (first + second - again) / unbroken
    seconds = {"unbroken": unbroken, "killed at": at, "first": first, "second": second, "start-up": again}
    return {"work": work, **seconds, "ratio": ratio}


def medians(rows: list[dict[str, str | float]]) -> list[dict[str, str | float]]:
    """A row a kind of work: the median of each column."""
    found = []
    for work in WORK:
        of_work = [row for row in rows if row["work"] == work]
        columns = [key for key in of_work[0] if key != "work"]
        middle = {key: sorted(float(row[key]) for row in of_work)[len(of_work) // 2] for key in columns}
        found.append({"work": f"{work}, median"} | middle)
    return found


def spend(work: str, asked: argparse.Namespace, kill_at: float | None) -> list[tuple[float, float]]:
    """Start-up and all seconds of each process that the work takes: one, or two where the first is killed."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = copied(asked.workspace, asked.model, Path(folder), work)
        command = [sys.executable, "-m", "benchmarks.resume", "--work", work, "--model", asked.model]
        command += [] if asked.tasks is None else ["--tasks", str(asked.tasks)]
        first = [] if kill_at is None else [run_once(command, workspace.root, kill_at)]
        return [*first, run_once(command, workspace.root, None)]


def copied(source: Path, model: str, folder: Path, work: str) -> Workspace:
    """A workspace with the data, and for pruning the model, of another one."""
    names = ["params.yaml", "dvc.yaml", "data/tokens", "data/tasks"] + [f"models/{model}"] * (work == "prune")
    for name in names:
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(source / name, folder / name)
    return Workspace(folder)


def run_once(command: list[str], folder: Path, kill_at: float | None) -> tuple[float, float]:
    """Start-up and all CPU seconds of a command, which is killed when ``kill_at`` are used up. Raises ValueError where
    it fails, or ends before that."""
    here = str(Path(__file__).resolve().parents[1])
    variables, quiet = os.environ | {"PYTHONPATH": here}, subprocess.DEVNULL
    with subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=quiet) as process:
        watched = psutil.Process(process.pid)
        while kill_at is not None and watched.status() != psutil.STATUS_ZOMBIE:
            if sum(watched.cpu_times()[:2]) >= kill_at:
                process.kill()
                break
            time.sleep(POLL_SECONDS)
        assert process.stdout is not None
        said = process.stdout.read().split()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if (process.returncode == 0) != (kill_at is None):
        raise ValueError(f"{' '.join(command)} ended with status {process.returncode}")
    return float(said[0]), usage.ru_utime + usage.ru_stime


def begin() -> None:
    """Say how many CPU seconds this process has used before its work begins."""
    print(time.process_time(), flush=True)


def train(name: str, n_tasks: int | None) -> None:
    """The work of stage pretrain, without what it tells Prefect and MLflow."""
    from flows.torchrun import trainer
    from pipeline.data.batches import TrainingBatches

    workspace = Workspace(Path.cwd())
    params, at = load_params(workspace.params), TrainingBatches.at

    def first(self: TrainingBatches, step: int) -> object:
        begin()
        TrainingBatches.at = at  # type: ignore[method-assign]
        return at(self, step)

    TrainingBatches.at = first  # type: ignore[method-assign, assignment]
    trainer(workspace, params, name)()


def prune(name: str, n_tasks: int | None) -> None:
    """The work of stage prune: its units one after the other, but for those that are there."""
    from flows import mapped
    from flows.prune import prune_unit, unit_folder

    workspace = Workspace(Path.cwd())
    params, tasks = load_params(workspace.params), mapped.checked_tasks(workspace, name)
    inputs = mapped.shared_inputs(workspace, params, "prune", name)
    names = [task for task in tasks.names if tasks.expressible(task)][:n_tasks]
    begin()
    for task in names:
        given = inputs | {"task_hash": tasks.hash(task)}
        if not unit_folder(workspace, task, given).is_dir():
            prune_unit.fn(task, given)


WORK: dict[str, Callable[[str, int | None], None]] = {"train": train, "prune": prune}

if __name__ == "__main__":
    sys.exit(main())
