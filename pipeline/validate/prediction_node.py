"""What the unpruned model's nodes are at the position that answers, and which of a circuit's tells nested from flat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch, answer_logits
from pipeline.model.layout import pick
from pipeline.model.scoring import CHUNK
from pipeline.model.transformer import Transformer, refuse_compiled
from pipeline.sites import Site, split_site_key

# Keys and values are left out: they are what the answering position offers to later ones, of which there are none.
ANSWERING = (Site.ATTN_IN, Site.ATTN_Q, Site.ATTN_OUT, Site.MLP_IN, Site.MLP_NEURON, Site.MLP_OUT)

NodeValues = Mapping[str, Float[Tensor, "prompt node"]]  # site key → the chosen nodes of it, in their order
Values = Float[Tensor, " prompt"]
Nested = Bool[Tensor, " prompt"]


@dataclass(frozen=True)
class Reading:
    """A node that is read as an answer: nested where its value is on that side of the threshold.

    Fitted on train pairs, of which it separates nested from flat with this ``auc`` and ``correlation`` (point-biserial,
    its sign says on which side nested is). ``means`` are those of flat and of nested lists.
    """

    key: str
    index: int
    auc: float
    correlation: float
    threshold: float
    means: tuple[float, float]

    @property
    def name(self) -> str:
        return f"{self.key}.{self.index}"

    def says_nested(self, values: Values) -> Nested:
        return (values > self.threshold) if self.correlation > 0 else (values < self.threshold)

    def scaled(self, values: Values) -> Values:
        """0 at the mean of train's flat lists, 1 at that of the nested ones."""
        return (values - self.means[0]) / (self.means[1] - self.means[0])


def answering_nodes(circuit: Circuit) -> dict[str, Int[Tensor, " n"]]:
    """The circuit's nodes that can carry the answer at the last position."""
    return {key: nodes for key, nodes in circuit.nodes.items() if split_site_key(key)[1] in ANSWERING and len(nodes)}


def others(model: Transformer, key: str, nodes: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
    """All other nodes of a site, ascending."""
    every = torch.arange(model.widths()[key])
    return every[~torch.isin(every, nodes.cpu())]


@torch.no_grad()
def watch(
    model: Transformer, batch: PairBatch, nodes: Mapping[str, Int[Tensor, " n"]]
) -> tuple[Float[Tensor, "prompt 2"], NodeValues]:
    """Logits of the right and the wrong answer, and the nodes at the answering position. Raises CompiledModelError."""
    refuse_compiled(model)
    answers, values = [], []
    for rows in torch.arange(len(batch.tokens), device=batch.tokens.device).split(CHUNK):
        part = batch.prompts(rows).to(model.device)
        found: dict[str, Tensor] = {}

        def keep(key: str, x: Tensor, part: PairBatch = part, found: dict[str, Tensor] = found) -> Tensor:
            if key in nodes:  # the last layer holds only the position asked for
                there = pick(x, part.last) if x.shape[1] > 1 else x
                found[key] = there[:, 0, nodes[key].to(x.device)].float().cpu()
            return x

        answers.append(answer_logits(model(part.tokens, at=part.last, intervene=keep), part).cpu())
        values.append(found)
    return torch.cat(answers), {key: torch.cat([found[key] for found in values]) for key in nodes}


def readings(nodes: Mapping[str, Int[Tensor, " n"]], values: NodeValues, nested: Nested) -> list[Reading]:
    """The node of each site that separates train pairs best, the best site first; nodes that do not are left out.

    Best by distance of the AUC from 1/2, then by correlation: nodes that separate all pairs are told apart by how far.
    """
    best = []
    for key, indices in nodes.items():
        columns = zip(indices.tolist(), values[key].T, strict=True)
        fitted = [fit(key, index, column, nested) for index, column in columns if column.min() < column.max()]
        best += sorted((r for r in fitted if r.auc != 0.5 and r.means[0] != r.means[1]), key=_separates)[-1:]
    return sorted(best, key=_separates, reverse=True)


def random_sets(
    values: Float[Tensor, "prompt node"], *, size: int, n: int, generator: torch.Generator
) -> list[Int[Tensor, " size"]]:
    """Up to ``n`` sets of ``size`` columns that are not constant; no more sets than such columns.

    No column is drawn again before all were.
    """
    varies = (values.amax(0) > values.amin(0)).nonzero().flatten()
    n = min(n, len(varies))
    drawn = [varies[:0]]
    while sum(map(len, drawn)) < n * size:
        drawn.append(varies[torch.randperm(len(varies), generator=generator)])
    return list(torch.cat(drawn)[: n * size].view(n, size))


def _separates(reading: Reading) -> tuple[float, float]:
    return max(reading.auc, 1 - reading.auc), abs(reading.correlation)


def fit(key: str, index: int, values: Values, nested: Nested) -> Reading:
    """One node read as an answer."""
    up = correlation(values, nested.float())
    means = (float(values[~nested].mean()), float(values[nested].mean()))
    threshold = best_threshold(values if up > 0 else -values, nested)
    return Reading(key, index, auc(values, nested), up, threshold if up > 0 else -threshold, means)


def auc(values: Values, nested: Nested) -> float:
    """Probability that a nested list's value is above a flat one's; a tie counts half."""
    difference = values[nested][:, None] - values[~nested]
    return float(2 * (difference > 0).sum() + (difference == 0).sum()) / (2 * difference.numel())


def correlation(one: Values, other: Values) -> float:
    """Pearson's r; 0 where either does not vary."""
    one, other = one.double() - one.double().mean(), other.double() - other.double().mean()
    scale = float(one.norm() * other.norm())
    return float(one @ other) / scale if scale > 0 else 0.0


def best_threshold(values: Values, nested: Nested) -> float:
    """Above which nested is said with the fewest errors; of several such, the middle of the widest gap."""
    levels = values.double().unique()
    middles, gaps = (levels[1:] + levels[:-1]) / 2, levels[1:] - levels[:-1]
    right = ((values.double()[None] > middles[:, None]) == nested).double().mean(1)
    best = right == right.max()
    return float(middles[best][gaps[best].argmax()])
