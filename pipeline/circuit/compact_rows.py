"""A circuit by itself, before a background that differs by row: counterfactual values, means over a task (§5).

With everything ablated, a run has the background's values at every site: they are computed once for a batch. A
circuit's run differs from it in the circuit's nodes, and only the differences are computed: in the residual stream a
few columns, behind a linear map the edges times the differences of their sources. Behind attention there are two: value
channels that are live, and the background's values where a head with live queries or keys attends in another way. The
result is the masked model's up to rounding, at a cost that falls with the circuit's size; it runs on a CPU.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit.ablation_values import Values
from pipeline.circuit.background import EVERYWHERE, Background
from pipeline.circuit.compact import two_logits
from pipeline.circuit.compact_parts import KINDS, NO_ENDS, NONE, Edges, Nodes, columns
from pipeline.circuit.stream_reads import MIN_ROWS, StreamReads, whole_rows
from pipeline.kernels.compact_cpu import FEW, compete_rows
from pipeline.kernels.threads import in_shares
from pipeline.model.attention import attend
from pipeline.model.layout import PackedPrompts
from pipeline.model.linear import Linear
from pipeline.model.transformer import Block, activation
from pipeline.shape import IN_STREAM
from pipeline.sites import EDGE_KINDS, EdgeKind, Site, edge_key, site_key, split_site_key


class FrozenRows:
    """A model before a background, with all that its circuits share. On a CPU, in float32, for packed prompts.

    Only rows that moved are kept, those at which a circuit can differ from the background; of the last layer, from its
    queries on, prompts' ends. Attention reads queries, keys and values at all rows.
    """

    def __init__(self, behind: Background) -> None:
        assert behind.prompts is not None and behind.prompts.last, "the compact executor runs packed prompts with ends"
        self.model, self.prompts, self.config = behind.model, behind.prompts, behind.model.config
        self.moved = torch.arange(len(self.prompts.token)) if behind.moved is None else behind.moved
        self.ends = torch.searchsorted(self.moved, self.prompts.end)  # every prompt ends at a row that moved
        values = {key: self.rows(value, *split_site_key(key)) for key, value in behind.values.items()}
        self.by_channel = {key: value.T.contiguous() for key, value in values.items()}  # site key → [width, row]
        heads = {key for key in values if split_site_key(key)[1].in_head}
        by_head = (self.config.n_head, self.config.d_head)
        self.everywhere = {key: behind.values[key].unflatten(1, by_head) for key in heads}  # [row, head, channel]
        self.stream_reads = StreamReads(self.model)
        self.streams, self.unsettled = self._streams(values)
        self.mixed = [self._mixed(layer) for layer in range(self.config.n_layer)]
        kinds = [(layer, kind) for layer in range(self.config.n_layer) for kind in EDGE_KINDS]
        self.outputs = {edge_key(layer, kind): self._output(layer, kind, values) for layer, kind in kinds}
        neurons = [edge_key(layer, kind) for layer, kind in kinds if kind.target is Site.MLP_NEURON]
        self.competing = self.outputs | {key: self.activated(self.outputs[key]) for key in neurons}
        self._near: dict[str, Tensor] = {}

    def near(self, key: str, k: int) -> Float[Tensor, "row rank"]:
        """A site's magnitudes of about rank k, as ``compete_rows`` takes them; found once."""
        if key not in self._near:
            ranked = self.competing[key].abs().topk(min(k + FEW, self.competing[key].shape[1]), dim=1).values
            padded = F.pad(F.pad(ranked, (FEW, 0), value=torch.inf), (0, k + FEW - ranked.shape[1]), value=-1.0)
            self._near[key] = padded[:, k : k + 2 * FEW].contiguous()
        return self._near[key]

    def answers(self, nodes: Nodes, edges: Edges, answers: Int[Tensor, "prompt 2"]) -> Float[Tensor, "prompt 2"]:
        """Logits of two answers a prompt by a circuit."""
        return CompactRows(self, nodes, edges).answers(self.prompts, answers, RowsTrace())

    def block(self, layer: int) -> Block:
        block: Block = self.model.transformer["h"][layer]
        return block

    def activated(self, y: Tensor) -> Tensor:
        return activation(self.config.activation, y)

    @torch.no_grad()
    def _streams(self, values: Values) -> tuple[list[Float[Tensor, "_row d_model"]], list[Tensor]]:
        """The residual stream before every half layer and after the last; and after each one's write, before what the
        shape does to the stream besides."""
        x, streams, unsettled = self.model.embed(self.prompts)[0][self.moved], [], []
        for index in range(2 * self.config.n_layer):
            streams.append(x)
            layer, mixing = index // 2, index % 2 == 0
            x = x[self.ends] if mixing and self.at_ends(layer) else x
            unsettled.append(x + values[site_key(layer, Site.ATTN_OUT if mixing else Site.MLP_OUT)])
            x = self.settled(index, unsettled[-1])
        return [*streams, x], unsettled

    def settled(self, index: int, x: Tensor) -> Float[Tensor, "row d_model"]:
        """The stream after a half layer, by the stream after its write."""
        return x if self.config.adds_up else self.block(index // 2).settle(IN_STREAM[index % 2], x)

    def positions(self, index: int) -> Int[Tensor, " row"]:
        """The position of every row that a half layer reads."""
        if self.at_ends(index // 2) and index % 2:
            return self.prompts.length - 1
        return self.prompts.position[self.moved]

    @torch.no_grad()
    def _output(self, layer: int, kind: EdgeKind, values: Values) -> Float[Tensor, "row target"]:
        """Every target where all of its sources are ablated, before the activation function and AbsTopK."""
        part: Linear = self.block(layer).get_submodule(kind.weight)
        rows = kind.rows(len(part.weight))
        x = self.mixed[layer] if kind.source is Site.ATTN_V else values[site_key(layer, kind.source)]
        x = x[self.ends] if kind.target is Site.ATTN_Q and self.at_ends(layer) else x
        return F.linear(x, part.weight[rows], part.bias[rows])

    def _mixed(self, layer: int) -> Float[Tensor, "row channel"]:
        """The background's values as its own queries and keys attend to them."""
        heads = torch.arange(self.config.n_head)
        q, k, v = (
            self.everywhere[site_key(layer, site)].flatten(1) for site in (Site.ATTN_Q, Site.ATTN_K, Site.ATTN_V)
        )
        return self.attend(layer, heads, q, k, v)

    def rows(self, x: Tensor, layer: int, site: Site) -> Tensor:
        """Of all rows those that moved; prompts' ends stay."""
        return x if self.at_ends(layer) and site not in EVERYWHERE else x[self.moved]

    def at_ends(self, layer: int) -> bool:
        """Whether a layer's queries, and all behind them, are at prompts' ends."""
        return layer == self.config.n_layer - 1

    def columns(self, layer: int, site: Site, nodes: Int[Tensor, " node"]) -> Float[Tensor, "row node"]:
        """The background's values of some nodes."""
        return self.by_channel[site_key(layer, site)][nodes].T.contiguous()

    def weight(self, layer: int, kind: EdgeKind) -> Float[Tensor, "target source"]:
        values: Tensor = self.block(layer).get_submodule(kind.weight).weight
        return values[kind.rows(len(values))]

    @torch.no_grad()
    def attend(
        self, layer: int, heads: Int[Tensor, " head"], q: Tensor, k: Tensor, v: Tensor
    ) -> Float[Tensor, "row channel"]:
        """Values averaged by some heads, at rows that moved; q, k, v hold these heads' channels, at all rows."""
        sink = self.block(layer).attn.sink_logit
        some = None if sink is None else sink[heads]

        def mix(q: Tensor, k: Tensor, v: Tensor, at: Tensor | None, branch: Tensor | None) -> tuple[Tensor, Tensor]:
            return attend(q, k, v, some, len(heads), at, branch)

        mixed = self.prompts.attend(mix, q[None], k[None], v[None], self.at_ends(layer))[0][0]
        return self.rows(mixed, layer, Site.ATTN_OUT)

    def k(self, site: Site) -> int:
        return self.config.k_at(site.value)

    def width(self, site: Site) -> int:
        return site.width(self.config)


class DifferenceMap:
    """One linear map between the nodes of a circuit, on differences from the background, and AbsTopK behind it."""

    def __init__(self, frozen: FrozenRows, layer: int, kind: EdgeKind, nodes: Nodes, edges: Edges) -> None:
        self.frozen, self.layer, self.kind = frozen, layer, kind
        self.targets = nodes.get(site_key(layer, kind.target), NONE)
        self.pairs = edges.get(edge_key(layer, kind), NO_ENDS)
        self.sources = self.pairs[:, 0].unique()
        self.weight = torch.zeros(len(self.targets), len(self.sources))
        source, target = self.pairs.T.contiguous()
        row, column = torch.searchsorted(self.targets, target), torch.searchsorted(self.sources, source)
        self.weight[row, column] = frozen.weight(layer, kind)[target, source].detach()

    @cached_property
    def when_ablated(self) -> Float[Tensor, "row target"]:
        """The targets in the background, behind AbsTopK."""
        return self.frozen.columns(self.layer, self.kind.target, self.targets)

    @cached_property
    def start(self) -> Float[Tensor, "row target"]:
        """The targets with all sources ablated, before AbsTopK."""
        return self.frozen.outputs[edge_key(self.layer, self.kind)][:, self.targets]

    def __call__(
        self, difference: Float[Tensor, "row source"], more: Float[Tensor, "row site"] | None = None
    ) -> Float[Tensor, "row target"]:
        """How the targets differ from the background; ``more``: added before AbsTopK, at every node of the site."""
        y = torch.addmm(self.start, difference, self.weight.T)
        if more is not None:
            y += more[:, self.targets]
        y = self.frozen.activated(y) if self.kind.target is Site.MLP_NEURON else y
        k = self.frozen.k(self.kind.target)
        if k < self.frozen.width(self.kind.target) and y.numel():
            key = edge_key(self.layer, self.kind)
            site = self.frozen.competing[key] if more is None else self.frozen.competing[key] + more
            near = self.frozen.near(key, k) if more is None and len(self.targets) <= FEW else torch.empty(0, 0)
            inputs = y.numpy(), self.targets.numpy(), site.numpy(), near.numpy()
            in_shares(lambda a, b: compete_rows(a, b, *inputs, k), len(y), least=MIN_ROWS)
        return y - self.when_ablated


class MLPRows:
    """The MLP of a layer, as far as a circuit needs it."""

    def __init__(self, frozen: FrozenRows, layer: int, nodes: Nodes, edges: Edges) -> None:
        self.inner = DifferenceMap(frozen, layer, KINDS[Site.MLP_IN, Site.MLP_NEURON], nodes, edges)
        self.out = DifferenceMap(frozen, layer, KINDS[Site.MLP_NEURON, Site.MLP_OUT], nodes, edges)
        self.reads = self.inner.sources if len(self.out.targets) else NONE
        self.site = Site.MLP_IN

    def __call__(self, h: Float[Tensor, "row read"]) -> Float[Tensor, "row write"]:
        """How the mlp_out nodes differ from the background, by how the reads do."""
        return self.out(columns(self.inner(h), self.inner.targets, self.out.sources))


class AttentionRows:
    """The attention of a layer, as far as a circuit needs it."""

    def __init__(self, frozen: FrozenRows, layer: int, nodes: Nodes, edges: Edges) -> None:
        kinds = [KINDS[Site.ATTN_IN, site] for site in (Site.ATTN_Q, Site.ATTN_K, Site.ATTN_V)]
        self.q, self.k, self.v = (DifferenceMap(frozen, layer, kind, nodes, edges) for kind in kinds)
        self.out = DifferenceMap(frozen, layer, KINDS[Site.ATTN_V, Site.ATTN_OUT], nodes, edges)
        some = torch.cat([self.q.sources, self.k.sources, self.v.sources]).unique()
        self.reads = some if len(self.out.targets) else NONE
        self.site = Site.ATTN_IN
        self.frozen, self.layer = frozen, layer

    def __call__(self, h: Float[Tensor, "row read"]) -> Float[Tensor, "row write"]:
        """How the attn_out nodes differ from the background, by how the reads do."""
        ends = h[self.frozen.ends] if self.frozen.at_ends(self.layer) else h
        dq, dk, dv = (
            part(columns(x, self.reads, part.sources)) for x, part in ((ends, self.q), (h, self.k), (h, self.v))
        )
        return self.out(self.carried(dq, dk, dv), self.attended_otherwise(dq, dk) if len(self.varying) else None)

    def carried(self, dq: Tensor, dk: Tensor, dv: Tensor) -> Float[Tensor, "row source"]:
        """What attention makes of the differences of the value channels that attn_out reads."""
        heads = self.head_of(self.out.sources).unique()
        if not len(heads):
            return torch.zeros(len(dq), 0)
        channels = self.channels(heads)
        place = torch.searchsorted(channels, self.out.sources)
        v = torch.zeros(len(self.frozen.prompts.token), len(channels))
        v[self.frozen.moved[:, None], place] = columns(dv, self.v.targets, self.out.sources)
        q, k = self.whole(self.q, dq, heads), self.whole(self.k, dk, heads)
        return self.frozen.attend(self.layer, heads, q, k, v)[:, place]

    def attended_otherwise(self, dq: Tensor, dk: Tensor) -> Float[Tensor, "row site"]:
        """The change of attn_out where heads with live queries or keys attend in another way to the background."""
        channels = self.channels(self.varying)
        q, k = self.whole(self.q, dq, self.varying), self.whole(self.k, dk, self.varying)
        v = self.frozen.everywhere[site_key(self.layer, Site.ATTN_V)][:, self.varying].flatten(1)
        mixed = self.frozen.attend(self.layer, self.varying, q, k, v)
        weight = self.frozen.block(self.layer).attn.c_proj.weight[:, channels].detach()
        return (mixed - self.frozen.mixed[self.layer][:, channels]) @ weight.T

    def whole(self, part: DifferenceMap, difference: Tensor, heads: Tensor) -> Float[Tensor, "row channel"]:
        """Queries or keys of some heads at all rows: the background's, and the circuit's where they are live."""
        found = self.frozen.everywhere[site_key(self.layer, part.kind.target)][:, heads].flatten(1)
        channels = self.channels(heads)
        own = torch.isin(part.targets, channels)
        place = torch.searchsorted(channels, part.targets[own])
        if len(difference) == len(found):
            return found.index_add_(1, place, difference[:, own])
        found[self.frozen.moved[:, None], place] += difference[:, own]
        return found

    @cached_property
    def varying(self) -> Int[Tensor, " head"]:
        """The heads with a query or key channel in the circuit."""
        return self.head_of(torch.cat([self.q.targets, self.k.targets])).unique()

    def head_of(self, channels: Tensor) -> Tensor:
        return channels.div(self.frozen.config.d_head, rounding_mode="floor")

    def channels(self, heads: Tensor) -> Int[Tensor, " channel"]:
        size = self.frozen.config.d_head
        return (heads[:, None] * size + torch.arange(size)).flatten()


HalfRows = AttentionRows | MLPRows


@dataclass(frozen=True)
class Difference:
    """How the residual stream differs from the background: ``delta`` [row, column] in ``columns``."""

    columns: Int[Tensor, " column"]
    delta: Float[Tensor, "row column"]


@dataclass
class RowsTrace:
    """The differences before every half layer of a run, and after the last."""

    streams: list[Difference] = field(default_factory=list)

    def prefix(self, half: int) -> RowsTrace:
        """A copy that ends before a half layer, for a run that goes on from there."""
        return RowsTrace(self.streams[: half + 1])


class CompactRows:
    """A circuit ready to be run on the prompts of its background."""

    new_trace = RowsTrace

    def __init__(self, frozen: FrozenRows, nodes: Nodes, edges: Edges) -> None:
        self.frozen = frozen
        self.halves = [self.half(index, nodes, edges) for index in range(2 * frozen.config.n_layer)]

    def half(self, index: int, nodes: Nodes, edges: Edges) -> HalfRows:
        return (AttentionRows, MLPRows)[index % 2](self.frozen, index // 2, nodes, edges)

    def with_halves(self, halves: Collection[int], nodes: Nodes, edges: Edges) -> CompactRows:
        """The same for a circuit that differs from this one in some half layers only."""
        other = copy.copy(self)
        other.halves = [self.half(i, nodes, edges) if i in halves else same for i, same in enumerate(self.halves)]
        return other

    @torch.no_grad()
    def answers(
        self, _: PackedPrompts, answers: Int[Tensor, "prompt 2"], trace: RowsTrace, first: int = 0
    ) -> Float[Tensor, "prompt 2"]:
        """Logits of two answers a prompt, from the ``first`` half layer on, whose past is in ``trace``; of the
        background's prompts, whose layout is its own."""
        x, token = self.finish(self.run(trace, first)), self.frozen.prompts.read_tokens(1)
        return two_logits(self.frozen.model, x, token, answers)

    def run(self, trace: RowsTrace, first: int) -> Difference:
        """The residual stream after the last layer; ``trace`` is filled from the ``first`` half on."""
        if not trace.streams:
            trace.streams = [Difference(NONE, torch.zeros(len(self.frozen.streams[0]), 0))]
        del trace.streams[first + 1 :]
        for index in range(first, len(self.halves)):
            trace.streams.append(self.step(index, trace.streams[index]))
        return trace.streams[-1]

    def step(self, index: int, stream: Difference) -> Difference:
        """The stream after a half layer."""
        part = self.halves[index]
        written = part(self.read(index, part, stream)) if len(part.out.targets) else None
        if index == len(self.halves) - 2:
            stream = replace(stream, delta=stream.delta[self.frozen.ends])
        if written is not None:
            both = torch.cat([stream.columns, part.out.targets]), torch.cat([stream.delta, written], dim=1)
            stream = Difference(*both)
        if self.frozen.config.adds_up or not stream.delta.shape[1]:
            return stream
        x = self.frozen.unsettled[index].index_add(1, stream.columns, stream.delta)
        change = self.frozen.settled(index, x) - self.frozen.streams[index + 1]
        return Difference(torch.arange(x.shape[1]), change)

    def read(self, index: int, part: HalfRows, stream: Difference) -> Float[Tensor, "row read"]:
        """How the half layer's reads differ from the background, behind its norm and AbsTopK."""
        base, wanted = self.frozen.streams[index], part.reads
        past, position = (
            (torch.zeros(base.shape[1]), stream.columns, stream.delta),
            self.frozen.positions(index).numpy(),
        )
        out = self.frozen.stream_reads(index // 2, part.site, whole_rows(base), past, position, wanted)
        return out - self.frozen.columns(index // 2, part.site, wanted)

    def finish(self, stream: Difference) -> Float[Tensor, "prompt d_model"]:
        """The final norm of the stream at prompts' ends."""
        x = self.frozen.streams[-1].index_add(1, stream.columns, stream.delta)
        normed: Tensor = self.frozen.model.transformer["ln_f"](x)
        return normed
