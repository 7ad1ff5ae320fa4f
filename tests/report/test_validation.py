"""What the report counts of validation, and that the page says it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.ablation import Ablation
from pipeline.artifacts import Workspace
from pipeline.report.claims import by_claim, claims_of, counts
from pipeline.report.inputs import read_record
from pipeline.report.summary import CircuitTarget, summarise
from pipeline.report.templating import nats
from pipeline.report.validation import at, brief, checks_of
from pipeline.report.write import prediction_of, write_report
from pipeline.rows import Claims
from tests.report.conftest import FIXTURE, TEXTS
from tests.report.make_fixture import SOLVED
from tests.report.numbers_of import unpacked

ROW = FIXTURE["sparse"]["validations"]["tasks"][SOLVED]  # the circuits' own, but for what a law needs
TASKS = {"quotes": (0.05, 0.4), "lists": (0.1, 0.6), "for_while": (0.6, None), "with_as": (0.9, 0.5)}


def summary_of(records):
    target = CircuitTarget(0.15, 0.03, Ablation.MEAN)
    return summarise(
        records, target=target, curve_losses=[0.15], seed=0, n_bootstrap=100, bigram_loss=None, provenance={}
    )


@pytest.fixture
def models(make_model):
    return {
        "dense_a": make_model("dense_a", "dense", 3.0, TASKS),
        "sparse_a": make_model("sparse_a", "sparse", 3.1, TASKS, seed=1),
    }


@pytest.fixture
def summary(models):
    records = [read_record(*place) for place in models.values()]
    return summary_of(records)


def test_outcomes_are_counted_over_circuits_of_solved_tasks_by_kind(summary):
    by_test = {row.pop("name"): row for row in summary["validation"]["by_test"]}
    whole = {"n_tested": 2, "n_passed": 2, "n_measured": 0, "median": 0.5}
    assert by_test["sufficient_mean"] == {"claim": "alone", "essential": True, "sparse": whole, "dense": whole}
    assert by_test["sufficient_zero"]["claim"] == "stress" and not by_test["sufficient_zero"]["essential"]
    assert by_test["sufficient_zero"]["dense"] == whole | {"n_passed": 1}  # quotes passes, lists does not
    assert by_test["stable"]["sparse"] == {"n_tested": 0, "n_passed": 0, "n_measured": 2, "median": 0.5}


def test_claims_are_counted_over_circuits_of_solved_tasks_by_kind(summary):
    """Of quotes all six are supported; of lists a node is not needed, and other names are too much for it."""
    of_claims = {row["name"]: row for row in summary["validation"]["by_claim"]}
    assert tuple(of_claims) == tuple(Claims.__annotations__)
    found = {name: (row["dense"]["n_supported"], row["dense"]["n_tested"]) for name, row in of_claims.items()}
    assert found == dict.fromkeys(of_claims, (2, 2)) | {"needed": (1, 2), "elsewhere": (1, 2)}
    counted = {"n_circuits": 2, "median_supported": 5, "n_at_least": [2, 2, 2, 2, 2, 1, 1]}
    assert summary["validation"]["circuits"] == {"sparse": counted, "dense": counted}
    refuted = {"needed": "not supported", "elsewhere": "not supported"}
    tasks = summary["models"][0]["tasks"]
    assert tasks["quotes"]["claims"] == dict.fromkeys(of_claims, "supported")
    assert tasks["lists"]["claims"] == dict.fromkeys(of_claims, "supported") | refuted
    assert tasks["for_while"]["claims"] is None  # there is no circuit


def test_of_a_circuit_that_was_not_validated_no_claim_is_tested():
    assert claims_of(None) == dict.fromkeys(Claims.__annotations__, "not tested")
    assert by_claim([]) == [] and counts([], "dense")["n_at_least"] == [0] * 7


def test_controls_are_listed_with_their_model_and_task(summary):
    rows = summary["validation"]["controls"]
    controls = ["true", "random_weights", "shuffled_weights", "shuffled_labels", "nonsense"]
    assert [(row["model"], row["task"], row["control"]) for row in rows[:5]] == [
        ("dense_a", "quotes", control) for control in controls
    ]
    assert len(rows) == 4 * 5 and rows[4]["ratio_edges"] is None


def test_a_model_has_its_kurtosis_and_medians_over_its_circuits(summary):
    model = summary["models"][0]
    assert model["residual_kurtosis"] == FIXTURE["dense"]["validations"]["residual_kurtosis"]
    medians = {
        "binarised_loss": ROW["features"]["binarised"]["mean"],
        "jaccard_edges": ROW["stability"]["jaccard_edges"]["median"],
        "faithfulness": ROW["faithfulness"]["circuit"]["f"],
        "cpr": ROW["faithfulness"]["cpr"],
        "cmd": ROW["faithfulness"]["cmd"],
    }
    assert model["validation"] == {
        name: {"median": value, "low": value, "high": value, "n": 2} for name, value in medians.items()
    }


def test_an_empty_circuit_counts_for_nothing(models):
    record = read_record(*models["dense_a"])
    record.pruned["tasks"]["lists"] |= {"n_nodes": 0, "n_edges": 0}
    found = summary_of([record])
    assert found["validation"]["circuits"]["dense"]["n_circuits"] == 1
    assert found["validation"]["by_test"][0]["dense"]["n_tested"] == 1


def test_long_lists_stay_out_of_the_summary(summary):
    validation = summary["models"][0]["tasks"]["quotes"]["validation"]
    assert len(ROW["features"]["single"]["of_each"]) > 6 and "of_each" not in validation["features"]["single"]
    tests = [section["tests"] for section in ROW.values() if "tests" in section]
    assert len(checks_of(validation)) == sum(map(len, tests)) > 20
    assert brief({"a": list(range(7)), "b": [{"c": [1, 2]}], "tests": 9 * [1]}) == {
        "b": [{"c": [1, 2]}],
        "tests": 9 * [1],
    }
    assert brief({"verdict": {"claims": 9 * ["a"]}}) == {"verdict": {"claims": 9 * ["a"]}}
    assert at({"a": {"b": 1.0}}, ("a", "b")) == 1 and at({"a": {}}, ("a", "b")) is None


def plain(path: Path) -> str:
    """The page with its packed parts, without the marks that say where numbers come from."""
    return re.sub(r"</?data[^>]*>| data-at=\"[^\"]*\"", "", unpacked(path.read_text(encoding="utf-8")))


def test_the_page_shows_outcomes_verdicts_and_controls(models, params, task_source, tmp_path: Path):
    write_report(
        Workspace(tmp_path), models,
        task_set=task_source, texts=TEXTS, tokenizer=None, statistics={"bigram_loss_nats": 3.75}, params=params,
        margin=0.03, provenance={"seconds": {}}, folder=tmp_path / "results",
    )  # fmt: skip
    page = plain(tmp_path / "results" / "index.html")
    assert '<th scope="row">sufficient zero</th><td>1 of 2</td><td>0.500</td>' in page
    assert re.search('<th scope="row">elsewhere</th><td class="words">works on other .*?</td><td>1 of 2</td>', page)
    assert "<b>Verdict:</b> supports 4 of 6 claims; not supported: needed, elsewhere." in page
    assert 'title="not supported: generalises_names said &lt;so&gt;"' in page
    assert '<th scope="row">necessary nodes</th><td>1 of 2</td><td>0.500</td>' in page
    stress = page[page.index("<h3>Stress tests</h3>") :]
    assert "sufficient zero" in stress and "necessary nodes" not in stress[: stress.index("</table>")]
    assert 'title="sufficient_zero said &lt;so&gt;"' in page
    assert "nonsense</td><td>no</td><td>40</td><td>–</td><td>0.600</td>" in page
    assert "bracket_counting predicts" not in page


def test_the_pages_tables_hold_the_summarys_numbers(models, params, task_source, tmp_path: Path):
    summary = write_report(
        Workspace(tmp_path), models,
        task_set=task_source, texts=TEXTS, tokenizer=None, statistics={"bigram_loss_nats": 3.75}, params=params,
        margin=0.03, provenance={"seconds": {}}, folder=tmp_path / "results",
    )  # fmt: skip
    page = plain(tmp_path / "results" / "index.html")

    def cell(spread):
        ends = f"{nats(spread['low'])}…{nats(spread['high'])}, n {spread['n']}"
        return f"<td>{nats(spread['median'])}<small>{ends}</small></td>"

    for row in summary["validation"]["complement"]:
        cells = "".join(cell(row[kind][what]) for kind in ("sparse", "dense") for what in ("loss", "faithfulness"))
        assert f'<th scope="row">{row["name"].replace("_", " ")}</th>{cells}' in page
    for row in summary["validation"]["generalisation"]:
        tested = f"{row['dense']['n_passed']} of {row['dense']['n_tested']}" if row["dense"]["n_tested"] else "–"
        losses = f"<td>{nats(row['dense']['model_loss'])}</td><td>{nats(row['dense']['circuit_loss'])}</td>"
        assert f"{losses}<td>{tested}</td></tr>" in page
    for model in summary["models"]:
        assert "".join(cell(model["validation"][name]) for name in ("faithfulness", "cpr", "cmd")) in page
    low, high = map(nats, ROW["faithfulness"]["cpr_interval"])
    assert f"<dt>CPR</dt><dd>{nats(ROW['faithfulness']['cpr'])}<small>{low}…{high}</small></dd>" in page


def test_sections_that_are_missing_leave_their_tables_out(models):
    records = [read_record(*place) for place in models.values()]
    for record in records:
        for task in record.validated["tasks"].values():
            for name in ("complement", "necessity", "generalisation", "faithfulness"):
                del task[name]
    found = summary_of(records)
    assert found["validation"]["complement"] == found["validation"]["generalisation"] == []
    assert found["validation"]["necessity"]["limit"] is None
    assert found["models"][0]["validation"]["cpr"] == {"median": None, "low": None, "high": None, "n": 0}
    assert found["models"][0]["tasks"]["quotes"]["verdict"]["sufficient"] == {"passed": None, "says": "not tested"}


def test_other_ablations_of_the_complement_are_found_by_their_losses(summary):
    rows = {row["name"]: row for row in summary["validation"]["complement"]}
    assert list(rows) == [name for name in ROW["complement"] if name != "tests"]
    assert rows["zero"]["dense"]["loss"] == {"median": 1.0, "low": 0.5, "high": 1.5, "n": 2}


def test_second_test_sets_say_how_many_circuits_follow(summary):
    rows = {row["family"]: row for row in summary["validation"]["generalisation"]}
    assert list(rows) == list(ROW["generalisation"]["families"])
    row = rows["names"]
    counted = {"n_circuits": 2, "n_pairs": [64, 64], "n_tested": 2, "n_passed": 1}
    assert row["sparse"] == counted | {"model_loss": 0.125, "circuit_loss": 0.5}


def test_curves_of_necessity_run_from_the_models_loss_to_the_whole_circuits(summary):
    found = summary["validation"]["necessity"]
    half = found["removed"].index(0.5)
    nodes = found["nodes"]["sparse"]
    assert (found["limit"], nodes["n_circuits"]) == (0.683, 2)
    assert [nodes["circuit"]["median"][at] for at in (0, half // 2, half, -1)] == pytest.approx([0.1, 0.3, 0.5, 0.9])
    assert [nodes["random"]["high"][at] for at in (0, half, -1)] == pytest.approx([0.1, 0.2, 0.2])
    assert found["edges"]["sparse"]["n_circuits"] == 0 and found["edges"]["sparse"]["circuit"]["median"] == []


def test_the_plot_is_of_the_model_whose_circuit_predicts_best(models):
    records = [read_record(*place) for place in models.values()]
    assert prediction_of(records) is None
    for record, gain in zip(records, (0.1, 0.2), strict=True):
        record.validated["tasks"]["quotes"]["prediction"] = {"points": [], "gain": {"mean": gain}}
    assert prediction_of(records)[0] == "sparse_a"
