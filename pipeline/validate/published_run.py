"""A circuit's own run on pairs of its task: the places that decide, where its heads look, what its nodes tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.graph import Node, Subgraph, ends, half_of
from pipeline.circuit.heads import attention_patterns, kept_heads
from pipeline.data.pairs import PairBatch, parting
from pipeline.sites import Site, site_key, split_site_key
from pipeline.stats import auc
from pipeline.validate.circuit_under_test import CircuitUnderTest
from pipeline.validate.mechanism import MIN_DEVIATION
from pipeline.validate.paired_runs import PairedRuns

Head = tuple[int, int]  # layer, head
PlaceMask = Bool[Tensor, "prompt pos"]


@dataclass(frozen=True)
class OwnRun:
    """The run of a circuit alone on the few test pairs, all else at its mean, whatever it was made against.

    Of each pair, one prompt is of the ``first_kind``, the other is not.
    """

    runs: PairedRuns

    @classmethod
    def of(cls, tested: CircuitUnderTest) -> OwnRun:
        at_means = replace(tested, circuit=replace(tested.circuit, ablations=()))
        return cls(PairedRuns(at_means, tested.few))

    @property
    def circuit(self) -> Circuit:
        return self.runs.tested.circuit

    @property
    def batch(self) -> PairBatch:
        return self.runs.batch

    @cached_property
    def first_kind(self) -> Bool[Tensor, " prompt"]:
        return self.batch.answers[:, 0] == self.batch.answers[0, 0]

    @cached_property
    def heads(self) -> dict[Head, dict[str, list[int]]]:
        """Head → ``q``, ``k``, ``v`` → its kept channels; heads without any are absent."""
        config = self.runs.tested.model.config
        of_layers = (kept_heads(self.circuit, layer, config.d_head) for layer in range(config.n_layer))
        return {(layer, head): kept for layer, found in enumerate(of_layers) for head, kept in found.items()}

    def values(self, node: Node) -> Float[Tensor, "prompt pos"]:
        return self.runs.circuit.values[node[0]][..., node[1]]

    def look(self, head: Head, query: Int[Tensor, " prompt"]) -> Float[Tensor, "prompt pos"]:
        """A head's weight on each position, as a share of all its weight but the sink's, from one position of each
        prompt."""
        layer, number = head
        width = self.runs.tested.model.config.d_head
        channels = slice(number * width, (number + 1) * width)
        q, k = (self.runs.circuit.values[site_key(layer, site)][..., channels] for site in (Site.ATTN_Q, Site.ATTN_K))
        pattern = attention_patterns(q, k, None, 1)[:, 0]  # without a sink: shares of the rest
        return pattern[torch.arange(len(query), device=query.device), query]

    def of_lesser_kind(self, numbers: Float[Tensor, " prompt"]) -> float:
        """The mean over the prompts of one kind, of the kind where it is smaller."""
        return min(float(numbers[self.first_kind].mean()), float(numbers[~self.first_kind].mean()))

    def kinds_by(self, numbers: Float[Tensor, " prompt"]) -> float:
        """AUC by which a number tells the two kinds of prompt apart, in whichever direction."""
        return told_apart(numbers, self.first_kind)

    def place_by(
        self, values: Float[Tensor, "prompt pos"], place: PlaceMask, upto: Int[Tensor, " prompt"] | None = None
    ) -> float:
        """AUC by which a value tells a place from all other positions, up to one of each prompt (None: the last), in
        one direction for both kinds of prompt: that of the kind whose place it tells less surely.

        Of a place of several positions, the largest value counts; a prompt without the place does not.
        """
        upto = self.batch.last if upto is None else upto
        others = values[(positions(self.batch) <= upto[:, None]) & ~place]
        there, exists = values.masked_fill(~place, -torch.inf).amax(-1), place.any(-1)
        of_kinds = []
        for kind in (self.first_kind & exists, ~self.first_kind & exists):
            both = torch.cat([there[kind], others])
            own = torch.arange(len(both), device=both.device) < kind.sum()
            of_kinds.append(signed_auc(both, own) if kind.any() else 0.5)
        return max(min(of_kinds), 1 - max(of_kinds))

    def seen(self, head: Head, query: Int[Tensor, " prompt"], place: PlaceMask) -> dict[str, float]:
        """How a head looks at a place: by its weight on the token there that has the most, the mean over prompts of the
        kind where it is smaller. ``weight``; ``lift``, times the tokens that it could look at; ``look_auc``, by which
        that tells the place from all of them."""
        look = self.look(head, query)
        lifts, peak = look * (query + 1)[:, None], (look * place).amax(-1)
        return {
            "weight": self.of_lesser_kind(peak),
            "lift": self.of_lesser_kind(peak * (query + 1)),
            "look_auc": self.place_by(lifts, place, query),
        }

    @cached_property
    def opening(self) -> PlaceMask:
        """The first position at which the two prompts of a pair differ: the opening quote."""
        return single(self.batch, parting(self.batch).repeat_interleave(2))

    @cached_property
    def differing(self) -> tuple[Int[Tensor, " prompt"], Int[Tensor, " prompt"]]:
        """First and last position of what differs between the two prompts of a pair."""
        prompts, first = texts(self.batch), parting(self.batch).repeat_interleave(2)
        others = [prompts[row ^ 1] for row in range(len(prompts))]
        ends_alike = [shared_end(one, other) for one, other in zip(prompts, others, strict=True)]
        return first, (self.batch.last - torch.tensor(ends_alike, device=first.device)).maximum(first)

    @cached_property
    def definition(self) -> PlaceMask:
        """All that differs between the two prompts of a pair: what the variable is set to."""
        first, last = self.differing
        place = positions(self.batch)
        return (place >= first[:, None]) & (place <= last[:, None])

    def after_definition(self, n: int) -> PlaceMask:
        """So many tokens after what the variable is set to."""
        return single(self.batch, self.differing[1] + n)

    @cached_property
    def name(self) -> PlaceMask:
        """The variable's name where it is defined: the tokens before the definition that the prompt ends with again.

        Nowhere in a prompt whose last token does not stand there.
        """
        place = torch.zeros_like(self.definition)
        for row, (tokens, first) in enumerate(zip(texts(self.batch), self.differing[0].tolist(), strict=True)):
            stop = max((i + 1 for i in range(first) if tokens[i] == tokens[-1]), default=0)
            place[row, stop - shared_end(tokens[:stop], tokens) : stop] = True
        return place


def texts(batch: PairBatch) -> list[list[int]]:
    """The tokens of each prompt, without the padding."""
    return [row[: last + 1] for row, last in zip(batch.tokens.tolist(), batch.last.tolist(), strict=True)]


def shared_end(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of last tokens that two prompts have in common."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def positions(batch: PairBatch) -> Int[Tensor, " pos"]:
    return torch.arange(batch.tokens.shape[1], device=batch.last.device)


def single(batch: PairBatch, at: Int[Tensor, " prompt"]) -> PlaceMask:
    return positions(batch) == at[:, None]


def told_apart(numbers: Float[Tensor, " n"], group: Bool[Tensor, " n"]) -> float:
    """AUC of a group against the others, in whichever direction: ½ where nothing is told, 1 where all is."""
    found = signed_auc(numbers, group)
    return max(found, 1 - found)


def signed_auc(numbers: Float[Tensor, " n"], group: Bool[Tensor, " n"]) -> float:
    """Probability that a number of the group is above one of the others; ½ where they differ by rounding only."""
    spread = float(numbers.max() - numbers.min())
    return auc(numbers, group) if spread > MIN_DEVIATION * float(numbers.abs().max()) else 0.5


def upstream(circuit: Circuit, targets: Iterable[Node]) -> set[Node]:
    """The nodes whose values lead to those of the targets, these included.

    Over the circuit's edges, and where a node reads the channel of the residual stream that an earlier one writes.
    Through a head by its values only.
    """
    parts = Subgraph(circuit.nodes, circuit.edges)
    sources: dict[Node, set[Node]] = {node: set() for node in parts.list_nodes()}
    for edge in parts.list_edges():
        source, target = ends(edge)
        sources[target].add(source)
    for key, index in sources:
        if split_site_key(key)[1].reads_residual:
            writes = {(write, i) for write, i in sources if i == index and split_site_key(write)[1].writes_residual}
            sources[key, index] = {node for node in writes if half_of(node[0]) < half_of(key)}
    found, left = set(targets), list(targets)
    while left:
        before = sources[left.pop()] - found
        left += before
        found |= before
    return found
