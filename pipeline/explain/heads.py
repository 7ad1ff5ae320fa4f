"""Where the kept heads of a circuit look: attention patterns in the model and in the circuit alone."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.heads import CHANNELS, attention_patterns, kept_heads
from pipeline.explain.prompts import PromptRuns
from pipeline.explain.rounding import HUNDREDTHS, to_decimals
from pipeline.model.transformer import Transformer
from pipeline.sites import site_key


@torch.no_grad()
def heads(model: Transformer, circuit: Circuit, runs: PromptRuns, n_prompts: int) -> list[dict[str, Any]]:
    """Every head with a kept channel: which, and its patterns on the first prompts, weights to a hundredth.

    A pattern has a row for each query; row i has i + 1 weights. The sink has the rest of 1.
    """
    found = []
    for layer, block in enumerate(model.transformer["h"]):
        kept = kept_heads(circuit, layer, model.config.d_head)
        if not kept:
            continue
        both = {}
        for name, run in (("model", runs.model), ("circuit", runs.circuit)):
            q, k = (run.values[site_key(layer, CHANNELS[letter])][:n_prompts].to(model.device) for letter in "qk")
            both[name] = attention_patterns(q, k, block.attn.sink_logit, block.attn.n_head).cpu()
        for head, channels in kept.items():
            drawn = {
                name: [triangle(weights[row, head], runs.length(row)) for row in range(len(weights))]
                for name, weights in both.items()
            }
            found.append({"layer": layer, "head": head, **channels, "patterns": drawn})
    return found


def triangle(weights: Float[Tensor, "query key"], n: int) -> list[list[float]]:
    """The first rows of a pattern, as far as each query sees, without the sink."""
    weights = weights[:, -len(weights) :]
    return [to_decimals(weights[row, : row + 1], HUNDREDTHS) for row in range(n)]
