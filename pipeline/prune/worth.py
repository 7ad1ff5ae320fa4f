"""What each node and edge of a circuit is worth, estimated by one backward pass (first order; METHOD §4)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pipeline.data.pairs import PairBatch, prompt_losses
from pipeline.model.ablation import edge_cuts, hold_at_means, in_matrix, node_masks
from pipeline.prune.graph import Edge, Node
from pipeline.prune.judge import Edges, Nodes
from pipeline.prune.search import Masking
from pipeline.sites import split_edge_key


def worth(masking: Masking, nodes: Nodes, edges: Edges, pairs: PairBatch) -> dict[Node | Edge, float]:
    """Item → how much the task loss on ``pairs`` would rise without it, in nats, to first order.

    −∂loss/∂m of a mask on every node and on every edge of the circuit's run.
    """
    model, held = masking.model, masking.held.first
    masks = node_masks(nodes, held)
    for key in nodes:
        masks[key].requires_grad_(True)
    cuts = edge_cuts(model, edges, held, keep=True)
    cuts = {key: replace(cut, keep=cut.keep.requires_grad_(True)) for key, cut in cuts.items()}
    batch = pairs.to(model.device)
    logits = model(batch.tokens, at=batch.last, intervene=hold_at_means(masks, held), cuts=cuts)
    prompt_losses(logits.gather(-1, batch.answers)).mean().backward()
    values: dict[Node | Edge, float] = {}
    for key, indices in nodes.items():
        values |= zip(((key, i) for i in indices.tolist()), (-_gradient(masks[key])[indices]).tolist(), strict=True)
    for key, ends in edges.items():
        layer, kind = split_edge_key(key)
        gradient = _gradient(cuts[f"{layer}.{kind.weight}"].keep)
        named = ((key, s, t) for s, t in ends.tolist())
        values |= zip(named, (-gradient[in_matrix(key, ends, len(gradient))]).tolist(), strict=True)
    return values


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
