"""The local servers of a workspace, started detached and stopped again: Prefect's (API and UI) and MLflow's UI.

Each takes its usual port or, where that is taken, any free one, so that two workspaces never meet. The running ones are
noted in ``.prefect/local_server.json`` and ``.mlflow/local_ui.json``; only processes noted there are ever stopped.
Run as ``python -m flows.services up|ui|down``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from flows import environment
from flows.environment import ServiceError
from pipeline.artifacts import write_json

START_SECONDS = 300  # a busy machine; alone it takes ten


@dataclass(frozen=True)
class Service:
    """One kind of server: how it is called, where it listens by preference, how it says that it is well."""

    title: str
    record: Path
    port: int
    health: str

    def url(self) -> str | None:
        """The address of the server that is up, or None."""
        url = read_record(self.record).get("url")
        return url if url and environment.answers(url + self.health) else None


def prefect_service(root: Path) -> Service:
    """The Prefect server; its recorded url is that of the API."""
    return Service("Prefect", environment.server_record(root), 4200, "/health")


def mlflow_service(root: Path) -> Service:
    """The MLflow UI."""
    return Service("MLflow", root / ".mlflow" / "local_ui.json", 5000, "/health")


def read_record(path: Path) -> dict[str, Any]:
    """The notes about a started server; empty where there are none that can be used."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def free_port(preferred: int) -> int:
    """``preferred`` where nothing listens there, else any free port of this machine."""
    for port in (preferred, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            if port and probe.connect_ex(("127.0.0.1", port)) == 0:
                continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise ServiceError("no free port on 127.0.0.1")


def start_prefect(root: Path) -> str:
    """The API url of a healthy Prefect server: the user's (PREFECT_API_URL), the one already up, or a new one."""
    environment.check_prefect()
    if url := os.environ.get("PREFECT_API_URL"):
        return url

    def start(own: Service, port: int) -> str:
        url = f"http://127.0.0.1:{port}/api"
        command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        _start(own, command, url, {"PREFECT_SERVER_UI_API_URL": url})
        return url

    return _up(prefect_service(root), start)


def start_mlflow(root: Path) -> str:
    """The address of this workspace's MLflow UI, started if need be; a remote tracking server is its own UI."""
    store = os.environ["MLFLOW_TRACKING_URI"]
    if store.startswith(("http://", "https://")):
        return store

    def start(own: Service, port: int) -> str:
        url = f"http://127.0.0.1:{port}"
        command = ["mlflow", "server", "--backend-store-uri", store, "--host", "127.0.0.1", "--port", str(port)]
        _start(own, [*command, "--workers", "1"], url, {})
        return url

    return _up(mlflow_service(root), start)


def _up(own: Service, start: Callable[[Service, int], str]) -> str:
    """The url of a service that is already up, or of the one that ``start`` starts on a free port; one at a time."""
    own.record.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(own.record.with_suffix(".lock"), timeout=2 * START_SECONDS):
        return own.url() or start(own, free_port(own.port))


def stop(service: Service) -> bool:
    """Stop the noted server with its children, and forget it; False where none of ours was running."""
    record = read_record(service.record)
    service.record.unlink(missing_ok=True)
    try:
        process = psutil.Process(record["pid"])
        if abs(process.create_time() - record["created"]) > 1:
            return False  # another program has got that number since
        family = [process, *process.children(recursive=True)]
    except (KeyError, psutil.NoSuchProcess):
        return False
    for member in family:
        _signal(member, signal.SIGTERM)
    for member in psutil.wait_procs(family, timeout=10)[1]:
        _signal(member, signal.SIGKILL)
    return True


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def _start(service: Service, command: list[str], url: str, extra: dict[str, str]) -> None:
    """Start a server detached from this terminal, wait until it is well, note it."""
    log = service.record.with_suffix(".log")
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=os.environ | extra,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    created = psutil.Process(process.pid).create_time()
    write_json(service.record, {"url": url, "pid": process.pid, "created": created})
    deadline = time.monotonic() + START_SECONDS
    while not environment.answers(url + service.health, timeout=1):
        if process.poll() is not None or time.monotonic() > deadline:
            stop(service)
            raise ServiceError(f"the {service.title} server did not start; its last words are in {log}")
        time.sleep(0.2)


def main(arguments: list[str] | None = None) -> int:
    """Exit status of ``up`` (Prefect server), ``ui`` (both, addresses printed) or ``down`` (stop both)."""
    parser = argparse.ArgumentParser(prog="python -m flows.services", description=__doc__)
    parser.add_argument("action", choices=["up", "ui", "down"])
    action = parser.parse_args(arguments).action
    root = environment.find_root()
    try:
        if action == "down":
            for service in (prefect_service(root), mlflow_service(root)):
                print(f"{service.title}: {'stopped' if stop(service) else 'not running'}")
            return 0
        api = start_prefect(root)
        print(f"Prefect server: {api}")
        if action == "ui":
            print(f"Prefect UI:     {api.removesuffix('/api')}")
            print(f"MLflow UI:      {start_mlflow(root)}")
            print("make down stops them.")
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
