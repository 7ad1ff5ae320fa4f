"""The MLflow calls of this project, on whichever store MLFLOW_TRACKING_URI names; they may fail and may block."""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import os
import socket
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from filelock import FileLock
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from flows.environment import anonymous
from flows.tracking_words import experiment_tags
from pipeline.artifacts import whole_file

BATCH = 1000  # metrics that one log_batch takes
PROBE_SECONDS = 3.0
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens with the table of runs
FINISHED = "FINISHED"  # the status of a run to which all was written
DELETED = "deleted"  # in the UI: still there, not found, not written to
SQLITE = "sqlite:///"
OWN_FOLDER = ".mlflow"
T = TypeVar("T")


class TrackingError(RuntimeError):
    """The tracking server does not answer."""


def make_database(path: Path) -> None:
    """Make MLflow's tables, all or none: it takes seconds, and MLflow could never use half of them."""
    with whole_file(path) as partial:
        MlflowClient(f"{SQLITE}{partial}", registry_uri=f"{SQLITE}{partial}").search_experiments(max_results=1)


class Store:
    """One experiment of a tracking server. ``connect`` first."""

    def __init__(self, experiment: str) -> None:
        self.uri = os.environ["MLFLOW_TRACKING_URI"]
        self.experiment = experiment
        self.client: MlflowClient
        self.experiment_id = ""
        self.takes_files = True

    def connect(self) -> None:
        """Find or make the experiment. Raises TrackingError or whatever MLflow raises."""
        probe(self.uri)
        database = local_database(self.uri)
        # Two stages that start side by side must not both create the tables.
        with FileLock(f"{database}.lock", timeout=60) if database is not None else nullcontext():
            if database is not None and not (database.exists() and database.stat().st_size):  # SQLite makes empty files
                make_database(database)
            self.client = MlflowClient(tracking_uri=self.uri)
            self._open_experiment(None if database is None else (database.parent / "artifacts").as_uri())

    def look(self) -> bool:
        """Whether the experiment is there, from now on to be read; nothing is made. Raises as ``connect``."""
        database = local_database(self.uri)
        if database is not None and not database.is_file():
            return False
        probe(self.uri)
        self.client = MlflowClient(tracking_uri=self.uri)
        found = self.client.get_experiment_by_name(self.experiment)
        self.experiment_id = found.experiment_id if found else ""
        return found is not None

    def _open_experiment(self, artifacts: str | None) -> None:
        """``artifacts``: where a local database's files lie, given because MLflow would take the current folder."""
        found = self.client.get_experiment_by_name(self.experiment) or self._new_experiment(artifacts)
        self.experiment_id = found.experiment_id
        self._restore()
        for key, value in experiment_tags(found.experiment_id).items():
            if found.tags.get(key) != value:
                self.client.set_experiment_tag(found.experiment_id, key, value)
        if artifacts is not None and found.artifact_location != artifacts:
            self.takes_files = False
            print(
                f"warning: the MLflow experiment {self.experiment} keeps its files in {found.artifact_location}, where "
                "this folder once was; numbers are recorded, files are not; a new tracking.experiment gets both",
                file=sys.stderr,
            )

    def _new_experiment(self, artifacts: str | None) -> Experiment:
        try:
            made = self.client.create_experiment(self.experiment, artifacts, EXPERIMENT_TAGS)
        except MlflowException:
            if (found := self.client.get_experiment_by_name(self.experiment)) is None:
                raise
            return found  # somebody else was quicker
        return self.client.get_experiment(made)

    def _restore(self, run: str | None = None) -> bool:
        """Take back the deletion of the experiment and of a run; False where neither was deleted."""
        deleted = self.client.get_experiment(self.experiment_id).lifecycle_stage == DELETED
        if deleted:
            self.client.restore_experiment(self.experiment_id)
        if run is not None and self.client.get_run(run).info.lifecycle_stage == DELETED:
            self.client.restore_run(run)
            deleted = True
        return deleted

    def _restoring(self, call: Callable[[], T], run: str | None = None) -> T:
        """What ``call`` gives, also where somebody deleted what it writes to while a stage ran."""
        try:
            return call()
        except MlflowException:
            if not self._restore(run):
                raise
            return call()

    def find(self, tags: Mapping[str, str]) -> list[Run]:
        """All runs that have these tags, the newest first."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], wanted, order_by=["start_time DESC"], max_results=1000, page_token=token
            )
            runs += page
            token = page.token
            if not token:
                return runs

    def new_run(self, name: str, tags: Mapping[str, str]) -> str:
        """The id of a new run."""
        made = self._restoring(lambda: self.client.create_run(self.experiment_id, tags=dict(tags), run_name=name))
        return made.info.run_id

    def write(
        self,
        run: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Sequence[Metric] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add params, metrics and tags to a run in as few calls as MLflow allows."""
        named = [Param(key, str(value)) for key, value in (params or {}).items()]
        marked = [RunTag(key, value) for key, value in (tags or {}).items()]
        if named or marked or metrics:
            first = metrics[:BATCH]
            self._restoring(lambda: self.client.log_batch(run, metrics=first, params=named, tags=marked), run)
        for start in range(BATCH, len(metrics), BATCH):
            self.client.log_batch(run, metrics=metrics[start : start + BATCH])

    def unknown(self, run: str, metrics: Sequence[Metric]) -> list[Metric]:
        """Those of the points that a run does not have yet."""
        keys = {point.key for point in metrics}
        known = {(key, point.step) for key in keys for point in self.client.get_metric_history(run, key)}
        return [point for point in metrics if (point.key, point.step) not in known]

    def supersede(self, others: Iterable[Run], run: str) -> None:
        """Mark ``run`` as the latest, and the others as not."""
        for old in others:
            if old.info.run_id != run and old.data.tags.get("latest") == "true":
                self.client.set_tag(old.info.run_id, "latest", "false")
        self.client.set_tag(run, "latest", "true")

    def add_file(self, run: str, path: Path) -> None:
        """Keep a copy of a file with the run."""
        if self.takes_files:
            self.client.log_artifact(run, str(path))

    def add_folder(self, run: str, folder: Path, name: str) -> None:
        """Keep a copy of all files in a folder with the run, under ``name``."""
        if self.takes_files:
            self.client.log_artifacts(run, str(folder), name)

    def end(self, run: str, status: str) -> None:
        """Close a run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run, status, end_time=int(time.time() * 1000))


def local_database(uri: str) -> Path | None:
    """The file of an SQLite uri, None for any other."""
    return Path(uri.removeprefix(SQLITE)).absolute() if uri.startswith(SQLITE) else None


def probe(uri: str) -> None:
    """Raises TrackingError where the store at ``uri`` is not there: MLflow itself would go on asking for minutes."""
    database, address = local_database(uri), urlsplit(uri)
    try:
        if database is not None:
            if database.parent.name == OWN_FOLDER:  # a workspace's; any other was mistyped where it is not there
                database.parent.mkdir(exist_ok=True)
            elif not database.parent.is_dir():
                raise TrackingError(f"{database.parent}: no such folder")
            with closing(sqlite3.connect(database, timeout=PROBE_SECONDS)) as connection:
                connection.execute("PRAGMA schema_version")  # fails on a file that is no database
        elif address.scheme in ("http", "https"):
            urllib.request.urlopen(anonymous(uri).rstrip("/") + "/health", timeout=PROBE_SECONDS).close()
        elif address.hostname and address.port:
            socket.create_connection((address.hostname, address.port), timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answers; what else it can do, the first call shows
    except (OSError, OverflowError, http.client.HTTPException, sqlite3.Error) as error:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return  # another process writes; the first call waits for it
        raise TrackingError(f"no tracking server or database there ({error})") from error


def as_metrics(values: Mapping[str, Any], step: int) -> list[Metric]:
    """MLflow's metrics for those values that are finite numbers."""
    now = int(time.time() * 1000)
    return [
        Metric(key, float(value), now, step)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]


def digest(*parts: Any) -> str:
    """Identity of settings and plain values."""
    plain: Iterable[Any] = (part.model_dump() if hasattr(part, "model_dump") else part for part in parts)
    return hashlib.sha256(json.dumps(list(plain)).encode()).hexdigest()[:16]
