"""Parts of a circuit that are switched off, by name, and the forward passes without them.

A node is ``"0.attn_in.12"``, an edge ``"0.attn_in.12->0.attn_q.34"``. A node that is off is held at the value that the
circuit holds what is outside of it at; an edge that is off carries that value of its source, for its target alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.interventions import edge_cuts, mask_nodes
from pipeline.circuit.masked import Masked
from pipeline.model.record import record
from pipeline.model.transformer import Cuts, Intervene, Transformer
from pipeline.sites import split_edge_key

TOKENS = 4096  # of one forward pass over copies of a text
MANY = 5  # names that a message lists


class PlayError(ValueError):
    """A text, a circuit or a part of it that cannot be played with; the message is for the person who asked."""


@dataclass(frozen=True)
class Run:
    """One forward pass over one text: logits [pos, vocab], and every site's value [pos, width] as the rest saw it."""

    logits: Tensor
    values: Mapping[str, Tensor]


@torch.no_grad()
def run(model: Transformer, tokens: Tensor, intervene: Intervene | None = None, cuts: Cuts | None = None) -> Run:
    """The model on one text [pos], changed or not. Raises CompiledModelError."""
    logits, values = record(model, tokens[None], intervene, cuts)
    return Run(logits[0], {key: value[0] for key, value in values.items()})


def node_names(circuit: Circuit) -> list[str]:
    """The circuit's nodes by name, in its order."""
    return [f"{key}.{index}" for key, indices in circuit.nodes.items() for index in indices.tolist()]


def edge_names(circuit: Circuit) -> list[str]:
    """The circuit's edges by name, in its order."""
    return [edge_name(key, source, target) for key, ends in circuit.edges.items() for source, target in ends.tolist()]


def edge_name(key: str, source: int, target: int) -> str:
    """``"0.attn_in.12->0.attn_q.34"`` for ``"0.attn_in->attn_q"``, 12 and 34."""
    layer, kind = split_edge_key(key)
    return f"{layer}.{kind.source.value}.{source}->{layer}.{kind.target.value}.{target}"


@dataclass(frozen=True)
class Switches:
    """The nodes and edges of a circuit that are off."""

    circuit: Circuit
    nodes: frozenset[str]
    edges: frozenset[str]

    @classmethod
    def of(cls, circuit: Circuit, nodes: Iterable[str], edges: Iterable[str]) -> Switches:
        """Raises PlayError for names that are no parts of the circuit."""
        off = cls(circuit, frozenset(nodes), frozenset(edges))
        for what, asked, there in (("node", off.nodes, node_names(circuit)), ("edge", off.edges, edge_names(circuit))):
            if unknown := sorted(asked - set(there)):
                raise PlayError(f"the circuit has no {what} {', '.join(unknown[:MANY])}")
        return off

    def __bool__(self) -> bool:
        return bool(self.nodes or self.edges)

    def in_circuit(self, model: Transformer) -> dict[str, Any]:
        """Keyword arguments of ``run``: only the circuit is live, and of it only what is on."""
        nodes = {key: self._nodes(key, indices, off=False) for key, indices in self.circuit.nodes.items()}
        edges = {key: self._edges(key, ends, off=False) for key, ends in self.circuit.edges.items()}
        masked = Masked(model, nodes, edges, self.circuit.ablation_values.first)
        return {"intervene": masked.intervene, "cuts": masked.cuts}

    def in_model(self, model: Transformer) -> dict[str, Any]:
        """Keyword arguments of ``run``: the whole model is live, but for what is off."""
        ablated_to = {key: value.to(model.device) for key, value in self.circuit.ablation_values.first.items()}
        masks = {key: torch.ones_like(ablated_to[key]) for key in self.circuit.nodes}
        for key, indices in self.circuit.nodes.items():
            masks[key][self._nodes(key, indices, off=True)] = 0
        edges = {key: self._edges(key, ends, off=True) for key, ends in self.circuit.edges.items()}
        cuts = edge_cuts(model, edges, ablated_to, keep=False) if self.edges else None
        return {"intervene": mask_nodes(masks, ablated_to), "cuts": cuts}

    def effects(self, model: Transformer, tokens: Tensor, at: int, *, alone: bool) -> Iterator[Tensor]:
        """Logits [node, vocab] after the token ``at`` with one more node off, each of the circuit's in turn, a part of
        them at a time; in the circuit ``alone`` or in the whole model. What is off already stays so."""
        names = node_names(self.circuit)
        ablated_to = {key: value.to(model.device) for key, value in self.circuit.ablation_values.first.items()}
        fixed = self.in_circuit(model) if alone else self.in_model(model)
        text = tokens[None, : at + 1]
        for start in range(0, len(names), max(1, TOKENS // text.shape[1])):
            some = names[start : start + max(1, TOKENS // text.shape[1])]
            masks = _each_off(some, ablated_to)
            last = torch.tensor([at], device=model.device)
            with torch.no_grad():
                yield model(
                    text,
                    at=last,
                    intervene=_after(fixed["intervene"], mask_nodes(masks, ablated_to)),
                    cuts=fixed["cuts"],
                    copies=len(some),
                )

    def _nodes(self, key: str, indices: Tensor, *, off: bool) -> Tensor:
        """Those of a site's kept indices that are off, or those that are on."""
        return indices[[(f"{key}.{index}" in self.nodes) == off for index in indices.tolist()]]

    def _edges(self, key: str, ends: Tensor, *, off: bool) -> Tensor:
        return ends[[(edge_name(key, *pair) in self.edges) == off for pair in ends.tolist()]]


def by_node(circuit: Circuit, values: Mapping[str, Tensor]) -> Tensor:
    """Values of the circuit's nodes [pos, node], in the order of ``node_names``, out of those of whole sites."""
    parts = [values[key][..., indices] for key, indices in circuit.nodes.items()]
    return torch.cat(parts, dim=-1) if parts else torch.empty(0)


def _each_off(names: Sequence[str], ablated_to: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Site key → masks [node, 1, width]: the i-th lets all live but the i-th node."""
    masks: dict[str, Tensor] = {}
    for i, name in enumerate(names):
        key, _, index = name.rpartition(".")
        if key not in masks:
            masks[key] = torch.ones(len(names), 1, len(ablated_to[key]), device=ablated_to[key].device)
        masks[key][i, 0, int(index)] = 0
    return masks


def _after(first: Intervene, then: Intervene) -> Intervene:
    return lambda key, x: then(key, first(key, x))
