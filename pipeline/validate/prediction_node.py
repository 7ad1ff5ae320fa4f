"""Nodes of the unpruned model at the position that answers, and the circuit's node that tells nested from flat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch, answer_logits
from pipeline.model.layout import pick
from pipeline.model.record import record
from pipeline.model.scoring import CHUNK
from pipeline.model.transformer import Transformer
from pipeline.sites import Site, split_site_key
from pipeline.stats import auc

# Keys and values are left out: they are what the answering position offers to later ones, of which there are none.
ANSWERING = (Site.ATTN_IN, Site.ATTN_Q, Site.ATTN_OUT, Site.MLP_IN, Site.MLP_NEURON, Site.MLP_OUT)

NodeValues = Mapping[str, Float[Tensor, "prompt _node"]]  # site key → the chosen nodes of it, in their order
PromptValues = Float[Tensor, " prompt"]
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

    def says_nested(self, values: PromptValues) -> Nested:
        return (values > self.threshold) if self.correlation > 0 else (values < self.threshold)

    def scaled(self, values: PromptValues) -> PromptValues:
        """0 at the mean of train's flat lists, 1 at that of the nested ones."""
        return (values - self.means[0]) / (self.means[1] - self.means[0])


def answering_nodes(circuit: Circuit) -> dict[str, Int[Tensor, " _n"]]:
    """The circuit's nodes that can carry the answer at the last position."""
    return {key: nodes for key, nodes in circuit.nodes.items() if split_site_key(key)[1] in ANSWERING and len(nodes)}


@torch.no_grad()
def watch(
    model: Transformer, batch: PairBatch, nodes: Mapping[str, Int[Tensor, " _n"]]
) -> tuple[Float[Tensor, "prompt 2"], NodeValues]:
    """Logits of the right and the wrong answer, and the nodes at the answering position. Raises CompiledModelError."""
    answers, values = [], []
    for rows in torch.arange(len(batch.tokens), device=batch.tokens.device).split(CHUNK):
        part = batch.prompts(rows).to(model.device)
        logits, found = record(model, part.tokens, at=part.last, names=nodes)
        answers.append(answer_logits(logits, part).cpu())
        ends = {key: pick(x, part.last) if x.shape[1] > 1 else x for key, x in found.items()}
        values.append({key: x[:, 0, nodes[key].to(x.device)].float().cpu() for key, x in ends.items()})
    return torch.cat(answers), {key: torch.cat([found[key] for found in values]) for key in nodes}


def readings(nodes: Mapping[str, Int[Tensor, " _n"]], values: NodeValues, nested: Nested) -> list[Reading]:
    """The node of each site that separates train pairs best, the best site first; nodes that do not are left out.

    Best by distance of the AUC from 1/2, then by correlation: nodes that separate all pairs are told apart by how far.
    """
    best = []
    for key, indices in nodes.items():
        columns = zip(indices.tolist(), values[key].T, strict=True)
        fitted = [fit(key, index, column, nested) for index, column in columns if column.min() < column.max()]
        best += sorted((r for r in fitted if r.auc != 0.5 and r.means[0] != r.means[1]), key=_separates)[-1:]
    return sorted(best, key=_separates, reverse=True)


def varying(values: Float[Tensor, "prompt node"]) -> Int[Tensor, " n"]:
    """The columns that are not constant."""
    return (values.amax(0) > values.amin(0)).nonzero().flatten()


def _separates(reading: Reading) -> tuple[float, float]:
    return max(reading.auc, 1 - reading.auc), abs(reading.correlation)


def fit(key: str, index: int, values: PromptValues, nested: Nested) -> Reading:
    """One node read as an answer."""
    up = correlation(values, nested.float())
    means = (float(values[~nested].mean()), float(values[nested].mean()))
    threshold = best_threshold(values if up > 0 else -values, nested)
    return Reading(key, index, auc(values, nested), up, threshold if up > 0 else -threshold, means)


def correlation(one: PromptValues, other: PromptValues) -> float:
    """Pearson's r; 0 where either does not vary."""
    one, other = one.double() - one.double().mean(), other.double() - other.double().mean()
    scale = float(one.norm() * other.norm())
    return float(one @ other) / scale if scale > 0 else 0.0


def best_threshold(values: PromptValues, nested: Nested) -> float:
    """Above which nested is said with the fewest errors; of several such, the middle of the widest gap."""
    levels = values.double().unique()
    middles, gaps = (levels[1:] + levels[:-1]) / 2, levels[1:] - levels[:-1]
    right = ((values.double()[None] > middles[:, None]) == nested).double().mean(1)
    best = right == right.max()
    return float(middles[best][gaps[best].argmax()])
