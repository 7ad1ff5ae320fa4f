"""What a slow tracker costs: a real stage told to a real MLflow server, directly and through a relay that delays.

``python -m benchmarks.slow_tracker`` takes data from a smoke study (``make smoke``), and trains a small model by the
stage pretrain, Prefect and all, in turns: with the server itself, and with one that takes a second longer for each
request. Prints the seconds of each, and the median of their ratios. Minutes.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.interleave import interleave, ratio, show
from benchmarks.resume import copied
from flows import environment, services

START_SECONDS = 300.0
CHUNK = 1 << 16


def main() -> int:
    """Exit status of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow_tracker", description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path(".smoke"), help="of a study (default: .smoke)")
    parser.add_argument("--model", default="sparse_d96")
    parser.add_argument("--delay", type=float, default=1.0, help="seconds a request (default: 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, mlflow_server(Path(folder)) as port, relay(port, asked.delay) as slow:
        places = {"direct": port, f"{asked.delay:g} s a request": slow}
        variants = {
            name: lambda at=at: stage(asked.workspace, asked.model, f"http://127.0.0.1:{at}")  # type: ignore[misc]
            for name, at in places.items()
        }
        seconds = interleave(variants, asked.rounds, warmup=0)
    direct, delayed = seconds
    rows = [{"tracker": name, "seconds of each": " ".join(f"{one:.1f}" for one in seconds[name])} for name in seconds]
    show(f"{delayed} ÷ direct: {ratio(seconds, delayed, direct):.3f}", rows, asked.json)
    return 0


def stage(source: Path, model: str, tracker: str) -> None:
    """Stage pretrain in a fresh workspace. Raises CalledProcessError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = copied(source, model, Path(folder), "train")
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
        variables |= {"MLFLOW_TRACKING_URI": tracker, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        command = [sys.executable, "-m", "flows.pretrain", "--model", model]
        subprocess.run(command, cwd=workspace.root, env=variables, check=True, stderr=subprocess.DEVNULL)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """The port of an MLflow server with a database of its own."""
    port = services.free_port(0)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not environment.answers(f"http://127.0.0.1:{port}/health"):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise environment.ServiceError("the MLflow server did not start")
                time.sleep(0.2)
            yield port
        finally:
            services.end(psutil.Process(process.pid), {signal.SIGTERM: 10.0, signal.SIGKILL: 1.0})


@contextmanager
def relay(to: int, delay: float) -> Iterator[int]:
    """The port of a relay to another port of this machine, which holds back what it is sent by ``delay`` seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):  # closed at the end
                while True:
                    client = server.accept()[0]
                    behind = socket.create_connection(("127.0.0.1", to))
                    for source, target, seconds in ((client, behind, delay), (behind, client, 0.0)):
                        threading.Thread(target=pass_on, args=(source, target, seconds), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def pass_on(source: socket.socket, target: socket.socket, delay: float) -> None:
    """Send what one end says to the other, each piece ``delay`` seconds later, until it says no more."""
    with suppress(OSError):
        while piece := source.recv(CHUNK):
            time.sleep(delay)
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    sys.exit(environment.guarded(main))
