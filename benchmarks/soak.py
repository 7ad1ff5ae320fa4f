"""The small study, killed at a random moment, again and again: every one has to end as the unbroken one does.

``python -m benchmarks.soak`` makes the smoke study once in .soak, then 20 times more. In each, one process (dvc, a
stage or a worker) gets SIGKILL at a random moment, and the same command is given again until it succeeds. What came out
is compared with the unbroken study: every file of data, models, circuits and the tests of these, but for the seconds
that it took. .soak/soak.json has a row a study; docs/reliability.md says what they mean. Hours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from flows import environment, interruption
from flows.smoke import make_workspace, workspace_environment
from pipeline.artifacts import Workspace, write_json

OUTPUTS = ("data", "models", "circuits", "ablations", "validations", "explanations")
SECONDS = {"seconds", "train_seconds", "provenance"}  # what differs from run to run
MAX_RETRIES = 3  # of the same command after a kill; a row says how many it took
LOG = "repro.log"


def main() -> int:
    """Exit status: 0 where all studies ended equal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    root, rng = environment.find_root(), random.Random(asked.seed)
    wanted, seconds = unbroken(root, root / ".soak" / "unbroken")
    rows: list[dict[str, Any]] = []
    for number in range(asked.studies):
        rows.append(broken(root, root / ".soak" / "broken", rng.uniform(0, seconds), rng, wanted))
        print(f"{number + 1} of {asked.studies}: {json.dumps(rows[-1])}", flush=True)
        write_json(root / ".soak" / "soak.json", {"seconds_unbroken": seconds, "studies": rows})
    equal = sum(not row["differs"] and not row["statuses"][-1] for row in rows)
    print(f"{equal} of {len(rows)} studies that were killed ended as the unbroken one ({seconds:.0f} s)")
    return 0 if equal == len(rows) else 1


def unbroken(root: Path, into: Path) -> tuple[dict[str, str], float]:
    """What came out of a small study that nobody killed, and its seconds. Raises ValueError where it failed."""
    workspace, began = make_workspace(root, into), time.monotonic()
    with server(workspace):
        status = repro(workspace).wait()
    if status:
        raise ValueError(f"the unbroken study ended with status {status}; {workspace.root / LOG} says why")
    return facts(workspace), time.monotonic() - began


def broken(root: Path, into: Path, after: float, rng: random.Random, wanted: dict[str, str]) -> dict[str, Any]:
    """A small study one of whose processes is killed ``after`` so many seconds: what was killed, and what differs."""
    workspace, began = make_workspace(root, into), time.monotonic()
    with server(workspace):
        process = repro(workspace)
        time.sleep(after)
        killed = kill_one(psutil.Process(process.pid), rng) if process.poll() is None else None
        statuses = [process.wait()]
        while statuses[-1] and len(statuses) <= MAX_RETRIES:
            statuses.append(repro(workspace).wait())
    here, seconds = facts(workspace), time.monotonic() - began
    differs = sorted(path for path in {*here, *wanted} if here.get(path) != wanted.get(path))
    return {"after_seconds": after, "killed": killed, "statuses": statuses, "seconds": seconds, "differs": differs}


@contextmanager
def server(workspace: Workspace) -> Iterator[None]:
    """A Prefect server of the workspace's own."""
    command = [sys.executable, "-m", "flows.services"]
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


def kill_one(process: psutil.Process, rng: random.Random) -> str:
    """SIGKILL for a process or one that it started, and what that was."""
    family = [process, *process.children(recursive=True)]
    chosen = rng.choice([one for one in family if interruption.alive(one)])
    words = " ".join(chosen.cmdline()[1:4])[:80]
    chosen.kill()
    return words


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
