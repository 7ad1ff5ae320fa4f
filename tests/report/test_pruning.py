"""What pruning gained, against tables worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pipeline.report.averages import geometric_mean_edges, mean_ratio, ratio_interval
from pipeline.report.pruning import compare_baselines, curve_means, minimisation


def task(learned: int | None, minimised: int | None, solved: bool = True, **baselines: int | None) -> dict[str, Any]:
    """A task of a model: edges before and after minimisation, edges of baselines; None where none is found."""
    return {
        "solved": solved,
        "n_edges": minimised,
        "discretised": None if learned is None else {"n_edges": learned},
        "baselines": {name: {"n_edges": edges} for name, edges in baselines.items()},
        "curve": [],
    }


def model(name: str, **tasks: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "tasks": tasks, "n_solved": sum(one["solved"] for one in tasks.values())}


def against(models: list[dict[str, Any]]) -> dict[str, Any]:
    return compare_baselines(models, n_bootstrap=200, seed=0)


def test_a_baseline_s_ratio_is_the_geometric_mean_over_tasks_where_both_find_a_circuit() -> None:
    found = against([
        model("s", quotes=task(10, 5, random=1000), lists=task(100, 20, random=100), with_as=task(7, 7, random=None)),
        model("d", quotes=task(20, 5, random=200)),
    ])  # fmt: skip
    random = found["overall"]["random"]
    assert random["ratio"] == pytest.approx((100 * 1 * 10) ** (1 / 3))
    assert (random["n_circuits"], random["n_none"], random["n_learned_smaller"]) == (3, 1, 2)
    assert random["geomean_edges"] == pytest.approx((1000 * 100 * 200) ** (1 / 3))
    assert random["learned_geomean_edges"] == pytest.approx((10 * 100 * 20) ** (1 / 3))
    assert random["interval"] == [pytest.approx(1), pytest.approx(math.sqrt(1000))]  # lists; quotes, of both models
    assert [own["model"] for own in found["per_model"]] == ["s", "d"]
    assert found["per_model"][1]["baselines"]["random"]["ratio"] == pytest.approx(10)
    assert found["per_model"][1]["baselines"]["random"]["interval"] is None


def test_unsolved_tasks_and_circuits_without_a_learned_ranking_are_not_compared() -> None:
    found = against([model("s", quotes=task(10, 5, solved=False, random=1000), lists=task(None, None, random=10))])
    random = found["overall"]["random"]
    assert (random["n_circuits"], random["n_none"], random["ratio"], random["geomean_edges"]) == (0, 0, None, None)


def test_without_baselines_there_is_nothing_to_compare() -> None:
    found = against([model("s", quotes=task(10, 5))])
    assert found["overall"] == {} and found["per_model"] == [{"model": "s", "baselines": {}}]


def test_a_circuit_without_edges_counts_as_one_edge_on_both_sides_of_a_ratio() -> None:
    assert against([model("s", else_elif=task(0, 0, random=8))])["overall"]["random"]["ratio"] == pytest.approx(8)
    assert minimisation([model("s", else_elif=task(4, 0))], n_bootstrap=100, seed=0)[
        "ratio_discretised_to_minimised"
    ] == pytest.approx(4)


def test_minimisation_s_gain_is_the_geometric_mean_over_all_solved_circuits() -> None:
    models = [model("s", quotes=task(90, 10), lists=task(40, 10), with_as=task(50, 1, solved=False)), model("d")]
    found = minimisation(models, n_bootstrap=200, seed=0)
    assert found == {
        "n_circuits": 2,
        "ratio_discretised_to_minimised": pytest.approx(6),
        "interval": [pytest.approx(4), pytest.approx(9)],
    }
    nothing = {"n_circuits": 0, "ratio_discretised_to_minimised": None, "interval": None}
    assert minimisation([model("d")], n_bootstrap=200, seed=0) == nothing


def curved(solved: bool = True, **edges: int | None) -> dict[str, Any]:
    """A task whose circuits have so many edges at targets 0.5 (``loose``) and 0.03 (``strict``)."""
    targets = {"loose": 0.5, "strict": 0.03}
    curve = [{"target_loss": targets[name], "n_edges": count} for name, count in edges.items()]
    return {"solved": solved, "curve": curve}


def test_a_curve_averages_at_each_target_over_the_tasks_that_all_models_reach_there() -> None:
    models = [
        model("s", quotes=curved(loose=4, strict=100), lists=curved(loose=9, strict=900), swaps=curved(loose=7)),
        model(
            "d", quotes=curved(loose=40, strict=50), lists=curved(loose=10, strict=None), swaps=curved(False, loose=7)
        ),
        model("weak"),  # solves nothing, and does not empty the means of the others
    ]
    loose, strict = curve_means(models, [0.03, 0.5])["points"]
    assert (loose["target_loss"], loose["tasks"]) == (0.5, ["lists", "quotes"])
    assert loose["geomean_edges"] == {"s": pytest.approx(6), "d": pytest.approx(20)}
    assert (strict["tasks"], strict["geomean_edges"]) == (["quotes"], {"s": pytest.approx(100), "d": pytest.approx(50)})


def test_a_target_that_no_task_reaches_in_all_models_has_no_mean() -> None:
    models = [model("s", quotes=curved(loose=4)), model("d", lists=curved(loose=4))]
    (point,) = curve_means(models, [0.5])["points"]
    assert point == {"target_loss": 0.5, "tasks": [], "geomean_edges": {"s": None, "d": None}}
    assert curve_means([model("weak")], [0.5])["points"][0]["geomean_edges"] == {}


def test_geometric_means_by_hand() -> None:
    assert geometric_mean_edges([10, 1000]) == pytest.approx(100)
    assert geometric_mean_edges([0, 100]) == pytest.approx(10)
    assert geometric_mean_edges([]) is None and mean_ratio([]) is None


def test_the_interval_resamples_tasks_with_all_their_ratios() -> None:
    logs = [("a", math.log(2)), ("a", math.log(8)), ("b", math.log(16))]
    assert ratio_interval(logs, 500, 0) == [pytest.approx(4), pytest.approx(16)]
    assert ratio_interval(logs[:2], 500, 0) is None
