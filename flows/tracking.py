"""Records of models, circuits and the study in MLflow. No stage reads them, waits for them or fails with them.

Everything is sent from one thread of its own, buffered, to the server that MLFLOW_TRACKING_URI names. When that fails,
one warning says so and nothing more is sent; the same numbers are in the stage's own files. A run is made from these,
or completed where it is not FINISHED, when a stage or ``sparse-circuits track`` tells of it. One experiment holds

- a run per checkpoint (tag ``kind`` = model; found again by ``model_hash``): curves, sizes, rates;
- under it a run per task (``kind`` = circuit; found again by ``identity``): sizes, losses, the circuit as artifact;
- under that a run per trial of its search (``kind`` = trial), never among the latest;
- a run per report (``kind`` = study; found again by ``summary_hash``): the ratio and what lies in results/.

Of runs of the same thing the tag ``latest`` is true for the newest only, so that queries can leave out the past.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from alembic.util import CommandError
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from flows import tracking_words as words
from flows.environment import redacted
from flows.tracking_store import FINISHED, Store, TrackingError, as_metrics, digest, local_database
from flows.tracking_trials import (
    PrunedTask,
    circuit_metrics,
    claim_tags,
    log10_edges,
    read_trials,
    send_trials,
    validation_metrics,
)
from pipeline.artifacts import file_hash, read_json
from pipeline.config import Params
from pipeline.report.solved import is_solved
from pipeline.rows import ModelRow, Summary

# Errors of a server that is absent, broken or another program; ValueError: an answer that is not JSON.
FAILURES = (MlflowException, TrackingError, RequestException, SQLAlchemyError, CommandError, OSError, ImportError,
            ValueError)  # fmt: skip
OF_A_MODEL = ("n_solved", "geomean_edges", "geomean_edges_discretised", "val_loss_nats")  # in a study's run
# Errors that may pass: a database that another process holds for some seconds, a connection that was cut.
PASSING = (MlflowException, RequestException, SQLAlchemyError)
RETRY_SECONDS = (2.0, 8.0)  # how long one waits before a job is tried again
CLOSE_SECONDS = 60.0  # how long the end of a stage waits, at most, for what is still to be sent to a server
CLOSE_SHARE = 0.05  # of its own time, that a stage waits for that; the next one of the same model sends the rest
CLOSE_LEAST_SECONDS = 5.0
CLOSE_LOCAL_SECONDS = 600.0  # to a database of this machine, on a slow disk

Job = Callable[[], object]


class Sender:
    """Runs jobs one after the other in a thread; after the first failure, one warning and no more jobs."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.failed = False
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def send(self, job: Job) -> None:
        """Run ``job`` later; returns at once."""
        if not self.failed:
            self._jobs.put(job)

    def close(self, seconds: float | None = None) -> None:
        """Wait for the jobs that are left, but not longer than ``seconds`` (None: as long as its kind of store may
        take)."""
        if seconds is None:
            seconds = CLOSE_LOCAL_SECONDS if local_database(self.uri) is not None else patience(process_age())
        self._jobs.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._give_up(f"still busy after {seconds:g} s")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self.failed:
            try:
                _tried(job)
            except FAILURES as error:
                self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, why: str) -> None:
        if self.failed:
            return
        self.failed = True
        first_line = redacted(why.strip().splitlines()[0])[:300]
        print(
            f"warning: MLflow is told no more by this command: MLFLOW_TRACKING_URI={redacted(self.uri)}: {first_line}. "
            "The study's files are complete without it; start that server, or unset MLFLOW_TRACKING_URI to record in "
            ".mlflow/mlflow.db; sparse-circuits track then sends what is missing",
            file=sys.stderr,
        )


def patience(age: float) -> float:
    """How many seconds a stage that took ``age`` seconds waits for a server."""
    return min(CLOSE_SECONDS, max(CLOSE_LEAST_SECONDS, CLOSE_SHARE * age))


def process_age() -> float:
    """Seconds since this process began."""
    return time.time() - psutil.Process().create_time()


def _tried(job: Job) -> None:
    """Run a job, up to three times where its error may pass."""
    for seconds in RETRY_SECONDS:
        try:
            job()
            return
        except PASSING:
            time.sleep(seconds)
    job()


class Tracker:
    """Tells MLflow of one model: its training, its circuits, their ablations. A context manager."""

    def __init__(self, params: Params, model: str, *, close_seconds: float | None = None) -> None:
        """``close_seconds``: how long the end waits for what is still to be sent (None: as ``Sender.close``)."""
        self.params, self.model, self.close_seconds = params, model, close_seconds
        self.store = Store(params.tracking.experiment)
        self.sender = Sender(self.store.uri)
        self.sender.send(self.store.connect)
        self._buffer: list[Metric] = []
        self._flushed = time.monotonic()
        self._run: str | None = None  # the run of a training in progress
        self._finished = False

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._flush()
        if kind is not None:
            status = "FAILED" if issubclass(kind, Exception) else "KILLED"
            self.sender.send(lambda: self._end_training(status))
        self.sender.close(self.close_seconds)

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to the curves of the training in progress; sent every ``tracking.flush_seconds``."""
        self._buffer += as_metrics({key: value for key, value in metrics.items() if key != "step"}, step)
        if time.monotonic() - self._flushed >= self.params.tracking.flush_seconds:
            self._flush()

    def log_model(self, summary: ModelRow, folder: Path) -> None:
        """End the training's run with what models/<name>/summary.json says; its small files become artifacts."""
        self._flush()
        self.sender.send(lambda: self._end_model(self._training_run(), summary, folder))

    def log_checkpoint(self, checkpoint: Path) -> None:
        """A trained model's run, made or completed from its files."""
        summary = read_json(checkpoint / "summary.json")
        self.sender.send(lambda: self._model_run(summary, checkpoint))

    def log_circuits(self, checkpoint: Path, circuits: Path, tested: Mapping[str, Any] | None = None) -> None:
        """A run per task under the model's, from the folders models/<name> and circuits/<name>.

        ``tested``: of these tasks alone, with what tests found added to each.
        """
        summary, pruned = read_json(checkpoint / "summary.json"), read_json(circuits / "summary.json")["tasks"]
        found = []
        for task, row in pruned.items():
            if row["expressible"] and (tested is None or task in tested):
                folder = circuits / task if row["n_edges"] is not None else None
                found.append(PrunedTask(task, row | (tested or {}).get(task, {}), folder, read_trials(circuits / task)))
        self.sender.send(lambda: self._send_circuits(summary, checkpoint, found))

    def log_ablations(self, checkpoint: Path, circuits: Path, ablations: Path) -> None:
        """Add the losses in ablations/<name>.json to the runs of the circuits."""
        self.log_circuits(checkpoint, circuits, read_json(ablations)["tasks"])

    def log_validations(self, checkpoint: Path, circuits: Path, validations: Path) -> None:
        """Add the verdicts in validations/<name>.json, and what each test measured, to the runs of the circuits."""
        tested = read_json(validations)["tasks"]
        self.log_circuits(checkpoint, circuits, {task: validation_metrics(row) for task, row in tested.items()})

    def log_explanations(self, checkpoint: Path, explanations: Path) -> None:
        """Keep explanations/<name>.json with the model's run."""
        summary = read_json(checkpoint / "summary.json")
        self.sender.send(lambda: self.store.add_file(self._model_run(summary, checkpoint), explanations))

    def _flush(self) -> None:
        metrics, self._buffer, self._flushed = self._buffer, [], time.monotonic()
        if metrics:
            self.sender.send(lambda: self.store.write(self._training_run(), metrics=metrics))

    # The methods below run in the sender's thread.

    def _training_run(self) -> str:
        """The run of this training: that of an interrupted one with the same settings, else a new one."""
        if self._run is None:
            params = self.params
            seed = params.training_seed(self.model)
            settings = digest(params.model(self.model), params.pretrain, params.compute, seed)
            tags = {"kind": "model", "model": self.model, "settings": settings}
            unfinished = [run for run in self.store.find(tags) if "model_hash" not in run.data.tags]
            self._run = unfinished[0].info.run_id if unfinished else self.store.new_run(self.model, tags)
            self.store.write(self._run, params=self._settings())
        return self._run

    def _settings(self) -> dict[str, Any]:
        """The params of a model's run that are known before it is trained; ``tokens`` are counted at its end."""
        params, config = self.params, self.params.model(self.model)
        study = {"seed": params.training_seed(self.model), "batch": params.pretrain.batch, "profile": params.profile}
        return {"model": self.model, "kind": config.kind} | config.model_dump(exclude={"tokens"}) | study

    def _end_training(self, status: str) -> None:
        if self._run is not None and not self._finished:
            self.store.end(self._run, status)

    def _end_model(self, run: str, summary: ModelRow, folder: Path) -> None:
        """Write a trained model's facts into its run and make it the latest of its name."""
        self._finished = True
        params = {key: summary[key] for key in ("n_params", "l0", "tokens")}
        metrics = {key: summary[key] for key in ("val_loss_nats", "train_seconds")}
        metrics |= {f"l0/{name}": count for name, count in summary["l0_by_matrix"].items()}
        last = max((point.step for point in _history(folder / "history.jsonl")), default=0)  # where the curves end
        key = {"key": f"{self.model}:{summary['model_hash']}", "model_hash": summary["model_hash"]}
        key |= {words.NOTE: words.of_model(summary), words.COLOUR: words.COLOURS[summary["kind"]]}
        self.store.write(run, params=params, metrics=as_metrics(metrics, last), tags=key)
        self.store.supersede(self.store.find({"kind": "model", "model": self.model}), run)
        for name in ("config.json", "summary.json", "history.jsonl"):
            self.store.add_file(run, folder / name)
        self.store.end(run, FINISHED)

    def _model_run(self, summary: ModelRow, folder: Path) -> str:
        """The run of a checkpoint; made from its files where MLflow never heard of it, or not to its training's end."""
        found = self.store.find({"kind": "model", "model": self.model, "model_hash": summary["model_hash"]})
        if found and found[0].info.status == FINISHED:
            return found[0].info.run_id
        run = found[0].info.run_id if found else self._training_run()
        self.store.write(run, metrics=self.store.unknown(run, list(_history(folder / "history.jsonl"))))
        self._end_model(run, summary, folder)
        return run

    def _send_circuits(self, summary: ModelRow, checkpoint: Path, tasks: Sequence[PrunedTask]) -> None:
        """The run of every circuit, and only then those of trials: the less important come last."""
        parent = self._model_run(summary, checkpoint)
        recorded = self.store.find({"kind": "circuit", "model": self.model})
        sent: dict[str, PrunedTask] = {}
        for task in tasks:
            if self.sender.failed:
                return
            others = [run for run in recorded if run.data.tags["task"] == task.name]
            sent[self._send_circuit(summary, parent, others, task)] = task
        send_trials(self.store, self.model, sent, lambda: self.sender.failed)

    def _send_circuit(self, summary: ModelRow, parent: str, recorded: Sequence[Run], task: PrunedTask) -> str:
        """The run of one circuit, made or found among those ``recorded`` of its task, with all that is known of it."""
        row = task.row
        files = [task.folder / name for name in ("circuit.json", "circuit.safetensors")] if task.folder else []
        found = file_hash(*files) if files else None
        identity = digest(summary["model_hash"], task.name, self.params.prune.target_loss, found)
        same = [run for run in recorded if run.data.tags.get("identity") == identity]
        run = same[0].info.run_id if same else self._new_circuit(summary, identity, task.name)
        if not same or same[0].info.status != FINISHED:
            self._describe(run, summary, task)
        metrics = circuit_metrics(row) | {"model_val_loss": summary["val_loss_nats"]}
        solved = is_solved(row, self.params.prune.target_loss)
        tags = {"solved": str(solved).lower(), "mlflow.parentRunId": parent}
        tags |= {"verdict": row["verdict"]} if "verdict" in row else {}
        tags |= claim_tags(row["claims"]) if "claims" in row else {}
        tags |= {words.NOTE: words.of_circuit(self.model, task.name, row)}
        tags |= {words.COLOUR: words.COLOURS[summary["kind"]]}
        self.store.write(run, metrics=as_metrics(metrics, 0), tags=tags)
        self.store.supersede(recorded, run)
        self.store.end(run, FINISHED)
        return run

    def _new_circuit(self, summary: ModelRow, identity: str, task: str) -> str:
        tags = {"kind": "circuit", "model": self.model, "task": task, "model_hash": summary["model_hash"]}
        return self.store.new_run(f"{self.model} {task}", tags | {"identity": identity})

    def _describe(self, run: str, summary: ModelRow, task: PrunedTask) -> None:
        """Give a circuit's run its params and its files."""
        params = {"model": self.model, "task": task.name, "target_loss": self.params.prune.target_loss}
        params |= {key: summary[key] for key in ("kind", "n_layer", "d_model", "n_params", "l0")}
        self.store.write(run, params=params | (task.row.get("hyperparameters") or {}))
        if task.folder is not None:
            self.store.add_folder(run, task.folder, "circuit")


def log_study(params: Params, summary: Summary, results: Path, *, close_seconds: float | None = None) -> bool:
    """Record a report as a run of its own: the frontier's numbers, tasks solved, the files in ``results``.

    The same report is one run, however often it is told. False where it could not be recorded.
    """
    store = Store(params.tracking.experiment)
    sender = Sender(store.uri)
    sender.send(store.connect)
    sender.send(lambda: _send_study(store, params, summary, results))
    sender.close(close_seconds)
    return not sender.failed


def _send_study(store: Store, params: Params, summary: Summary, results: Path) -> None:
    provenance = summary["provenance"]
    git = provenance["git"] or {}
    tags = {"kind": "study", "profile": params.profile, "params_hash": provenance["params_hash"]}
    tags |= {"commit": str(git.get("commit")), "dirty": str(git.get("dirty")).lower(), "summary_hash": digest(summary)}
    found = store.find(tags)
    if not found or found[0].info.status != FINISHED:
        run = found[0].info.run_id if found else store.new_run(f"study {params.profile}", tags)
        _describe_study(store, run, params, summary, results)
    _complete_models(store, summary, results)


def _describe_study(store: Store, run: str, params: Params, summary: Summary, results: Path) -> None:
    """Give a report's run its numbers, its settings and the files in ``results``."""
    numbers = {f"{key}/{model['name']}": model.get(key) for key in OF_A_MODEL for model in summary["models"]}
    baselines = summary["baselines"]["overall"]
    numbers |= {f"ratio_baseline_to_learned_edges/{name}": found["ratio"] for name, found in baselines.items()}
    counted = summary["validation"]["circuits"]
    numbers |= {f"n_circuits_of_five_claims/{kind}": found["n_at_least"][5] for kind, found in counted.items()}
    ratio = summary["frontier"]["ratio_dense_to_sparse_edges_at_matched_loss"]
    numbers["ratio_dense_to_sparse_edges"] = ratio
    numbers["ratio_discretised_to_minimised_edges"] = summary["minimisation"]["ratio_discretised_to_minimised"]
    settings = {"profile": params.profile, "seed": params.seed, "target_loss": params.prune.target_loss}
    note = {words.NOTE: words.of_study(params.profile, ratio)}
    store.write(run, params=settings, metrics=as_metrics(numbers, 0), tags=note)
    store.supersede(store.find({"kind": "study", "profile": params.profile}), run)
    store.add_folder(run, results, "results")
    store.end(run, FINISHED)


def _complete_models(store: Store, summary: Summary, results: Path) -> None:
    """Add the study's counts to the runs of models, and the drawings in ``results`` to those of circuits."""
    for model in summary["models"]:
        mean = model["geomean_edges"]
        counted = {"n_solved": model["n_solved"], "geomean_edges": mean}
        counted |= {} if mean is None else {"log10_geomean_edges": log10_edges(mean)}
        for run in store.find({"kind": "model", "model": model["name"], "latest": "true"}):
            store.write(run.info.run_id, metrics=as_metrics(counted, 0))
        for drawing in sorted((results / "circuits" / model["name"]).glob("*.svg")):
            tags = {"kind": "circuit", "model": model["name"], "task": drawing.stem, "latest": "true"}
            for run in store.find(tags):
                store.add_file(run.info.run_id, drawing)


def _history(path: Path) -> Iterator[Metric]:
    """The curves in a history.jsonl, as ``log_step`` would have sent them."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield from as_metrics({key: value for key, value in row.items() if key != "step"}, row["step"])
