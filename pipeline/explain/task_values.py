"""A circuit's nodes on every test pair: their values, how far each value moves the answer, where heads look."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.cut_linear import sparse_cuts
from pipeline.circuit.graph import sites_of
from pipeline.circuit.heads import CHANNELS, attention_patterns, kept_heads
from pipeline.data.pairs import PairBatch
from pipeline.model.transformer import Transformer, refuse_compiled, sees_residual
from pipeline.sites import EDGE_KINDS, Site, edge_key, site_key, split_node_name

PAIRS_AT_ONCE = 16  # of one pass forward and backward
FROM_VALUES = next(kind for kind in EDGE_KINDS if kind.source is Site.ATTN_V)
FINAL = "final_resid"  # the residual stream of which the logits are made
LATER_FIRST = 1e-9  # logits a position, so that the last of equals is the largest

Head = tuple[int, int]  # layer, number in the layer
NodeNumbers = Mapping[str, Float[Tensor, "prompt pos"]]  # by node name
AtSites = Mapping[str, Float[Tensor, "prompt pos _width"]]  # by site key


@dataclass(frozen=True)
class Look:
    """Where a head looks from the position of each prompt at which its output moves the answer most, ``query``.

    ``weights``: on each token, the sink's left out.
    """

    weights: Float[Tensor, "prompt pos"]
    query: Int[Tensor, " prompt"]


@dataclass(frozen=True)
class TaskValues:
    """The run of a circuit alone on pairs of its task; 0 where a prompt has no token.

    ``nodes``: name → its value. ``slopes``: name → derivative of the right answer's logit minus the wrong one's by that
    value. ``looks``: of every head with a kept channel.
    """

    batch: PairBatch
    nodes: NodeNumbers
    slopes: NodeNumbers
    looks: Mapping[Head, Look]

    @classmethod
    def of(cls, model: Transformer, circuit: Circuit, batch: PairBatch, names: Collection[str]) -> TaskValues:
        """Values of the nodes of these names. Raises WrongModelError, CompiledModelError."""
        refuse_compiled(model)
        batch = batch.to(model.device)
        pairs = torch.arange(batch.n_pairs, device=model.device)
        parts = [_part(model, circuit, batch.take(some), names) for some in pairs.split(PAIRS_AT_ONCE)]
        return cls(
            batch.to(torch.device("cpu")),
            {name: _joined([part.nodes[name] for part in parts], batch) for name in names},
            {name: _joined([part.slopes[name] for part in parts], batch) for name in names},
            {head: _joined_looks([part.looks[head] for part in parts], batch) for head in parts[0].looks},
        )

    def take(self, pairs: Int[Tensor, " n"]) -> TaskValues:
        """Those of some pairs, at least one, in that order."""
        batch, rows = self.batch.take(pairs), torch.stack([2 * pairs, 2 * pairs + 1], dim=1).flatten()
        n = batch.tokens.shape[1]
        nodes, slopes = ({name: x[rows, :n] for name, x in each.items()} for each in (self.nodes, self.slopes))
        looks = {head: Look(look.weights[rows, :n], look.query[rows]) for head, look in self.looks.items()}
        return TaskValues(batch, nodes, slopes, looks)


def _joined(parts: list[Tensor], batch: PairBatch) -> Float[Tensor, "prompt pos"]:
    """Rows of parts that are as wide as their own longest prompt."""
    return torch.cat([F.pad(part, (0, batch.tokens.shape[1] - part.shape[1])) for part in parts])


def _joined_looks(looks: list[Look], batch: PairBatch) -> Look:
    return Look(_joined([look.weights for look in looks], batch), torch.cat([look.query for look in looks]))


def _part(model: Transformer, circuit: Circuit, batch: PairBatch, names: Collection[str]) -> TaskValues:
    """A few pairs, in one pass forward and backward."""
    values, slopes = values_and_slopes(model, circuit, batch)
    there = torch.arange(batch.tokens.shape[1], device=model.device) <= batch.last[:, None]
    looks = _looks(model, circuit, batch, values, slopes)
    return TaskValues(batch, _named(values, names, there), _named(slopes, names, there), looks)


def _named(at_sites: AtSites, names: Collection[str], there: Bool[Tensor, "prompt pos"]) -> NodeNumbers:
    """NodeNumbers of some nodes, 0 where there is no token."""
    nodes = {name: split_node_name(name) for name in names}
    return {name: (at_sites[key][..., index].float() * there).cpu() for name, (key, index) in nodes.items()}


def values_and_slopes(model: Transformer, circuit: Circuit, batch: PairBatch) -> tuple[AtSites, AtSites]:
    """The value at every site, and the derivative of the answer (right less wrong) by it at sites with a node of the
    circuit and at the end of the residual stream."""
    masked, values, probes = circuit.on(model, batch), dict[str, Tensor](), dict[str, Tensor]()

    def watch(key: str, x: Tensor) -> Tensor:
        x = masked.intervene(key, x)
        if key in circuit.nodes or key == FINAL:
            probes[key] = torch.zeros_like(x, requires_grad=True)
            x = x + probes[key]
        values[key] = x
        return x

    with torch.enable_grad():
        logits = model(batch.tokens, intervene=sees_residual(watch), cuts=sparse_cuts(model, masked.cuts, few=True))
        answers = logits[torch.arange(len(batch.last)), batch.last].gather(-1, batch.answers)
        (answers[:, 0] - answers[:, 1]).sum().backward()
    slopes = {key: torch.zeros_like(x) if x.grad is None else x.grad for key, x in probes.items()}
    return {key: x.detach() for key, x in values.items()}, slopes


def _looks(
    model: Transformer, circuit: Circuit, batch: PairBatch, values: AtSites, slopes: AtSites
) -> dict[Head, Look]:
    found, rows = dict[Head, Look](), torch.arange(len(batch.last))
    for layer, block in enumerate(model.transformer["h"]):
        kept = kept_heads(circuit, layer, model.config.d_head)
        if not kept:
            continue
        q, k = (values[site_key(layer, CHANNELS[letter])] for letter in "qk")
        pattern = attention_patterns(q, k, block.attn.sink_logit, block.attn.n_head)[..., -k.shape[1] :].cpu()
        for head, channels in kept.items():
            query = _moving(circuit, layer, channels["v"], batch, values, slopes)
            found[layer, head] = Look(pattern[rows, head, query].float(), query)
    return found


def _moving(
    circuit: Circuit, layer: int, channels: list[int], batch: PairBatch, values: AtSites, slopes: AtSites
) -> Int[Tensor, " prompt"]:
    """The position of each prompt at which the nodes that some value channels lead to move the answer most, by slope
    times deviation from their mean; the last one where they lead to none."""
    edges = circuit.edges.get(edge_key(layer, FROM_VALUES), torch.zeros(0, 2, dtype=torch.long))
    key = sites_of(edge_key(layer, FROM_VALUES))[1]
    targets = edges[torch.isin(edges[:, 0], torch.tensor(channels)), 1].unique()
    position = torch.arange(batch.tokens.shape[1])
    moved = (LATER_FIRST * position).expand(len(batch.last), -1)
    if len(targets):
        x, slope = (at[key][..., targets.to(at[key].device)].float().cpu() for at in (values, slopes))
        moved = moved + (slope * (x - x.mean((0, 1)))).abs().sum(-1)
    return moved.masked_fill(position > batch.last.cpu()[:, None], -1).argmax(1)
