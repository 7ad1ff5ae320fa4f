"""Inverse pruning: a planted circuit cannot go, others can, and the curves are of what they say."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from pipeline.circuit.conditions import Condition
from pipeline.data.pairs import of_pairs, prompt_losses
from pipeline.validate.limits import CHANCE_LOSS
from pipeline.validate.necessity import (
    BEYOND,
    edge_sets,
    edges_by_need,
    first_nodes,
    grid,
    losses,
    necessity,
    node_sets,
    nodes_by_need,
)


def passed(found):
    return {test["name"]: test["passed"] for test in found["tests"]}


@pytest.mark.parametrize("fixture", ["quote", "induction"])
def test_a_planted_circuit_is_necessary_at_nodes_and_at_edges(fixture, request, claim_of):
    planted = request.getfixturevalue(fixture)
    found = necessity(claim_of(planted))
    assert passed(found) == {"necessary_nodes": True, "necessary_edges": True}
    for kind, n in (("nodes", sum(map(len, planted.nodes.values()))), ("edges", sum(map(len, planted.edges.values())))):
        points = found[kind]["curve"]
        assert found[kind]["n"] == n and n in [point["size"] for point in points]
        assert found[kind]["n_to_chance"] <= n
        assert all(point["random"]["high"] < 0.03 for point in points)  # the model without what does nothing
    json.dumps(found)


def test_a_random_circuit_is_not_necessary(quote, claim_of, circuit_of):
    circuit = claim_of(quote).circuit
    outside, of_edges = (
        claim_of(quote).complement.random_set(circuit, torch.Generator().manual_seed(0), of_edges=of_edges)
        for of_edges in (False, True)
    )
    found = necessity(claim_of(quote, circuit_of(quote, outside.nodes, of_edges.edges)))
    assert passed(found) == {"necessary_nodes": False, "necessary_edges": False}
    assert found["nodes"]["n_to_chance"] is None


def test_an_empty_circuit_is_not_tested(quote, claim_of, circuit_of):
    found = necessity(claim_of(quote, circuit_of(quote, {}, {})))
    assert passed(found) == {"necessary_nodes": None, "necessary_edges": None}
    assert found["nodes"]["curve"] == found["edges"]["curve"] == []


def test_the_loss_without_nodes_is_that_of_ablation(induction, claim_of):
    tested = claim_of(induction)
    some = first_nodes(tested, nodes_by_need(tested), 3)
    for removed in (tested.circuit, some):
        answers = tested.ablator.answers(removed, Condition.ABLATED_NODES, tested.few)
        assert torch.allclose(
            losses(tested, Condition.ABLATED_NODES, removed), of_pairs(prompt_losses(answers).mean(0)), atol=1e-5
        )


def test_the_most_needed_parts_go_first(quote, claim_of, circuit_of):
    circuit = circuit_of(quote)
    nodes = {key: torch.rand(len(indices)).tolist() for key, indices in circuit.nodes.items()}
    edges = {key: torch.rand(len(pairs)).tolist() for key, pairs in circuit.edges.items()}
    tested = claim_of(quote, replace(circuit, certificate={"nodes": nodes, "edges": edges}))
    sizes = [removed.n_nodes for removed in node_sets(tested)]
    assert sizes[0] == 1 and circuit.n_nodes in sizes and sizes[-2:] == [times * circuit.n_nodes for times in BEYOND]
    first = node_sets(tested)[0].nodes
    worst = max(nodes, key=lambda key: max(nodes[key]))
    assert first[worst].tolist() == [int(circuit.nodes[worst][torch.tensor(nodes[worst]).argmax()])]
    whole = next(removed for removed in node_sets(tested) if removed.n_nodes == circuit.n_nodes)
    assert {key: rows.tolist() for key, rows in whole.nodes.items()} == {k: v.tolist() for k, v in quote.nodes.items()}
    ordered = edges_by_need(tested.circuit)
    losses_in_order = [edges[key][circuit.edges[key].tolist().index([s, t])] for key, s, t in ordered]
    assert losses_in_order == sorted(losses_in_order, reverse=True)
    assert {removed.n_edges for removed in edge_sets(tested)} >= set(grid(circuit.n_edges, 8))


def test_random_sets_are_as_large_and_of_other_parts(induction, claim_of):
    tested = claim_of(induction)
    generator = torch.Generator().manual_seed(0)
    nodes = tested.complement.random_set(tested.circuit, generator, of_edges=False).nodes
    edges = tested.complement.random_set(tested.circuit, generator, of_edges=True).edges
    for drawn, own in ((nodes, induction.nodes), (edges, induction.edges)):
        assert {key: len(rows) for key, rows in drawn.items()} == {key: len(rows) for key, rows in own.items()}
        for key, rows in drawn.items():
            inside, found = ([str(row) for row in values.tolist()] for values in (own[key], rows))
            assert not set(inside) & set(found) and len(set(found)) == len(found)
    everything = replace(tested.circuit, nodes={"0.attn_in": torch.arange(64)})
    drawn = tested.complement.random_set(everything, generator, of_edges=False)
    assert len(drawn.nodes["0.attn_in"]) == 60


def test_a_model_that_tells_nothing_apart_loses_at_least_ln_2():
    margin = torch.linspace(-5, 5, 11)
    pair = prompt_losses(torch.stack([torch.stack([margin, 0 * margin], 1), torch.stack([-margin, 0 * margin], 1)]))
    assert (pair.mean(0) >= math.log(2) - 1e-6).all() and math.log(2) > CHANCE_LOSS


def test_sizes_grow_in_equal_ratios():
    assert grid(0, 5) == [] and grid(1, 5) == [1] and grid(3, 8) == [1, 2, 3]
    assert grid(10000, 5) == [1, 10, 100, 1000, 10000]
