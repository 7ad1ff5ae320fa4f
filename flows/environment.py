"""Where a workspace keeps its services' state, set before prefect, mlflow and torch are imported.

Everything stays inside the workspace (the folder with dvc.yaml): Prefect's database and results in ``.prefect/``,
MLflow's in ``.mlflow/``. Variables that the user has set win. Importing ``flows`` applies this once.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.artifacts import ArtifactError, Workspace


class ServiceError(RuntimeError):
    """A server that was asked for does not answer."""


# Refusals of settings, files, artifacts and servers, which a user can mend, libraries' refusals of input among them;
# everything else is a bug and keeps its traceback.
EXPECTED = (ValueError, ArtifactError, ServiceError, OSError)
DEBUG_VARIABLE = "SPARSE_CIRCUITS_DEBUG"  # where it is set, expected errors keep their traceback


KEPT = "what is finished is kept, the same command goes on from there"


def guarded(action: Callable[[], int], *expected: type[Exception], after_interrupt: str = KEPT) -> int:
    """The status of ``action``; an expected error (EXPECTED and others) is one line and 1, an interruption 130."""
    try:
        return action()
    except KeyboardInterrupt:
        print(f"interrupted; {after_interrupt}", file=sys.stderr)
        return 130
    except EXPECTED + expected as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1


def find_root(start: Path | None = None) -> Path:
    """The workspace: the nearest folder with dvc.yaml, upwards from ``start`` (or the current one); else that one."""
    here = (start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), here)


def workspace() -> Workspace:
    """The study's folder, as seen from the current directory."""
    return Workspace(find_root())


def apply(root: Path) -> None:
    """Set the defaults of one workspace; variables that are set already stay as they are."""
    defaults = {
        "PREFECT_HOME": str(root / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # The UI gets what happens to a run and its units; the terminal has the stage's own words and warnings.
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
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
    """The noted url of a server, for Prefect's that of its API, if it is up."""
    url = read_record(record).get("url")
    return url if url and answers(url + "/health") else None


def answers(url: str, timeout: float = 3) -> bool:
    """Whether something at ``url`` says 200 within ``timeout`` seconds."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


def check_prefect() -> None:
    """Raises ServiceError where PREFECT_API_URL is set and nothing healthy answers there."""
    url = os.environ.get("PREFECT_API_URL")
    if url and not answers(url.rstrip("/") + "/health", timeout=10):
        raise ServiceError(
            f"PREFECT_API_URL={url} does not answer ({url.rstrip('/')}/health); "
            "start that server, or unset PREFECT_API_URL to use a local one"
        )
