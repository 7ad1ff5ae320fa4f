"""Rows of a real smoke study, and the summary made of them, have the keys and types that pipeline/rows.py says."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.ablation import Ablation
from pipeline.report.inputs import ModelRecord
from pipeline.report.summary import CircuitTarget, summarise
from pipeline.rows import (
    AblationRow,
    Certificate,
    Check,
    Explanation,
    HistoryRow,
    Label,
    ModelRow,
    OfModel,
    PruneRow,
    Summary,
    TaskLabel,
    TrialRow,
    ValidationRow,
)
from tests.report.conftest import FIXTURE
from tests.report.make_fixture import SOLVED, UNSOLVED
from tests.report.row_types import wrong

TYPES: dict[str, Any] = {
    "model": ModelRow,
    "history": list[HistoryRow],
    "circuits": OfModel[PruneRow],
    "trials": list[TrialRow],
    "certificate": Certificate,
    "ablations": OfModel[AblationRow],
    "validations": OfModel[ValidationRow],
    "explanation": Explanation,
}


@pytest.mark.parametrize("kind", FIXTURE)
@pytest.mark.parametrize("part", TYPES)
def test_rows_of_a_smoke_study_are_of_their_types(kind: str, part: str) -> None:
    assert wrong(FIXTURE[kind][part], TYPES[part]) == []
    assert set(FIXTURE[kind]) == set(TYPES)


@pytest.mark.parametrize("kind", FIXTURE)
def test_a_section_of_validation_has_checks_and_a_node_a_label(kind: str) -> None:
    validation = FIXTURE[kind]["validations"]["tasks"][SOLVED]
    checks = [check for section in validation.values() for check in section.get("tests", ())]
    assert len(checks) > 20 and wrong(checks, list[Check]) == []
    labels = [node["label"] for node in FIXTURE[kind]["explanation"]["nodes"].values()]
    assert labels and wrong(labels, list[Label | None]) == []
    circuits = FIXTURE[kind]["explanation"]["circuits"].values()
    in_task = [node["task_label"] for circuit in circuits for node in circuit["nodes"].values()]
    assert in_task and wrong(in_task, list[TaskLabel]) == []


def summary_of(fixture: dict[str, Any]) -> Summary:
    parts = ("model", "circuits", "ablations", "validations", "history")
    records = [ModelRecord(*(copy.deepcopy(rows[part]) for part in parts)) for rows in fixture.values()]
    return summarise(
        records,
        target=CircuitTarget(0.15, 0.03, Ablation.MEAN),
        curve_losses=[0.15, 0.5],
        seed=0,
        n_bootstrap=100,
        bigram_loss=3.7,
        provenance={},
    )


def test_a_summary_of_real_rows_is_of_its_type_and_loses_none_of_them() -> None:
    summary = json.loads(json.dumps(summary_of(FIXTURE), allow_nan=False))
    assert wrong(summary, Summary) == []
    for model, rows in zip(summary["models"], FIXTURE.values(), strict=True):
        task, row, ablated = model["tasks"][SOLVED], rows["circuits"]["tasks"][SOLVED], rows["ablations"]["tasks"]
        assert task["solved"] and task["n_edges"] == row["n_edges"] and task["curve"] == row["curve"]
        assert task["circuit_loss"] == ablated[SOLVED]["circuit_loss"]
        assert task["random_edges_loss_median"] == ablated[SOLVED]["random_edges_loss_median"]
        assert task["verdict"]["by"] == "validate" and not model["tasks"][UNSOLVED]["solved"]


def test_the_committed_summary_is_of_its_type() -> None:
    committed = Path(__file__).parents[2] / "results" / "summary.json"
    assert wrong(json.loads(committed.read_text(encoding="utf-8")), Summary) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_edges": "78"}, [".n_edges: '78' is no int"]),
        ({"n_edgse": 78}, [".n_edgse is unknown"]),
        ({"one_minimal": 1}, [".one_minimal: 1 is no bool"]),
        ({"curve": [{"target_loss": 0.5, "loss": None, "n_nodes": None}]}, [".curve[0].n_edges is missing"]),
        ({"n_edges": None}, []),
    ],
)
def test_another_row_is_not(change: dict[str, Any], said: list[str]) -> None:
    row = FIXTURE["sparse"]["circuits"]["tasks"][SOLVED]
    assert wrong(row | change, PruneRow) == said
    assert wrong({key: value for key, value in row.items() if key != "n_nodes"}, PruneRow) == [".n_nodes is missing"]
