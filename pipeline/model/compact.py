"""A circuit computed by itself: only its nodes and edges, everything else folded into constants (METHOD §5).

What a circuit's run is: nodes outside it are held, and every edge outside it carries its source's held value. Then a
node outside reads constants only, so in AbsTopK it is a rival of known size: a node of the circuit passes where fewer
than k others are larger. The residual stream is the embedding, a constant, and a few columns. This is the masked
model's result up to rounding, at a price that falls with the circuit's size; it runs on a CPU.

The exception is attention with a sink: what a held value channel writes is scaled by its head's weight on real tokens.
That weight follows from the position alone but in heads with a query or key channel in the circuit.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.model.abstopk import select
from pipeline.model.compact_cpu import compete, mix_heads, read_rows
from pipeline.model.threads import in_shares
from pipeline.model.transformer import Block, Transformer
from pipeline.sites import EDGE_KINDS, EdgeKind, Site, edge_key, site_key

Nodes = Mapping[str, Int[Tensor, " n"]]
Edges = Mapping[str, Int[Tensor, "n 2"]]
NONE = torch.zeros(0, dtype=torch.long)
KINDS = {(kind.source, kind.target): kind for kind in EDGE_KINDS}
LEAST = 64  # rows worth a thread
PROMPTS = 4  # prompts worth a thread


@dataclass(frozen=True)
class Prompts:
    """The rows of a batch, prompt after prompt: token and position of each, and where each prompt begins.

    With ``last``, a prompt ends at the position whose logits are wanted, and the last layer writes one row a prompt.
    """

    token: Int[Tensor, " row"]
    position: Int[Tensor, " row"]
    offsets: Int[Tensor, " prompt+1"]
    last: bool

    @classmethod
    def of(cls, tokens: Int[Tensor, "prompt pos"], at: Int[Tensor, " prompt"] | None) -> Prompts:
        positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
        ends = torch.full((len(tokens),), tokens.shape[1] - 1) if at is None else at
        wanted = positions <= ends[:, None]
        return cls(tokens[wanted], positions[wanted], F.pad((ends + 1).cumsum(0), (1, 0)), at is not None)

    @property
    def n(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def rows(self) -> Int[Tensor, " row"]:
        """The rows that the last layer writes: all, or one a prompt."""
        return self.offsets[1:] - 1 if self.last else torch.arange(len(self.token))

    @cached_property
    def ends(self) -> Prompts:
        """Only the rows that the last layer writes."""
        if not self.last:
            return self
        return Prompts(self.token[self.rows], self.position[self.rows], torch.arange(self.n + 1), True)


@dataclass(frozen=True)
class Stream:
    """The residual stream: the embedding plus ``constant`` [d_model], plus ``delta`` [row, column] in ``columns``."""

    constant: Tensor
    columns: Tensor
    delta: Tensor

    def plus(self, constant: Tensor, columns: Tensor, delta: Tensor | None) -> Stream:
        columns = torch.cat([self.columns, columns])
        delta = self.delta if delta is None else torch.cat([self.delta, delta], dim=1)
        return Stream(self.constant + constant, columns, delta)


@dataclass
class Trace:
    """What a run left behind: the stream before every half layer and after the last, and what each half read."""

    streams: list[Stream] = field(default_factory=list)
    reads: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def until(self, half: int) -> Trace:
        """A trace of its own of what came before a half layer, for a run that goes on from there."""
        return Trace(self.streams[: half + 1], {index: read for index, read in self.reads.items() if index <= half})


class Frozen:
    """A model and the values its nodes are held at: what all of its circuits share. On a CPU, in float32."""

    def __init__(self, model: Transformer, held: Mapping[str, Float[Tensor, " width"]]) -> None:
        self.model = model if model.device.type == "cpu" else copy.deepcopy(model).cpu()
        self.config = model.config
        self.held = {key: value.float().cpu() for key, value in held.items()}
        parts = model.transformer
        wte = parts["wte"].weight.detach()
        wpe = parts["wpe"].weight.detach() if "wpe" in parts else torch.zeros(model.config.n_ctx, wte.shape[1])
        self.tables = (wte.numpy(), wpe.numpy())
        self._full: dict[str, Tensor] = {}

    def block(self, layer: int) -> Block:
        block: Block = self.model.transformer["h"][layer]
        return block

    def weight(self, layer: int, kind: EdgeKind) -> Float[Tensor, "target source"]:
        matrix: Tensor = self.block(layer).get_submodule(kind.weight).weight.detach()
        return matrix[kind.rows(len(matrix))]

    def constants(self, layer: int, kind: EdgeKind) -> Float[Tensor, " target"]:
        """What every target would be if all it read were held."""
        key = edge_key(layer, kind)
        if key not in self._full:
            bias: Tensor = self.block(layer).get_submodule(kind.weight).bias.detach()
            source = self.held[site_key(layer, kind.source)]
            self._full[key] = bias[kind.rows(len(bias))] + self.weight(layer, kind) @ source
        return self._full[key]

    def k(self, site: Site) -> int:
        return int(self.config.afrac * self.width(site))

    def width(self, site: Site) -> int:
        return len(self.held[site_key(0, site)])


class Map:
    """One linear map between the nodes of a circuit, and AbsTopK at the site that it writes."""

    def __init__(self, frozen: Frozen, layer: int, kind: EdgeKind, nodes: Nodes, edges: Edges, gelu: bool = False):
        self.targets = nodes.get(site_key(layer, kind.target), NONE)
        pairs = edges.get(edge_key(layer, kind), NONE.view(0, 2))
        self.sources = pairs[:, 0].unique()
        self.weight = torch.zeros(len(self.targets), len(self.sources))
        source, target = pairs.T.contiguous()
        row, column = torch.searchsorted(self.targets, target), torch.searchsorted(self.sources, source)
        self.weight[row, column] = frozen.weight(layer, kind)[target, source]
        self.full, self.k, self.gelu = frozen.constants(layer, kind), frozen.k(kind.target), gelu
        self.held = frozen.held[site_key(layer, kind.target)]
        held = frozen.held[site_key(layer, kind.source)][self.sources]
        self.constant = self.full[self.targets] - self.weight @ held
        self.at_held = self.held.clone()
        self.at_held[self.targets] = 0

    @cached_property
    def rivals(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the site's other nodes: magnitudes, ascending, their indices; and the site with zeros at this map's."""
        values = F.gelu(self.full) if self.gelu else self.full
        others = torch.ones(len(values), dtype=torch.bool)
        others[self.targets] = False
        indices = others.nonzero().flatten()
        magnitude, order = values[indices].abs().sort()
        site = values.clone()
        site[self.targets] = 0
        return magnitude.numpy(), indices[order].numpy(), site.numpy()

    def __call__(self, x: Float[Tensor, "row source"], constant: Tensor | None = None) -> Float[Tensor, "row target"]:
        y = torch.addmm(self.constant if constant is None else constant, x, self.weight.T)
        return self.chosen(F.gelu(y) if self.gelu else y)

    def chosen(self, y: Float[Tensor, "row target"]) -> Float[Tensor, "row target"]:
        """AbsTopK's choice among all nodes of the site."""
        if self.k < len(self.full) and y.numel():
            values, nodes, rivals = y.numpy(), self.targets.numpy(), self.rivals
            in_shares(lambda a, b: compete(a, b, values, nodes, rivals, self.k), len(y), least=LEAST)
        return y


class Attention:
    """The attention of a layer, as far as a circuit needs it."""

    def __init__(self, frozen: Frozen, layer: int, nodes: Nodes, edges: Edges) -> None:
        self.layer, self.config = layer, frozen.config
        kinds = [KINDS[Site.ATTN_IN, site] for site in (Site.ATTN_Q, Site.ATTN_K, Site.ATTN_V)]
        self.q, self.k, self.v = (Map(frozen, layer, kind, nodes, edges) for kind in kinds)
        self.out = Map(frozen, layer, KINDS[Site.ATTN_V, Site.ATTN_OUT], nodes, edges)
        self.reads = torch.cat([self.q.sources, self.k.sources, self.v.sources]).unique() if len(self.writes) else NONE
        self.gain = frozen.block(layer).ln_1.weight.detach()
        self.read_k = frozen.k(Site.ATTN_IN)
        self.sink = frozen.block(layer).attn.sink_logit
        self.frozen = frozen

    @property
    def writes(self) -> Tensor:
        return self.out.targets

    @property
    def at_held(self) -> Tensor:
        return self.out.at_held

    @cached_property
    def heads(self) -> Tensor:
        """The heads with a query, key or value channel in the circuit."""
        return self.head_of(torch.cat([self.q.targets, self.k.targets, self.v.targets])).unique()

    @cached_property
    def by_head(self) -> Float[Tensor, "channel head"]:
        """What each head's cut value channels write, for a weight of 1 on real tokens."""
        weight = self.frozen.weight(self.layer, KINDS[Site.ATTN_V, Site.ATTN_OUT])
        held = self.frozen.held[site_key(self.layer, Site.ATTN_V)]
        written = (weight * held).unflatten(1, (-1, self.config.d_head)).sum(-1)
        live = torch.zeros(len(self.writes), written.shape[1])
        live.index_add_(1, self.head_of(self.out.sources), self.out.weight * held[self.out.sources])
        return written.index_add(0, self.writes, -live)

    @cached_property
    def by_position(self) -> Float[Tensor, "pos channel"]:
        """What the cut value channels write at each position by heads outside the circuit, and the bias."""
        assert self.sink is not None
        held = self.frozen.held
        q, k = (held[site_key(self.layer, s)].view(-1, self.config.d_head) for s in (Site.ATTN_Q, Site.ATTN_K))
        score = (q * k).sum(-1) * self.config.d_head**-0.5
        seen = torch.arange(1, self.config.n_ctx + 1).log()[:, None]
        mass = torch.sigmoid(seen + score - self.sink.detach())
        mass[:, self.heads] = 0
        return mass @ self.by_head.T + self.frozen.block(self.layer).attn.c_proj.bias.detach()

    def __call__(self, h: Float[Tensor, "row read"], prompts: Prompts, last: bool) -> Float[Tensor, "row write"]:
        """What the circuit's attn_out nodes write, at all rows or at the last layer's."""
        rows = prompts.ends if last else prompts
        queries = h[prompts.rows] if last else h
        parts = self.picked(queries, self.q), self.picked(h, self.k), self.picked(h, self.v)
        mixed, mass = self.mixed(*parts, prompts, last and prompts.last)
        if self.sink is None:
            return self.out(mixed)
        columns = self.writes if self.out.k >= len(self.out.full) else slice(None)
        y = self.by_position[:, columns][rows.position]
        y = y + mass @ self.by_head[columns][:, self.heads].T
        if self.out.k >= len(self.out.full):
            return y + mixed @ self.out.weight.T
        y[:, self.writes] += mixed @ self.out.weight.T
        return select(y, self.out.k)[0][:, self.writes]

    def picked(self, h: Tensor, part: Map) -> Tensor:
        return part(h[:, torch.searchsorted(self.reads, part.sources)])

    def mixed(self, q: Tensor, k: Tensor, v: Tensor, prompts: Prompts, last: bool) -> tuple[Tensor, Tensor]:
        """The mixed value channels that attn_out reads [query, source], and the weight of real tokens [query, head]."""
        n = len(self.heads)
        mixed, mass = torch.zeros(len(q), len(self.out.sources)), torch.zeros(len(q), n)
        if not n:
            return mixed, mass
        sink = torch.full((n,), -torch.inf) if self.sink is None else self.sink.detach()[self.heads]
        of_head = torch.searchsorted(self.place(self.out.sources), torch.arange(n + 1))
        scores = (q @ self.alone(self.q, self.k)).numpy(), (k @ self.alone(self.k, self.q) + self.fixed).numpy()
        pairs = self.both.numpy(), self.spread(q, self.q, self.scale).numpy(), self.spread(k, self.k, 1.0).numpy()
        v = v[:, torch.searchsorted(self.v.targets, self.out.sources)].contiguous()
        arrays = sink.numpy(), v.numpy(), of_head.numpy(), mixed.numpy(), mass.numpy()
        offsets = prompts.offsets.numpy()
        in_shares(lambda a, b: mix_heads(a, b, offsets, last, scores, pairs, *arrays), prompts.n, least=PROMPTS)
        return mixed, mass

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
        live = torch.isin(self.heads, self.head_of(self.q.targets)) & torch.isin(self.heads, self.head_of(self.k.targets))
        return torch.where(live, live.cumsum(0) - 1, -1)

    def alone(self, part: Map, other: Map) -> Float[Tensor, "target head"]:
        """What live channels of queries (or keys) do to scores where a head's keys (or queries) are held."""
        matrix, head = torch.zeros(len(part.targets), len(self.heads)), self.place(part.targets)
        matrix[torch.arange(len(head)), head] = torch.where(self.both[head] < 0, other.held[part.targets] * self.scale, 0)
        return matrix

    @cached_property
    def fixed(self) -> Float[Tensor, " head"]:
        """What held channels of both do to each head's scores."""
        products = self.q.held * self.k.held * self.scale
        products[self.q.targets] = 0
        products[self.k.targets] = 0
        return products.unflatten(0, (-1, self.config.d_head)).sum(-1)[self.heads]

    def spread(self, x: Tensor, part: Map, scale: float) -> Float[Tensor, "row both d_head"]:
        """All channels of the heads whose queries and keys are both live."""
        heads = self.heads[self.both >= 0]
        full = (part.held.unflatten(0, (-1, self.config.d_head))[heads] * scale).repeat(len(x), 1, 1)
        own = self.both[self.place(part.targets)] >= 0
        full[:, self.both[self.place(part.targets[own])], part.targets[own] % self.config.d_head] = x[:, own] * scale
        return full


class MLP:
    """The MLP of a layer, as far as a circuit needs it."""

    def __init__(self, frozen: Frozen, layer: int, nodes: Nodes, edges: Edges) -> None:
        self.inner = Map(frozen, layer, KINDS[Site.MLP_IN, Site.MLP_NEURON], nodes, edges, gelu=True)
        self.out = Map(frozen, layer, KINDS[Site.MLP_NEURON, Site.MLP_OUT], nodes, edges)
        self.reads = self.inner.sources if len(self.writes) else NONE
        self.gain = frozen.block(layer).ln_2.weight.detach()
        self.read_k = frozen.k(Site.MLP_IN)

    @property
    def writes(self) -> Tensor:
        return self.out.targets

    @property
    def at_held(self) -> Tensor:
        return self.out.at_held

    def __call__(self, h: Float[Tensor, "row read"], prompts: Prompts, last: bool) -> Float[Tensor, "row write"]:
        inner = self.inner(h)
        return self.out(inner[:, torch.searchsorted(self.inner.targets, self.out.sources)])


Half = Attention | MLP


def half(frozen: Frozen, index: int, nodes: Nodes, edges: Edges) -> Half:
    """The index-th half layer: attention of layer 0, its MLP, attention of layer 1, and so on."""
    return (Attention, MLP)[index % 2](frozen, index // 2, nodes, edges)


class Compact:
    """A circuit ready to be run: ``compact(tokens)`` are the masked model's logits, up to rounding."""

    def __init__(self, frozen: Frozen, nodes: Nodes, edges: Edges) -> None:
        self.frozen = frozen
        self.halves = [half(frozen, index, nodes, edges) for index in range(2 * frozen.config.n_layer)]

    def replaced(self, halves: Collection[int], nodes: Nodes, edges: Edges) -> Compact:
        """The same for a circuit that differs from this one in some half layers only."""
        other = copy.copy(self)
        other.halves = [
            half(self.frozen, index, nodes, edges) if index in halves else same for index, same in enumerate(self.halves)
        ]
        return other

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "prompt pos"], *, at: Int[Tensor, " prompt"] | None = None) -> Tensor:
        """Logits [prompt, pos, vocab], or [prompt, vocab] at one position of each; as ``Transformer.forward``'s."""
        prompts = Prompts.of(tokens.cpu(), None if at is None else at.cpu())
        x, token = self.finish(self.run(prompts, Trace(), 0), prompts)
        model = self.frozen.model
        logits = F.embedding(token, model.bigram_table) + model.lm_head(x)
        return logits if at is not None else logits.view(*tokens.shape, -1)

    @torch.no_grad()
    def answers(self, prompts: Prompts, answers: Int[Tensor, "prompt 2"], trace: Trace, first: int = 0) -> Tensor:
        """Logits of two answers a prompt [prompt, 2], from the ``first`` half layer on, whose past is in ``trace``."""
        x, token = self.finish(self.run(prompts, trace, first), prompts)
        model = self.frozen.model
        return (model.lm_head.weight[answers] @ x[:, :, None])[..., 0] + model.bigram_table[token[:, None], answers]

    def run(self, prompts: Prompts, trace: Trace, first: int) -> Stream:
        """The residual stream after the last layer; ``trace`` is filled from the ``first`` half on."""
        if first == 0 and not trace.streams:
            width = self.frozen.config.d_model
            trace.streams = [Stream(torch.zeros(width), NONE, torch.zeros(len(prompts.token), 0))]
        del trace.streams[first + 1 :]
        for index in range(first, len(self.halves)):
            trace.streams.append(self.step(index, prompts, trace, index == first))
        return trace.streams[-1]

    def step(self, index: int, prompts: Prompts, trace: Trace, known: bool) -> Stream:
        """The stream after a half layer. ``known``: the stream before it is the one that the trace's read is of."""
        part, stream = self.halves[index], trace.streams[index]
        last_layer = index >= len(self.halves) - 2 and prompts.last
        mixing = index % 2 == 0
        rows = prompts.ends if last_layer and not mixing else prompts
        delta = None
        if len(part.writes):
            if not known:
                trace.reads.pop(index, None)
            delta = part(self.read(index, part, stream, rows, trace), prompts, last_layer)
        if last_layer and mixing:
            stream = Stream(stream.constant, stream.columns, stream.delta[prompts.rows])
        return stream.plus(part.at_held, part.writes, delta)

    def read(self, index: int, part: Half, stream: Stream, rows: Prompts, trace: Trace) -> Float[Tensor, "row read"]:
        """What the half layer reads, after its norm and AbsTopK; from the trace where that has it."""
        wanted = part.reads
        if index in trace.reads:
            known, values = trace.reads[index]
            if bool(torch.isin(wanted, known).all()):
                return values[:, torch.searchsorted(known, wanted)]
        out = torch.empty(len(rows.token), len(wanted))
        if out.numel():
            arrays = (rows.token.numpy(), rows.position.numpy(), self.frozen.tables)
            past = (stream.constant.numpy(), stream.columns.numpy(), stream.delta.numpy())
            site = (part.gain.numpy(), part.read_k, wanted.numpy())
            in_shares(lambda a, b: read_rows(a, b, *arrays, past, site, out.numpy()), len(out), least=LEAST)
        trace.reads[index] = (wanted, out)
        return out

    def finish(self, stream: Stream, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """The final norm of the stream at the rows of the last layer [row, d_model], and their tokens."""
        rows = prompts.ends
        model = self.frozen.model.transformer
        x = F.embedding(rows.token, model["wte"].weight) + stream.constant
        if "wpe" in model:
            x = x + model["wpe"].weight[rows.position]
        x.index_add_(1, stream.columns, stream.delta)
        return model["ln_f"](x), rows.token
