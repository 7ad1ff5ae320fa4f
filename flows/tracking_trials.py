"""Records in MLflow of the search behind a circuit: a run per trial, under the circuit's run (``kind`` = trial).

Trials have no tag ``latest``, so no query for the newest circuits or models returns them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.tracking_store import FINISHED, Store, as_metrics, digest
from pipeline.artifacts import DECIDING, read_json
from pipeline.report.averages import log_edges
from pipeline.report.chips import chips
from pipeline.report.claims import claims_of
from pipeline.report.validation import checks_of
from pipeline.rows import TrialRow, ValidationRow

PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class PrunedTask:
    """One task of one model, to be recorded: its row of summary.json, the circuit's folder if any, all trials."""

    name: str
    row: Mapping[str, Any]
    folder: Path | None
    trials: Sequence[TrialRow]


def read_trials(folder: Path) -> list[TrialRow]:
    """The trials in circuits/<model>/<task>, none where the search left none. Raises ArtifactError."""
    path = folder / "trials.json"
    return read_json(path) if path.is_file() else []


def send_trials(store: Store, model: str, tasks: Mapping[str, PrunedTask], stopped: Callable[[], bool]) -> None:
    """Record, until ``stopped``, every trial that is not there yet, by three calls; ``tasks``: by circuit's run."""
    if not any(task.trials for task in tasks.values()):
        return
    known = {(run.data.tags[PARENT], run.data.tags["identity"]): run for run in store.find(_tags(model))}
    for parent, task in tasks.items():
        for trial in task.trials:
            if stopped():
                return
            identity = digest(dict(trial))
            run = known.get((parent, identity))
            if run is None:
                tags = _tags(model) | {"task": task.name, "identity": identity, PARENT: parent}
                run_id = store.new_run(f"{model} {task.name} trial {trial['number']}", tags)
                _complete(store, run_id, task.name, trial)
            elif run.info.status != FINISHED:  # its recording was interrupted
                _complete(store, run.info.run_id, task.name, trial)


def _tags(model: str) -> dict[str, str]:
    return {"kind": "trial", "model": model}


def _complete(store: Store, run: str, task: str, trial: TrialRow) -> None:
    """Fill a trial's run: hyperparameters as params, what it found as metrics, its state and source as tags."""
    store.write(
        run,
        params={"task": task, "trial": trial["number"]} | dict(trial["hyperparameters"]),
        metrics=as_metrics(
            {"n_nodes": trial["n_nodes"], "n_edges": trial["n_edges"], "validation_loss": trial["validation_loss"]}, 0
        ),
        tags={"state": trial["state"], "source": trial["source"]},
    )
    store.end(run, FINISHED)


def circuit_metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    """A task's row of summary.json without its nesting: ``discretised_n_edges``, ``baseline_random_n_edges``,
    ``n_edges_at_0.5`` and their like beside what is a number already; and ``log10_n_edges``, of 1 for none."""
    flat = {key: value for key, value in row.items() if key not in ("discretised", "baselines", "curve", DECIDING)}
    flat |= {f"discretised_{key}": value for key, value in (row.get("discretised") or {}).items()}
    for name, found in (row.get("baselines") or {}).items():
        flat |= {f"baseline_{name}_{key}": value for key, value in found.items()}
    flat |= {f"n_edges_at_{point['target_loss']:g}": point["n_edges"] for point in row.get("curve") or []}
    flat |= {"log10_n_edges": log10_edges(row["n_edges"])} if row.get("n_edges") is not None else {}
    deciding = circuit_metrics(row[DECIDING]) if row.get(DECIDING) else {}
    return flat | {f"{DECIDING}/{key}": value for key, value in deciding.items()}


def log10_edges(count: float) -> float:
    """A number of edges as a power of ten, 0 for none."""
    return log_edges(count) / math.log(10)


def validation_metrics(row: ValidationRow) -> dict[str, Any]:
    """A circuit's part of validations/<model>.json as metrics: the value of every check, how many claims were tested
    and are supported, the same of the deciding circuit; its ``verdict``, a line of text; ``claims``, the outcome of
    each, and ``n_claims_supported``, of the deciding circuit where there is one."""
    deciding = row.get("deciding")
    of_deciding = {f"{DECIDING}/{key}": value for key, value in check_values(deciding).items()} if deciding else {}
    claims = claims_of(deciding or row)
    said = {"verdict": row["verdict"]["line"], "claims": claims}
    n_supported = list(claims.values()).count("supported")
    return check_values(row) | of_deciding | said | {"n_claims_supported": n_supported}


def claim_tags(claims: Mapping[str, str]) -> dict[str, str]:
    """Tags of a circuit's run: the outcome of each claim in words, to filter by, and all as signs, to look at."""
    return {f"claim_{name}": outcome for name, outcome in claims.items()} | {"claims": "".join(chips(claims).values())}


def check_values(row: ValidationRow) -> dict[str, Any]:
    values = {f"validation/{test['name']}": test["value"] for test in checks_of(row)}
    return values | {f"validation/{key}": row["verdict"][key] for key in ("n_supported", "n_tested")}
