"""Nodes over the pretraining distribution: how their values are spread, and the contexts that drive them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.config import ExplainConfig
from pipeline.explain.places import Places
from pipeline.explain.rounding import rounded, together
from pipeline.model.record import record
from pipeline.model.transformer import Transformer

WINDOWS = 16  # of one forward pass
AMONG = 64  # times as many places are looked through for different documents
BEFORE = 0.75  # of a context's other tokens come before the one that it is picked for

Nodes = Mapping[str, Int[Tensor, " _n"]]


@torch.no_grad()
def node_values(
    model: Transformer, tokens: Int[Tensor, "window pos"], nodes: Nodes
) -> dict[str, Float[Tensor, "window pos _n"]]:
    """Site key → values of some of its nodes at all places, in the model as it is. Raises CompiledModelError."""
    parts: dict[str, list[Tensor]] = {key: [] for key in nodes}
    for some in tokens.split(WINDOWS):
        for key, value in record(model, some.to(model.device))[1].items():
            if key in nodes:
                parts[key].append(value[..., nodes[key].to(value.device)].float().cpu())
    return {key: torch.cat(found) for key, found in parts.items()}


def of_node(
    values: Float[Tensor, "window pos"], places: Places, config: ExplainConfig, some: Sequence[int]
) -> dict[str, Any]:
    """One node's numbers, histogram and contexts."""
    x = values.flatten()
    most = float(x.abs().max())
    at = {
        "top": extremes(x, places, config.contexts),
        "bottom": extremes(-x, places, config.contexts),
        "random": some,
    }
    return {
        "mean": rounded(float(x.mean())),
        "std": rounded(float(x.std(correction=0))),
        "density": rounded(float((x != 0).float().mean())),
        "least": rounded(float(x.min())),
        "most": rounded(float(x.max())),
        "histogram": histogram(x, config.bins),
        **{name: [context(place, values, places, config, most) for place in chosen] for name, chosen in at.items()},
    }


def histogram(values: Float[Tensor, " place"], bins: int) -> dict[str, Any]:
    """How many values lie in each of equal parts from the least to the largest; ``low``, ``high``: the ends."""
    counts, ends = np.histogram(values.numpy(), bins)
    return {"low": rounded(ends[0]), "high": rounded(ends[-1]), "counts": counts.tolist()}


def extremes(values: Float[Tensor, " place"], places: Places, n: int) -> list[int]:
    """The places of the largest values but 0, one a document where the largest ``AMONG`` · n are of so many."""
    ordered = values.argsort(descending=True, stable=True)[: AMONG * n]
    best = ordered[values[ordered] != 0].tolist()
    documents = places.documents.flatten()[best].tolist()
    first: dict[int, int] = {}
    for document, place in zip(documents, best, strict=True):
        first.setdefault(document, place)
    again = sorted(set(best) - set(first.values()), key=best.index)
    return [*first.values(), *again][:n]


def context(
    place: int, values: Float[Tensor, "window pos"], places: Places, config: ExplainConfig, most: float
) -> dict[str, Any]:
    """The tokens around a place of a window that the model read, and the node's values there."""
    window, position = divmod(place, values.shape[1])
    start = max(0, position - round(BEFORE * (config.context_tokens - 1)))
    start = max(0, min(start, values.shape[1] - config.context_tokens))
    here = slice(start, start + config.context_tokens)
    return {
        "tokens": places.tokens[window, here].tolist(),
        "values": together(values[window, here], most),
        "at": position - start,
    }
