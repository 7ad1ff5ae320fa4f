"""MIB's curves: exact at their ends, by hand in between."""

from __future__ import annotations

import json

import pytest
import torch

from pipeline.circuit.graph import induced_edges
from pipeline.circuit.random_circuits import nonzero_edges
from pipeline.prune.masks import UnitLayout
from pipeline.sites import edge_keys
from pipeline.validate.circuit_under_test import ratio
from pipeline.validate.faithfulness import (
    MIN_FRACTION,
    areas,
    areas_intervals,
    faithfulness_curve,
    n_edges,
    nested,
    nodes_needed,
    point,
)
from pipeline.validate.necessity import nodes_by_need


@pytest.mark.parametrize("fixture", ["quote", "induction"])
def test_nothing_is_at_0_the_model_at_1_and_the_planted_circuit_does_the_task(fixture, request, claim_of):
    found = faithfulness_curve(claim_of(request.getfixturevalue(fixture)))
    first, *_, last = found["curve"]
    assert (first["k"], first["f"], first["m"]) == (0.0, 0.0, found["m_nothing"])
    assert (last["k"], last["f"], last["m"]) == (1.0, 1.0, found["m_model"])
    ks = [point["k"] for point in found["curve"]]
    assert ks == sorted(set(ks)) and len(ks) <= 9
    low, high = found["circuit"]["interval"]
    assert low <= found["circuit"]["f"] <= high and found["circuit"]["f"] > 0.9
    assert found["cpr"] == pytest.approx(sum(
        (b["k"] - a["k"]) * (a["f"] + b["f"]) / 2 for a, b in zip(found["curve"], found["curve"][1:], strict=False)
    ))  # fmt: skip
    for name in ("cpr", "cmd"):
        low, high = found[f"{name}_interval"]
        assert low < found[name] < high
    assert all(p["interval"][0] <= p["f"] <= p["interval"][1] for p in found["curve"])
    assert first["interval"] == [0, 0] and last["interval"] == [1, 1] and found["n_draws"] == 1
    json.dumps(found)


def test_a_circuit_without_what_is_needed_is_not_faithful(quote, claim_of, circuit_of):
    nodes = {key: indices for key, indices in quote.nodes.items() if not key.endswith("attn_out")}
    edges = {key: pairs for key, pairs in quote.edges.items() if not key.endswith("attn_out")}
    found = faithfulness_curve(claim_of(quote, circuit_of(quote, nodes, edges)))
    assert found["circuit"]["f"] == pytest.approx(0, abs=1e-3)


def test_areas_by_hand():
    # Trapezoids: 0.5 · (0 + 2)/2 + 0.5 · (2 + 1)/2, and of |1 − f|, which is 1, 1, 0.
    assert areas([0.0, 0.5, 1.0], [0.0, 2.0, 1.0]) == {"cpr": 1.25, "cmd": 0.75}
    assert areas([0.0, 1.0], [0.0, None]) == {"cpr": None, "cmd": None}


def test_f_means_nothing_where_the_model_says_nothing(quote, claim_of, circuit_of, monkeypatch):
    assert ratio(0.5, 1e-5) is None and ratio(1.0, 2.0) == 0.5
    tested = claim_of(quote, circuit_of(quote, {}, {}))
    monkeypatch.setitem(vars(tested), "of_model", torch.zeros(2 * tested.test.n_pairs, 2))  # as cached: it says nothing
    found = faithfulness_curve(tested)
    assert found["m_nothing"] == found["m_model"] == 0 and {p["f"] for p in found["curve"]} == {None}
    assert [found[name] for name in ("cpr", "cmd", "cpr_interval", "cmd_interval")] == [None] * 4


def test_two_draws_that_differ_make_intervals_wider_than_one(quote, claim_of):
    tested = claim_of(quote)
    nothing, model = torch.zeros(1, 40), torch.linspace(3, 5, 40)
    own = model[None] * 0.7

    def widths(draws):
        two = point(tested, draws, nothing.expand_as(draws), model)
        found = [nothing.expand_as(draws), draws, model.expand_as(draws)]
        ends = areas_intervals(tested, [0.0, 0.5, 1.0], found)
        return two["f"], [high - low for low, high in (two["interval"], ends["cpr_interval"], ends["cmd_interval"])]

    f, narrow = widths(own)
    same_f, wide = widths(torch.cat([own - 1, own + 1]))  # the mean over the draws is the one draw's
    assert same_f == pytest.approx(f) == pytest.approx(0.7)
    assert all(w > n + 0.1 for n, w in zip(narrow, wide, strict=True))


def test_areas_of_resamples_by_hand_where_every_pair_is_the_same(quote, claim_of):
    tested = claim_of(quote)
    found = [torch.full((2, 9), m) for m in (1.0, 5.0, 3.0)]  # f: 0, 2, 1, as above
    ends = areas_intervals(tested, [0.0, 0.5, 1.0], found)
    assert ends == {"cpr_interval": pytest.approx([1.25, 1.25]), "cmd_interval": pytest.approx([0.75, 0.75])}


def test_circuits_are_nested_and_have_the_edges_they_say(induction, claim_of):
    tested = claim_of(induction)
    n = n_edges(induction.model)
    assert n == sum(len(nonzero_edges(induction.model, key)) for key in edge_keys(2))
    before = set()
    circuits, sequence, layout = nested(tested), nodes_by_need(tested), UnitLayout(induction.model.widths())
    assert circuits[0][0] >= MIN_FRACTION and len(circuits) > 3
    for k, n_nodes, circuit in circuits:
        edges = induced_edges(induction.model, circuit.node_masks())
        assert circuit.n_nodes == n_nodes and sum(map(len, edges.values())) == round(k * n)
        nodes = {(key, i) for key, indices in circuit.nodes.items() for i in indices.tolist()}
        assert before <= nodes  # and they are the first of the order that necessity removes them in
        assert nodes == {(key, i - layout.start[key]) for i in sequence[:n_nodes].tolist()
                         for key, width in layout.widths.items() if 0 <= i - layout.start[key] < width}  # fmt: skip
        before = nodes


def test_an_edge_needs_the_later_of_its_ends(induction):
    layout = UnitLayout(induction.model.widths())
    needed = nodes_needed(induction.model, layout, torch.arange(layout.n_units))
    assert needed.tolist() == sorted(needed.tolist()) and len(needed) == n_edges(induction.model)
    assert int(needed[-1]) == layout.n_units and int(needed[0]) > 64  # edges go from the first site to later ones
