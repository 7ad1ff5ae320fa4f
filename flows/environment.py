"""Where a workspace keeps its services' state, set before prefect, mlflow and torch are imported.

Everything stays inside the workspace (the folder with dvc.yaml): Prefect's database and results in ``.prefect/``,
MLflow's in ``.mlflow/``. Variables that the user has set win. Importing ``flows`` applies this once.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import os
import re
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from pipeline.artifacts import ArtifactError, Workspace, memory_ended


class ServiceError(RuntimeError):
    """A server that was asked for does not answer."""


# Refusals of settings, files, artifacts and servers, which a user can mend, libraries' refusals of input among them;
# everything else is a bug and keeps its traceback.
EXPECTED = (ValueError, ArtifactError, ServiceError, OSError)
DEBUG_VARIABLE = "SPARSE_CIRCUITS_DEBUG"  # where it is set, expected errors keep their traceback


LOCAL = ("localhost", "127.0.0.1", "::1")
ANSWER_BYTES = 1 << 16  # of a server's answer that are read
CREDENTIALS = re.compile(r"(\w://)[^/\s'\"]*@")  # https://user:password@host
SECRET = re.compile(r"(?i)([?&](?:password|token|api_key|key|secret)=)[^&\s'\"]+")

KEPT = "what is finished is kept, the same command goes on from there"


def guarded(action: Callable[[], int], *expected: type[Exception], after_interrupt: str = KEPT) -> int:
    """The status of ``action``; an expected error (EXPECTED and others) is one line and 1, an interruption 130."""
    try:
        if warning := other_code(find_root()):
            print(warning, file=sys.stderr)
        return action()
    except KeyboardInterrupt:
        print(f"interrupted; {after_interrupt}", file=sys.stderr)
        return 130
    except EXPECTED + expected as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        print(f"error: {redacted(str(error))}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if os.environ.get(DEBUG_VARIABLE) or (why := out_of_memory(error)) is None:
            raise
        print(f"error: {why}", file=sys.stderr)
        return 1


def out_of_memory(error: BaseException) -> str | None:
    """What to lower, where an error is Python's or torch's for memory that ends; else None."""
    if not memory_ended(error):
        return None
    wanted = re.search(r"[Tt]ried to allocate [\d.]+ \w+", str(error))
    return (
        f"out of memory{f' ({wanted[0].lower()})' if wanted else ''}: lower compute.workers; to train, raise "
        "pretrain.accumulate or set pretrain.activation_checkpointing; to prune, lower prune.at_once or "
        f"prune.batch_pairs; {KEPT}"
    )


def find_root(start: Path | None = None) -> Path:
    """The workspace: the nearest folder with dvc.yaml, upwards from ``start`` (or the current one); else that one."""
    here = (start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), here)


def workspace() -> Workspace:
    """The study's folder, as seen from the current directory."""
    return Workspace(find_root())


def other_code(root: Path) -> str | None:
    """A warning where a workspace that has the project's code is worked on by another place's; else None."""
    own, running_here = root / "flows" / Path(__file__).name, Path(__file__).resolve()
    if not own.is_file() or own.resolve() == running_here:
        return None
    return (
        f"warning: the code that runs is that of {running_here.parent.parent}, not of {root}, which has its own; "
        f"a folder that was moved or copied needs its own environment: make install in {root}"
    )


def apply(root: Path) -> None:
    """Set the defaults of one workspace; variables that are set already stay as they are."""
    spare_proxy()
    defaults = {
        "PREFECT_HOME": str(root / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        # A server that is gone costs each call 14 s, one that is silent 74 s; by default a minute, and seven.
        "PREFECT_CLIENT_MAX_RETRIES": "3",
        "PREFECT_API_REQUEST_TIMEOUT": "15",
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",  # check_prefect does; no worker needs the server
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # The UI gets what happens to a run and its units; the terminal has the stage's own words and warnings.
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # else each event that a server gone does not get is a line
        "PREFECT_CLI_PROMPT": "false",
        "MLFLOW_TRACKING_URI": f"sqlite:///{root / '.mlflow' / 'mlflow.db'}",
        # By default a dead server blocks each call for four minutes.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if "PREFECT_API_URL" not in os.environ and (url := running(server_record(root))):
        os.environ["PREFECT_API_URL"] = url


def server_record(root: Path) -> Path:
    """Where ``make`` notes the Prefect server that it started for this workspace: its url and process."""
    return root / ".prefect" / "local_server.json"


def read_record(path: Path) -> dict[str, Any]:
    """The notes about a started server; empty where there are none that can be used."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def running(record: Path) -> str | None:
    """The noted url of a server, for Prefect's that of its API, if it is up and was started for this workspace."""
    noted = read_record(record)
    url = noted.get("url")
    return url if url and process_of(noted, record) and answers(url + "/health") else None


def process_of(noted: dict[str, Any], record: Path) -> psutil.Process | None:
    """The noted process of a server; None where it ended, its number is another program's since, or the note came with
    a copy of the folder that it was started for."""
    if noted.get("root", root_of(record)) != root_of(record):
        return None
    try:
        process = psutil.Process(noted["pid"])
        return process if abs(process.create_time() - noted["created"]) <= 1 else None
    except (KeyError, TypeError, ValueError, psutil.Error):
        return None


def root_of(record: Path) -> str:
    """The workspace that a note about a server lies in."""
    return str(record.resolve().parent.parent)


def answers(url: str, timeout: float = 3) -> bool:
    """Whether something at ``url`` says 200 within ``timeout`` seconds."""
    return get(url, timeout) is not None


def get(url: str, timeout: float) -> bytes | None:
    """The beginning of what a server says with status 200; None where there is none, or it says something else."""
    try:
        with urllib.request.urlopen(anonymous(url), timeout=timeout) as reply:
            return reply.read(ANSWER_BYTES) if reply.status == 200 else None
    except (OSError, ValueError, OverflowError, http.client.HTTPException):  # wrong addresses, ports and protocols too
        return None


def check_prefect() -> None:
    """Raises ServiceError where PREFECT_API_URL is set and no Prefect server that this client can use answers there."""
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if not url:
        return
    health = get(url + "/health", timeout=10)
    if health is None:
        wrong = f"does not answer ({url}/health)"
    elif health.strip() != b"true":
        wrong = f"is no Prefect server: {url}/health does not say true (an API's address ends with /api)"
    elif not _same_major(version := _version(url)):
        wrong = f"is a Prefect server of version {version}, which this one ({_prefect_version()}) cannot use"
    else:
        return
    raise ServiceError(
        redacted(f"PREFECT_API_URL={url} {wrong}; start that server, or unset PREFECT_API_URL to use a local one")
    )


def _version(url: str) -> str:
    """The version that a Prefect server says it has; "" where it says none."""
    try:
        return str(json.loads(get(url + "/admin/version", timeout=10) or b'""'))
    except ValueError:
        return ""


def _prefect_version() -> str:
    return importlib.metadata.version("prefect")


def _same_major(version: str) -> bool:
    return not version or version.split(".")[0] == _prefect_version().split(".")[0]


def anonymous(url: str) -> str:
    """An address without user name and password, which Python takes for part of the host."""
    return CREDENTIALS.sub(r"\1", url)


def redacted(text: str) -> str:
    """A text without the user names, passwords and tokens in its addresses."""
    return SECRET.sub(r"\1***", CREDENTIALS.sub(r"\1***@", text))


def spare_proxy() -> None:
    """Have calls to this machine itself go there, not to a proxy that the environment names."""
    known = [name for name in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",") if name]
    if urllib.request.getproxies_environment() and "*" not in known:
        spared = ",".join(dict.fromkeys([*known, *LOCAL]))
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = spared
