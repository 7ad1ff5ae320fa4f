"""Where the kept heads of a circuit look: attention patterns in the model and in the circuit alone."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.explain.prompts import PromptRun, PromptRuns
from pipeline.explain.rounding import HUNDREDTHS, to_decimals
from pipeline.model.transformer import Attention, Transformer
from pipeline.sites import Site, site_key

LETTERS = {"q": Site.ATTN_Q, "k": Site.ATTN_K, "v": Site.ATTN_V}


@torch.no_grad()
def patterns(
    attention: Attention, q: Float[Tensor, "prompt pos width"], k: Float[Tensor, "prompt pos width"]
) -> Float[Tensor, "prompt head query key"]:
    """Each head's weight on every earlier token, by the model's own attention: what it makes of values that tell the
    keys apart, each token's a 1 in a channel of its own. What rows lack of 1 is on the sink."""
    n_pos, d_head = q.shape[1], attention.d_head
    parts = []
    for start in range(0, n_pos, d_head):  # as many keys at a time as a head has channels
        mine = torch.eye(n_pos, n_pos + d_head)[:, start : start + d_head]
        v = mine.repeat(1, attention.n_head).expand(len(q), -1, -1)
        mixed, _ = attention.mix(q, k, v.to(q.device))
        parts.append(mixed.unflatten(-1, (attention.n_head, d_head)).transpose(1, 2))
    return torch.cat(parts, dim=-1)[..., :n_pos]


def kept_heads(circuit: Circuit, layer: int, d_head: int) -> dict[int, dict[str, list[int]]]:
    """Head → ``q``, ``k``, ``v`` → its kept channels, numbered within the layer; heads without any are absent."""
    found: dict[int, dict[str, list[int]]] = {}
    for letter, site in LETTERS.items():
        for index in circuit.nodes.get(site_key(layer, site), torch.tensor([])).tolist():
            found.setdefault(index // d_head, {name: [] for name in LETTERS})[letter].append(index)
    return dict(sorted(found.items()))


def heads(model: Transformer, circuit: Circuit, runs: PromptRuns, n_prompts: int) -> list[dict[str, Any]]:
    """Every head with a kept channel: which, and its patterns on the first prompts, weights to a hundredth.

    A pattern has a row a query; row i has i + 1 weights.
    """
    found = []
    for layer, block in enumerate(model.transformer["h"]):
        kept = kept_heads(circuit, layer, model.config.d_head)
        if not kept:
            continue
        both = {
            name: patterns(block.attn, *(reads(run, layer, site)[:n_prompts].to(model.device) for site in "qk")).cpu()
            for name, run in (("model", runs.model), ("circuit", runs.circuit))
        }
        for head, channels in kept.items():
            drawn = {
                name: [triangle(weights[row, head], runs.length(row)) for row in range(len(weights))]
                for name, weights in both.items()
            }
            found.append({"layer": layer, "head": head, **channels, "patterns": drawn})
    return found


def reads(run: PromptRun, layer: int, letter: str) -> Float[Tensor, "prompt pos width"]:
    return run.values[site_key(layer, LETTERS[letter])]


def triangle(weights: Float[Tensor, "query key"], n: int) -> list[list[float]]:
    """The rows of a pattern, as far as each query sees."""
    return [to_decimals(weights[row, : row + 1], HUNDREDTHS) for row in range(n)]
