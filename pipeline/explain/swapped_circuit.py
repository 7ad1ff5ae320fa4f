"""A circuit run alone with some of its nodes at given values, by the compact executor.

A swap comes after AbsTopK, as every intervention does. Values are given row by row of the packed prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.compact import Compact, CompactMLP, Stream, Trace
from pipeline.circuit.compact_attention import CompactAttention, Mixed
from pipeline.circuit.compact_parts import Map, columns
from pipeline.model.layout import PackedPrompts
from pipeline.sites import Site, site_key

Swapped = Mapping[str, Mapping[int, Float[Tensor, " _row"]]]  # site key → node → its value at every row


@dataclass(frozen=True)
class Swap:
    """Puts the swapped values of one layer's nodes in place of their own."""

    layer: int
    swapped: Swapped

    def __call__(
        self, site: Site, nodes: Int[Tensor, " node"], x: Float[Tensor, "row node"]
    ) -> Float[Tensor, "row node"]:
        """``x``, whose columns are these nodes of a site."""
        instead = self.swapped.get(site_key(self.layer, site))
        if not instead:
            return x
        chosen = [n for n, node in enumerate(nodes.tolist()) if node in instead]
        x = x.clone()
        for n in chosen:
            x[:, n] = instead[int(nodes[n])]
        return x


class SwappedAttention(CompactAttention):
    """The attention of a layer with some nodes swapped; ``like``: without."""

    def __init__(self, like: CompactAttention, swap: Swap, circuit: Circuit) -> None:
        super().__init__(like.frozen, like.layer, circuit.nodes, circuit.edges, *like.maps)
        self.swap = swap

    def picked(self, h: Tensor, part: Map, todo: Bool[Tensor, " head"]) -> Float[Tensor, "row target"]:
        site = {id(self.q): Site.ATTN_Q, id(self.k): Site.ATTN_K, id(self.v): Site.ATTN_V}[id(part)]
        return self.swap(site, part.targets, super().picked(h, part, todo))

    def __call__(self, mix: Mixed, prompts: PackedPrompts, last: bool) -> Float[Tensor, "row write"]:
        return self.swap(Site.ATTN_OUT, self.writes, super().__call__(mix, prompts, last))


class SwappedMLP(CompactMLP):
    """The MLP of a layer with some nodes swapped; ``like``: without."""

    def __init__(self, like: CompactMLP, swap: Swap, circuit: Circuit, compact: Compact) -> None:
        super().__init__(compact.frozen, swap.layer, circuit.nodes, circuit.edges, *like.maps)
        self.swap = swap

    def __call__(self, h: Float[Tensor, "row read"]) -> Float[Tensor, "row write"]:
        inner = self.swap(Site.MLP_NEURON, self.inner.targets, self.inner(h))
        return self.swap(Site.MLP_OUT, self.writes, self.out(columns(inner, self.inner.targets, self.out.sources)))


class SwappedCircuit(Compact):
    """``compact``, the executor of a circuit, with some of its nodes swapped."""

    def __init__(self, compact: Compact, circuit: Circuit, swapped: Swapped) -> None:
        self.frozen, self.swapped = compact.frozen, swapped
        self.halves = [
            SwappedAttention(part, Swap(index // 2, swapped), circuit)
            if isinstance(part, CompactAttention)
            else SwappedMLP(part, Swap(index // 2, swapped), circuit, compact)
            for index, part in enumerate(compact.halves)
        ]

    def read(
        self, index: int, part: CompactAttention | CompactMLP, stream: Stream, rows: tuple[Tensor, Tensor], trace: Trace
    ) -> Float[Tensor, "row read"]:
        site = Site.MLP_IN if index % 2 else Site.ATTN_IN
        return Swap(index // 2, self.swapped)(site, part.reads, super().read(index, part, stream, rows, trace))


@torch.no_grad()
def swapped_answers(
    compact: Compact, circuit: Circuit, prompts: PackedPrompts, answers: Int[Tensor, "prompt 2"], swapped: Swapped
) -> Float[Tensor, "prompt 2"]:
    """Logits of the right and the wrong answer of every prompt, uncalibrated."""
    return SwappedCircuit(compact, circuit, swapped).answers(prompts, answers, Trace())
