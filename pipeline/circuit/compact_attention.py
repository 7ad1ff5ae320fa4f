"""The attention of a layer, as far as a circuit needs it (§1, §5).

With a sink, an ablated value channel is scaled by its head's weight on real tokens. That weight follows from the
position alone, except in heads with a query or key channel in the circuit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.circuit.compact_parts import KINDS, NONE, Edges, Frozen, Map, Nodes, columns
from pipeline.circuit.interventions import edge_codes
from pipeline.circuit.stream_reads import MIN_ROWS
from pipeline.kernels.compact_cpu import mix_heads, spread_rows, write_rows
from pipeline.kernels.threads import in_shares
from pipeline.model.layout import PackedPrompts
from pipeline.sites import Site, site_key

MIN_PROMPTS = 4  # of a thread's share: handing fewer over costs more than it gives


@dataclass(frozen=True)
class Mixed:
    """The mixed value channels that attn_out reads, and each head's weight on real tokens."""

    part: CompactAttention
    mixed: Float[Tensor, "query source"]
    attention_mass: Float[Tensor, "query head"]

    def hand_over(
        self, to: CompactAttention, same: Bool[Tensor, " head"], mixed: Tensor, attention_mass: Tensor
    ) -> None:
        """Copy the values of the ``same`` heads to another circuit's attention."""
        heads = to.heads[same]
        attention_mass[:, same] = self.attention_mass.index_select(1, torch.searchsorted(self.part.heads, heads))
        own = torch.isin(to.head_of(to.out.sources), heads)
        places = torch.searchsorted(self.part.out.sources, to.out.sources[own])
        mixed[:, own] = self.mixed.index_select(1, places)


def differing(one: Map, other: Map) -> Int[Tensor, " target"]:
    """Targets that only one of two maps has, or that read something else."""
    edges = only_one(edge_codes(one.pairs), edge_codes(other.pairs))
    return torch.cat([only_one(one.targets, other.targets), edges % 2**32])


def only_one(some: Int[Tensor, " n"], others: Int[Tensor, " m"]) -> Int[Tensor, " k"]:
    """The members of exactly one of two sets."""
    if some is others:
        return some[:0]
    values, counts = torch.cat([some, others]).unique(return_counts=True)
    return values[counts == 1]


class CompactAttention:
    """The attention of a layer, as far as a circuit needs it."""

    def __init__(self, frozen: Frozen, layer: int, nodes: Nodes, edges: Edges, *before: Map) -> None:
        """``before``: the maps of another circuit, used again where they are the same."""
        self.layer, self.config = layer, frozen.config
        kinds = [KINDS[Site.ATTN_IN, site] for site in (Site.ATTN_Q, Site.ATTN_K, Site.ATTN_V)]
        kinds.append(KINDS[Site.ATTN_V, Site.ATTN_OUT])
        self.maps = tuple(
            Map.renewed(other, frozen, layer, kind, nodes, edges)
            for kind, other in zip(kinds, before or (None,) * len(kinds), strict=True)
        )
        self.q, self.k, self.v, self.out = self.maps
        self.reads = torch.cat([self.q.sources, self.k.sources, self.v.sources]).unique() if len(self.writes) else NONE
        self.site = Site.ATTN_IN
        self.sink = frozen.block(layer).attn.sink_logit
        self.frozen = frozen

    @property
    def writes(self) -> Tensor:
        return self.out.targets

    @property
    def when_ablated(self) -> Tensor:
        return self.out.when_ablated

    @cached_property
    def heads(self) -> Tensor:
        """The heads with a query, key or value channel in the circuit."""
        return self.head_of(torch.cat([self.q.targets, self.k.targets, self.v.targets])).unique()

    @cached_property
    def varying(self) -> Tensor:
        """The heads whose weight on real tokens depends on more than the position: with a query or key channel."""
        return self.head_of(torch.cat([self.q.targets, self.k.targets])).unique()

    @cached_property
    def by_head(self) -> Float[Tensor, "channel head"]:
        """The output of each head's cut value channels, for a weight of 1 on real tokens."""
        weight = self.frozen.weight(self.layer, KINDS[Site.ATTN_V, Site.ATTN_OUT])
        ablated_to = self.frozen.ablated_to[site_key(self.layer, Site.ATTN_V)]
        written = self.frozen.once(
            f"{self.layer}.written", lambda: (weight * ablated_to).unflatten(1, (-1, self.config.d_head)).sum(-1)
        )
        live = torch.zeros(len(self.writes), written.shape[1])
        live.index_add_(1, self.head_of(self.out.sources), self.out.weight * ablated_to[self.out.sources])
        return written.index_add(0, self.writes, -live)

    @cached_property
    def by_position(self) -> Float[Tensor, "pos channel"]:
        """The bias, and the output of cut value channels in heads whose weight follows from the position."""
        attention_mass = self.frozen.once(f"{self.layer}.attention_mass", self.ablated_attention_mass).clone()
        attention_mass[:, self.varying] = 0
        return attention_mass @ self.by_head.T + self.frozen.block(self.layer).attn.c_proj.bias.detach()

    def ablated_attention_mass(self) -> Float[Tensor, "pos head"]:
        """Every head's weight on real tokens at each position, with all queries and keys ablated."""
        assert self.sink is not None
        ablated_to = self.frozen.ablated_to
        q, k = (ablated_to[site_key(self.layer, s)].view(-1, self.config.d_head) for s in (Site.ATTN_Q, Site.ATTN_K))
        score = (q * k).sum(-1) * self.config.d_head**-0.5
        seen = torch.arange(1, self.config.n_ctx + 1).log()[:, None]
        return torch.sigmoid(seen + score - self.sink.detach())

    def mix(self, h: Float[Tensor, "row read"], prompts: PackedPrompts, last: bool, before: Mixed | None) -> Mixed:
        """The mixed value channels that attn_out reads, and the weight of real tokens, at all rows or at prompts' ends.

        ``before``: the mixed values of another circuit on the same reads; heads that both share are taken from it.
        """
        queries = h[prompts.end] if last else h
        todo = torch.ones(len(self.heads), dtype=torch.bool)
        if before is not None and not self.competes:
            todo = torch.isin(self.heads, self.changed(before.part))
        q, k, v = (self.picked(x, part, todo) for x, part in ((queries, self.q), (h, self.k), (h, self.v)))
        return self.mixed(q, k, v, prompts, last, todo, before)

    def __call__(self, mix: Mixed, prompts: PackedPrompts, last: bool) -> Float[Tensor, "row write"]:
        """The output of the circuit's attn_out nodes."""
        mixed, attention_mass = mix.mixed, mix.attention_mass
        if self.sink is None:
            return self.out(mixed)
        every = self.out.k < len(self.out.full)  # whether AbsTopK has to look at the whole site
        y = mixed @ self.out.weight.T
        by_position, by_head = self.by_position, self.by_head[:, self.varying]
        if not every:
            by_position, by_head = by_position[:, self.writes], by_head[self.writes]
        place = torch.isin(self.heads, self.varying)
        inputs = (
            prompts.rows(last)[1].numpy(),
            by_position.numpy(),
            attention_mass[:, place].contiguous().numpy(),
            by_head.T.contiguous().numpy(),
        )
        site = self.writes.numpy(), self.out.k, every
        in_shares(lambda a, b: write_rows(a, b, *inputs, *site, y.numpy()), len(y), least=MIN_ROWS)
        return y

    def picked(self, h: Tensor, part: Map, todo: Bool[Tensor, " head"]) -> Float[Tensor, "row target"]:
        """Channels of the heads that are ``todo``; those of others are zero."""
        if todo.all():
            return part(columns(h, self.reads, part.sources))
        return part.some(h, self.reads, todo[self.place(part.targets)])

    def mixed(
        self, q: Tensor, k: Tensor, v: Tensor, prompts: PackedPrompts, last: bool, todo: Bool[Tensor, " head"],
        before: Mixed | None,
    ) -> Mixed:  # fmt: skip
        n = len(self.heads)
        mixed, attention_mass = torch.zeros(len(q), len(self.out.sources)), torch.zeros(len(q), n)
        if before is not None and not todo.all():
            before.hand_over(self, ~todo, mixed, attention_mass)
        if not todo.any():
            return Mixed(self, mixed, attention_mass)
        sink = torch.full((n,), -torch.inf) if self.sink is None else self.sink.detach()[self.heads]
        of_head = torch.searchsorted(self.place(self.out.sources), torch.arange(n + 1))
        scores = (q @ self.alone(self.q, self.k)).numpy(), (k @ self.alone(self.k, self.q) + self.fixed).numpy()
        pairs = self.both.numpy(), self.spread(q, self.q, self.scale).numpy(), self.spread(k, self.k, 1.0).numpy()
        v = columns(v, self.v.targets, self.out.sources).contiguous()
        arrays = (
            sink.numpy(),
            v.numpy(),
            of_head.numpy(),
            todo.nonzero().flatten().numpy(),
            mixed.numpy(),
            attention_mass.numpy(),
        )
        layout = prompts.index.numpy(), prompts.first_own.numpy(), prompts.length.numpy()
        in_shares(lambda a, b: mix_heads(a, b, layout, last, scores, pairs, *arrays), prompts.n, least=MIN_PROMPTS)
        return Mixed(self, mixed, attention_mass)

    @property
    def competes(self) -> bool:
        """Whether AbsTopK makes a channel depend on those of other heads."""
        return any(part.k < len(part.full) for part in (self.q, self.k, self.v))

    def changed(self, other: CompactAttention) -> Int[Tensor, " head"]:
        """The heads of which some channel differs from another circuit's, in what it reads or in being there."""
        both = zip(self.maps[:3], other.maps[:3], strict=True)
        targets = [differing(one, two) for one, two in both if one is not two]
        sources = only_one(self.out.sources, other.out.sources)
        return self.head_of(torch.cat([sources, *targets])).unique()

    def head_of(self, channels: Tensor) -> Tensor:
        return channels.div(self.config.d_head, rounding_mode="floor")

    def place(self, channels: Tensor) -> Tensor:
        """Where the heads of channels are among the circuit's heads."""
        return torch.searchsorted(self.heads, self.head_of(channels))

    @property
    def scale(self) -> float:
        return self.config.d_head**-0.5

    @cached_property
    def both(self) -> Int[Tensor, " head"]:
        """Of each of the circuit's heads: its place among those whose queries and keys are both live, else −1."""
        live = torch.isin(self.heads, self.head_of(self.q.targets)) & torch.isin(
            self.heads, self.head_of(self.k.targets)
        )
        return torch.where(live, live.cumsum(0) - 1, -1)

    def alone(self, part: Map, other: Map) -> Float[Tensor, "target head"]:
        """The share of live queries (or keys) in the scores of heads whose keys (or queries) are ablated."""
        matrix, head = torch.zeros(len(part.targets), len(self.heads)), self.place(part.targets)
        matrix[torch.arange(len(head)), head] = torch.where(
            self.both[head] < 0, other.ablated_to[part.targets] * self.scale, 0
        )
        return matrix

    @cached_property
    def fixed(self) -> Float[Tensor, " head"]:
        """The share of ablated queries times ablated keys in each head's scores."""
        products = self.q.ablated_to * self.k.ablated_to * self.scale
        products[self.q.targets] = 0
        products[self.k.targets] = 0
        return products.unflatten(0, (-1, self.config.d_head)).sum(-1)[self.heads]

    def spread(self, x: Tensor, part: Map, scale: float) -> Float[Tensor, "row both d_head"]:
        """All channels of the heads whose queries and keys are both live."""
        heads = self.heads[self.both >= 0]
        ablated_to = part.ablated_to.unflatten(0, (-1, self.config.d_head))[heads] * scale
        at = self.both[self.place(part.targets)]
        own = (at >= 0).nonzero().flatten()
        into = at[own] * self.config.d_head + part.targets[own] % self.config.d_head
        full = torch.empty(len(x), *ablated_to.shape)
        spread_rows(x.numpy(), own.numpy(), into.numpy(), ablated_to.flatten().numpy(), scale, full.flatten(1).numpy())
        return full
