"""Other ablations than the mean: brute force, what they are at their ends, and who passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.ablation import Ablation
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.conditions import Ablator, Condition
from pipeline.circuit.interventions import edge_cuts, mask_nodes
from pipeline.circuit.masked import Masked
from pipeline.data.pairs import answer_logits
from pipeline.model.norm import RMSNorm
from pipeline.model.record import record
from pipeline.model.scoring import score
from pipeline.validate.circuit_under_test import margins
from pipeline.validate.complement import complement, frozen_norms, given_complement, kinds_of_ablation, mixed_draw
from pipeline.validate.limits import MARGIN, half_way
from pipeline.validate.subsets import Units, ascent, attacked_loss, subsets


def failed(found):
    return {test["name"] for test in found["tests"] if test["passed"] is False}


def test_a_planted_circuit_survives_every_ablation(claim_of, quote, induction):
    for planted in (quote, induction):
        found = complement(claim_of(planted))
        assert failed(found) == set() and len(found["tests"]) == 10
        assert found["mean"]["faithfulness"]["mean"] > 0.9


def test_a_circuit_with_an_edge_missing_does_not(claim_of, circuit_of, quote):
    key = next(iter(quote.edges))
    broken = circuit_of(quote, edges=quote.edges | {key: quote.edges[key][1:]})
    assert "sufficient_mean" in failed(complement(claim_of(quote, broken)))


def test_the_circuit_with_all_else_held_is_the_masked_model(claim_of, quote):
    tested = claim_of(quote)
    for ablated_to in kinds_of_ablation(tested).values():
        answers = Ablator(tested.model, ablated_to).answers(tested.circuit, Condition.CIRCUIT, tested.test)
        for draw, found in zip(ablated_to.draws, answers, strict=True):
            masked = Masked(tested.model, tested.circuit.nodes, tested.circuit.edges, draw)
            expected = answer_logits(masked(tested.test.tokens, at=tested.test.last), tested.test)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_values_of_places_belong_together_and_mixed_ones_do_not(claim_of, quote):
    tested = claim_of(quote)
    kinds = kinds_of_ablation(tested)
    key = "0.mlp_neuron"
    rows = {tuple(row.tolist()) for row in tested.samples[key]}
    assert all(tuple(draw[key].tolist()) in rows for draw in kinds["resample_places"].draws)
    assert not any(tuple(draw[key].tolist()) in rows for draw in kinds["resample_nodes"].draws)
    one = mixed_draw(tested.samples, torch.Generator().manual_seed(0))[key]
    assert all(value in tested.samples[key][:, i] for i, value in enumerate(one))


def test_partly_alive_is_the_model_at_one_and_its_nodes_alone_at_the_circuit_s_mask(claim_of, induction):
    tested = claim_of(induction)
    masks = tested.circuit.node_masks()
    everything = {key: torch.ones_like(mask) for key, mask in masks.items()}
    whole = Units(tested, of_edges=False).run(everything, tested.few, tested.circuit.means)
    torch.testing.assert_close(whole, score(tested.model, tested.few))  # zero weights are left out: rounding differs
    alone = score(tested.model, tested.few, intervene=mask_nodes(masks, tested.circuit.means))
    torch.testing.assert_close(Units(tested, of_edges=False).run(masks, tested.few, tested.circuit.means), alone)


def test_all_edges_alive_are_the_model_and_none_cuts_every_one(claim_of, induction):
    tested = claim_of(induction)
    units, ablated_to = Units(tested, of_edges=True), tested.circuit.means
    ones = {key: torch.ones_like(keep) for key, keep in units.kept(tested.circuit).items()}
    assert torch.allclose(units.run(ones, tested.few, ablated_to), score(tested.model, tested.few), atol=1e-5)
    cuts = edge_cuts(tested.model, tested.circuit.edges, ablated_to, keep=True)
    only = answer_logits(tested.model(tested.few.tokens, at=tested.few.last, cuts=cuts), tested.few)
    torch.testing.assert_close(units.run(units.kept(tested.circuit), tested.few, ablated_to), only)


@pytest.mark.parametrize("of_edges", [False, True])
def test_the_adversary_goes_uphill_outside_the_circuit_only(claim_of, induction, of_edges):
    tested = claim_of(induction)
    units = Units(tested, of_edges)
    kept = units.kept(tested.circuit)
    half = {key: torch.full_like(mask, 0.5) for key, mask in kept.items()}
    loss, slope = ascent(units, kept, half, tested.few)
    assert all(bool((slope[key][mask == 1] == 0).all()) for key, mask in kept.items())
    norm = sum(float(part.square().sum()) for part in slope.values()) ** 0.5
    step = 1e-3 / norm
    uphill, _ = ascent(units, kept, {key: half[key] + step * slope[key] for key in half}, tested.few)
    assert uphill - loss == pytest.approx(step * norm**2, rel=0.1)


def test_the_adversary_learns_on_train_pairs_and_beats_chance_there(claim_of, circuit_of, quote):
    """A circuit that lacks a node gives way to it; the planted one does not. Both are scored on test pairs."""
    tested = claim_of(quote)
    assert attacked_loss(Units(tested, of_edges=False), tested.circuit) <= half_way(tested.target)
    nothing = attacked_loss(Units(tested, of_edges=False), tested.nothing)
    assert nothing > half_way(tested.target)
    other = replace(tested, batches=tested.batches | {"train": tested.batches["test"].take(torch.arange(4))})
    assert attacked_loss(Units(other, of_edges=False), tested.nothing) != nothing


def broken_by(claim_of, circuit_of, planted):
    """A claim whose circuit lacks every second kind of edge, of which the complement's values then decide."""
    key = next(iter(planted.edges))
    return claim_of(planted, circuit_of(planted, edges=planted.edges | {key: planted.edges[key][1:]}))


def test_a_wrong_circuit_fails_every_ablation_but_those_that_bring_the_missing_part_back(claim_of, circuit_of, quote):
    found = failed(complement(broken_by(claim_of, circuit_of, quote)))
    kinds = ("mean", "zero", "resample_places", "resample_nodes", "mean_frozen_norms")
    assert found >= {f"sufficient_{kind}" for kind in kinds}


def test_missing_nodes_fail_where_nodes_alone_are_held(claim_of, circuit_of, quote):
    nodes = {key: kept for key, kept in quote.nodes.items() if not key.endswith("attn_v")}
    found = failed(complement(claim_of(quote, circuit_of(quote, nodes, {}))))
    assert found >= {"sufficient_resample_examples", "sufficient_adversarial_subset"}


def test_a_calibration_that_turns_the_model_round_fails_with_parts_alive(claim_of, circuit_of, quote):
    """Parts that are alive bring the model's own answer back, so a circuit that says the opposite is found out."""
    tested = claim_of(quote, replace(circuit_of(quote), calibration=(-1.0, 0.0)))
    for name in ("random_subset", "random_edges"):
        assert float(tested.losses(torch.stack(subsets(tested)[name][0])).mean()) > half_way(tested.target)


def test_losses_of_draws_are_calibrated_each(claim_of, circuit_of, quote):
    tested = claim_of(quote, replace(circuit_of(quote), calibration=(0.5, 1.5)))
    draws = torch.randn(3, 48, 2, generator=torch.Generator().manual_seed(0))
    each = torch.stack([tested.losses(draw) for draw in draws])
    assert tested.losses(draws).shape == (3, 24) and torch.allclose(tested.losses(draws), each)
    first, second = 0.5 * draws[0, 0] + torch.tensor([1.5, 0]), 0.5 * draws[0, 1] + torch.tensor([0, 1.5])
    expected = sum(torch.nn.functional.softplus(x[1] - x[0]) for x in (first, second)) / 2
    assert float(each[0, 0]) == pytest.approx(float(expected), rel=1e-5)


def test_draws_that_differ_make_the_interval_wider(claim_of, quote):
    tested = claim_of(quote)
    same = torch.full((2, 48), 0.5)
    apart = torch.stack([torch.zeros(48), torch.ones(48)])
    assert tested.estimate(same)["interval"] == pytest.approx([0.5, 0.5])
    low, high = tested.estimate(apart)["interval"]
    assert tested.estimate(apart)["mean"] == 0.5 and (low, high) == pytest.approx((0.0, 1.0))


def test_a_circuit_made_at_zero_is_asked_for_its_target_there(claim_of, circuit_of, quote):
    circuit = circuit_of(quote)
    tested = claim_of(quote, replace(circuit, ablations=(AblationValues.at_zero(circuit.means),)))
    limits = {test["name"]: test["limit"] for test in complement(tested)["tests"]}
    assert limits["sufficient_zero"] == tested.target + MARGIN and limits["sufficient_mean"] == half_way(tested.target)
    assert "sufficient_zero_frozen_norms" in limits
    drawn = AblationValues.resampled({key: value[:3] for key, value in tested.samples.items()})
    resampled = claim_of(quote, replace(circuit, ablations=(drawn,)))
    assert kinds_of_ablation(resampled)["resample_places"] is drawn and drawn.kind is Ablation.RESAMPLE


def test_other_sequences_values_are_given_position_by_position(claim_of, quote):
    tested = claim_of(quote)
    nothing = {key: torch.zeros_like(mask) for key, mask in tested.circuit.node_masks().items()}
    values = record(tested.model, tested.few.tokens)[1]
    whole = given_complement(tested, nothing, values)
    assert torch.allclose(whole, score(tested.model, tested.few), atol=1e-4)


def test_frozen_norms_use_the_scales_of_the_unchanged_model(claim_of, induction):
    """At the circuit of all nodes nothing changes; a scaled embedding no longer shows."""
    tested = claim_of(induction)
    batch, model = tested.few, tested.model
    plain = model(batch.tokens, at=batch.last)
    with frozen_norms(model, batch):
        torch.testing.assert_close(model(batch.tokens, at=batch.last), plain, rtol=1e-5, atol=1e-5)
        ablated_to = mask_nodes(
            {key: torch.zeros_like(m) for key, m in tested.circuit.means.items()}, tested.circuit.means
        )
        frozen = model(batch.tokens, at=batch.last, intervene=ablated_to)
    assert not torch.allclose(frozen, model(batch.tokens, at=batch.last, intervene=ablated_to), atol=1e-3)
    assert not any(module._forward_hooks for module in model.modules() if isinstance(module, RMSNorm))


def test_faithfulness_is_one_for_the_model_and_zero_for_nothing(claim_of, quote):
    tested = claim_of(quote)
    whole = margins(tested.of_model)
    empty = torch.zeros_like(whole)
    assert tested.faithfulness(whole, empty, whole)["mean"] == 1
    assert tested.faithfulness(empty, empty, whole)["mean"] == 0


def test_what_still_counts_as_done_lies_between_target_and_chance(claim_of, quote):
    assert 0.15 < half_way(0.15) < 0.693
    tested = replace(claim_of(quote), target=0.3)
    limits = {test["name"]: test["limit"] for test in complement(tested)["tests"]}
    assert limits["sufficient_mean"] == 0.3 + MARGIN and limits["sufficient_zero"] == half_way(0.3)
    assert set(subsets(tested)) == {
        f"{how}_{what}" for how in ("random", "adversarial") for what in ("subset", "edges")
    }
