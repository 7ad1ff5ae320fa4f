"""The gallery: which circuit stands for a task, which numbers stand beside it, and why a task has none."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pipeline.report.gallery import gallery, gallery_circuits
from pipeline.report.solved import deciding_loss
from pipeline.report.thumbnail import HEIGHT, MARGIN, MOST_EDGES, WIDTH, thumbnail

TARGET = 0.15


def row(n_edges: int | None, n_nodes: int | None = 9, **more: Any) -> dict[str, Any]:
    """A task's entry in a model's summary; with ``n_edges`` None of a model that fails at the gate."""
    found = {"n_edges": n_edges, "n_nodes": None if n_edges is None else n_nodes, "solved": n_edges is not None}
    losses = {"unpruned_loss": 0.1, "unpruned_validation_loss": 0.1 if found["solved"] else 0.4}
    return {"expressible": True} | losses | found | more


def study(**tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A summary of two sparse models and a dense one; ``tasks``: task → model → entry."""
    kinds = {"narrow": "sparse", "wide": "sparse", "full": "dense"}
    models = [
        {"name": name, "kind": kind, "tasks": {task: rows[name] for task, rows in tasks.items() if name in rows}}
        for name, kind in kinds.items()
    ]
    matched = {"counting": {"dense_edges": 80.5}}
    return {"models": models, "target_loss": TARGET, "frontier": {"per_model": [{"model": "wide", "tasks": matched}]}}


def without(summary: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    return [(row["model"], row["why"], row["loss"]) for row in gallery(summary, {}, {}, {})["without"]]


def test_a_task_shows_the_sparse_circuit_of_the_fewest_edges() -> None:
    summary = study(
        counting={"narrow": row(20), "wide": row(12), "full": row(3)},
        quotes={"narrow": row(7), "wide": row(4) | {"solved": False}},  # found, but fails on test pairs
        empty={"narrow": row(0, 0), "wide": row(5)},
        constant={"narrow": row(0, 2), "wide": row(0, 0)},
    )
    assert gallery_circuits(summary) == {"counting": "wide", "quotes": "narrow", "empty": "wide", "constant": "narrow"}


def test_a_card_has_its_gist_before_the_tasks_sentence_and_the_path_of_the_dense_edges() -> None:
    summary = study(counting={"wide": row(12)}, quotes={"wide": row(4)})
    thumbnails, decides = {("wide", "counting"): "<svg>"}, {"counting": "how deep", "quotes": "which quote"}
    found = gallery(summary, thumbnails, {("wide", "counting"): "Averages it."}, decides)
    counting, quotes = found["cards"]
    assert (counting["thumbnail"], counting["says"]) == ("<svg>", "Averages it.")
    assert counting["dense"] == "/frontier/per_model/wide/tasks/counting"
    assert (quotes["thumbnail"], quotes["says"], quotes["dense"]) == ("", "which quote", None)
    assert found["without"] == []


def test_why_a_task_has_no_sparse_circuit_is_said_with_the_loss_that_decides() -> None:
    unsought = {"narrow": row(None), "wide": row(None, unpruned_validation_loss=0.3), "full": row(4)}
    assert without(study(a=unsought)) == [("wide", "not solved", "unpruned_validation_loss")]
    on_test = {"narrow": row(8, solved=False, unpruned_loss=0.2)}
    assert without(study(a=on_test)) == [("narrow", "not solved", "unpruned_loss")]
    assert without(study(a={"wide": row(None, unpruned_validation_loss=0.1)})) == [("wide", "no circuit found", None)]
    assert without(study(a={"wide": row(0, 0)})) == [("wide", "no node is needed", None)]
    nothing = {"expressible": False, "unpruned_loss": None, "unpruned_validation_loss": None}
    assert without(study(a={"wide": row(None) | nothing})) == [("wide", "not expressible", None)]


def test_a_study_of_dense_models_alone_has_no_gallery() -> None:
    assert gallery(study(a={"full": row(4)}), {}, {}, {}) == {"cards": [], "without": []}


@pytest.mark.parametrize(("gate", "which"), [(0.16, "unpruned_validation_loss"), (0.15, "unpruned_loss")])
def test_the_gate_decides_only_above_the_target(gate: float, which: str) -> None:
    assert deciding_loss({"unpruned_validation_loss": gate, "unpruned_loss": 0.5}, TARGET) == which


def picture(n_edges: int) -> dict[str, Any]:
    """A neuron at (10, 10), which every one of the residual channels below it is joined to by an ever larger weight."""
    edges = range(n_edges)
    return {
        "sites": ["0.mlp_neuron", "0.mlp_in"],
        "nodes": {"site": [0] + [1] * n_edges, "x": [10, *(20 + n for n in edges)], "y": [10] + [90] * n_edges},
        "edges": {
            "source": [1 + n for n in edges],
            "target": [0] * n_edges,
            "weight": [(-1) ** n * (n + 1.0) for n in edges],
        },
    }


def segments(svg: str, look: str) -> list[str]:
    """The parts of the path of a class that begin with M."""
    return [part for path in re.findall(rf'<path class="{look}" d="([^"]*)"', svg) for part in path.split("M")[1:]]


def test_a_thumbnail_has_every_node_and_edge_by_sign_and_fills_its_frame() -> None:
    svg = thumbnail(picture(4), label="<counting>")
    assert "&lt;counting&gt;" in svg
    assert [len(segments(svg, look)) for look in ("p strong", "n strong", "p faint", "n faint")] == [1, 2, 1, 0]
    assert segments(svg, "dot mlp") == [f"{MARGIN} {MARGIN}h0"]
    assert segments(svg, "dot res")[-1] == f"{WIDTH - MARGIN} {HEIGHT - MARGIN}h0"


def test_a_thumbnail_of_a_large_circuit_is_small_and_has_its_strongest_edges() -> None:
    svg = thumbnail(picture(3000), label="large")
    drawn = [part for look in ("p strong", "n strong", "p faint", "n faint") for part in segments(svg, look)]
    assert len(drawn) == MOST_EDGES == len(segments(svg, "dot res"))  # with the nodes at their ends alone
    assert segments(svg, "p faint") == [] and len(svg) < 6000
