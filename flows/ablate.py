"""Stage ablate: how sufficient and how necessary each circuit of one model is, on test pairs (§6)."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

from prefect import task

from flows import mapped
from flows.stage import load_study, main, stage_flow
from flows.tracking import Tracker
from pipeline.ablate import ablate_task
from pipeline.artifacts import write_json
from pipeline.config import AblateConfig
from pipeline.model.checkpoint import model_hash
from pipeline.rows import AblationRow
from pipeline.seeds import seed_of

SHOWN = ("unpruned_loss", "circuit_loss", "nodes_only_loss", "ablated_nodes_loss", "ablated_edges_loss")


@stage_flow
def ablate(model: str) -> None:
    """Write ablations/<model>.json from models/<model>, circuits/<model> and data/tasks."""
    workspace, params = load_study()
    rows = mapped.run_units(ablate_unit, mapped.inputs_by_circuit(workspace, params, "ablate", model))
    path = workspace.ablations(model)
    write_json(path, {"model": model, "model_hash": model_hash(workspace.model(model)), "tasks": rows})
    with Tracker(params, model) as tracker:
        tracker.log_ablations(workspace.model(model), workspace.circuits(model), path)
    mapped.show_tasks("ablations", model, rows, SHOWN, f"Losses of {model}, its circuits alone, and without them")
    if rows:
        sufficiency = median(row["circuit_loss"] for row in rows.values())
        necessity = median(row["ablated_nodes_loss"] for row in rows.values())
        print(
            f"{model}: {len(rows)} circuits tested; median loss {sufficiency:.3f} nats with the circuit alone, "
            f"{necessity:.3f} without it"
        )
    else:
        print(f"{model}: no circuits to test")


@task(name="ablate", **mapped.UNIT)
def ablate_unit(task: str, inputs: dict[str, Any]) -> AblationRow:
    """Losses and accuracies of one circuit and of its random controls."""
    workspace, network = mapped.unit_model(inputs)
    run = partial(
        ablate_task,
        model=network,
        batch=mapped.loaded_tasks(workspace.tasks).batch(task, "test").to(network.device),
        config=AblateConfig.model_validate(inputs["settings"]),
        seed=seed_of(inputs["seed"], "ablate", inputs["model"], task),
    )
    row = run(circuit=mapped.unit_circuit(workspace, task, inputs))
    deciding = mapped.deciding_circuit(workspace, task, inputs)
    row["deciding"] = None if deciding is None else run(circuit=deciding)
    return row


if __name__ == "__main__":
    main(ablate, per_model=True, mapped=True)
