"""What the edges of a circuit carry between the two prompts of a pair, and how far that moves the answer.

A *difference* is a value on the prompt with the first answer minus the value on the pair's other prompt, at the
position that is aligned with it (``counterparts``; 0 where there is none), in the run of the circuit alone. A *slope*
is the derivative of the first answer's logit minus the second's by a value, the mean of both prompts' at aligned
positions. A node *decides* at the position of a pair at which slope · difference is largest in magnitude.

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
from jaxtyping import Float, Int
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
    aligned = Aligned(counterparts(batch)[::2], signs)
    steep = {key: aligned.mean(slopes[key][..., index]) for key, index in circuit.nodes.items()}
    apart = {key: aligned.difference(values[key][..., index]) for key, index in circuit.nodes.items()}
    edges, effects, sides = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
    for key, ends in circuit.edges.items():
        source, target = sites_of(key)
        at = torch.searchsorted(circuit.nodes[target], ends[:, 1].contiguous())  # nodes are ascending
        weight = edge_weights(model, key)[ends[:, 1], ends[:, 0]].detach().float()
        sources = _source(model, values, source)[..., ends[:, 0]]
        brought = aligned.difference(sources) * weight
        place = (steep[target] * apart[target]).abs().argmax(1)[:, at]
        edges[key] = brought.gather(1, place[:, None]).sum((0, 1)).cpu()
        sides[key] = aligned.difference(sources.abs()).gather(1, place[:, None]).sum((0, 1)).cpu()
        effects[key] = (brought * steep[target][..., at]).sum((0, 1)).cpu()
    nodes = {key: (steep[key] * apart[key]).sum((0, 1)).cpu() for key in circuit.nodes}
    writes = {key: index for key, index in circuit.nodes.items() if split_site_key(key)[1].writes_residual}
    final, end = aligned.mean(slopes[FINAL]), batch.last[::2, None]
    direct = {key: (final[..., index] * apart[key]).sum((0, 1)).cpu() for key, index in writes.items()}
    farther = {key: aligned.difference(values[key][..., index].abs()) for key, index in writes.items()}
    at_end = {key: x[torch.arange(len(x), device=x.device), end[:, 0]].sum(0).cpu() for key, x in farther.items()}
    return Carried(edges, effects, nodes, direct, sides, at_end)


@dataclass(frozen=True)
class Aligned:
    """Aligned positions of pairs. ``other``: of each position of a first prompt in the second, −1 where there is none;
    ``signs``: as ``orientation`` has them."""

    other: Int[Tensor, "pair pos"]
    signs: Float[Tensor, " pair"]

    def difference(self, x: Float[Tensor, "prompt pos n"]) -> Float[Tensor, "pair pos n"]:
        place = self.other.clamp(min=0)[..., None].expand(-1, -1, x.shape[-1])
        apart = x[::2] - x[1::2].gather(1, place)
        return (apart * (self.signs[:, None] * (self.other >= 0))[..., None]).float()

    def mean(self, slopes: Float[Tensor, "prompt pos n"]) -> Float[Tensor, "pair pos n"]:
        """Slopes of right less wrong as those of the first answer less the second."""
        return self.difference(slopes) / 2


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
