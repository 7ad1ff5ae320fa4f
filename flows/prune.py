"""Stage prune: the smallest circuit of every task that one model does (§4), each task a unit of its own."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task

from flows import mapped
from flows.stage import load_study, main, stage_flow
from flows.tracking import Tracker
from pipeline.artifacts import DECIDING, Workspace, read_json, whole_folder, write_json
from pipeline.circuit.make_ablations import ablations_for
from pipeline.config import PruneConfig
from pipeline.data.words import SPLITS
from pipeline.model.checkpoint import load_means
from pipeline.prune import Pruned, empty_row, prune_task
from pipeline.rows import PruneRow
from pipeline.seeds import seed_of

SHOWN = ("expressible", "unpruned_loss", "solved", "n_nodes", "n_edges", "validation_loss", "seconds")
NOT_EXPRESSIBLE: PruneRow = empty_row() | {"solved": None, "seconds": None}


@stage_flow
def prune(model: str) -> None:
    """Write circuits/<model> from models/<model> and data/tasks."""
    workspace, params = load_study()
    tasks = mapped.checked_tasks(workspace, model)
    shared = mapped.shared_inputs(workspace, params, "prune", model)
    # The units that may take longest come first.
    names = sorted(filter(tasks.expressible, tasks.names), key=lambda name: -tasks.about(name)["n_tokens_max"])
    inputs = {name: shared | {"task_hash": tasks.hash(name)} for name in names}
    folders = {name: unit_folder(workspace, name, values) for name, values in inputs.items()}
    found = mapped.run_units(prune_unit, inputs, redo={name for name in folders if not folders[name].is_dir()})
    rows = {
        name: {"expressible": tasks.expressible(name), "reason": tasks.reason(name)} | found.get(name, NOT_EXPRESSIBLE)
        for name in tasks.names
    }
    with whole_folder(workspace.circuits(model)) as partial:
        for name, folder in folders.items():
            if rows[name]["n_edges"] is not None:
                shutil.copytree(folder / "circuit", partial / name)
                shutil.copy(folder / "trials.json", partial / name / "trials.json")
        write_json(partial / "summary.json", {"model": model, "model_hash": shared["model_hash"], "tasks": rows})
    with Tracker(params, model) as tracker:
        tracker.log_circuits(workspace.model(model), workspace.circuits(model))
    mapped.show_tasks("circuits", model, rows, SHOWN, f"Circuits of {model}")
    forget_others(folders.values())
    announce(model, rows, params.prune.target_loss)


@task(name="prune", **mapped.UNIT)
def prune_unit(task: str, inputs: dict[str, Any]) -> PruneRow:
    """The summary row of one task in one model; its circuit, if there is one, is left in the unit's folder."""
    began = time.perf_counter()
    workspace, model = mapped.unit_model(inputs)
    folder, unit = workspace.model(inputs["model"]), unit_folder(workspace, task, inputs)
    pairs = mapped.loaded_tasks(workspace.tasks)
    config = PruneConfig.model_validate(inputs["settings"])
    means = {key: value.to(model.device) for key, value in load_means(folder).items()}
    batches = {split: pairs.batch(task, split).to(model.device) for split in SPLITS}
    draws_seed = seed_of(inputs["seed"], "draws", inputs["model"])

    def search(config: PruneConfig, purpose: str, storage: Path) -> Pruned:
        return prune_task(
            model=model,
            means=means,
            ablations=ablations_for(
                config, model, means, batches["train"], workspace.tokens, pairs.tokenizer_hash, draws_seed
            ),
            batches=batches,
            config=config,
            seed=seed_of(inputs["seed"], purpose, inputs["model"], task),
            about={"task": task} | {key: inputs[key] for key in ("model", "model_hash", "task_hash")},
            storage=storage,
        )

    def ended(config: PruneConfig, purpose: str) -> Ended:
        storage = unit.with_name(f"{unit.name}.{purpose}") / f"{config.target_loss:g}"
        return Ended.once(storage.with_name(f"{storage.name}.ended"), lambda: search(config, purpose, storage))

    pruned = ended(config, "prune")
    strict = config.for_deciding() if pruned.has_circuit else []
    deciding = first_met(ended(config, DECIDING) for config in strict)
    with whole_folder(unit) as partial:
        pruned.copy_circuit(partial / "circuit")
        if deciding is not None:
            deciding.copy_circuit(partial / "circuit" / DECIDING)
        shutil.copy(pruned.folder / "trials.json", partial)
    row = pruned.row | {"deciding": None if deciding is None else deciding.row}
    for purpose in ("prune", DECIDING):
        shutil.rmtree(unit.with_name(f"{unit.name}.{purpose}"), ignore_errors=True)
    return row | {"seconds": time.perf_counter() - began}


@dataclass(frozen=True)
class Ended:
    """What a search found, kept while its unit goes on: a folder with row.json, trials.json and, where there is one,
    circuit."""

    folder: Path

    @classmethod
    def once(cls, folder: Path, search: Callable[[], Pruned]) -> Ended:
        """Of a search, which is not made again where the unit was interrupted after its end."""
        if not folder.is_dir():
            found = search()
            with whole_folder(folder) as partial:
                write_json(partial / "row.json", found.row)
                write_json(partial / "trials.json", found.trials)
                if found.circuit is not None:
                    found.circuit.save(partial / "circuit")
        return cls(folder)

    @property
    def row(self) -> PruneRow:
        found: PruneRow = read_json(self.folder / "row.json")
        return found

    @property
    def has_circuit(self) -> bool:
        return (self.folder / "circuit").is_dir()

    def copy_circuit(self, to: Path) -> None:
        """Copy the circuit, if there is one."""
        if self.has_circuit:
            shutil.copytree(self.folder / "circuit", to)


def first_met(found: Iterable[Ended]) -> Ended | None:
    """The first search that found a circuit, after which none is made; else the last, None for none at all."""
    last = None
    for last in found:
        if last.has_circuit:
            break
    return last


def unit_folder(workspace: Workspace, task: str, inputs: Mapping[str, Any]) -> Path:
    """Where the unit with these inputs leaves its circuit until all are there."""
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    return workspace.scratch / "prune" / inputs["model"] / f"{task}-{digest}"


def forget_others(folders: Iterable[Path]) -> None:
    """Delete what units of other settings or other checkpoints of the same model left."""
    kept = set(folders)
    for parent in {folder.parent for folder in kept}:
        for other in set(parent.iterdir()) - kept:
            shutil.rmtree(other, ignore_errors=True)


def announce(model: str, rows: Mapping[str, PruneRow], target_loss: float) -> None:
    """Say what was found; with a warning for a model that solves no task."""
    edges = [row["n_edges"] for row in rows.values() if row["n_edges"] is not None]
    if not edges:
        losses = [row["unpruned_loss"] for row in rows.values() if row["unpruned_loss"] is not None]
        best = f"its lowest is {min(losses):.3f}" if losses else "none is expressible in this vocabulary"
        print(
            f"warning: {model} solves no task: none has an unpruned loss of at most prune.target_loss {target_loss:g} "
            f"nats ({best}); it has no circuits. Raise models.{model}.tokens or the target",
            file=sys.stderr,
        )
        return
    mean = math.exp(math.fsum(math.log(max(count, 1)) for count in edges) / len(edges))
    print(f"{model}: circuits for {len(edges)} of {len(rows)} tasks, geometric mean {mean:.1f} edges")


if __name__ == "__main__":
    main(prune, per_model=True, mapped=True)
