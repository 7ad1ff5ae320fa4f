"""How far the attention patterns of a circuit's heads are from the model's."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit.heads import attention_patterns, kept_heads
from pipeline.data.pairs import of_pairs
from pipeline.sites import Site, site_key
from pipeline.validate.paired_runs import PairedRuns, real


def entropy(weights: Float[Tensor, "*row key"]) -> Float[Tensor, "*row"]:
    """In nats: 0 where one key has all the weight, ln n where n keys have the same."""
    return torch.special.entr(weights).sum(-1)


def divergence(one: Float[Tensor, "*row key"], other: Float[Tensor, "*row key"]) -> Float[Tensor, "*row"]:
    """Jensen–Shannon divergence in nats: 0 where two patterns are equal, ln 2 where they share no key."""
    mixed = entropy((one + other) / 2) - (entropy(one) + entropy(other)) / 2
    return mixed.clamp(min=0)  # rounding


def heads(runs: PairedRuns) -> list[dict[str, Any]]:
    """One entry for each head with a kept channel, in the order of the forward pass.

    ``divergence``: of the circuit's pattern from the model's at the answer position; ``divergence_everywhere``: mean
    over all real positions; ``divergence_held``: at the answer position, of the pattern that the head has with all
    queries and keys ablated; ``entropy``: of the model's pattern there. Of several draws of ablation values, the first
    counts.
    """
    found, config = [], runs.tested.model.config
    for layer in range(config.n_layer):
        kept = kept_heads(runs.tested.circuit, layer, config.d_head)
        measured = apart(runs, layer) if kept else {}
        for head, channels in kept.items():
            per_pair = {name: runs.tested.estimate(of_pairs(value[:, head])) for name, value in measured.items()}
            found.append({"head": f"{layer}.{head}", "channels": channels, **per_pair})
    return found


def apart(runs: PairedRuns, layer: int) -> dict[str, Float[Tensor, "prompt head"]]:
    """The numbers of ``heads`` for every head of a layer."""
    place, last = real(runs.batch), runs.batch.last
    rows = torch.arange(len(last), device=last.device)
    attention = runs.tested.model.transformer["h"][layer].attn
    q, k = site_key(layer, Site.ATTN_Q), site_key(layer, Site.ATTN_K)
    draw = runs.tested.circuit.ablation_values.to(place.device).first
    ablated_to = {key: draw[key].expand(*place.shape, -1) for key in (q, k)}
    model, circuit, constant = (
        attention_patterns(values[q], values[k], attention.sink_logit, attention.n_head)
        for values in (runs.model.values, runs.circuit.values, ablated_to)
    )
    moved = divergence(model, circuit) * place[:, None]
    ends = [pattern[rows, :, last] for pattern in (model, constant)]
    return {
        "divergence": moved[rows, :, last],
        "divergence_everywhere": moved.sum(-1) / place.sum(-1)[:, None],
        "divergence_held": divergence(*ends),
        "entropy": entropy(ends[0]),
    }
