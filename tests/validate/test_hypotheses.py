"""Shi et al.'s tests: planted circuits pass them, planted mistakes do not, and p are what p should be."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch
from scipy.stats import binom

from pipeline.model.ablation import edge_weights
from pipeline.model.held_at import Held
from pipeline.prune.edges import induced_edges
from pipeline.prune.graph import Parts, dead_ends
from pipeline.validate.faithfulness import faithfulness_curve
from pipeline.validate.hypotheses import EPSILON, holm, hsic_test, hypotheses, independence, sign_test
from pipeline.validate.minimality import Additions, Knockouts, minimality, plus
from pipeline.validate.necessity import necessity, random_nodes


def passed(found):
    return {test["name"]: test["passed"] for test in found["tests"]}


def with_more_nodes(planted, circuit_of, n, edges):
    """The planted circuit with ``n`` random nodes too many, with all edges between its nodes or with none."""
    generator = torch.Generator().manual_seed(0)
    masks = {key: torch.zeros(width) for key, width in planted.model.widths().items()}
    for key, indices in planted.nodes.items():
        masks[key][indices] = 1
    outside = [(key, i) for key, mask in masks.items() for i in (mask == 0).nonzero().flatten().tolist()]
    for place in torch.randperm(len(outside), generator=generator)[:n].tolist():
        masks[outside[place][0]][outside[place][1]] = 1
    nodes = {key: mask.nonzero().flatten() for key, mask in masks.items() if mask.any()}
    return circuit_of(planted, nodes, induced_edges(planted.model, masks) if edges else None)


def numbers(found):
    """Every number in what a test returns, in order."""
    if isinstance(found, dict | list):
        return [n for value in (found.values() if isinstance(found, dict) else found) for n in numbers(value)]
    return [found] if isinstance(found, int | float) else []


@pytest.mark.parametrize("fixture", ["quote", "induction"])
def test_a_planted_circuit_passes_every_test(fixture, request, claim_of):
    found = hypotheses(claim_of(request.getfixturevalue(fixture)))
    assert passed(found) == {"equivalence": True, "independence": True, "minimality": True}
    for kind in ("nodes", "edges"):
        kind = found["minimality"][kind]
        assert kind["n_tested"] == kind["n"] > 0 and kind["n_not_needed"] == kind["n_not_shown_needed"] == 0
    json.dumps(found)


@pytest.mark.parametrize("edges", [True, False])
@pytest.mark.parametrize("fixture", ["quote", "induction"])
def test_ten_nodes_too_many_are_not_minimal(fixture, edges, request, claim_of, circuit_of):
    planted = request.getfixturevalue(fixture)
    claim = claim_of(planted, with_more_nodes(planted, circuit_of, 10, edges))
    found = minimality(claim)
    assert found["p"] < 1e-6
    needed = {f"{key}.{i}" for key, indices in planted.nodes.items() for i in indices.tolist()}
    shown = {part["name"] for part in found["nodes"]["parts"] if part["p"] < 1e-6}
    assert len(shown) >= 7 and not shown & needed  # others are by chance as large as additions are
    assert found["nodes"]["n_not_needed"] >= 7 and found["nodes"]["n_not_shown_needed"] <= 10


@pytest.mark.parametrize("missing", range(5))
def test_a_circuit_without_one_of_its_edges_is_not_equivalent(missing, quote, claim_of, circuit_of):
    edge = Parts(quote.nodes, quote.edges).list_edges()[missing]
    less, _ = Parts(quote.nodes, quote.edges).without([edge])
    assert passed(hypotheses(claim_of(quote, circuit_of(quote, quote.nodes, less.edges))))["equivalence"] is False


def test_without_a_circuit_that_does_nothing_the_model_says_what_it_said(induction, claim_of, circuit_of):
    claim = claim_of(induction)
    other = random_nodes(claim, claim.circuit, torch.Generator().manual_seed(0))
    found = independence(claim_of(induction, circuit_of(induction, other.nodes, {})))
    assert found["spread"] > 0.01 and found["p"] == pytest.approx(1 / 301)


def test_an_empty_circuit_is_only_compared_with_the_model(quote, claim_of, circuit_of):
    outcome = passed(hypotheses(claim_of(quote, circuit_of(quote, {}, {}))))
    assert outcome == {"equivalence": False, "independence": None, "minimality": None}


@pytest.mark.parametrize("section", [hypotheses, necessity, faithfulness_curve])
def test_every_draw_of_held_values_counts(section, quote, claim_of, circuit_of):
    """Two draws of the same values are one; and what is random is the same again."""
    draws = {key: mean.expand(2, -1) for key, mean in quote.means.items()}
    once = section(claim_of(quote))
    twice = section(claim_of(quote, replace(circuit_of(quote), held=Held.resampled(draws))))
    assert numbers(twice) == pytest.approx(numbers(once), rel=1e-4, abs=1e-6)


def test_a_sign_test_by_hand():
    better = torch.tensor([1.0] * 14 + [-1.0] * 4 + [0.05, -0.05])
    found = sign_test(better, tie=0.1)
    assert found["share"] == 0.75 and found["n_ties"] == 2
    far = [k for k in range(21) if abs(k - 10) >= 5]
    assert found["p"] == pytest.approx(sum(binom.pmf(k, 20, 0.5 + EPSILON) for k in far))
    assert sign_test(-better, tie=0.1)["p"] == pytest.approx(found["p"])
    halves = sign_test(torch.tensor([1.0, 1.0, 1.0, 0.0]), tie=0.1)  # 3.5 of 4: as far are 0 and 4 only
    assert halves["p"] == pytest.approx(0.6**4 + 0.4**4)
    assert sign_test(torch.zeros(9), tie=0.0)["p"] == 1.0


def test_hsic_has_uniform_p_where_nothing_depends_and_tiny_ones_where_something_does():
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor(
        [hsic_test(*torch.randn(2, 40, generator=generator), 99, generator)[1] for _ in range(200)], dtype=torch.float64
    )
    for level in (0.1, 0.5, 0.9):
        assert float((p <= level).double().mean()) == pytest.approx(level, abs=0.1)
    x = torch.randn(60, generator=generator)
    noise = 0.1 * torch.randn(60, generator=generator)
    for y in (x + noise, x**2 + noise):  # the second has no correlation
        assert hsic_test(x, y, 500, generator)[1] == pytest.approx(1 / 501)
    assert hsic_test(x, torch.ones(60), 99, generator)[1] == 1.0


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9}) == {"a": 0.9} and holm({}) == {}


def test_a_part_taken_out_again_leaves_the_circuit_as_it_was(quote, claim_of):
    knockouts = Knockouts(claim_of(quote))
    deltas = {part["name"]: part["delta"] for part in knockouts.edges()["parts"]}
    for edge in knockouts.whole.parts.list_edges():  # anew, without what the runs before left behind
        less, _ = knockouts.whole.parts.without([edge])
        fresh = Knockouts(claim_of(quote))
        halves = set(range(4))
        moved = float((fresh.changed(fresh.whole, less, halves).margins - fresh.whole.margins).abs().mean())
        assert deltas[f"{edge[0]}:{edge[1]}->{edge[2]}"] == pytest.approx(moved, abs=1e-4)


def test_additions_are_new_and_lead_from_a_read_to_a_write(induction):
    parts = Parts(induction.nodes, induction.edges)
    additions = Additions(induction.model, parts, random.Random(0))
    for like in (*parts.list_nodes(), *parts.list_edges()):
        item, path = (additions.node if len(like) == 2 else additions.edge)(like)
        assert item[0] == like[0] and item in path and not additions.inside & set(path)
        more = plus(parts, path)
        assert len(path) == len(set(path)) and not dead_ends(more)
        assert {*more.list_nodes(), *more.list_edges()} == additions.inside | set(path)
        assert all(edge_weights(induction.model, key)[t, s] != 0 for key, s, t in more.list_edges())


def test_of_many_parts_some_are_tested(quote, claim_of, circuit_of, monkeypatch):
    monkeypatch.setattr("pipeline.validate.minimality.MOST", 4)
    found = minimality(claim_of(quote))
    assert (found["nodes"]["n"], found["nodes"]["n_tested"], found["edges"]["n_tested"]) == (8, 4, 4)
