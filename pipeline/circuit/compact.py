"""A circuit computed by itself: only its nodes and edges, everything else folded into constants (§5).

In a circuit's run, nodes of the complement have their ablation values, and an edge of the complement carries its
source's. So a node of the complement reads constants only, and in AbsTopK it is a competitor of known size: a node of
the circuit passes where fewer than k others are larger. The residual stream is the embedding, a constant, and a few
columns; where a shape does more to it than add, it is kept whole. The result is the masked model's up to rounding, at a
cost that falls with the circuit's size; it runs on a CPU.

Attention with a sink is the exception: it scales an ablated value channel by its head's weight on real tokens. That
weight follows from the position alone, except in heads with a query or key channel in the circuit.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit.compact_attention import CompactAttention, Mixed
from pipeline.circuit.compact_parts import KINDS, NONE, Edges, Frozen, Map, Nodes, columns
from pipeline.circuit.parts import check_tokens
from pipeline.circuit.stream_reads import whole_rows
from pipeline.model.layout import PackedPrompts
from pipeline.model.transformer import Transformer
from pipeline.shape import IN_STREAM
from pipeline.sites import Site

__all__ = ["Compact", "Frozen", "Trace"]


@dataclass(frozen=True)
class Stream:
    """The residual stream: the embedding plus ``constant`` [d_model], plus ``delta`` [row, column] in ``columns``.

    ``base`` [row, d_model] is in place of the embedding where the shape does more to the stream than add.
    """

    constant: Tensor
    columns: Tensor
    delta: Tensor
    base: Tensor | None = None

    def plus(self, constant: Tensor, columns: Tensor, delta: Tensor | None) -> Stream:
        columns = torch.cat([self.columns, columns])
        delta = self.delta if delta is None else torch.cat([self.delta, delta], dim=1)
        return Stream(self.constant + constant, columns, delta, self.base)

    def at(self, rows: Tensor) -> Stream:
        """Some rows of it."""
        return replace(self, delta=self.delta[rows], base=None if self.base is None else self.base[rows])

    def whole(
        self, embedding: Float[Tensor, "row d_model"], places: Float[Tensor, "row d_model"] | None
    ) -> Float[Tensor, "row d_model"]:
        """All channels; ``embedding``: of the tokens of its rows, ``places``: of their positions, where they are
        added."""
        if self.base is not None:
            return (self.base + self.constant).index_add_(1, self.columns, self.delta)
        x = embedding + self.constant
        x = x if places is None else x + places
        return x.index_add_(1, self.columns, self.delta)

    @classmethod
    def of(cls, x: Float[Tensor, "row d_model"]) -> Stream:
        """A stream that is kept whole."""
        return cls(torch.zeros(x.shape[1]), NONE, x.new_zeros(len(x), 0), x)


@dataclass
class Trace:
    """Intermediate values of a run: the stream before every half layer and after the last, the reads of each half, and
    the mixed values of each attention."""

    streams: list[Stream] = field(default_factory=list)
    reads: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    mixes: dict[int, Mixed] = field(default_factory=dict)

    def prefix(self, half: int) -> Trace:
        """A copy that ends before a half layer, for a run that goes on from there."""
        reads = {index: read for index, read in self.reads.items() if index <= half}
        return Trace(
            self.streams[: half + 1], reads, {index: mix for index, mix in self.mixes.items() if index <= half}
        )


class CompactMLP:
    """The MLP of a layer, as far as a circuit needs it."""

    def __init__(
        self, frozen: Frozen, layer: int, nodes: Nodes, edges: Edges, inner: Map | None = None, out: Map | None = None
    ) -> None:
        """``inner``, ``out``: maps of another circuit, used again where they are the same."""
        kinds = KINDS[Site.MLP_IN, Site.MLP_NEURON], KINDS[Site.MLP_NEURON, Site.MLP_OUT]
        self.inner = Map.renewed(inner, frozen, layer, kinds[0], nodes, edges)
        self.out = Map.renewed(out, frozen, layer, kinds[1], nodes, edges)
        self.reads = self.inner.sources if len(self.writes) else NONE
        self.site = Site.MLP_IN

    @property
    def maps(self) -> tuple[Map, ...]:
        return self.inner, self.out

    @property
    def writes(self) -> Tensor:
        return self.out.targets

    @property
    def when_ablated(self) -> Tensor:
        return self.out.when_ablated

    def __call__(self, h: Float[Tensor, "row read"]) -> Float[Tensor, "row write"]:
        inner = self.inner(h)
        return self.out(columns(inner, self.inner.targets, self.out.sources))


HalfLayer = CompactAttention | CompactMLP


def half(frozen: Frozen, index: int, nodes: Nodes, edges: Edges, before: HalfLayer | None = None) -> HalfLayer:
    """The index-th half layer: attention of layer 0, its MLP, attention of layer 1, and so on.

    Maps of ``before``, the same half layer of another circuit, are used again where they are the same.
    """
    return (CompactAttention, CompactMLP)[index % 2](frozen, index // 2, nodes, edges, *(before.maps if before else ()))


class Compact:
    """A circuit ready to be run: ``compact(tokens)`` are the masked model's logits, up to rounding."""

    new_trace = Trace

    def __init__(self, frozen: Frozen, nodes: Nodes, edges: Edges) -> None:
        self.frozen = frozen
        self.halves = [half(frozen, index, nodes, edges) for index in range(2 * frozen.config.n_layer)]

    def with_halves(self, halves: Collection[int], nodes: Nodes, edges: Edges) -> Compact:
        """The same for a circuit that differs from this one in some half layers only."""
        other = copy.copy(self)
        other.halves = [
            half(self.frozen, index, nodes, edges, same) if index in halves else same
            for index, same in enumerate(self.halves)
        ]
        return other

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "prompt pos"], *, at: Int[Tensor, " prompt"] | None = None) -> Tensor:
        """Logits [prompt, pos, vocab], or [prompt, vocab] at one position of each; as ``Transformer.forward``'s.

        Raises IndexError for a token outside the vocabulary."""
        check_tokens(tokens, self.frozen.model.vocab_size)
        prompts = PackedPrompts.of(tokens.cpu(), None if at is None else at.cpu())
        x, token = self.finish(self.run(prompts, Trace(), 0), prompts)
        model = self.frozen.model
        logits = model.lm_head(x)
        if model.bigram_table is not None:
            logits = F.embedding(token, model.bigram_table) + logits
        if model.final_logits_bias is not None:
            logits = logits + model.final_logits_bias
        return logits if at is not None else logits[prompts.index]

    @torch.no_grad()
    def answers(self, prompts: PackedPrompts, answers: Int[Tensor, "prompt 2"], trace: Trace, first: int = 0) -> Tensor:
        """Logits of two answers a prompt [prompt, 2], from the ``first`` half layer on, whose past is in ``trace``."""
        x, token = self.finish(self.run(prompts, trace, first), prompts)
        model = self.frozen.model
        return two_logits(model, x, token, answers)

    def run(self, prompts: PackedPrompts, trace: Trace, first: int) -> Stream:
        """The residual stream after the last layer; ``trace`` is filled from the ``first`` half on."""
        if first == 0 and not trace.streams:
            width = self.frozen.config.d_model
            trace.streams = [Stream(torch.zeros(width), NONE, torch.zeros(len(prompts.token), 0))]
        del trace.streams[first + 1 :]
        for index in range(first, len(self.halves)):
            trace.streams.append(self.step(index, prompts, trace, index == first))
        return trace.streams[-1]

    def step(self, index: int, prompts: PackedPrompts, trace: Trace, known: bool) -> Stream:
        """The stream after a half layer. ``known``: the stream before it is the one that the trace's read is of."""
        part, stream = self.halves[index], trace.streams[index]
        last_layer = index >= len(self.halves) - 2 and prompts.last
        mixing = index % 2 == 0
        delta = None
        if len(part.writes):
            if not known:
                trace.reads.pop(index, None)
                trace.mixes.pop(index, None)
            h = self.read(index, part, stream, prompts.rows(last_layer and not mixing), trace)
            if isinstance(part, CompactAttention):
                trace.mixes[index] = mix = part.mix(h, prompts, last_layer, trace.mixes.get(index))
                delta = part(mix, prompts, last_layer)
            else:
                delta = part(h)
        ended = prompts.last and index == len(self.halves) - 2
        stream = (stream.at(prompts.end) if ended else stream).plus(part.when_ablated, part.writes, delta)
        if self.frozen.config.adds_up:
            return stream
        x = stream.whole(*self.embedding(*prompts.rows(last_layer)))
        return Stream.of(self.frozen.block(index // 2).settle(IN_STREAM[index % 2], x))

    def read(
        self, index: int, part: HalfLayer, stream: Stream, rows: tuple[Tensor, Tensor], trace: Trace
    ) -> Float[Tensor, "row read"]:
        """The half layer's reads, after its norm and AbsTopK; from the trace where that has them."""
        wanted = part.reads
        if index in trace.reads:
            known, values = trace.reads[index]
            if bool(torch.isin(wanted, known).all()):
                return columns(values, known, wanted)
        token, position = (each.numpy() for each in rows)
        begun = (token, position, self.frozen.tables) if stream.base is None else whole_rows(stream.base)
        past = stream.constant, stream.columns, stream.delta
        out = self.frozen.stream_reads(index // 2, part.site, begun, past, position, wanted)
        trace.reads[index] = (wanted, out)
        return out

    def finish(self, stream: Stream, prompts: PackedPrompts) -> tuple[Tensor, Tensor]:
        """The final norm of the stream at the rows of the last layer [row, d_model], and their tokens."""
        token, position = prompts.rows(prompts.last)
        x = stream.whole(*self.embedding(token, position))
        return self.frozen.model.transformer["ln_f"](x), token

    def embedding(self, token: Tensor, position: Tensor) -> tuple[Tensor, Tensor | None]:
        """The embedding of tokens [row, d_model]; and of their positions, where the shape adds them."""
        model = self.frozen.model.transformer
        places = F.embedding(position, model["wpe"].weight) if self.frozen.config.positions else None
        return F.embedding(token, model["wte"].weight), places


def two_logits(
    model: Transformer, x: Float[Tensor, "prompt d_model"], token: Int[Tensor, " prompt"], answers: Tensor
) -> Float[Tensor, "prompt 2"]:
    """Logits of two answers a prompt, of the normed stream at its end."""
    logits = (model.lm_head.weight[answers] @ x[:, :, None])[..., 0]
    if model.bigram_table is not None:
        logits = logits + model.bigram_table[token[:, None], answers]
    return logits if model.final_logits_bias is None else logits + model.final_logits_bias[answers]
