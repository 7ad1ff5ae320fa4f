"""Packed prompts against padded ones: the same logits and the same gradients, from fewer positions."""

from __future__ import annotations

import pytest
import torch

from pipeline.circuit.compact import Compact, Frozen
from pipeline.circuit.interventions import edge_cuts
from pipeline.circuit.node_masks import NodeMasks
from pipeline.model.layout import PackedPrompts
from pipeline.sites import edge_keys

# Pairs that part in the middle, at once, and at the end; one that begins like another, and one prompt twice.
TOKENS = torch.tensor(
    [
        [5, 6, 7, 8, 9, 0, 0],
        [5, 6, 7, 3, 9, 1, 0],
        [2, 6, 7, 0, 0, 0, 0],
        [4, 6, 7, 8, 9, 1, 2],
        [5, 6, 7, 8, 0, 0, 0],
        [5, 6, 7, 8, 2, 0, 0],
        [5, 6, 0, 0, 0, 0, 0],
        [5, 6, 0, 0, 0, 0, 0],
    ]
)
AT = torch.tensor([4, 5, 2, 6, 3, 4, 1, 1])


def test_every_distinct_beginning_is_one_row():
    prompts = PackedPrompts.of(TOKENS, AT)
    spelled = [tuple(row[: end + 1].tolist()) for row, end in zip(TOKENS, AT, strict=True)]
    assert len(prompts.token) == len({words[:n] for words in spelled for n in range(1, len(words) + 1)})
    for words, rows in zip(spelled, prompts.index, strict=True):
        assert prompts.token[rows[: len(words)]].tolist() == list(words)
        assert prompts.position[rows[: len(words)]].tolist() == list(range(len(words)))
    assert prompts.end.tolist() == [rows[end] for rows, end in zip(prompts.index.tolist(), AT.tolist(), strict=True)]
    own = [rows[o:n] for rows, o, n in zip(prompts.index.tolist(), prompts.first_own, prompts.length, strict=True)]
    assert sorted(row for rows in own for row in rows) == list(range(len(prompts.token)))


def test_a_pair_is_one_sequence_that_branches():
    layout = PackedPrompts.of(TOKENS, AT).sequences
    assert layout.branch.tolist() == [[3, 5], [0, 3], [4, 4], [2, 2]]
    assert layout.at.tolist() == [[4, 7], [2, 9], [3, 4], [1, 1]]
    assert PackedPrompts.of(TOKENS[:3], AT[:3]).sequences.at.tolist() == [[4], [5], [2]]  # an odd number: one by one


@pytest.mark.parametrize("n", [8, 3])
@pytest.mark.parametrize(("sink", "afrac", "positions"), [(True, 0.25, True), (False, 1.0, False)])
def test_masked_logits_and_the_masks_gradients_are_those_of_the_padded_batch(tiny_model, n, sink, afrac, positions):
    model = tiny_model(sink=sink, afrac=afrac, positions=positions)
    tokens, at = TOKENS[:n], AT[:n]
    generator = torch.Generator().manual_seed(0)
    ablated_to = {key: 0.1 * torch.randn(width, generator=generator) for key, width in model.widths().items()}
    kept = {key: (torch.rand(2, len(value), generator=generator) < 0.6).float() for key, value in ablated_to.items()}
    found = []
    for layout in ({"tokens": tokens, "at": at}, {"tokens": PackedPrompts.of(tokens, at)}):
        masks = {key: mask.clone().requires_grad_(True) for key, mask in kept.items()}
        logits = model(**layout, copies=2, **NodeMasks(model, ablated_to)(masks))
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
        found.append([logits.detach(), *(mask.grad for mask in masks.values())])
    assert found[0][0].shape == (2 * n, model.vocab_size)
    for padded, packed in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [8, 3])
def test_cut_edges_carry_the_mean_at_the_weight_of_attention_in_both(tiny_model, n):
    model = tiny_model(sink=True)
    generator = torch.Generator().manual_seed(0)
    ablated_to = {key: torch.randn(width, generator=generator) for key, width in model.widths().items()}
    some = {key: torch.tensor([[0, 0], [1, 1]]) for key in edge_keys(model.config.n_layer)}
    cuts = edge_cuts(model, some, ablated_to, keep=True)
    padded, packed = model(TOKENS[:n], at=AT[:n], cuts=cuts), model(PackedPrompts.of(TOKENS[:n], AT[:n]), cuts=cuts)
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


def test_prompts_without_ends_give_logits_everywhere_in_the_compact_executor_and_are_refused_by_the_model(tiny_model):
    model = tiny_model()
    ablated_to = {key: torch.zeros(width) for key, width in model.widths().items()}
    nodes = {key: torch.arange(width) for key, width in model.widths().items()}
    every = {key: torch.cartesian_prod(torch.arange(2), torch.arange(2)) for key in edge_keys(model.config.n_layer)}
    compact = Compact(Frozen(model, ablated_to), nodes, every)
    whole = compact(TOKENS)
    assert whole.shape == (*TOKENS.shape, model.vocab_size)
    rows = torch.arange(len(AT))
    torch.testing.assert_close(whole[rows, AT], compact(TOKENS, at=AT), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="packed prompts without ends"):
        model(PackedPrompts.of(TOKENS, None))
