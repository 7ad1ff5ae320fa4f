"""Attention patterns against the model's own attention, divergences against results worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.circuit.heads import attention_patterns, kept_heads
from pipeline.model.attention import attend
from pipeline.sites import split_site_key
from pipeline.validate.limits import MAX_DIVERGENCE
from pipeline.validate.mechanism import divergence, entropy


@pytest.mark.parametrize("sink", [True, False])
def test_values_mixed_by_the_patterns_are_what_attention_gives(sink):
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 9, 12, generator=generator) for _ in range(3))
    logit = torch.randn(3, generator=generator) if sink else None
    look = attention_patterns(q, k, logit, 3)
    real = look[..., 1:] if sink else look
    mixed = (real @ v.double().unflatten(-1, (3, 4)).transpose(1, 2)).transpose(1, 2).flatten(-2)
    expected, attention_mass = attend(q, k, v, logit, 3, None)
    torch.testing.assert_close(mixed.float(), expected)
    torch.testing.assert_close(real.sum(-1).float(), attention_mass)
    torch.testing.assert_close(look.sum(-1), torch.ones(2, 3, 9, dtype=torch.float64))


def test_divergence_and_entropy_worked_out_by_hand():
    one, other = torch.tensor([1.0, 0, 0]).double(), torch.tensor([0.0, 0.5, 0.5]).double()
    assert divergence(one, other) == pytest.approx(math.log(2))
    assert divergence(other, other) == 0
    assert entropy(other) == pytest.approx(math.log(2)) and entropy(one) == 0
    mixed = torch.tensor([0.5, 0.5, 0]).double()  # with `one`: ½ ln(4/3) + ½ (½ ln(2/3) + ½ ln 2)
    assert divergence(one, mixed) == pytest.approx(0.5 * math.log(4 / 3) + 0.25 * math.log(4 / 3))


def test_patterns_that_share_less_than_half_of_their_weight_are_further_apart_than_the_limit():
    generator = torch.Generator().manual_seed(3)
    one, other = torch.randn(2, 20000, 5, generator=generator).double().mul(3).softmax(-1)
    far = (one - other).abs().sum(-1) / 2 > 0.5
    assert far.any() and divergence(one, other)[far].min() > MAX_DIVERGENCE


def test_channels_belong_to_the_head_that_holds_them(quote, claim_of):
    planted = quote.nodes
    layer = next(split_site_key(key)[0] for key in planted)
    (head, kept), *none = kept_heads(claim_of(quote).circuit, layer, quote.model.config.d_head).items()
    assert not none
    for name in "qkv":
        assert kept[name] == planted[f"{layer}.attn_{name}"].tolist()
        assert all(index // quote.model.config.d_head == head for index in kept[name])
