"""Nodes and edges of a circuit, checked against the model that they are of: what does not exist is refused by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.refusal import RefusalError
from pipeline.sites import edge_name, node_name, site_key, split_edge_key


class PartError(RefusalError, ValueError):
    """A node or an edge that the model, or the circuit, does not have."""


def check_parts(nodes: Mapping[str, Tensor], edges: Mapping[str, Tensor], widths: Mapping[str, int]) -> None:
    """Raises PartError for a node that no site has, and for an edge one of whose ends is not kept.

    ``widths``: site key → how many nodes it has.
    """
    for key, indices in nodes.items():
        if key not in widths:
            raise PartError(f"{key} is no site of the model; allowed: {', '.join(widths)}")
        if indices.ndim != 1 or (len(indices) and not _whole(indices)):
            raise PartError(f"nodes of {key}: not a list of whole numbers")
        wrong = indices[(indices < 0) | (indices >= widths[key])]
        if len(wrong):
            raise PartError(f"{node_name(key, int(wrong[0]))} is no node: the model has {widths[key]} at {key}")
        if len(indices.unique()) != len(indices):
            raise PartError(f"nodes of {key}: one is there twice")
    for key, pairs in edges.items():
        _check_ends(key, pairs, nodes)


def _check_ends(key: str, pairs: Tensor, nodes: Mapping[str, Tensor]) -> None:
    """Raises PartError for an edge from or to a node that is not kept."""
    layer, kind = split_edge_key(key)
    if len(pairs) and not _whole(pairs):
        raise PartError(f"edges of {key}: not pairs of whole numbers")
    for place, site in enumerate((kind.source, kind.target)):
        kept = nodes.get(site_key(layer, site), torch.zeros(0, dtype=torch.long))
        wrong = pairs[~torch.isin(pairs[:, place], kept)]
        if len(wrong):
            name = edge_name(key, *wrong[0].tolist())
            end = name.split("->")[place]
            raise PartError(f"edge {name}: {end} is no node of the circuit; an edge needs both of its ends")


def _whole(indices: Tensor) -> bool:
    return not indices.is_floating_point() and indices.dtype != torch.bool


def check_tokens(tokens: Tensor, vocab_size: int) -> None:
    """Raises IndexError for ids outside the vocabulary, which would be read from beyond the embedding."""
    if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= vocab_size):
        wrong = tokens[(tokens < 0) | (tokens >= vocab_size)]
        raise IndexError(f"token {int(wrong[0])} is outside the vocabulary; allowed: 0 to {vocab_size - 1}")
