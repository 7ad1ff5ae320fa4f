"""Changes of single nodes and edges of a circuit: scaled, set to a number, or with their value on another text (§5).

A change of an edge is for its target alone. Behind attention, an edge carries what attention makes of its source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.circuit.interventions import in_matrix
from pipeline.data.pairs import PairBatch, counterparts
from pipeline.model.transformer import Attended, LinearCut, linear
from pipeline.sites import site_key, split_edge_key, split_edge_name, split_node_name


class Act(StrEnum):
    """What is done to the value of a node, or to the value that an edge carries."""

    OFF = "off"  # ablated
    SCALE = "scale"  # times a number
    SET = "set"  # a number
    SWAP = "swap"  # its value in the same run on the other text, position by position; ablated where that has none


@dataclass(frozen=True)
class PartChange:
    """One node or edge, by name, and what is done to it."""

    name: str
    act: Act
    value: float = 0.0  # for SCALE and SET


@dataclass(frozen=True)
class OtherText:
    """The values on the other text, site key → [pos there, width], and of every position here its counterpart there
    (−1: none)."""

    values: Mapping[str, Float[Tensor, "_there _width"]]
    counterpart: Int[Tensor, " pos"]

    def at(self, key: str, ablated_to: Float[Tensor, " _width"], index: int, n: int) -> Float[Tensor, " n"]:
        """A node's values at the counterparts of the first ``n`` positions."""
        there = self.counterpart[:n]
        return torch.where(there < 0, ablated_to[index], self.values[key][there.clamp(min=0), index])


def counterparts_of(tokens: Sequence[int], there: Sequence[int]) -> Int[Tensor, " pos"]:
    """The position in another text that each token of a text is aligned with; −1: none."""
    batch = PairBatch.of([list(tokens), list(there)], [[0, 0], [0, 0]])
    return counterparts(batch)[0, : len(tokens)]


@dataclass(frozen=True)
class PartChanges:
    """Changes of a circuit's nodes and edges, with its ablation values and what is known of the other text."""

    changes: Sequence[PartChange]
    ablated_to: Mapping[str, Float[Tensor, " _width"]]
    other: OtherText | None

    def on(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """``intervene`` and ``cuts`` of a forward pass of one text at all positions: those of ``run``, then these."""
        cuts = dict(run["cuts"] or {})
        for name, edges in self._by_matrix().items():
            cuts[name] = self._changed_map(cuts.get(name), edges)
        nodes = [(*split_node_name(change.name), change) for change in self.changes if "->" not in change.name]

        def intervene(key: str, x: Tensor) -> Tensor:
            x = run["intervene"](key, x)
            for _, index, change in (each for each in nodes if each[0] == key):
                x = x.clone()
                x[..., index] = self._value(change, key, index, x[..., index])
            return x

        return {"intervene": intervene, "cuts": cuts}

    def _value(self, change: PartChange, key: str, index: int, own: Float[Tensor, "*batch pos"]) -> Tensor:
        """A node's value at every position under a change, given its own."""
        if change.act is Act.SCALE:
            return change.value * own
        if change.act is Act.SWAP and self.other is not None:
            return self.other.at(key, self.ablated_to[key], index, own.shape[-1]).expand(own.shape)
        return torch.full_like(own, change.value if change.act is Act.SET else float(self.ablated_to[key][index]))

    def _by_matrix(self) -> dict[str, list[tuple[PartChange, str, Int[Tensor, " 2"]]]]:
        """Matrix, ``"0.mlp.c_fc"`` and its like → its changes of edges: the edge key, and source and target index."""
        found: dict[str, list[tuple[PartChange, str, Tensor]]] = {}
        for change in (change for change in self.changes if "->" in change.name):
            key, source, target = split_edge_name(change.name)
            layer, kind = split_edge_key(key)
            found.setdefault(f"{layer}.{kind.weight}", []).append((change, key, torch.tensor([source, target])))
        return found

    def _changed_map(
        self, cut: LinearCut | None, edges: Sequence[tuple[PartChange, str, Tensor]]
    ) -> Callable[[nn.Linear, Tensor, Attended | None], Tensor]:
        """A linear map's stand-in: its output, plus by how much each changed edge carries more than its source."""

        def stand_in(layer: nn.Linear, x: Tensor, attended: Attended | None) -> Tensor:
            y = linear(layer, x, cut, attended).clone()
            for change, key, ends in edges:
                row, column = (int(each[0]) for each in in_matrix(key, ends[None], len(layer.weight)))
                more = self._carried(change, key, column, x, attended) - x[..., column]
                y[..., row] += layer.weight[row, column] * more
            return y

        return stand_in

    def _carried(
        self, change: PartChange, key: str, source: int, x: Float[Tensor, "batch pos width"], attended: Attended | None
    ) -> Float[Tensor, "batch pos"]:
        own = x[..., source]
        if change.act is Act.SCALE:
            return change.value * own
        layer, kind = split_edge_key(key)
        values = self._value(change, site_key(layer, kind.source), source, own)
        if attended is None:
            return values
        rows = torch.zeros_like(x)
        rows[..., source] = values
        return attended.of(rows.flatten(0, 1))[..., source]
