"""The local servers of a workspace, started detached and stopped again: Prefect's (API and UI) and MLflow's UI.

Each takes its usual port or, where that is taken, any free one, so that two workspaces never meet. The running ones are
noted in ``.prefect/local_server.json`` and ``.mlflow/local_ui.json``; only processes noted there are ever stopped.
Run as ``python -m flows.services up|ui|down``.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock

from flows import environment
from flows.environment import ServiceError
from flows.tracking_words import VIEWS, view_path
from pipeline.artifacts import write_json
from pipeline.config import ConfigError, load_params

START_SECONDS = 300  # a busy machine; alone it takes ten


@dataclass(frozen=True)
class Service:
    """One kind of server: its name, where it is noted, its usual port, what follows the port in its address."""

    title: str
    record: Path
    port: int
    path: str = ""


def services_of(root: Path) -> tuple[Service, Service]:
    """The Prefect server, whose recorded url is that of the API, and the MLflow UI."""
    prefect = Service("Prefect", environment.server_record(root), 4200, "/api")
    return prefect, Service("MLflow", root / ".mlflow" / "local_ui.json", 5000)


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
    return os.environ.get("PREFECT_API_URL") or _up(services_of(root)[0], ["prefect", "server", "start"])


def start_mlflow(root: Path) -> str:
    """The address of this workspace's MLflow UI, started if need be; a remote tracking server is its own UI."""
    store = os.environ["MLFLOW_TRACKING_URI"]
    if store.startswith(("http://", "https://")):
        return store
    return _up(services_of(root)[1], ["mlflow", "server", "--backend-store-uri", store, "--workers", "1"])


def _up(service: Service, command: list[str]) -> str:
    """The url of a service that is already up, or of the one started by ``python -m command``; one at a time."""
    service.record.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(service.record.with_suffix(".lock"), timeout=2 * START_SECONDS):
        return environment.running(service.record) or _start(service, command, free_port(service.port))


def _start(service: Service, command: list[str], port: int) -> str:
    """The url of a server, started detached from this terminal, when it is well and noted."""
    url = f"http://127.0.0.1:{port}{service.path}"
    log = service.record.with_suffix(".log")
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)],
            env=os.environ | {"PREFECT_SERVER_UI_API_URL": url},  # where the pages of Prefect's UI find its API
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = psutil.Process(process.pid)
    note = {
        "url": url,
        "pid": process.pid,
        "created": started.create_time(),
        "root": environment.root_of(service.record),
    }
    write_json(service.record, note)
    deadline = time.monotonic() + START_SECONDS
    while not (environment.answers(url + "/health", timeout=1) and listens(started, port)):
        if process.poll() is not None or time.monotonic() > deadline:
            stop(service)
            raise ServiceError(f"the {service.title} server did not start; its last words are in {log}")
        time.sleep(0.2)
    return url


def listens(process: psutil.Process, port: int) -> bool:
    """Whether it is this process, or one that it started, that takes connections there, and not another's server."""
    with suppress(psutil.Error):
        family = [process, *process.children(recursive=True)]
        open_ports = (one for member in family for one in member.net_connections(kind="tcp"))
        return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in open_ports)
    return False


def stop(service: Service) -> bool:
    """Stop the noted server with its children, and forget it; False where none of ours was running."""
    process = environment.process_of(environment.read_record(service.record), service.record)
    service.record.unlink(missing_ok=True)
    if process is None:
        return False
    end(process, {signal.SIGTERM: 10.0, signal.SIGKILL: 1.0})
    return True


def end(process: psutil.Process, signals: Mapping[int, float]) -> None:
    """Send a process and its children one signal after the other, as long as any is left after its seconds."""
    try:
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for number, seconds in signals.items():
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        family = psutil.wait_procs(family, timeout=seconds)[1]


def main() -> int:
    """Exit status of ``up`` (Prefect server), ``ui`` (both, their pages printed and opened) or ``down`` (stop both)."""
    parser = argparse.ArgumentParser(prog="python -m flows.services", description=__doc__)
    parser.add_argument("action", choices=["up", "ui", "down"])
    action = parser.parse_args().action
    root = environment.find_root()
    if action == "down":
        for service in services_of(root):
            print(f"{service.title}: {'stopped' if stop(service) else 'not running'}")
        return 0
    api = start_prefect(root)
    print(f"Prefect server: {environment.redacted(api)}")
    if action == "ui":
        pages = useful_pages(api.removesuffix("/api"), start_mlflow(root))
        for title, url in pages.items():
            print(f"{title + ':':<28}{environment.redacted(url)}")
        print("make down stops them.")
        open_pages(pages.values())
    return 0


def useful_pages(prefect: str, mlflow: str) -> dict[str, str]:
    """Title → address of the pages worth opening: Prefect's runs and artifacts, MLflow's views, where it has any."""
    pages = {"Prefect, runs": f"{prefect}/runs", "Prefect, tables": f"{prefect}/artifacts"}
    found = experiment_id()
    views = {f"MLflow, {name}": f"{mlflow}/{view_path(found, name)}" for name in VIEWS} if found else {}
    return pages | (views or {"MLflow": mlflow})


def experiment_id() -> str | None:
    """MLflow's number of the study's experiment; None where no stage has told it anything yet."""
    from flows.tracking import FAILURES  # takes seconds to import
    from flows.tracking_store import Store

    try:
        store = Store(load_params(environment.workspace().params).tracking.experiment)
        return store.experiment_id if store.look() else None
    except (ConfigError, *FAILURES):
        return None  # the addresses of the servers are still worth saying


def open_pages(urls: Iterable[str]) -> None:
    """Open pages in the browser of whoever sits at this terminal, if somebody can see one."""
    visible = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.stdout.isatty() and visible:
        for url in urls:
            webbrowser.open(url)


if __name__ == "__main__":
    sys.exit(environment.guarded(main))
