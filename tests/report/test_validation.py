"""What the report counts of validation, and that the page says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.report.inputs import read_record
from pipeline.report.summary import summarise
from pipeline.report.validation import at, brief, lines_of
from pipeline.report.write import assemble, prediction_of

TASKS = {"quotes": (0.05, 0.4), "lists": (0.1, 0.6), "for_while": (0.6, None), "with_as": (0.9, 0.5)}


@pytest.fixture
def models(make_model):
    return {
        "dense_a": make_model("dense_a", "dense", 3.0, TASKS),
        "sparse_a": make_model("sparse_a", "sparse", 3.1, TASKS, seed=1),
    }


@pytest.fixture
def summary(models):
    records = [read_record(files) for files in models.values()]
    return summarise(records, target_loss=0.15, curve_losses=[0.15], seed=0, n_bootstrap=100, provenance={})


def test_outcomes_are_counted_over_circuits_of_solved_tasks_by_kind(summary):
    by_test = {row.pop("name"): row for row in summary["validation"]["by_test"]}
    whole = {"n_tested": 2, "n_passed": 2, "median": 0.5}
    assert by_test["sufficient_mean"] == {"sparse": whole, "dense": whole}
    assert by_test["sufficient_zero"]["dense"] == whole | {"n_passed": 1}  # quotes passes, lists does not
    assert by_test["stable"]["sparse"] == {"n_tested": 0, "n_passed": 0, "median": 0.5}
    assert summary["validation"]["circuits"]["dense"] == {"n_circuits": 2, "n_whole": 1, "median_failed": 0.5}


def test_controls_are_listed_with_their_model_and_task(summary):
    rows = summary["validation"]["controls"]
    assert [(row["model"], row["task"], row["control"]) for row in rows][:2] == [
        ("dense_a", "quotes", "true"),
        ("dense_a", "quotes", "nonsense"),
    ]
    assert len(rows) == 8 and rows[1]["ratio_edges"] is None


def test_a_model_has_its_kurtosis_and_medians_over_its_circuits(summary):
    model = summary["models"][0]
    assert model["residual_kurtosis"]["mean"] == 7.5
    areas = {"cpr": 0.75, "cmd": 0.25}
    assert model["validation"] == {"binarised_loss": 0.9, "jaccard_edges": 0.4, "faithfulness": 0.9} | areas


def test_an_empty_circuit_counts_for_nothing(models):
    record = read_record(models["dense_a"])
    record.pruned["tasks"]["lists"] |= {"n_nodes": 0, "n_edges": 0}
    found = summarise([record], target_loss=0.15, curve_losses=[0.15], seed=0, n_bootstrap=100, provenance={})
    assert found["validation"]["circuits"]["dense"]["n_circuits"] == 1
    assert found["validation"]["by_test"][0]["dense"]["n_tested"] == 1


def test_long_lists_stay_out_of_the_summary(summary):
    validation = summary["models"][0]["tasks"]["quotes"]["validation"]
    assert validation["features"]["single"] == {} and len(lines_of(validation)) == 4
    assert brief({"a": list(range(7)), "b": [{"c": [1, 2]}], "tests": 9 * [1]}) == {
        "b": [{"c": [1, 2]}],
        "tests": 9 * [1],
    }
    assert brief({"verdict": {"passed": 9 * ["a"]}}) == {"verdict": {"passed": 9 * ["a"]}}
    assert at({"a": {"b": 1.0}}, ("a", "b")) == 1 and at({"a": {}}, ("a", "b")) is None


def test_the_page_shows_outcomes_verdicts_and_controls(models, params, task_source, tmp_path: Path):
    assemble(
        models, task_set=task_source, statistics={"bigram_loss_nats": 3.75}, params=params,
        provenance={"seconds": {}}, folder=tmp_path / "results",
    )  # fmt: skip
    page = (tmp_path / "results" / "index.html").read_text(encoding="utf-8")
    assert '<th scope="row">sufficient zero</th><td>1 of 2</td><td>0.500</td>' in page
    assert "<b>Verdict:</b> passes 2 of 3." in page and 'title="sufficient_zero said &lt;so&gt;"' in page
    assert "nonsense</td><td>no</td><td>40</td><td>–</td><td>0.600</td>" in page
    assert "bracket_counting predicts" not in page


def test_the_plot_is_of_the_model_whose_circuit_predicts_best(models):
    records = [read_record(files) for files in models.values()]
    assert prediction_of(records) is None
    for record, gain in zip(records, (0.1, 0.2), strict=True):
        record.validated["tasks"]["quotes"]["prediction"] = {"points": [], "gain": {"mean": gain}}
    assert prediction_of(records)[0] == "sparse_a"
