"""Parts of a circuit that are switched off or changed, by name, and the forward passes with these changes.

A node that is off is ablated to the value that the circuit's complement is ablated to; an edge that is off carries that
value of its source, for its target alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.interventions import edge_cuts, mask_nodes, node_masks
from pipeline.circuit.masked import Masked
from pipeline.model.transformer import Intervene, Transformer
from pipeline.play.changes import Act, OtherText, PartChange, PartChanges
from pipeline.refusal import RefusalError
from pipeline.sites import split_node_name

TOKENS = 4096  # of one forward pass over copies of a text
N_LISTED = 5  # names that a message lists


class PlayError(RefusalError, ValueError):
    """A text, a circuit or a part of it that cannot be played with; the message is for the person who asked."""


@dataclass(frozen=True)
class Switches:
    """A circuit with its nodes and edges that are on, those that are off, and what else is done to some of them."""

    circuit: Circuit
    on: Circuit
    off: Circuit
    changed: Sequence[PartChange] = ()
    other: OtherText | None = None  # for values that are swapped

    @classmethod
    def of(
        cls,
        circuit: Circuit,
        nodes: Collection[str] = (),
        edges: Collection[str] = (),
        changed: Sequence[PartChange] = (),
    ) -> Switches:
        """Those nodes and edges are off. Raises PlayError for names that are no parts of the circuit."""
        kept: list[list[str]] = []
        for kind, off, names in (("node", set(nodes), circuit.node_names), ("edge", set(edges), circuit.edge_names)):
            named = off | {change.name for change in changed if ("->" in change.name) == (kind == "edge")}
            if unknown := sorted(named - set(names)):
                raise PlayError(f"the circuit has no {kind} {', '.join(unknown[:N_LISTED])}")
            kept.append([name for name in names if name not in off])
        on = circuit.of_names(*kept) if nodes or edges else circuit
        return cls(circuit, on, circuit.of_names(nodes, edges), changed)

    def __bool__(self) -> bool:
        """Whether anything is off or changed."""
        return bool(self.off.n_nodes or self.off.n_edges or self.changed)

    def changes(self, model: Transformer, *, alone: bool) -> dict[str, Any]:
        """``intervene`` and ``cuts`` of a forward pass without the parts that are off, and with the changes.

        It is a pass of the circuit ``alone``, or of the whole model.
        """
        run = self._without(model, alone)
        return PartChanges(self.changed, self._ablated_to(model), self.other).on(run) if self.changed else run

    def _without(self, model: Transformer, alone: bool) -> dict[str, Any]:
        ablated_to = self._ablated_to(model)
        if alone:
            masked = Masked(model, self.on.nodes, self.on.edges, ablated_to)
            return {"intervene": masked.intervene, "cuts": masked.cuts}
        off = node_masks(self.off.nodes, {key: ablated_to[key] for key in self.off.nodes})
        cuts = edge_cuts(model, self.off.edges, ablated_to, keep=False) if self.off.n_edges else None
        return {"intervene": mask_nodes({key: 1 - mask for key, mask in off.items()}, ablated_to), "cuts": cuts}

    @torch.no_grad()
    def effects(self, model: Transformer, tokens: Tensor, at: int, *, alone: bool) -> Iterator[Tensor]:
        """Logits [node, vocab] after the token ``at`` of a text [pos] with one more node off, each of the circuit's in
        turn, a part of them at a time; of the circuit ``alone`` or of the whole model. What is off stays off. Raises
        PlayError where a value is swapped."""
        if any(change.act is Act.SWAP for change in self.changed):
            raise PlayError("effects are not computed while a value is swapped: undo that, or choose another order")
        names, ablated_to = self.circuit.node_names, self._ablated_to(model)
        changes = self.changes(model, alone=alone)
        n_copies = max(1, TOKENS // (at + 1))
        for start in range(0, len(names), n_copies):
            some = [split_node_name(name) for name in names[start : start + n_copies]]
            masks = {key: ablated_to[key].new_ones(len(some), 1, len(ablated_to[key])) for key, _ in some}
            for i, (key, index) in enumerate(some):
                masks[key][i, 0, index] = 0
            yield model(
                tokens[None, : at + 1],
                at=torch.tensor([at], device=model.device),
                intervene=_after(changes["intervene"], mask_nodes(masks, ablated_to)),
                cuts=changes["cuts"],
                copies=len(some),
            )

    def _ablated_to(self, model: Transformer) -> dict[str, Tensor]:
        return {key: value.to(model.device) for key, value in self.circuit.constant_ablation.first.items()}


def by_node(circuit: Circuit, values: Mapping[str, Tensor]) -> Tensor:
    """Values of the circuit's nodes [..., node], in the order of its ``node_names``, out of those of whole sites."""
    parts = [values[key][..., indices] for key, indices in circuit.nodes.items()]
    return torch.cat(parts, dim=-1) if parts else torch.empty(0)


def _after(first: Intervene, then: Intervene) -> Intervene:
    return lambda key, x: then(key, first(key, x))
