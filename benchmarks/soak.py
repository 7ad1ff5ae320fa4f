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
from pathlib import Path
from typing import Any

import psutil

from flows import environment, interruption
from flows.smoke import make_workspace, workspace_environment
from pipeline.artifacts import Workspace, write_json

OUTPUTS = ("data", "models", "circuits", "ablations", "validations", "explanations")
SECONDS = {"seconds", "train_seconds", "provenance"}  # what differs from run to run
MOST_TRIES = 3  # of the same command after a kill; the first has to succeed, more are counted


def main() -> int:
    """Exit status: 0 where all studies ended equal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    root, rng = environment.find_root(), random.Random(asked.seed)
    began = time.monotonic()
    unbroken = made(root, root / ".soak" / "unbroken")
    total = time.monotonic() - began
    wanted, rows = facts(unbroken), []
    for number in range(asked.studies):
        rows.append(broken(root, root / ".soak" / "broken", rng.uniform(0, total), rng, wanted))
        print(f"{number + 1} of {asked.studies}: {json.dumps(rows[-1])}", flush=True)
        write_json(root / ".soak" / "soak.json", {"seconds_unbroken": total, "studies": rows})
    equal = sum(not row["differs"] for row in rows)
    print(f"{equal} of {len(rows)} studies that were killed ended as the unbroken one ({total:.0f} s)")
    return 0 if equal == len(rows) else 1


def made(root: Path, into: Path) -> Workspace:
    """An unbroken small study."""
    workspace = make_workspace(root, into)
    with_server(workspace, lambda: repro(workspace).wait())
    return workspace


def broken(root: Path, into: Path, after: float, rng: random.Random, wanted: dict[str, str]) -> dict[str, Any]:
    """A small study one of whose processes is killed ``after`` so many seconds: what was killed, and what differs."""
    workspace, row = make_workspace(root, into), {"after_seconds": after}
    began = time.monotonic()

    def run() -> None:
        process = repro(workspace)
        time.sleep(after)
        row["killed"] = kill_one(psutil.Process(process.pid), rng) if process.poll() is None else None
        statuses = [process.wait()]
        while statuses[-1] and len(statuses) <= MOST_TRIES:
            statuses.append(repro(workspace).wait())
        row["statuses"] = statuses

    with_server(workspace, run)
    here = facts(workspace)
    differs = sorted(path for path in {*here, *wanted} if here.get(path) != wanted.get(path))
    return row | {"seconds": time.monotonic() - began, "differs": differs}


def with_server(workspace: Workspace, action: Any) -> None:
    """Call ``action`` while the workspace has a Prefect server."""
    command = [sys.executable, "-m", "flows.services"]
    subprocess.run([*command, "up"], cwd=workspace.root, env=workspace_environment(), check=True)
    try:
        action()
    finally:
        subprocess.run([*command, "down"], cwd=workspace.root, env=workspace_environment(), check=True)


def repro(workspace: Workspace) -> subprocess.Popen[bytes]:
    """``dvc repro``, its output in the workspace's repro.log."""
    with (workspace.root / "repro.log").open("ab") as log:
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
