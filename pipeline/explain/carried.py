"""What the edges of a circuit carry between the two prompts of a pair, and how far that moves the answer.

A *difference* is a value on the prompt with the first answer minus the value on the pair's other prompt, at the
position that is aligned with it (``counterparts``), in the run of the circuit alone; where there is none, as at the
tokens that only the longer prompt has, the node's mean stands for the other prompt, as it does where values are
swapped. A *slope* is the derivative of the first answer's logit minus the second's by a value, the mean of both
prompts' at aligned positions. A node *decides* at the position of a pair at which slope · difference is largest in
magnitude.

An edge *carries* weight × difference of its source at the position at which its target decides, sign kept: what it adds
to its target on the first prompt more than on the second. Behind attention the source is what the head brings to that
position, Σ pattern · value over all tokens. Its *effect* is weight × difference · slope of its target, summed over
positions, so that what a head averages counts whole: to first order, the logits by which it moves the two prompts'
answers apart. Its *side* is 1 where its source is farther from 0 on the prompt with the first answer, at the position
at which its target decides, else −1. An edge *pushes* the first answer where effect and side have the same sign: it
speaks for the right answer of the prompt that it is strong on. All are means over pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.graph import sites_of
from pipeline.circuit.heads import attention_patterns
from pipeline.circuit.interventions import edge_weights
from pipeline.data.pairs import PairBatch, counterparts
from pipeline.explain.task_values import FINAL, PAIRS_AT_ONCE, AtSites, values_and_slopes
from pipeline.model.transformer import Transformer, refuse_compiled
from pipeline.sites import SITES, Site, site_key, split_site_key

ByKey = Mapping[str, Float[Tensor, " _n"]]  # site or edge key → a number for each node or edge, in the circuit's order


@dataclass(frozen=True)
class Carried:
    """Means over pairs. ``edges``: what each edge carries, in its target's units; ``effects``: of each edge, in logits;
    ``nodes``: effects of each node's own difference; ``direct``: the same of each write, by itself at the end.
    ``sides`` of edges and ``direct_sides`` of writes: how much farther from 0 they are on the prompt
    with the first answer."""

    edges: ByKey
    effects: ByKey
    nodes: ByKey
    direct: ByKey
    sides: ByKey
    direct_sides: ByKey

    @property
    def pushes(self) -> ByKey:
        """Of each edge, the size of what it carries: positive where it pushes the first answer, else negative."""
        signs = {key: effect.sign() * self.sides[key].sign() for key, effect in self.effects.items()}
        return {key: number.abs() * signs[key] for key, number in self.edges.items()}

    @property
    def direct_pushes(self) -> ByKey:
        """The same of each write by itself at the end, in logits."""
        return {key: effect * self.direct_sides[key].sign() for key, effect in self.direct.items()}


def carried(model: Transformer, circuit: Circuit, batch: PairBatch) -> Carried:
    """What every edge of a circuit carries on pairs of its task. Raises WrongModelError, CompiledModelError."""
    refuse_compiled(model)
    batch = batch.to(model.device)
    signs, pairs = orientation(batch), torch.arange(batch.n_pairs, device=model.device)
    parts = [_part(model, circuit, batch.take(some), signs[some]) for some in pairs.split(PAIRS_AT_ONCE)]
    columns = [[getattr(part, each.name) for part in parts] for each in fields(Carried)]
    return Carried(*({key: sum(part[key] for part in of) / len(pairs) for key in of[0]} for of in columns))


def orientation(batch: PairBatch) -> Float[Tensor, " pair"]:
    """1 where a pair's first prompt has the first answer of all, else −1; 1 where answers are not two."""
    right = batch.answers[::2, 0]
    two = len(batch.answers[:, 0].unique()) == 2
    return torch.where(right == batch.answers[0, 0], 1.0, -1.0) if two else torch.ones_like(right, dtype=torch.float)


def _part(model: Transformer, circuit: Circuit, batch: PairBatch, signs: Float[Tensor, " pair"]) -> Carried:
    """Sums over a few pairs, in one pass forward and backward."""
    values, slopes = values_and_slopes(model, circuit, batch)
    aligned = Aligned.of(batch, signs)
    means = {key: mean.to(batch.tokens.device) for key, mean in circuit.means.items()}
    steep = {key: aligned.mean(slopes[key][..., index]) for key, index in circuit.nodes.items()}
    apart = {key: aligned.difference(values[key][..., at], means[key][at]) for key, at in circuit.nodes.items()}
    edges, effects, sides = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
    for key, ends in circuit.edges.items():
        source, target = sites_of(key)
        at = torch.searchsorted(circuit.nodes[target], ends[:, 1].contiguous())  # nodes are ascending
        weight = edge_weights(model, key)[ends[:, 1], ends[:, 0]].detach().float()
        sources, mean = _source(model, values, source)[..., ends[:, 0]], means[source][ends[:, 0]]
        brought = aligned.difference(sources, mean) * weight
        place = (steep[target] * apart[target]).abs().argmax(1)[:, at]
        edges[key] = brought.gather(1, place[:, None]).sum((0, 1)).cpu()
        sides[key] = aligned.difference(sources.abs(), mean.abs()).gather(1, place[:, None]).sum((0, 1)).cpu()
        effects[key] = (brought * steep[target][..., at]).sum((0, 1)).cpu()
    nodes = {key: (steep[key] * apart[key]).sum((0, 1)).cpu() for key in circuit.nodes}
    writes = {key: index for key, index in circuit.nodes.items() if split_site_key(key)[1].writes_residual}
    final, end = aligned.mean(slopes[FINAL]), batch.last[::2, None]
    direct = {key: (final[..., index] * apart[key]).sum((0, 1)).cpu() for key, index in writes.items()}
    farther = {key: aligned.difference(values[key][..., at].abs(), means[key][at].abs()) for key, at in writes.items()}
    at_end = {key: x[torch.arange(len(x), device=x.device), end[:, 0]].sum(0).cpu() for key, x in farther.items()}
    return Carried(edges, effects, nodes, direct, sides, at_end)


@dataclass(frozen=True)
class Aligned:
    """Places of pairs at which a difference is: the positions of the first prompts, then those of the second ones, of
    which only those count that have no counterpart.

    ``other``: of each position of a first prompt in the second, −1 where there is none; ``alone``: positions without a
    counterpart, of first and of second prompts; ``signs``: as ``orientation`` has them.
    """

    other: Int[Tensor, "pair pos"]
    alone: tuple[Bool[Tensor, "pair pos"], Bool[Tensor, "pair pos"]]
    signs: Float[Tensor, " pair"]

    @classmethod
    def of(cls, batch: PairBatch, signs: Float[Tensor, " pair"]) -> Aligned:
        across = counterparts(batch)
        there = torch.arange(across.shape[1], device=across.device) <= batch.last[:, None]
        alone = (across < 0) & there
        return cls(across[::2], (alone[::2], alone[1::2]), signs)

    def difference(self, x: Float[Tensor, "prompt pos n"], mean: Float[Tensor, " n"] | float) -> Tensor:
        """First prompts less second ones [pair, 2 · pos, n]."""
        first, second = x[::2], x[1::2]
        place = self.other.clamp(min=0)[..., None].expand(-1, -1, x.shape[-1])
        own, others = (alone[..., None] for alone in self.alone)
        apart = torch.where((self.other >= 0)[..., None], first - second.gather(1, place), (first - mean) * own)
        return (torch.cat([apart, (mean - second) * others], dim=1) * self.signs[:, None, None]).float()

    def mean(self, slopes: Float[Tensor, "prompt pos n"]) -> Float[Tensor, "pair pos_of_both n"]:
        """Slopes of right less wrong as those of the first answer less the second."""
        halved = torch.cat([self.other >= 0, torch.zeros_like(self.alone[1])], dim=1)
        return self.difference(slopes, 0.0) * torch.where(halved, 0.5, 1.0)[..., None]


def _source(model: Transformer, values: AtSites, key: str) -> Float[Tensor, "prompt pos _width"]:
    """What edges from a site carry, before their weight: its values, or what heads bring of them to each position."""
    layer, site = split_site_key(key)
    if site is not Site.ATTN_V:
        return values[key]
    attention = model.transformer["h"][layer].attn
    q, k, v = (values[site_key(layer, part)] for part in SITES if part.in_head)
    pattern = attention_patterns(q, k, attention.sink_logit, attention.n_head)[..., -v.shape[1] :].to(v.dtype)
    brought = pattern @ v.unflatten(-1, (attention.n_head, -1)).transpose(1, 2)
    return brought.transpose(1, 2).flatten(2)
