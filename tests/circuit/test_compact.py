"""The compact executor against the masked model."""

from __future__ import annotations

import random

import pytest
import torch

from pipeline.circuit.compact import Compact, Frozen, Trace
from pipeline.circuit.graph import Subgraph
from pipeline.circuit.interventions import edge_cuts, mask_nodes
from pipeline.model.layout import PackedPrompts
from pipeline.model.record import record
from pipeline.sites import edge_keys, site_key, split_edge_key


def drawn(model, tokens, frac, seed):
    """Held values, random nodes and some of the edges between them."""
    generator = torch.Generator().manual_seed(seed)
    _, values = record(model, tokens)
    ablated_to = {
        key: value.mean((0, 1)) + 0.05 * torch.randn(value.shape[-1], generator=generator)
        for key, value in values.items()
    }
    masks = {key: (torch.rand(value.shape, generator=generator) < frac).float() for key, value in ablated_to.items()}
    nodes = {key: mask.nonzero().flatten() for key, mask in masks.items() if mask.any()}
    edges = {}
    for key in edge_keys(model.config.n_layer):
        layer, kind = split_edge_key(key)
        both = torch.outer(masks[site_key(layer, kind.source)], masks[site_key(layer, kind.target)])
        some = (both * (torch.rand(both.shape, generator=generator) < 0.7)).nonzero()
        if len(some):
            edges[key] = some
    return ablated_to, masks, nodes, edges


def masked(model, tokens, at, ablated_to, masks, edges):
    cuts = edge_cuts(model, edges, ablated_to, keep=True)
    return model(tokens, at=at, intervene=mask_nodes(masks, ablated_to), cuts=cuts)


@pytest.mark.parametrize("frac", [0.0, 0.05, 0.3, 0.7, 1.1])
@pytest.mark.parametrize(
    ("sink", "afrac", "positions"), [(True, 0.25, True), (False, 0.25, False), (True, 1.0, True), (False, 1.0, True)]
)
def test_the_compact_executor_gives_the_masked_model_s_logits(tiny_model, frac, sink, afrac, positions):
    model = tiny_model(sink=sink, afrac=afrac, positions=positions)
    tokens = torch.randint(0, 24, (10, 7), generator=torch.Generator().manual_seed(1))
    at = torch.tensor([3, 6] * 5)
    for seed in range(3):
        ablated_to, masks, nodes, edges = drawn(model, tokens, frac, seed)
        compact = Compact(Frozen(model, ablated_to), nodes, edges)
        torch.testing.assert_close(
            compact(tokens), masked(model, tokens, None, ablated_to, masks, edges), rtol=1e-4, atol=1e-4
        )
        expected = masked(model, tokens, at, ablated_to, masks, edges)
        torch.testing.assert_close(compact(tokens, at=at), expected, rtol=1e-4, atol=1e-4)
        answers = torch.tensor([[3, 4], [5, 2]]).repeat(5, 1)
        got = compact.answers(PackedPrompts.of(tokens, at), answers, Trace())
        torch.testing.assert_close(got, expected.gather(1, answers), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("afrac", "sink"), [(1.0, True), (1.0, False), (0.5, True)])
def test_what_another_circuit_mixed_is_taken_over_for_the_heads_that_are_the_same(tiny_model, afrac, sink):
    model = tiny_model(sink=sink, afrac=afrac)
    tokens = torch.randint(0, 24, (6, 7), generator=torch.Generator().manual_seed(1))
    at, answers = torch.tensor([3, 6] * 3), torch.tensor([[3, 4], [5, 2]]).repeat(3, 1)
    ablated_to, _, nodes, edges = drawn(model, tokens, 0.8, 0)
    prompts, draw = PackedPrompts.of(tokens, at), random.Random(0)
    parts, trace = Subgraph(nodes, edges), Trace()
    compact = Compact(Frozen(model, ablated_to), nodes, edges)
    compact.answers(prompts, answers, trace)
    taken = 0
    for _ in range(60):
        less, halves = parts.without([draw.choice(parts.list_items())])
        first = min(halves)
        other, of_it = compact.with_halves(halves, less.nodes, less.edges), trace.prefix(first)
        got = other.answers(prompts, answers, of_it, first)
        fresh = Compact(Frozen(model, ablated_to), less.nodes, less.edges).answers(prompts, answers, Trace())
        torch.testing.assert_close(got, fresh, rtol=1e-5, atol=1e-5)
        if first in trace.mixes and first in of_it.mixes and afrac == 1:
            one, two = trace.mixes[first].part, of_it.mixes[first].part
            taken += len(two.heads) - int(torch.isin(two.heads, two.changed(one)).sum())
        if draw.random() < 0.7:  # else the next one is compared with the same again
            parts, trace, compact = less, of_it, other
    assert (taken > 20) == (afrac == 1)
