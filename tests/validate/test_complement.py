"""Other ablations than the mean: brute force, what they are at their ends, and who passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.ablate.conditions import Condition, Runner
from pipeline.data.pairs import answer_logits
from pipeline.model.ablation import hold_at_means
from pipeline.model.masked import Masked
from pipeline.model.norm import RMSNorm
from pipeline.model.scoring import score
from pipeline.validate.claim import margins
from pipeline.validate.complement import ascent, complement, kinds_of_held, mixed_draw, partly_alive, still
from pipeline.validate.norms import frozen_norms


def failed(found):
    return {test["name"] for test in found["tests"] if test["passed"] is False}


def test_a_planted_circuit_survives_every_ablation(claim_of, quote, induction):
    for planted in (quote, induction):
        found = complement(claim_of(planted))
        assert failed(found) == set() and len(found["tests"]) == 7
        assert found["mean"]["faithfulness"]["mean"] > 0.9


def test_a_circuit_with_an_edge_missing_does_not(claim_of, circuit_of, quote):
    key = next(iter(quote.edges))
    broken = circuit_of(quote, edges=quote.edges | {key: quote.edges[key][1:]})
    assert "sufficient_mean" in failed(complement(claim_of(quote, broken)))


def test_the_circuit_with_all_else_held_is_the_masked_model(claim_of, quote):
    claim = claim_of(quote)
    for held in kinds_of_held(claim).values():
        answers = Runner(claim.model, held).answers(claim.circuit, Condition.CIRCUIT, claim.test)
        for draw, found in zip(held.draws, answers, strict=True):
            masked = Masked(claim.model, claim.circuit.nodes, claim.circuit.edges, draw)
            expected = answer_logits(masked(claim.test.tokens, at=claim.test.last), claim.test)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_values_of_places_belong_together_and_mixed_ones_do_not(claim_of, quote):
    claim = claim_of(quote)
    kinds = kinds_of_held(claim)
    key = "0.mlp_neuron"
    rows = {tuple(row.tolist()) for row in claim.samples[key]}
    assert all(tuple(draw[key].tolist()) in rows for draw in kinds["resample_places"].draws)
    assert not any(tuple(draw[key].tolist()) in rows for draw in kinds["resample_nodes"].draws)
    one = mixed_draw(claim.samples, torch.Generator().manual_seed(0))[key]
    assert all(value in claim.samples[key][:, i] for i, value in enumerate(one))


def test_partly_alive_is_the_model_at_one_and_its_nodes_alone_at_the_circuit_s_mask(claim_of, induction):
    claim = claim_of(induction)
    masks = claim.circuit.node_masks()
    everything = {key: torch.ones_like(mask) for key, mask in masks.items()}
    assert torch.equal(partly_alive(claim, everything), score(claim.model, claim.few))
    alone = score(claim.model, claim.few, intervene=hold_at_means(masks, claim.circuit.means))
    assert torch.equal(partly_alive(claim, masks), alone)


def test_the_adversary_goes_uphill_outside_the_circuit_only(claim_of, induction):
    claim = claim_of(induction)
    kept = claim.circuit.node_masks()
    half = {key: torch.full_like(mask, 0.5) for key, mask in kept.items()}
    loss, _, slope = ascent(claim, kept, half)
    assert all(bool((slope[key][mask == 1] == 0).all()) for key, mask in kept.items())
    norm = sum(float(part.square().sum()) for part in slope.values()) ** 0.5
    step = 1e-3 / norm
    uphill, _, _ = ascent(claim, kept, {key: half[key] + step * slope[key] for key in half})
    assert uphill - loss == pytest.approx(step * norm**2, rel=0.1)
    found = complement(claim)
    assert found["adversarial_subset"]["loss"]["mean"] >= found["random_subset"]["loss"]["mean"]


def test_frozen_norms_use_the_scales_of_the_unchanged_model(claim_of, induction):
    """At the circuit of all nodes nothing changes; a scaled embedding no longer shows."""
    claim = claim_of(induction)
    batch, model = claim.few, claim.model
    plain = model(batch.tokens, at=batch.last)
    with frozen_norms(model, batch):
        torch.testing.assert_close(model(batch.tokens, at=batch.last), plain, rtol=1e-5, atol=1e-5)
        held = hold_at_means({key: torch.zeros_like(m) for key, m in claim.circuit.means.items()}, claim.circuit.means)
        frozen = model(batch.tokens, at=batch.last, intervene=held)
    assert not torch.allclose(frozen, model(batch.tokens, at=batch.last, intervene=held), atol=1e-3)
    assert not any(module._forward_hooks for module in model.modules() if isinstance(module, RMSNorm))


def test_faithfulness_is_one_for_the_model_and_zero_for_nothing(claim_of, quote):
    claim = claim_of(quote)
    whole = margins(claim.of_model)
    empty = torch.zeros_like(whole)
    assert claim.faithfulness(whole, empty, whole)["mean"] == 1
    assert claim.faithfulness(empty, empty, whole)["mean"] == 0


def test_what_still_counts_as_done_lies_between_target_and_chance(claim_of, quote):
    assert 0.15 < still(0.15) < 0.693
    claim = replace(claim_of(quote), target=0.3)
    at_mean, at_zero, *_ = complement(claim)["tests"]
    assert at_mean["limit"] == 0.3 and at_zero["limit"] == still(0.3)
