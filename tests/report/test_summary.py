"""results/summary.json against its contract, and what is null."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pipeline.ablation import Ablation
from pipeline.artifacts import ArtifactError, read_json, write_json
from pipeline.report.inputs import read_record
from pipeline.report.summary import CircuitTarget, check_test_loss, summarise
from tests.report.conftest import FIXTURE, MakeModel, Place
from tests.report.make_fixture import SOLVED

NUMBER, NULLABLE, INTERVAL = (int, float), (int, float, type(None)), (list, type(None))
MODEL_CONTRACT: dict[str, Any] = {
    "name": str, "kind": str, "n_layer": int, "d_model": int, "n_params": int, "l0": int, "tokens": int,
    "val_loss_nats": NULLABLE, "train_seconds": NUMBER, "tasks": dict, "n_solved": int, "geomean_edges": NULLABLE,
    "geomean_edges_discretised": NULLABLE, "ratio_discretised_to_minimised": NULLABLE, "test_loss": dict,
}  # fmt: skip
TASK_CONTRACT: dict[str, Any] = {
    "expressible": bool, "unpruned_loss": NULLABLE, "solved": bool, "n_nodes": NULLABLE, "n_edges": NULLABLE,
    "circuit_loss": NULLABLE, "circuit_accuracy": NULLABLE, "nodes_only_loss": NULLABLE,
    "ablated_nodes_loss": NULLABLE, "ablated_edges_loss": NULLABLE, "random_circuit_loss_median": NULLABLE,
    "random_nodes_only_loss_median": NULLABLE, "random_nodes_loss_median": NULLABLE,
    "random_edges_loss_median": NULLABLE, "circuit_loss_interval": INTERVAL, "validation_loss": NULLABLE, "curve": list,
    "discretised": (dict, type(None)), "calibration_scale": NULLABLE, "hyperparameters": (dict, type(None)),
    "n_trials": NULLABLE, "one_minimal": (bool, type(None)), "baselines": dict, "verdict": dict,
    "claims": (dict, type(None)),
}  # fmt: skip
FRONTIER_CONTRACT: dict[str, Any] = {
    "ratio_dense_to_sparse_edges_at_matched_loss": NULLABLE, "tasks_compared": list, "method": str,
    "interval": INTERVAL, "per_model": list,
}  # fmt: skip

TASKS = {"quotes": (0.05, 0.4), "lists": (0.3, 0.4), "for_while": (0.6, None), "with_as": (None, None)}


TARGET = CircuitTarget(0.15, 0.03, Ablation.MEAN)


def check(value: dict[str, Any], contract: dict[str, Any]) -> None:
    for key, kind in contract.items():
        assert key in value and isinstance(value[key], kind), key


def summary_of(*places: Place) -> dict[str, Any]:
    records = [read_record(*place) for place in places]
    return summarise(
        records,
        target=TARGET,
        curve_losses=[0.15, 0.5],
        seed=0,
        n_bootstrap=100,
        bigram_loss=3.7,
        provenance={"git": None},
    )


def test_summary_keeps_its_contract(make_model: MakeModel) -> None:
    summary = summary_of(make_model("d", "dense", 3.0, TASKS), make_model("s", "sparse", 3.1, TASKS, block_density=0.5))
    for model in summary["models"]:
        check(model, MODEL_CONTRACT)
        for task in model["tasks"].values():
            check(task, TASK_CONTRACT)
    check(summary["frontier"], FRONTIER_CONTRACT)
    check(
        summary,
        {"minimisation": dict, "baselines": dict, "curve_means": dict, "test_margin": float, "bigram_loss_nats": float},
    )
    assert summary["provenance"] == {"git": None}
    json.dumps(summary, allow_nan=False)


def test_solved_needs_expressible_and_test_loss_and_circuit(make_model: MakeModel) -> None:
    model = summary_of(make_model("s", "sparse", 3.0, TASKS))["models"][0]
    assert {name: task["solved"] for name, task in model["tasks"].items()} == {
        "quotes": True,  # all three
        "lists": False,  # a circuit was made on validation pairs, but the test loss is above the target
        "for_while": False,
        "with_as": False,
    }
    assert model["n_solved"] == 1
    assert model["geomean_edges"] == pytest.approx(model["tasks"]["quotes"]["n_edges"])


def test_what_does_not_exist_is_null_and_never_zero(make_model: MakeModel) -> None:
    model = summary_of(make_model("s", "sparse", 3.0, {"with_as": (None, None), "for_while": (0.6, None)}))["models"][0]
    assert model["n_solved"] == 0 and model["geomean_edges"] is None
    for task in model["tasks"].values():
        for field in ("n_nodes", "n_edges", "circuit_loss", "ablated_edges_loss", "random_nodes_loss_median"):
            assert task[field] is None
    assert model["tasks"]["with_as"]["unpruned_loss"] is None and model["tasks"]["with_as"]["reason"]


def test_medians_and_ranges_of_the_controls_are_those_of_their_distributions(make_model: MakeModel) -> None:
    task = summary_of(make_model("s", "sparse", 3.0, TASKS))["models"][0]["tasks"]["quotes"]
    assert task["random_nodes_loss_median"] == pytest.approx(0.15)
    assert task["random_nodes_only_loss_range"] == [pytest.approx(0.8), pytest.approx(1.1)]
    assert task["random_circuit_loss_n"] == 3


def test_sizes_before_minimisation_and_baselines_are_in_the_summary(make_model: MakeModel) -> None:
    summary = summary_of(make_model("s", "sparse", 3.0, TASKS), make_model("d", "dense", 3.1, TASKS, seed=1))
    for model in summary["models"]:
        edges = model["tasks"]["quotes"]["n_edges"]  # the only solved task; the fixture says 3, 6, none and 30 times
        assert model["geomean_edges_discretised"] == pytest.approx(3 * edges)
        assert model["ratio_discretised_to_minimised"] == pytest.approx(3)
    assert summary["minimisation"]["ratio_discretised_to_minimised"] == pytest.approx(3)
    overall = summary["baselines"]["overall"]
    assert {name: found["ratio"] for name, found in overall.items()} == {
        "attribution": pytest.approx(2), "integrated_gradients": None, "random": pytest.approx(10),
    }  # fmt: skip
    assert (overall["integrated_gradients"]["n_none"], overall["random"]["n_learned_smaller"]) == (2, 2)
    task = summary["models"][0]["tasks"]["quotes"]
    row = FIXTURE["sparse"]["circuits"]["tasks"][SOLVED]
    assert (
        task["hyperparameters"] == row["hyperparameters"]
        and task["calibration_scale"] == 1.75
        and task["n_trials"] == 2
    )
    assert summary["models"][0]["tasks"]["for_while"]["baselines"] == {}


def test_circuits_of_solved_tasks_are_counted_by_their_verdict() -> None:
    found = {"a": (True, True), "b": (True, True), "c": (True, False), "d": (False, False), "e": (True, None)}
    tasks = {name: {"solved": solved, "verdict": {"sufficient": {"passed": passed}}}
             for name, (solved, passed) in found.items()}  # fmt: skip
    assert check_test_loss(tasks) == {"n_tested": 3, "n_within": 2, "above": ["c"]}


def test_circuits_of_another_checkpoint_are_refused(make_model: MakeModel) -> None:
    workspace, name = make_model("s", "sparse", 3.0, TASKS)
    write_json(workspace.ablations(name), read_json(workspace.ablations(name)) | {"model_hash": "feedbeef"})
    with pytest.raises(ArtifactError, match="feedbeef"):
        read_record(workspace, name)


def test_a_number_that_is_not_finite_is_refused_by_its_place(make_model: MakeModel) -> None:
    workspace, name = make_model("s", "sparse", 3.0, TASKS)
    broken = read_json(workspace.ablations(name))
    broken["tasks"]["quotes"]["circuit_loss"] = math.nan
    workspace.ablations(name).write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"tasks\.quotes\.circuit_loss is nan"):
        read_record(workspace, name)


def test_a_missing_summary_is_refused(make_model: MakeModel) -> None:
    workspace, name = make_model("s", "sparse", 3.0, TASKS)
    workspace.ablations(name).unlink()
    with pytest.raises(ArtifactError, match="no such file"):
        read_record(workspace, name)
