"""The heads of a circuit: which of their channels are kept, and where heads look."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.sites import Site, site_key

CHANNELS = {"q": Site.ATTN_Q, "k": Site.ATTN_K, "v": Site.ATTN_V}


def kept_heads(circuit: Circuit, layer: int, d_head: int) -> dict[int, dict[str, list[int]]]:
    """Head → ``q``, ``k``, ``v`` → its kept channels, numbered within the layer; heads without any are absent."""
    found: dict[int, dict[str, list[int]]] = {}
    for letter, site in CHANNELS.items():
        for index in circuit.nodes.get(site_key(layer, site), torch.tensor([])).tolist():
            found.setdefault(index // d_head, {name: [] for name in CHANNELS})[letter].append(index)
    return dict(sorted(found.items()))


def attention_patterns(
    q: Float[Tensor, "batch pos width"],
    k: Float[Tensor, "batch pos width"],
    sink: Float[Tensor, " head"] | None,
    n_head: int,
) -> Float[Tensor, "batch head query key"]:
    """Each query's weight on every key, rows summing to 1, in float64; with a sink, that is one more key, the first.

    Softmax of q·k/√d_head over the keys up to the query's own position, and the sink's unscaled logit (§1).
    """
    q, k = (x.double().unflatten(-1, (n_head, -1)).transpose(1, 2) for x in (q, k))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=k.device).triu(1)
    scores = scores.masked_fill(later, -torch.inf)
    if sink is not None:
        logit = sink.double().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([logit, scores], dim=-1)
    return scores.softmax(-1)
