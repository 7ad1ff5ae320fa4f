"""Larger circuits around a planted one: the next nodes by score, all edges between, as many as the curve says."""

from __future__ import annotations

import pytest
import torch

from pipeline.circuit import Circuit
from pipeline.explain import larger
from pipeline.explain.larger_circuits import next_nodes
from pipeline.model.scoring import mean_loss
from pipeline.planted import Algorithm, plant
from pipeline.sites import split_node_name


@pytest.fixture(scope="module")
def planted():
    return plant(Algorithm.QUOTE, d_model=64, seed=0)


@pytest.fixture(scope="module")
def circuit(planted) -> Circuit:
    generator = torch.Generator().manual_seed(0)
    scores = {key: torch.rand(len(mean), generator=generator) for key, mean in planted.means.items()}
    return Circuit(planted.nodes, planted.edges, planted.means, scores, about={"target_loss": 0.15})


def point(target: float, n_nodes: int | None) -> dict:
    return {"target_loss": target, "discretised": {"n_nodes": n_nodes, "n_edges": 1, "validation_loss": target}}


def test_the_next_nodes_are_those_of_highest_score_that_the_circuit_lacks(circuit):
    names = list(next_nodes(circuit))
    scores = [float(circuit.scores[key][index]) for key, index in map(split_node_name, names)]
    assert scores == sorted(scores, reverse=True) and not set(names) & set(circuit.node_names)
    assert len(names) == sum(map(len, circuit.scores.values())) - circuit.n_nodes


def test_a_stricter_targets_circuit_has_so_many_nodes_and_all_edges_between_them(planted, circuit):
    few, n = planted.batch("test", 8), circuit.n_nodes
    curve = [point(0.5, n + 9), point(0.015, n + 12), point(0.06, n + 5), point(0.03, None), point(0.02, n - 1)]
    found = larger(planted.model, circuit, curve, planted.batch("train", 8), few)
    assert [(size["target_loss"], size["n_added"]) for size in found["sizes"]] == [(0.06, 5), (0.015, 12)]
    assert found["nodes"] == list(next_nodes(circuit))[:12]
    for size in found["sizes"]:
        more = circuit.with_nodes(planted.model, *found["nodes"][: size["n_added"]])
        assert more.n_nodes == n + size["n_added"] and more.n_edges == size["n_edges"] > circuit.n_edges
        assert set(circuit.edge_names) <= set(more.edge_names)
        assert 0 <= size["loss"] <= mean_loss(more.answers(planted.model, few)) + 0.1


def test_what_is_too_large_to_draw_is_left_out(planted, circuit, monkeypatch):
    monkeypatch.setattr("pipeline.explain.larger_circuits.MOST_DRAWN", circuit.n_nodes + 6)
    curve = [point(0.06, circuit.n_nodes + 1), point(0.03, circuit.n_nodes + 7)]
    found = larger(planted.model, circuit, curve, planted.batch("train", 8), planted.batch("test", 8))
    assert [size["n_added"] for size in found["sizes"]] == [1] and len(found["nodes"]) == 1


def test_a_node_that_the_model_does_not_have_is_refused(planted, circuit):
    with pytest.raises(ValueError, match=r"0\.attn_in has no node 99999"):
        circuit.with_nodes(planted.model, "0.attn_in.99999")
