"""Shi et al.'s tests: planted circuits pass them, planted mistakes do not, and p are what p should be."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from scipy.stats import binom

from pipeline.ablation import Ablation
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.graph import Subgraph, dead_ends, induced_edges
from pipeline.circuit.interventions import edge_weights
from pipeline.circuit.random_circuits import Complement
from pipeline.planted import Algorithm, plant
from pipeline.validate.faithfulness import faithfulness_curve
from pipeline.validate.hypotheses import (
    equivalence,
    holm,
    hsic_test,
    hypotheses,
    independence,
    orders_of_pairs,
    sign_test,
    tost,
)
from pipeline.validate.limits import EPSILON, MARGIN
from pipeline.validate.minimality import Additions, Knockouts, minimality, plus
from pipeline.validate.necessity import necessity


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
    """Every number in what a test returns, in order; not how many draws, nor intervals, of other resamples."""
    if isinstance(found, dict):
        return numbers([value for key, value in found.items() if key != "n_draws" and not key.endswith("interval")])
    if isinstance(found, list):
        return [n for value in found for n in numbers(value)]
    return [found] if isinstance(found, int | float) else []


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("seed", range(2))
def test_a_planted_circuit_passes_every_test(algorithm, seed, claim_of):
    found = hypotheses(claim_of(plant(algorithm, d_model=64, seed=seed)))
    assert passed(found) == {"equivalence": True, "independence": True, "minimality": True}
    for kind in ("nodes", "edges"):
        kind = found["minimality"][kind]
        assert kind["n_tested"] == kind["n"] > 0 and kind["n_not_needed"] == kind["n_not_shown_needed"] == 0
    json.dumps(found)


@pytest.mark.parametrize("edges", [True, False])
@pytest.mark.parametrize("fixture", ["quote", "induction"])
def test_ten_nodes_too_many_are_not_minimal(fixture, edges, request, claim_of, circuit_of):
    planted = request.getfixturevalue(fixture)
    tested = claim_of(planted, with_more_nodes(planted, circuit_of, 10, edges))
    found = minimality(tested)
    assert found["p"] < 1e-6
    needed = {f"{key}.{i}" for key, indices in planted.nodes.items() for i in indices.tolist()}
    shown = {part["name"] for part in found["nodes"]["parts"] if part["p"] < 1e-6}
    assert len(shown) >= 7 and not shown & needed  # others are by chance as large as additions are
    assert found["nodes"]["n_not_needed"] >= 7 and found["nodes"]["n_not_shown_needed"] <= 10
    says = next(test["says"] for test in hypotheses(tested)["tests"] if test["name"] == "minimality")
    n, unproven, tested = (found["nodes"][name] for name in ("n_not_needed", "n_not_shown_needed", "n_tested"))
    assert f"no more than random additions: {n} of {tested} nodes" in says
    assert f"not shown to matter more: {unproven} of {tested} nodes" in says


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_circuit_without_one_of_its_edges_is_not_equivalent(algorithm, claim_of, circuit_of):
    planted = plant(algorithm, d_model=64, seed=0)
    for edge in Subgraph(planted.nodes, planted.edges).list_edges()[::3]:
        less, _ = Subgraph(planted.nodes, planted.edges).without([edge])
        found = equivalence(claim_of(planted, circuit_of(planted, planted.nodes, less.edges)))
        assert found["p"] == 1 and found["interval"][0] > found["delta"]


def test_what_a_circuit_may_lose_is_its_target_and_what_is_allowed_of_unseen_pairs(quote, claim_of, circuit_of):
    """The same loss above the model's is shown to be equivalent or not, by the target that the circuit was made for."""
    tested = claim_of(quote, replace(circuit_of(quote), calibration=(0.3, 0.0)))
    loss = equivalence(tested)["difference"]["mean"]
    assert loss > 0.1
    outcomes = []
    for target in (loss + 0.02, loss - 0.01, loss - MARGIN - 0.01):
        found = equivalence(replace(tested, target=target))
        assert found["delta"] == target + MARGIN
        outcomes.append((found["p"] < 0.05, found["p_at_target"] < 0.05))
    assert outcomes == [(True, True), (True, False), (False, False)]


def test_two_one_sided_tests_by_hand():
    means = torch.tensor([-0.3, *[0.0] * 95, 0.1, 0.2, 0.2, 0.3], dtype=torch.float64)
    assert tost(means, 0.25) == 2 / 101  # one beyond either end: the larger of the two shares, not both
    assert tost(means, 0.2) == tost(-means, 0.2) == 4 / 101
    assert tost(means, 0.4) == 1 / 101 and tost(means, 0.0) == 100 / 101


def test_equivalence_is_shown_by_chance_as_often_as_alpha_where_the_circuit_is_at_the_edge():
    """Pairs whose mean difference is δ: shown to be equivalent in one sample of twenty, whatever spread they have."""
    generator = torch.Generator().manual_seed(0)
    samples = 1 + torch.randn(400, 60, generator=generator, dtype=torch.float64)
    picks = torch.randint(60, (200, 60), generator=generator)
    p = torch.tensor([tost(sample[picks].mean(1), 1.0) for sample in samples])
    assert 0.02 < float((p <= 0.05).double().mean()) < 0.09


@pytest.mark.parametrize("bit", range(2))
def test_half_of_a_circuit_is_not_all_that_knows_the_answer(bit, induction, claim_of, circuit_of):
    """One of the two bits that are copied: without it, the model still tells the pairs apart that differ in the other,
    and is as sure of them as it is of all."""
    key = "1.attn_v->attn_out"
    edge = induction.edges[key][bit]
    half = {"1.attn_v": edge[:1], "1.attn_out": edge[1:]}
    found = hypotheses(claim_of(induction, circuit_of(induction, half, {key: edge[None]})))
    assert passed(found)["independence"] is False and passed(found)["equivalence"] is False


def test_without_a_circuit_that_does_nothing_the_model_says_what_it_said(induction, claim_of, circuit_of):
    tested = claim_of(induction)
    other = tested.complement.random_set(tested.circuit, torch.Generator().manual_seed(0), of_edges=False)
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
    twice = section(claim_of(quote, replace(circuit_of(quote), ablations=(AblationValues.resampled(draws),))))
    assert numbers(twice) == pytest.approx(numbers(once), rel=1e-4, abs=1e-6)


def test_a_sign_test_by_hand():
    better = torch.tensor([1.0] * 14 + [-1.0] * 4 + [0.0] * 2)
    found = sign_test(better)
    assert found["share"] == 0.75
    far = [k for k in range(21) if abs(k - 10) >= 5]
    assert found["p"] == pytest.approx(sum(binom.pmf(k, 20, 0.5 + EPSILON) for k in far))
    assert sign_test(-better)["p"] == pytest.approx(found["p"])
    halves = sign_test(torch.tensor([1.0, 1.0, 1.0, 0.0]))  # 3.5 of 4: as far are 0 and 4 only
    assert halves["p"] == pytest.approx(0.6**4 + 0.4**4)
    assert sign_test(torch.zeros(9))["p"] == 1.0


def test_hsic_has_uniform_p_where_nothing_depends_and_tiny_ones_where_something_does():
    generator = torch.Generator().manual_seed(0)

    def p_of(x, y, times=99):
        return hsic_test(x, y, [torch.randperm(len(x), generator=generator) for _ in range(times)])[1]

    assert_uniform([p_of(*torch.randn(2, 40, generator=generator)) for _ in range(200)])
    x = torch.randn(60, generator=generator)
    noise = 0.1 * torch.randn(60, generator=generator)
    for y in (x + noise, x**2 + noise):  # the second has no correlation
        assert p_of(x, y, 500) == pytest.approx(1 / 501)
    assert p_of(x, torch.ones(60)) == 1.0


def test_hsic_of_pairs_tells_what_knows_the_answer_from_what_does_not():
    """A model that is sure of every pair, about as sure of each; what is left knows nothing, all pairs or half."""
    generator = torch.Generator().manual_seed(0)

    def p_of(rest):
        model = 4 + torch.randn(len(rest), generator=generator)
        orders = orders_of_pairs(len(rest), 99, generator)
        return hsic_test(torch.cat([model, -model]), torch.cat([rest, -rest]), orders)[1]

    assert_uniform([p_of(torch.randn(24, generator=generator)) for _ in range(200)])
    assert p_of(torch.ones(24)) == p_of(-torch.ones(24)) == 0.01
    assert p_of(torch.arange(24) % 2) == 0.01


def test_orders_of_pairs_keep_pairs_together():
    for order in orders_of_pairs(5, 20, torch.Generator().manual_seed(0)):
        assert order.sort().values.tolist() == list(range(10))
        assert ((order[:5] - order[5:]).abs() == 5).all()


def assert_uniform(p):
    for level in (0.1, 0.5, 0.9):
        assert sum(value <= level for value in p) / len(p) == pytest.approx(level, abs=0.1)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9}) == {"a": 0.9} and holm({}) == {}


def test_a_part_taken_out_again_leaves_the_circuit_as_it_was(quote, claim_of):
    knockouts = Knockouts(claim_of(quote))
    edges = knockouts.kind(knockouts.whole.parts.list_edges(), knockouts.additions.edge)
    deltas = {part["name"]: part["delta"] for part in edges["parts"]}
    for edge in knockouts.whole.parts.list_edges():  # anew, without what the runs before left behind
        less, _ = knockouts.whole.parts.without([edge])
        fresh = Knockouts(claim_of(quote))
        halves = set(range(4))
        moved = float((fresh.changed(fresh.whole, less, halves).margins - fresh.whole.margins).abs().mean())
        assert deltas[f"{edge[0]}:{edge[1]}->{edge[2]}"] == pytest.approx(moved, abs=1e-4)


def test_additions_are_new_and_lead_from_a_read_to_a_write(induction, circuit_of):
    parts = Subgraph(induction.nodes, induction.edges)
    complement = Complement(induction.model, circuit_of(induction))
    additions = Additions(complement, torch.Generator().manual_seed(0))
    for like in parts.list_items():
        item, path = (additions.node if len(like) == 2 else additions.edge)(like)
        assert item[0] == like[0] and item in path and not additions.inside & set(path)
        more = plus(parts, path)
        assert len(path) == len(set(path)) and not dead_ends(more)
        assert {*more.list_nodes(), *more.list_edges()} == additions.inside | set(path)
        assert all(edge_weights(induction.model, key)[t, s] != 0 for key, s, t in more.list_edges())


def test_a_part_that_matters_under_one_of_the_ablations_only_is_needed(quote, claim_of, circuit_of):
    """Each part moves the margin as far as it does under that ablation where it moves it most."""
    kinds = Ablation.COUNTERFACTUAL, Ablation.ZERO, Ablation.MEAN
    against, zero, mean = (AblationValues.of(kind, quote.means) for kind in kinds)
    deltas = []
    for ablations in ([zero], [mean], [zero, mean], [against, mean], [against]):
        found = minimality(claim_of(quote, replace(circuit_of(quote), ablations=tuple(ablations))))
        deltas.append(torch.tensor([part["delta"] for kind in ("nodes", "edges") for part in found[kind]["parts"]]))
    assert (deltas[0] - deltas[1]).abs().max() > 0.1  # they differ at all
    torch.testing.assert_close(deltas[2], torch.maximum(deltas[0], deltas[1]), rtol=1e-5, atol=1e-6)
    assert bool((deltas[3] >= deltas[1] - 1e-6).all()) and deltas[4].equal(deltas[3])


def test_of_many_parts_some_are_tested(quote, claim_of, circuit_of, monkeypatch):
    monkeypatch.setattr("pipeline.validate.minimality.MAX_TESTED", 4)
    found = minimality(claim_of(quote))
    assert (found["nodes"]["n"], found["nodes"]["n_tested"], found["edges"]["n_tested"]) == (8, 4, 4)
