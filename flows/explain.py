"""Stage explain: the inputs that the nodes of one model's circuits respond to, on prompts and on held-out code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import task

from flows import mapped
from flows.stage import load_study, main, stage_flow
from flows.tracking import Tracker
from pipeline.artifacts import file_hash, read_json, write_json
from pipeline.config import ExplainConfig
from pipeline.data.shards import TokenStream
from pipeline.data.tokenizer import Tokenizer
from pipeline.explain import assembled, explain_circuit, explain_nodes, larger
from pipeline.rows import Label, TaskLabel


@stage_flow
def explain(model: str) -> None:
    """Write explanations/<model>.json from models/<model>, circuits/<model>, data/tasks and data/tokens."""
    workspace, params = load_study()
    inputs = mapped.inputs_by_circuit(workspace, params, "explain", model)
    shared = mapped.shared_inputs(workspace, params, "explain", model)
    circuits = mapped.run_units(explain_unit, inputs)
    names = sorted({node for found in circuits.values() for node in found["nodes"]})
    held_out = [workspace.tokens / name for name in ("stats.json", "tokenizer.json", "validation.bin")]
    watched = shared | {"nodes": names, "tokens_hash": file_hash(*held_out)}
    nodes = mapped.run_units(watch_unit, {"held-out code": watched} if names else {})
    path = workspace.explanations(model)
    found = assembled(
        model, shared["model_hash"], nodes.get("held-out code", {}), circuits, Tokenizer.load(workspace.tokens)
    )
    write_json(path, found, compact=True)
    with Tracker(params, model) as tracker:
        tracker.log_explanations(workspace.model(model), path)
    show_labels(model, found["nodes"], found["circuits"])
    uses = [node["task_label"] for circuit in found["circuits"].values() for node in circuit["nodes"].values()]
    n_weak = sum(label["weak"] for label in uses)
    print(f"{model}: {len(circuits)} circuits explained; {n_weak} of their {len(uses)} labels in tasks are weak")


@task(name="explain", **mapped.UNIT)
def explain_unit(task: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """One circuit's nodes and heads on test pairs of its task."""
    workspace, model = mapped.unit_model(inputs)
    circuit, tasks = mapped.unit_circuit(workspace, task, inputs), mapped.loaded_tasks(workspace.tasks)
    config, batch = ExplainConfig.model_validate(inputs["settings"]), tasks.batch(task, "test")
    found = explain_circuit(model, circuit, batch, Tokenizer.load(workspace.tokens), config)
    curve = read_json(workspace.circuits(inputs["model"]) / "summary.json")["tasks"][task]["curve"]
    train = tasks.batch(task, "train").first(config.carried_pairs)
    return found | {"larger": larger(model, circuit, curve, train, batch.first(config.ablated_pairs))}


@task(name="watch nodes", **mapped.UNIT)
def watch_unit(task: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """The nodes of all circuits of a model over held-out code, with their labels."""
    workspace, model = mapped.unit_model(inputs)
    return explain_nodes(
        model,
        inputs["nodes"],
        stream=TokenStream.open(workspace.tokens, "validation"),
        tokenizer=Tokenizer.load(workspace.tokens),
        config=ExplainConfig.model_validate(inputs["settings"]),
        seed=inputs["seed"],
    )


def show_labels(model: str, nodes: Mapping[str, Any], circuits: Mapping[str, Any]) -> None:
    """Put the labels into Prefect's UI: of each node in its task, and beside it in code at large."""
    table = [
        label_row(task, name, node["task_label"], nodes[name]["label"])
        for task, found in circuits.items()
        for name, node in found["nodes"].items()
    ]
    description = f"What nodes of {model} do in their tasks, by rule: scores are of pairs and documents not chosen on"
    mapped.show_table("explanations", model, table, description)


def label_row(task: str, node: str, in_task: TaskLabel, in_code: Label | None) -> dict[str, Any]:
    """One line of the table; a score that is low is called weak beside the number."""
    return {
        "task": task,
        "node": node,
        "in the task": in_task["text"],
        "AUC": score_of(in_task),
        "role": in_task["role"],
        "in code at large": in_code["text"] if in_code else None,
        "R²": score_of(in_code) if in_code else None,
    }


def score_of(label: TaskLabel | Label) -> str | None:
    """``0.98``, ``0.62, weak``; None for a node that has one value only."""
    return None if label["score"] is None else f"{label['score']:.2f}" + (", weak" if label["weak"] else "")


if __name__ == "__main__":
    main(explain, per_model=True, mapped=True)
