"""Stage explain: what the nodes of the circuits of one model respond to, on prompts and on held-out code."""

from __future__ import annotations

from typing import Any

from prefect import Flow, task
from prefect.artifacts import create_table_artifact

from flows import environment, units
from flows.ablate import circuit_hash, circuits_of
from flows.stage import load_study, main, stage_flow
from flows.tracking import Tracker
from pipeline.artifacts import Workspace, file_hash, write_json
from pipeline.circuit import Circuit
from pipeline.config import ExplainConfig, Params
from pipeline.data.shards import TokenStream
from pipeline.data.tokenizer import Tokenizer
from pipeline.explain import assembled, explain_circuit, explain_nodes
from pipeline.model.checkpoint import model_hash
from pipeline.model.device import prepare_cpu

CODE = ("explain", "model", "kernels", "circuit", "data/batches.py", "data/pairs.py", "data/shards.py", "data/tasks",
        "data/tokenizer.py", "seeds.py", "sites.py")  # fmt: skip


@stage_flow()
def explain(model: str) -> None:
    """Write explanations/<model>.json from models/<model>, circuits/<model>, data/tasks and data/tokens."""
    workspace, params = load_study()
    tasks = units.checked_tasks(workspace, model)
    folders = circuits_of(workspace.circuits(model), tasks, model_hash(workspace.model(model)))
    shared = units.shared_inputs(workspace, params, "explain", model, units.code_hash(*CODE))
    inputs = {
        name: shared | {"task_hash": tasks.hash(name), "circuit_hash": circuit_hash(folder)}
        for name, folder in folders.items()
    }
    circuits = units.run_units(explain_unit, inputs)
    names = sorted({node for found in circuits.values() for node in found["nodes"]})
    watched = shared | {"nodes": names, "tokens_hash": tokens_hash(workspace)}
    nodes = units.run_units(watch_unit, {"held-out code": watched} if names else {})
    path = workspace.explanations(model)
    found = assembled(
        model, shared["model_hash"], nodes.get("held-out code", {}), circuits, Tokenizer.load(workspace.tokens)
    )
    write_json(path, found, compact=True)
    with Tracker(params, model) as tracker:
        tracker.log_explanations(workspace.model(model), path)
    show_labels(model, found["nodes"])
    n_labelled = sum(node["label"] is not None for node in found["nodes"].values())
    print(f"{model}: {len(circuits)} circuits explained, {n_labelled} of their {len(names)} nodes have a label")


@task(name="explain", **units.UNIT)
def explain_unit(task: str, inputs: dict[str, Any]) -> units.Row:
    """One circuit's nodes and heads on test pairs of its task."""
    workspace = environment.workspace()
    prepare_cpu(1)
    model = units.loaded_model(workspace.model(inputs["model"]), inputs["model_hash"], inputs["device"])
    return explain_circuit(
        model,
        Circuit.load(workspace.circuits(inputs["model"]) / task),
        units.loaded_tasks(workspace.tasks).batch(task, "test"),
        Tokenizer.load(workspace.tokens),
        ExplainConfig.model_validate(inputs["settings"] | {"workers": 1}),
    )


@task(name="watch nodes", **units.UNIT)
def watch_unit(task: str, inputs: dict[str, Any]) -> units.Row:
    """The nodes of all circuits of a model over held-out code, with their labels."""
    workspace = environment.workspace()
    prepare_cpu(1)
    return explain_nodes(
        units.loaded_model(workspace.model(inputs["model"]), inputs["model_hash"], inputs["device"]),
        inputs["nodes"],
        stream=TokenStream.open(workspace.tokens, "validation"),
        tokenizer=Tokenizer.load(workspace.tokens),
        config=ExplainConfig.model_validate(inputs["settings"] | {"workers": 1}),
        seed=inputs["seed"],
    )


def tokens_hash(workspace: Workspace) -> str:
    """Identity of the held-out code and of its tokens."""
    return file_hash(*(workspace.tokens / name for name in ("stats.json", "tokenizer.json", "validation.bin")))


def show_labels(model: str, nodes: dict[str, Any]) -> None:
    """Put the labels into Prefect's UI, those of the best score first."""
    labels = {name: node["label"] for name, node in nodes.items() if node["label"] is not None}
    ordered = sorted(labels.items(), key=lambda item: -item[1]["score"])
    table = [{"node": name, "hypothesis": label["text"], "R²": label["score"]} for name, label in ordered]
    description = f"What nodes of {model} seem to respond to: hypotheses, with R² on documents they were not chosen on"
    create_table_artifact(table, key=units.artifact_key("explanations", model), description=description)


def flow_for(params: Params) -> Flow[[str], Any]:
    """The flow with as many units side by side as the settings say."""
    return explain.with_options(task_runner=units.runner(params.explain.workers))


if __name__ == "__main__":
    main(flow_for, per_model=True)
