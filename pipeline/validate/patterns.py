"""Where heads look: attention patterns written out, and how far a circuit's are from its model's."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.data.pairs import of_pairs
from pipeline.sites import Site, site_key
from pipeline.validate.circuit_under_test import CircuitUnderTest
from pipeline.validate.runs import Runs, real

Patterns = Float[Tensor, "batch head query key"]  # rows sum to 1


def patterns(
    q: Float[Tensor, "batch query width"],
    k: Float[Tensor, "batch pos width"],
    sink: Float[Tensor, " head"] | None,
    n_head: int,
    places: Int[Tensor, "batch query"],
) -> Patterns:
    """Weight of every key for the queries at ``places``, in float64; with a sink, that is one more key, the first.

    Softmax of q·k/√d_head over the keys up to the query's own place, and the sink's unscaled logit (§1).
    """
    q, k = (x.double().unflatten(-1, (n_head, -1)).transpose(1, 2) for x in (q, k))  # [batch, head, pos, d_head]
    scores = q @ k.mT / q.shape[-1] ** 0.5
    later = torch.arange(k.shape[2], device=k.device) > places[..., None]
    scores = scores.masked_fill(later[:, None], -torch.inf)
    if sink is not None:
        logit = sink.double().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([logit, scores], dim=-1)
    return scores.softmax(-1)


def entropy(weights: Float[Tensor, "*row key"]) -> Float[Tensor, "*row"]:
    """In nats: 0 where one key has all the weight, ln n where n keys have the same."""
    return torch.special.entr(weights).sum(-1)


def divergence(one: Float[Tensor, "*row key"], other: Float[Tensor, "*row key"]) -> Float[Tensor, "*row"]:
    """Jensen–Shannon divergence in nats: 0 where two patterns are equal, ln 2 where they share no key."""
    mixed = entropy((one + other) / 2) - (entropy(one) + entropy(other)) / 2
    return mixed.clamp(min=0)  # rounding


def heads(runs: Runs) -> list[dict[str, Any]]:
    """One entry a head with a kept channel, in the order of the forward pass.

    ``divergence``: of the circuit's pattern from the model's at the answer position; ``divergence_everywhere``: mean
    over all real positions; ``divergence_held``: at the answer position, of the pattern that the head has with every
    query and key held; ``entropy``: of the model's pattern there. Where what is outside is held at several draws
    (random places), the circuit's pattern and the held one are those of the first.
    """
    found = []
    for layer in range(runs.tested.model.config.n_layer):
        measured = apart(runs, layer) if (channels := kept_channels(runs.tested, layer)) else {}
        for head, kept in channels.items():
            per_pair = {name: runs.tested.estimate(of_pairs(value[:, head])) for name, value in measured.items()}
            found.append({"head": f"{layer}.{head}", "channels": kept, **per_pair})
    return found


def kept_channels(tested: CircuitUnderTest, layer: int) -> dict[int, dict[str, list[int]]]:
    """Head → ``q``, ``k``, ``v`` → kept channels, numbered within the layer; heads without any are absent."""
    found: dict[int, dict[str, list[int]]] = {}
    for site in (Site.ATTN_Q, Site.ATTN_K, Site.ATTN_V):
        for index in tested.circuit.nodes.get(site_key(layer, site), torch.tensor([])).tolist():
            kept = found.setdefault(index // tested.model.config.d_head, {"q": [], "k": [], "v": []})
            kept[site.value[-1]].append(index)
    return dict(sorted(found.items()))


def apart(runs: Runs, layer: int) -> dict[str, Float[Tensor, "prompt head"]]:
    """What ``heads`` reports, for every head of a layer."""
    place, last = real(runs.batch), runs.batch.last
    rows = torch.arange(len(last), device=last.device)
    every = torch.arange(place.shape[1], device=place.device).expand(place.shape)
    attention = runs.tested.model.transformer["h"][layer].attn
    outside = runs.tested.circuit.ablation_values.to(place.device).first
    q, k = site_key(layer, Site.ATTN_Q), site_key(layer, Site.ATTN_K)
    ablated_to = {key: outside[key].expand(*place.shape, -1) for key in (q, k)}
    model, circuit, constant = (
        patterns(values[q], values[k], attention.sink_logit, attention.n_head, every)
        for values in (runs.model[1], runs.circuit[1], ablated_to)
    )
    moved = divergence(model, circuit) * place[:, None]
    ends = [look[rows, :, last] for look in (model, constant)]
    return {
        "divergence": moved[rows, :, last],
        "divergence_everywhere": moved.sum(-1) / place.sum(-1)[:, None],
        "divergence_held": divergence(*ends),
        "entropy": entropy(ends[0]),
    }
