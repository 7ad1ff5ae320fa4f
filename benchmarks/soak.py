"""The small study, killed at random moments, again and again: every one has to end as the unbroken one does.

``python -m benchmarks.soak`` makes the smoke study in .soak, unbroken, then 20 times more. In each, three times, one
process (dvc, a stage or a worker of one) gets SIGKILL at a random moment, and the same command is given again until it
succeeds. What came out is compared with the unbroken study: every file of data, models, circuits and the tests of
these, but for the seconds that it took. .soak/soak.json has a row a study; what it has of the same code is not made
again, so that the command can be interrupted too. docs/reliability.md says what the rows mean. Hours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import dropwhile
from pathlib import Path
from typing import Any

import psutil

from flows import environment, interruption, services
from flows.smoke import make_workspace, project_files, workspace_environment
from pipeline.artifacts import Workspace, file_hash, read_json, write_json

CODE = ("flows", "pipeline", "profiles", "params.yaml", "dvc.yaml", "requirements.lock")  # what a study follows from
OUTPUTS = ("data", "models", "circuits", "ablations", "validations", "explanations")
SECONDS = {"seconds", "train_seconds", "tokens_per_second", "provenance"}  # what differs from run to run
MAX_RETRIES = 3  # of the same command, a kill; a row says how many it took
MAX_STRETCH = 4.0  # times the unbroken study's seconds, after which a study counts as hung
HUNG = "hung"
KINDS = {"worker": "multiprocessing.spawn", "stage": "flows.", "dvc": "dvc"}  # of processes, by a word of their command
LOG = "repro.log"
UNBROKEN = "unbroken"

_starting = threading.Lock()  # two servers that start at once would choose the same port


def main() -> int:
    """Exit status: 0 where all studies ended equal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3, help="processes killed in each study (default: 3)")
    parser.add_argument("--jobs", type=int, default=1, help="studies made at the same time (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    interruption.install(interruption.GRACE_OF_STARTER_SECONDS)
    soak = Soak(environment.find_root(), asked.kills, asked.jobs, asked.seed)
    soak.measure_unbroken()
    rows = soak.break_studies(asked.studies)
    equal, kills = sum(not row["differs"] for row in rows), sum(len(row["kills"]) for row in rows)
    print(f"{equal} of {len(rows)} studies ended as the unbroken one ({soak.seconds:.0f} s) after {kills} kills")
    return 0 if equal == len(rows) else 1


class Soak:
    """The studies of one code, with the rows that are kept of them. ``kills`` a study, ``jobs`` studies at a time."""

    def __init__(self, root: Path, kills: int, jobs: int, seed: int) -> None:
        self.root, self.kills, self.jobs, self.seed = root, kills, jobs, seed
        self.folder = root / ".soak"
        self.path = self.folder / "soak.json"
        sources = [root / path for path in project_files(root) if path.parts[0] in CODE]
        code = file_hash(*sources)
        kept = read_json(self.path) if self.path.is_file() else {}
        self.kept: dict[str, Any] = kept if kept.get("code") == code else {"code": code, UNBROKEN: {}, "studies": []}
        self._writing = threading.Lock()
        self._places: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(jobs):
            self._places.put(self.folder / str(number))

    @property
    def unbroken(self) -> dict[str, Any]:
        """Seconds and outputs of the unbroken study, made as many at a time as the broken ones are."""
        return dict(self.kept[UNBROKEN].get(str(self.jobs), {}))

    @property
    def seconds(self) -> float:
        return float(self.unbroken["seconds"])

    def measure_unbroken(self) -> None:
        """Make the unbroken study, unless it is known. Raises ValueError where it fails, or two of it differ."""
        if self.unbroken:
            return
        with ThreadPoolExecutor(self.jobs) as threads:
            rows = list(threads.map(lambda _: self._study(()), range(self.jobs)))
        known = [row["outputs"] for row in (*rows, *self.kept[UNBROKEN].values())]
        if any(row["statuses"] != [0] for row in rows) or any(outputs != known[0] for outputs in known):
            raise ValueError(f"unbroken studies failed or differ; {self.folder}/*/{LOG} says why: {rows}")
        self.kept[UNBROKEN][str(self.jobs)] = {
            "seconds": sum(row["seconds"] for row in rows) / len(rows),
            "outputs": known[0],
        }
        write_json(self.path, self.kept)

    def break_studies(self, n: int) -> list[dict[str, Any]]:
        """The rows of ``n`` broken studies; those that are there already are not made again."""
        known = {row["number"] for row in self._rows()}
        with ThreadPoolExecutor(self.jobs) as threads:
            list(threads.map(self._break, [number for number in range(n) if number not in known]))
        return [row for row in self._rows() if row["number"] < n]

    def _rows(self) -> list[dict[str, Any]]:
        asked = {"kills_asked": self.kills, "jobs": self.jobs, "seed": self.seed}
        return [row for row in self.kept["studies"] if asked.items() <= row.items()]

    def _break(self, number: int) -> None:
        rng = random.Random(f"{self.seed} {number}")
        row = self._study([rng.uniform(0, self.seconds) for _ in range(self.kills)], rng)
        wanted, here = self.unbroken["outputs"], row.pop("outputs")
        differs = sorted(path for path in {*here, *wanted} if here.get(path) != wanted.get(path))
        row |= {"number": number, "kills_asked": self.kills, "jobs": self.jobs, "seed": self.seed, "differs": differs}
        row |= {"in_vain": row["seconds"] / self.seconds - 1}  # part of the unbroken study's seconds, on top of these
        with self._writing:
            self.kept["studies"].append(row)
            write_json(self.path, self.kept)
        print(f"study {number}: {json.dumps(row)}", flush=True)

    def _study(self, moments: Sequence[float], rng: random.Random | None = None) -> dict[str, Any]:
        """A study in a place of its own, killed at the moments: its statuses, seconds, kills and outputs."""
        place = self._places.get()
        try:
            workspace = make_workspace(self.root, place)
            with server(workspace):
                limit = MAX_STRETCH * self.seconds if moments else None
                row = survive(lambda: repro(workspace), moments, rng or random.Random(0), limit)
            return row | {"outputs": facts(workspace)}
        finally:
            self._places.put(place)


def survive(
    start: Callable[[], subprocess.Popen[bytes]], moments: Sequence[float], rng: random.Random, limit: float | None
) -> dict[str, Any]:
    """Give a command until it succeeds, and kill one of its processes at each moment (seconds from the beginning).

    Returns its statuses, the last one HUNG where it took longer than ``limit`` seconds, the seconds and the kills.
    """
    began, waiting, kills, statuses = time.monotonic(), sorted(moments), [], list[int | str]()
    process = start()
    while True:
        until = waiting[0] if waiting else limit
        try:
            left = None if until is None else max(began + until - time.monotonic(), 0.0)
            statuses.append(process.wait(left))
        except subprocess.TimeoutExpired:
            if not waiting:
                services.end(psutil.Process(process.pid), {signal.SIGKILL: 10.0})
                statuses.append(HUNG)
                break
            kills += kill_one(psutil.Process(process.pid), waiting.pop(0), rng)
            continue
        if statuses[-1] == 0 or len(statuses) > MAX_RETRIES * (len(kills) + 1):
            break
        process = start()
    return {"statuses": statuses, "seconds": time.monotonic() - began, "kills": kills}


def kill_one(process: psutil.Process, moment: float, rng: random.Random) -> list[dict[str, Any]]:
    """SIGKILL for a process of dvc, a stage or a worker, each kind as likely: what was killed, and of which stage.

    Empty where none was left to be killed.
    """
    family: dict[str, list[psutil.Process]] = {}
    stage = ""
    with suppress(psutil.Error):
        for one in [process, *process.children(recursive=True)]:
            words = one.cmdline() if interruption.alive(one) else []
            kind = next((kind for kind, word in KINDS.items() if any(word in each for each in words)), None)
            if kind is not None and not words[0].endswith("sh"):  # not the shell between dvc and a stage
                family.setdefault(kind, []).append(one)
                stage = " ".join(dropwhile(lambda word: not word.startswith("flows."), words)) or stage
    if not family:
        return []
    kind = rng.choice(sorted(family))
    with suppress(psutil.Error):
        rng.choice(family[kind]).kill()
    return [{"moment": moment, "killed": kind, "stage": stage}]


@contextmanager
def server(workspace: Workspace) -> Iterator[None]:
    """A Prefect server of the workspace's own."""
    command = [sys.executable, "-m", "flows.services"]
    with _starting:
        subprocess.run([*command, "up"], cwd=workspace.root, env=workspace_environment(), check=True)
    try:
        yield
    finally:
        subprocess.run([*command, "down"], cwd=workspace.root, env=workspace_environment(), check=True)


def repro(workspace: Workspace) -> subprocess.Popen[bytes]:
    """``dvc repro``, its output added to the workspace's log."""
    with (workspace.root / LOG).open("ab") as log:
        command = [sys.executable, "-m", "dvc", "repro"]
        return subprocess.Popen(command, cwd=workspace.root, env=workspace_environment(), stdout=log, stderr=log)


def facts(workspace: Workspace) -> dict[str, str]:
    """Path of every output → hash of what is in it, seconds left out."""
    found = {}
    for path in sorted(path for name in OUTPUTS for path in (workspace.root / name).rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(timeless(json.loads(content)), sort_keys=True).encode()
        elif path.suffix == ".jsonl":
            content = json.dumps([timeless(json.loads(line)) for line in content.splitlines()]).encode()
        found[str(path.relative_to(workspace.root))] = hashlib.sha256(content).hexdigest()[:16]
    return found


def timeless(value: Any) -> Any:
    """A value of JSON without the seconds in it."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in SECONDS}
    return [timeless(part) for part in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(environment.guarded(main))
