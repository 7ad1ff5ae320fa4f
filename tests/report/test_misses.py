"""What does not hold is said, where it does not, and only there."""

from __future__ import annotations

from typing import Any

from pipeline.report.misses import misses


def model(kind: str = "sparse", width: int = 8, loss: float = 3.0, edges: float = 9.0, **tasks: Any) -> dict[str, Any]:
    sizes = {"d_model": width, "val_loss_nats": loss, "geomean_edges_discretised": edges, "tokens": 1_500_000}
    return {"name": f"{kind}_d{width}", "kind": kind, "tasks": tasks, **sizes}


def task(*, solved: bool = True, accuracy: float = 1.0, one_minimal: bool = True, edges: int = 4) -> dict[str, Any]:
    deciding = {"counterfactual_accuracy": accuracy, "one_minimal": one_minimal}
    point = {"target_loss": 0.15, "n_edges": 2, "discretised": {"n_edges": edges}}
    return {"solved": solved, "circuits": {"deciding": deciding if solved else None}, "curve": [point]}


def found(models: list[dict[str, Any]], **ratios: float) -> list[str]:
    rows = {target.removeprefix("at_").replace("_", "."): {"ratio": ratio} for target, ratio in ratios.items()}
    summary: Any = {"models": models, "frontier": {"paper_count": rows}, "target_loss": 0.15}
    widths: Any = [row for row in models if row["kind"] == "sparse"]
    return misses(summary, widths)


def test_nothing_is_said_where_all_holds():
    models = [model(width=8, quotes=task()), model(width=16, loss=2.9, edges=8, quotes=task())]
    assert found([*models, model("dense", quotes=task())], at_0_15=16, at_0_015=8) == []


def test_each_miss_is_a_sentence_with_its_numbers():
    narrow = model(width=8, loss=2.9, edges=8, quotes=task(), lists=task(solved=False))
    wide = model(width=16, loss=2.95, quotes=task(accuracy=0.94), lists=task(solved=False))
    dense = model("dense", quotes=task(one_minimal=False), lists=task())
    assert found([narrow, wide, dense], at_0_15=16, at_0_015=7.94, at_0_5=2) == [
        "No sparse model does 1 of the 2 tasks (`lists`).",
        "The loss rises from width 8 to 16 at equal L0, from 2.900 to 2.950 nats.",
        "Circuits grow from width 8 to 16 at equal L0, from 8 to 9 edges.",
        "Stricter targets take most of the advantage: 7.9 at 0.015 nats, against 16.0 at 0.15.",
        "1 of 2 deciding circuits of dense models are too large to be made 1-minimal.",
        "1 of 2 deciding circuits of sparse models are right on less than 95% of the test prompts with all else as on "
        "the other prompt.",
    ]


def test_a_task_without_edges_in_any_model_is_named_and_in_no_ratio():
    sparse = model(width=16, quotes=task(edges=4), else_elif=task(edges=0))
    dense = model("dense", 4, 2.8, quotes=task(edges=40), else_elif=task(edges=0))
    said = found([sparse, dense])
    assert said[0] == (
        "No model needs an edge for `else_elif` (its bigram table does it alone): dense ÷ sparse leaves it out."
    )
    assert "have 10.0 times the edges" in said[-1]


def test_a_dense_model_that_is_better_and_narrower_is_said_with_its_circuits():
    sparse = model(width=16, loss=2.9, quotes=task(edges=4), lists=task(edges=8))
    dense = [
        model("dense", width, loss, quotes=task(edges=40), lists=task(edges=20)) for width, loss in ((4, 2.8), (8, 2.7))
    ]
    assert found([sparse, *dense]) == [
        "Sparsity costs capability: a dense model of width 4 and 1.5 million tokens has 2.800 nats, the best sparse "
        "one 2.900 (width 16, 1.5 million).",
        "The circuits of that dense model have 5.0 times the edges of those of width 16.",
    ]
    sparse["tokens"] = 1_400_000
    assert found([sparse, *dense]) == []
