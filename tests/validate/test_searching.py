"""The search once more: seeds that agree on a planted circuit, and controls that find nothing in nonsense."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.validate.controls import (
    NEVER,
    controls,
    nonsense,
    random_weights,
    shuffled_labels,
    shuffled_weights,
)
from pipeline.validate.stability import items, jaccard, share, stability


@pytest.fixture
def fast(params):
    """Settings of pruning that take seconds on a planted model."""
    centre = params.prune.centres[0].model_copy(update={"k_coef": 3e-3, "lr": 0.05})
    return params.prune.model_copy(update={"steps": 60, "batch_pairs": 8, "centres": [centre]})


def known(claim, fast):
    """The claim, with a circuit that says how it was searched for."""
    about = dict(claim.circuit.about) | {"hyperparameters": fast.centres[0].model_dump()}
    return replace(claim, circuit=replace(claim.circuit, about=about))


def test_seeds_find_the_planted_circuit_again(claim_of, quote, fast):
    found = stability(known(claim_of(quote), fast), fast)
    assert found["n_seeds"] == found["n_met"] == 5
    assert found["recovered_nodes"]["least"] == found["recovered_edges"]["least"] == 1
    assert 0 < found["jaccard_edges"]["least"] <= found["jaccard_edges"]["median"] <= 1
    assert all(row["test_loss"] < 0.3 for row in found["circuits"])


def test_a_circuit_that_was_not_searched_for_has_no_stability(claim_of, quote, fast):
    [test] = stability(claim_of(quote), fast)["tests"]
    assert test["passed"] is None and "does not say" in test["says"]


def test_overlap_by_hand():
    one = items({"0.attn_in": torch.tensor([1, 2]), "0.attn_in->attn_q": torch.tensor([[1, 2]])})
    other = items({"0.attn_in": torch.tensor([2, 3]), "0.attn_in->attn_q": torch.tensor([[1, 2]])})
    assert jaccard(one, other) == 2 / 4 and share(one, other) == 2 / 3
    assert jaccard(set(), set()) == share(set(), one) == 1


@pytest.mark.slow
def test_controls_find_nothing_where_there_is_nothing(claim_of, quote, fast):
    found = controls(claim_of(quote), fast)
    assert found["true"]["met"] and found["true"]["ratio_edges"] == 1
    assert not found["shuffled_labels"]["met"] and found["shuffled_labels"]["ratio_edges"] is None
    assert len(found["tests"]) == 4 and all(test["passed"] for test in found["tests"])


def test_shuffled_weights_keep_the_pattern_and_the_values(tiny_model):
    model = tiny_model()
    with torch.no_grad():
        model.transformer["h"][0].mlp.c_fc.weight[::2] = 0
    other = shuffled_weights(model, 0)
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine == 0, theirs == 0)
        assert torch.equal(mine.flatten().sort().values, theirs.flatten().sort().values)
        assert (mine.ndim == 2 and name != "bigram_table") != torch.equal(mine, theirs)


def test_random_weights_keep_the_pattern_only(tiny_model):
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[:5] = 0
    other = random_weights(model, 0)
    assert torch.equal(other.bigram_table, model.bigram_table)
    assert bool((other.lm_head.weight[:5] == 0).all()) and not torch.equal(other.lm_head.weight, model.lm_head.weight)


def test_shuffled_labels_swap_both_sides_of_half_the_pairs(claim_of, quote):
    batches = claim_of(quote).batches
    swapped = shuffled_labels(batches, 0)["test"].answers != batches["test"].answers
    assert torch.equal(swapped[0::2], swapped[1::2]) and 0.2 < float(swapped.float().mean()) < 0.8


def test_nonsense_answers_never_follow_and_differ_by_side(claim_of, quote):
    claim = claim_of(quote)
    batch = nonsense(claim, 0)["test"]
    first, second = batch.answers[0].tolist()
    likely = quote.model(claim.batches["train"].tokens, at=claim.batches["train"].last).softmax(-1).amax(0)
    assert first != second
    assert all(int((likely < likely[token]).sum()) < NEVER * len(likely) for token in (first, second))
    assert torch.equal(batch.answers, torch.tensor([[first, second], [second, first]]).repeat(batch.n_pairs, 1))
