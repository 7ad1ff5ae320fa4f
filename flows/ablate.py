"""Stage ablate: how sufficient and how necessary each circuit of one model is, on test pairs (§6)."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from prefect import Flow, task
from prefect.artifacts import create_table_artifact

from flows import environment, units
from flows.stage import load_study, main, stage_flow
from flows.tracking import Tracker
from pipeline.ablate import ablate_task
from pipeline.artifacts import file_hash, read_json, write_json
from pipeline.circuit import Circuit
from pipeline.config import AblateConfig, Params
from pipeline.data.tasks import TaskSet
from pipeline.model.checkpoint import model_hash
from pipeline.model.device import prepare_cpu
from pipeline.seeds import seed_of

CODE = ("ablate", "model", "kernels", "circuit", "data/pairs.py", "seeds.py", "sites.py", "stats.py")


@stage_flow()
def ablate(model: str) -> None:
    """Write ablations/<model>.json from models/<model>, circuits/<model> and data/tasks."""
    workspace, params = load_study()
    tasks = units.checked_tasks(workspace, model)
    folders = circuits_of(workspace.circuits(model), tasks, model_hash(workspace.model(model)))
    shared = units.shared_inputs(workspace, params, "ablate", model, units.code_hash(*CODE))
    inputs = {
        name: shared | {"task_hash": tasks.hash(name), "circuit_hash": circuit_hash(folder)}
        for name, folder in folders.items()
    }
    rows = units.run_units(ablate_unit, inputs)
    path = workspace.ablations(model)
    write_json(path, {"model": model, "model_hash": shared["model_hash"], "tasks": rows})
    with Tracker(params, model) as tracker:
        tracker.log_ablations(workspace.model(model), workspace.circuits(model), path)
    show_losses(model, rows)
    if rows:
        sufficiency, necessity = (
            median(row[loss] for row in rows.values()) for loss in ("circuit_loss", "ablated_nodes_loss")
        )
        print(
            f"{model}: {len(rows)} circuits tested; median loss {sufficiency:.3f} nats with the circuit alone, "
            f"{necessity:.3f} without it"
        )
    else:
        print(f"{model}: no circuits to test")


@task(name="ablate", **units.UNIT)
def ablate_unit(task: str, inputs: dict[str, Any]) -> units.Row:
    """Losses and accuracies of one circuit and of its random controls."""
    workspace = environment.workspace()
    prepare_cpu(1)
    model = units.loaded_model(workspace.model(inputs["model"]), inputs["model_hash"], inputs["device"])
    return ablate_task(
        model=model,
        circuit=Circuit.load(workspace.circuits(inputs["model"]) / task),
        batch=units.loaded_tasks(workspace.tasks).batch(task, "test").to(model.device),
        config=AblateConfig.model_validate(inputs["settings"] | {"workers": 1}),
        seed=seed_of(inputs["seed"], "ablate", inputs["model"], task),
    )


def circuits_of(folder: Path, tasks: TaskSet, checkpoint: str) -> dict[str, Path]:
    """Task → folder of its circuit. Raises where one is missing, damaged, or of another checkpoint or other pairs."""
    rows = read_json(folder / "summary.json")["tasks"]
    folders = {name: folder / name for name in tasks.names if rows.get(name, {}).get("n_edges") is not None}
    for name, path in folders.items():
        circuit = Circuit.load(path)
        circuit.check_hash(checkpoint)
        if circuit.about["task_hash"] != tasks.hash(name):
            raise ValueError(
                f"{path}: made with other pairs of {name} ({circuit.about['task_hash']}) than those in data/tasks "
                f"({tasks.hash(name)}); run dvc repro, which prunes again"
            )
    return folders


def circuit_hash(folder: Path) -> str:
    """Identity of a circuit."""
    return file_hash(folder / "circuit.json", folder / "circuit.safetensors")


def show_losses(model: str, rows: dict[str, units.Row]) -> None:
    """Put the table of losses into Prefect's UI."""
    columns = ("unpruned_loss", "circuit_loss", "nodes_only_loss", "ablated_nodes_loss", "ablated_edges_loss")
    table = [{"task": name} | {column: row[column] for column in columns} for name, row in rows.items()]
    description = f"Losses of {model}, its circuits alone, and without them"
    create_table_artifact(table, key=units.artifact_key("ablations", model), description=description)


def flow_for(params: Params) -> Flow[[str], Any]:
    """The flow with as many units side by side as the settings say."""
    return ablate.with_options(task_runner=units.runner(params.ablate.workers))


if __name__ == "__main__":
    main(flow_for, per_model=True)
