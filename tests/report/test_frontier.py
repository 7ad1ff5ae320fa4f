"""The matched-loss ratio against hand-worked tables, and Pareto fronts."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pipeline.report.frontier import CircuitPoint, compare, match_loss, pareto


def entry(name: str, kind: str, loss: float, edges: dict[str, int | None], d_model: int = 64) -> dict[str, Any]:
    """A ``models`` entry: task → edges; None means not solved."""
    tasks = {
        task: {
            "solved": count is not None,
            "n_edges": count,
            "curve": [point(0.15, count), point(0.5, count and count // 2)],
            "circuits": {"deciding": count and {"curve": [point(0.15, 10 * count)]}},
        }
        for task, count in edges.items()
    }
    solved = [count for count in edges.values() if count is not None]
    mean = math.exp(sum(math.log(max(count, 1)) for count in solved) / len(solved)) if solved else None
    model = {"name": name, "kind": kind, "d_model": d_model, "val_loss_nats": loss}
    return model | {"tasks": tasks, "geomean_edges": mean}


def point(target: float, count: int | None) -> dict[str, Any]:
    """A circuit of a target loss, which had three times the edges before minimisation."""
    return {"target_loss": target, "n_edges": count, "discretised": {"n_edges": count and 3 * count}}


def run(models: list[dict[str, Any]]) -> dict[str, Any]:
    return compare(models, curve_losses=[0.15, 0.5], seed=0, n_bootstrap=200)


DENSE = [
    entry("d_good", "dense", 3.0, {"quotes": 1600, "lists": 400, "with_as": 90}),
    entry("d_weak", "dense", 3.4, {"quotes": 100, "lists": None, "with_as": None}),
]


def test_dense_edges_are_interpolated_in_log_edges_halfway_between_two_losses() -> None:
    found = run([*DENSE, entry("s", "sparse", 3.2, {"quotes": 20})])
    match = found["per_model"][0]["tasks"]["quotes"]
    assert match["matched"] == "interpolated" and match["loss_gap"] == 0
    assert match["dense_edges"] == pytest.approx(400)  # the geometric mean of 1600 and 100
    assert found["ratio_dense_to_sparse_edges_at_matched_loss"] == pytest.approx(20)


def test_each_way_to_count_edges_has_its_ratio_at_each_target_and_its_pairs() -> None:
    sparse = entry("s", "sparse", 3.2, {"quotes": 20, "lists": 40})
    found = run([*DENSE, sparse])
    assert set(found["paper_count"]) == set(found["minimised"]) == {"0.15", "0.5"} and set(found["deciding"]) == {
        "0.15"
    }
    for way in ("paper_count", "minimised", "deciding"):
        row = found[way]["0.15"]
        assert row["ratio"] == pytest.approx(math.sqrt(20 * 10)) and (row["n_pairs"], row["n_bracketed"]) == (2, 1)
    more = sparse["tasks"]["quotes"]
    more["curve"][0]["discretised"]["n_edges"] = 6  # a tenth by the paper's count alone
    found = run([*DENSE, sparse])
    assert found["paper_count"]["0.15"]["ratio"] == pytest.approx(math.sqrt(200 * 10))
    assert [found[way]["0.15"]["ratio"] for way in ("minimised", "deciding")] == [pytest.approx(math.sqrt(200))] * 2


def test_the_widest_sparse_models_have_a_ratio_of_their_own() -> None:
    wide = entry("w", "sparse", 3.0, {"quotes": 16, "lists": 40}, d_model=256)
    row = run([*DENSE, entry("s", "sparse", 3.2, {"quotes": 20}), wide])["minimised"]["0.15"]
    assert row["n_pairs"] == 3 and row["widest"]["n_pairs"] == row["widest"]["n_bracketed"] == 2
    assert row["widest"]["ratio"] == pytest.approx(math.sqrt(100 * 10))


def test_a_circuit_that_was_not_found_is_in_no_pair() -> None:
    found = run([*DENSE, entry("s", "sparse", 3.2, {"with_as": None})])
    assert found["paper_count"] == found["deciding"] == {}


def test_a_loss_that_is_not_bracketed_takes_the_nearest_dense_model_and_says_so() -> None:
    found = run([*DENSE, entry("s", "sparse", 3.5, {"quotes": 20, "lists": 40})])
    quotes, lists = (found["per_model"][0]["tasks"][task] for task in ("quotes", "lists"))
    assert (quotes["matched"], quotes["dense_models"], quotes["dense_edges"]) == ("nearest", ["d_weak"], 100)
    assert quotes["loss_gap"] == pytest.approx(-0.1)
    assert (lists["dense_models"], lists["loss_gap"]) == (["d_good"], pytest.approx(-0.5))
    assert found["ratio_dense_to_sparse_edges_at_matched_loss"] == pytest.approx(math.sqrt(5 * 10))
    assert (found["n_interpolated"], found["n_nearest"]) == (0, 2)
    assert found["interpolated_only"]["ratio"] is None


def test_the_ratio_is_the_geometric_mean_over_models_and_tasks() -> None:
    sparse = [entry("s1", "sparse", 3.2, {"quotes": 40, "lists": 4}), entry("s2", "sparse", 3.0, {"quotes": 16})]
    found = run([*DENSE, *sparse])  # 400/40 = 10, 400/4 = 100, 1600/16 = 100
    assert found["ratio_dense_to_sparse_edges_at_matched_loss"] == pytest.approx((10 * 100 * 100) ** (1 / 3))
    assert [part["ratio"] for part in found["per_model"]] == [pytest.approx(math.sqrt(1000)), pytest.approx(100)]
    assert found["tasks_compared"] == ["lists", "quotes"]


def test_the_interval_spans_the_ratios_of_the_tasks_and_needs_two_of_them() -> None:
    found = run([*DENSE, entry("s", "sparse", 3.0, {"quotes": 160, "lists": 4})])
    assert found["interval"] == [pytest.approx(10), pytest.approx(100)]
    assert run([*DENSE, entry("s", "sparse", 3.0, {"quotes": 160})])["interval"] is None


def test_a_circuit_without_edges_counts_as_one_edge() -> None:
    found = run([entry("d", "dense", 3.0, {"else_elif": 8}), entry("s", "sparse", 3.0, {"else_elif": 0})])
    assert found["ratio_dense_to_sparse_edges_at_matched_loss"] == pytest.approx(8)


def test_a_task_that_no_model_needs_an_edge_for_is_left_out_and_counted() -> None:
    sizes = {"else_elif": 0, "quotes": 8}
    models = [entry("d", "dense", 3.0, {"else_elif": 0, "quotes": 80}), entry("s", "sparse", 3.0, sizes)]
    found = run(models)
    assert found["ratio_dense_to_sparse_edges_at_matched_loss"] == pytest.approx(10)
    assert found["tasks_compared"] == ["quotes"]
    row = found["minimised"]["0.15"]
    assert (row["n_pairs"], row["n_without_edges"], row["widest"]["n_without_edges"]) == (1, 1, 1)


def test_another_target_loss_compares_the_circuits_of_that_target() -> None:
    found = run([entry("d", "dense", 3.0, {"quotes": 101}), entry("s", "sparse", 3.0, {"quotes": 20})])
    assert [part["ratio"] for part in found["by_target_loss"]] == [pytest.approx(101 / 20), pytest.approx(5)]


def test_no_task_in_common_gives_null_everywhere() -> None:
    found = run([*DENSE, entry("s", "sparse", 3.2, {"for_while": 20})])
    assert found["ratio_dense_to_sparse_edges_at_matched_loss"] is None
    assert found["interval"] is None and found["tasks_compared"] == []
    assert run([DENSE[0]])["ratio_dense_to_sparse_edges_at_matched_loss"] is None


def test_unsolved_circuits_never_enter_the_ratio() -> None:
    sparse = entry("s", "sparse", 3.0, {"quotes": 16, "lists": 4})
    sparse["tasks"]["lists"]["solved"] = False
    assert run([*DENSE, sparse])["tasks_compared"] == ["quotes"]


def test_two_dense_models_of_the_sparse_loss_need_no_interpolation() -> None:
    match = match_loss("quotes", CircuitPoint("s", 3.0, 5), [CircuitPoint("a", 3.0, 50), CircuitPoint("b", 3.0, 70)])
    assert (match.matched, match.dense_edges) == ("interpolated", 50)


def test_the_pareto_front_keeps_what_no_other_point_beats() -> None:
    table = {"a": (3.0, 100), "b": (3.2, 100), "c": (3.1, 150), "d": (3.3, 20), "e": (3.4, 30)}
    points = [CircuitPoint(name, loss, edges) for name, (loss, edges) in table.items()]
    assert [point.model for point in pareto(points)] == ["a", "d"]
    assert pareto([]) == []
