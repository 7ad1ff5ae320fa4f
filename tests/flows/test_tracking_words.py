"""Descriptions of runs say what was found, and only that; the experiment's views name what its runs really carry."""

from __future__ import annotations

import json
import re

import pytest

from flows import tracking_words as words
from flows.tracking_trials import circuit_metrics, validation_metrics

ROW = {"n_edges": 1234, "n_nodes": 7, "circuit_loss": 0.1234, "verdict": "supports 3 of 6 claims", "unpruned_loss": 0.1,
       "deciding": {"n_edges": 2000}}  # fmt: skip


def test_a_circuits_description_has_its_size_loss_and_verdict() -> None:
    said = words.of_circuit("m", "quotes", ROW)
    assert all(
        part in said for part in ("quotes", " m:", "7 nodes, 1,234 edges", "0.123 nats", "supports 3 of 6 claims")
    )


def test_descriptions_are_plain_text_as_tables_of_runs_show_them() -> None:
    model = {"kind": "sparse", "n_layer": 2, "d_model": 9, "l0": 5, "n_params": 8, "val_loss_nats": 2.5, "tokens": 4}
    told = [words.of_circuit("m", "t", ROW), words.of_circuit("m", "t", {"n_edges": None}), words.of_study("p", 2.0)]
    assert not set("*`[") & set("".join([*told, words.of_model(model)]))


def test_what_is_not_known_yet_is_not_said() -> None:
    assert "alone" not in words.of_circuit("m", "quotes", {"n_edges": 1, "n_nodes": 2})
    assert words.of_circuit("m", "t", {"n_edges": None, "unpruned_loss": None}) == "m has no circuit for t"
    assert "0.600 nats" in words.of_circuit("m", "t", {"n_edges": None, "unpruned_loss": 0.6})
    assert "nothing to compare" in words.of_study("smoke", None)


def test_every_view_that_is_linked_exists_and_charts_size_against_loss() -> None:
    tags = words.experiment_tags("7")
    linked = re.findall(r"#/experiments/7/runs\?viewStateShareKey=(\w+)", tags[words.NOTE])
    assert linked == list(words.VIEWS)
    axes = {
        name: (chart["xaxis"]["key"], chart["yaxis"]["key"])
        for name in linked
        for chart in json.loads(tags[words.VIEW + name])["compareRunCharts"]
    }
    assert axes == {
        "circuits": ("model_val_loss", "log10_n_edges"),
        "models": ("val_loss_nats", "log10_geomean_edges"),
    }


def test_the_columns_of_the_view_of_circuits_are_metrics_of_circuits() -> None:
    columns = json.loads(words.experiment_tags("1")[words.VIEW + "circuits"])["selectedColumns"]
    metrics = {column.split("`")[1] for column in columns if column.startswith("metrics.")}
    validated = validation_metrics({"verdict": {"claims": {}, "n_supported": 3, "n_tested": 6, "line": ROW["verdict"]}})
    assert metrics <= set(circuit_metrics(ROW | validated)) | {"model_val_loss"}


def test_a_row_from_before_there_was_minimisation_has_its_metrics_too() -> None:
    assert circuit_metrics({"n_edges": 100, "curve": []}) == {"n_edges": 100, "log10_n_edges": pytest.approx(2)}


def test_a_circuit_without_edges_counts_as_one_in_powers_of_ten() -> None:
    assert circuit_metrics({"n_edges": 0})["log10_n_edges"] == 0
    assert "log10_n_edges" not in circuit_metrics({"n_edges": None})
