"""Masks over single edges: what they compute, their gradients, and what a search for edges finds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.ablation import Ablation
from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.cut_linear import CutLinear, MaskedEdges, Sources, by_edges
from pipeline.circuit.graph import Subgraph, dead_ends, induced_edges
from pipeline.circuit.interventions import edge_cuts, mask_nodes
from pipeline.data.pairs import prompt_losses
from pipeline.model.transformer import Attended
from pipeline.prune.edge_search import EdgeMasking
from pipeline.prune.masks import EdgeLayout
from pipeline.prune.problem import make_problem
from pipeline.sites import split_edge_key


@pytest.mark.parametrize("attention_mass", [True, False])
@pytest.mark.parametrize(("n_out", "n_in"), [(128, 64), (24, 16)])  # shapes that the sparse kernels take, and not
def test_an_edge_carries_m_times_its_source_s_value_and_1_minus_m_times_its_ablation_value(n_out, n_in, attention_mass):
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(n_out, n_in, generator=generator), torch.randn(n_out, generator=generator)
    ablated_to, x = torch.randn(n_in, generator=generator), torch.randn(3, 5, n_in, generator=generator)
    target, source = (torch.rand(n_out, n_in, generator=generator) < 0.2).nonzero().T
    on_real = torch.rand(3, 4, 5, generator=generator) if attention_mass else None
    grown = on_real.transpose(1, 2).repeat_interleave(n_in // 4, -1) if attention_mass else torch.ones(3, 5, n_in)
    start, g = torch.rand(len(target), generator=generator), torch.randn(3, 5, n_out, generator=generator)
    found = []
    for ours in (True, False):
        leaves = [v.clone().requires_grad_(True) for v in (x, start, *([on_real] if attention_mass else []))]
        if ours:
            live = MaskedEdges(weight, bias, target, source, 4 if attention_mass else 1)
            by_head = (weight * ablated_to).unflatten(1, (live.n_head, -1)).sum(-1).T
            y = CutLinear(by_edges(live, leaves[1], Sources(ablated_to, by_head)))(
                torch.nn.Linear(1, 1), leaves[0], Attended(leaves[2], lambda v: v) if attention_mass else None
            )
        else:
            grown = leaves[2].transpose(1, 2).repeat_interleave(n_in // 4, -1) if attention_mass else grown
            full = torch.zeros_like(weight).index_put((target, source), leaves[1])
            y = leaves[0] @ (weight * full).T + (ablated_to * grown) @ (weight * (1 - full)).T + bias
        found.append([y.detach(), *torch.autograd.grad((y * g).sum(), leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("sink", "afrac"), [(True, 0.5), (False, 1.0)])
def test_the_loss_of_masked_edges_is_that_of_the_model_with_these_edges(tiny_model, pairs, sink, afrac):
    model = tiny_model(sink=sink, afrac=afrac)
    generator = torch.Generator().manual_seed(0)
    ablated_to = {key: torch.randn(width, generator=generator) for key, width in model.widths().items()}
    kept = {key: (torch.rand(len(value), generator=generator) < 0.7).float() for key, value in ablated_to.items()}
    edges = induced_edges(model, kept)
    nodes = {key: mask.nonzero().flatten() for key, mask in kept.items()}
    masking = EdgeMasking(model, (AblationValues.at_means(ablated_to),), EdgeLayout(Subgraph(nodes, edges)))
    masks = (torch.rand(2, masking.layout.n_units, generator=generator) < 0.6).float()
    losses, slopes = masking.slopes(masks, pairs)
    for mask, loss, slope in zip(masks, losses, slopes, strict=True):
        cuts = edge_cuts(model, masking.layout.circuit(mask, model).edges, ablated_to, keep=True)
        cuts = {name: replace(cut, keep=cut.keep.requires_grad_(True)) for name, cut in cuts.items()}
        logits = model(pairs.tokens, at=pairs.last, intervene=mask_nodes(kept, ablated_to), cuts=cuts)
        expected = prompt_losses(logits.gather(-1, pairs.answers)).mean()
        gradients = dict(zip(cuts, torch.autograd.grad(expected, [cut.keep for cut in cuts.values()]), strict=True))
        assert float(loss) == pytest.approx(float(expected.detach()), abs=1e-5)
        for key, found in masking.layout.by_key(slope).items():
            layer, kind = split_edge_key(key)
            gradient = gradients[f"{layer}.{kind.weight}"]
            source, target = edges[key].T
            ours = gradient[kind.rows(len(gradient)).start + target, source]
            torch.testing.assert_close(found, ours, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("d_head", [4, 16])  # several heads, and a single one
def test_all_edges_have_the_circuits_loss_where_ablation_values_differ_by_prompt(tiny_model, pairs, d_head):
    model = tiny_model(sink=True, d_model=16, d_head=d_head)
    generator = torch.Generator().manual_seed(0)
    means = {key: torch.randn(width, generator=generator) for key, width in model.widths().items()}
    kept = {key: (torch.rand(len(value), generator=generator) < 0.7).float() for key, value in means.items()}
    nodes, edges = {key: mask.nonzero().flatten() for key, mask in kept.items()}, induced_edges(model, kept)
    ablation = AblationValues.of(Ablation.COUNTERFACTUAL, means)
    masking = EdgeMasking(model, (ablation,), EdgeLayout(Subgraph(nodes, edges)))
    losses, _ = masking.slopes(torch.ones(1, masking.layout.n_units), pairs)
    circuit = Circuit(nodes, edges, means, means, (ablation,))
    expected = prompt_losses(circuit.answers(model, pairs)).mean()
    assert float(losses[0]) == pytest.approx(float(expected), abs=1e-4)


def test_few_of_the_edges_between_all_nodes_do_the_task(able, pairs, params):
    model, means = able
    config = params.prune.model_copy(update={"batch_pairs": 8})
    problem = make_problem(model, [AblationValues.at_means(means)], {"train": pairs, "validation": pairs}, config, 0)
    masks = {key: torch.ones_like(mean) for key, mean in means.items()}
    nodes = {key: mask.nonzero().flatten() for key, mask in masks.items()}
    whole = Subgraph(nodes, induced_edges(model, masks))
    n = whole.n_edges
    rankings = problem.edge_rankings(whole, (3e-4, 1e-3))
    found = [ranking.smallest(0.1) for ranking in rankings]
    assert min(candidate.n_edges for candidate in found if candidate) < n / 20
    assert not any(dead_ends(candidate) for candidate in found if candidate)
    again = problem.edge_rankings(whole, (3e-4, 1e-3))
    assert all(torch.equal(one.scores, two.scores) for one, two in zip(rankings, again, strict=True))
