"""The ways in which ablate runs a model: a circuit alone, by the compact executor, or a circuit removed (§6)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.background import Background, background
from pipeline.circuit.compact import Compact, Frozen, Trace
from pipeline.circuit.compact_rows import FrozenRows
from pipeline.circuit.cut_linear import sparse_cuts
from pipeline.circuit.graph import Subgraph
from pipeline.circuit.interventions import edge_cuts, mask_nodes, masks_in
from pipeline.circuit.node_masks import NodeMasks
from pipeline.data.pairs import PairBatch
from pipeline.model.layout import PackedPrompts
from pipeline.model.scoring import CHUNK, answers_of, score
from pipeline.model.transformer import Transformer

Answers = Float[Tensor, "draw prompt 2"]  # logits of the right and the wrong answer


class Condition(Enum):
    """The part of the model that stays live; the rest is ablated. Values are the names under which losses are reported.

    An ablated node, or the source of an ablated edge, has its ablation value. CIRCUIT and NODES_ONLY of a circuit with
    all edges between its nodes differ in one thing: the nodes that AbsTopK keeps. Nodes of the complement compete
    before they are ablated: under CIRCUIT with the constants that cut inputs give them, under NODES_ONLY with their
    live values. Without AbsTopK the two are equal.
    """

    CIRCUIT = "circuit"  # the circuit alone: all other nodes and edges are ablated
    NODES_ONLY = "nodes_only"  # its nodes alone, with all edges between them
    ABLATED_NODES = "ablated_nodes"  # everything but the circuit's nodes
    ABLATED_EDGES = "ablated_edges"  # everything but the circuit's edges

    @property
    def keeps(self) -> bool:
        """Whether the circuit is what remains (a test of sufficiency), or what is removed (of necessity)."""
        return self in (Condition.CIRCUIT, Condition.NODES_ONLY)

    @property
    def of_edges(self) -> bool:
        """Whether edges decide what is left: random controls are then random edges and their ends."""
        return self in (Condition.CIRCUIT, Condition.ABLATED_EDGES)


class Ablator:
    """Runs of a frozen model under any condition, once for every draw of ablation values."""

    def __init__(self, model: Transformer, ablated_to: AblationValues) -> None:
        self.model, self.ablated_to = model, ablated_to.to(model.device)
        self._split: tuple[PairBatch, list[Part]] | None = None  # of the last batch

    @cached_property
    def frozen(self) -> list[Frozen]:
        """The constants that compact circuits share, of each draw of values that are the same everywhere."""
        on_cpu = self.model.on_cpu()
        return [Frozen(on_cpu, draw) for draw in self.ablated_to.draws]

    def answers(self, circuit: Circuit | Subgraph, condition: Condition, batch: PairBatch) -> Answers:
        """Logits of the two answers with the circuit kept or removed, uncalibrated, one copy a draw."""
        if self.ablated_to.kind.varies:
            return torch.cat([part.answers(circuit, condition) for part in self.parts(batch)])[None]
        if condition is Condition.CIRCUIT:
            compacts = (Compact(frozen, circuit.nodes, circuit.edges) for frozen in self.frozen)
            return torch.stack([score_compact(compact, batch) for compact in compacts])
        behind = (Background(self.model, draw) for draw in self.ablated_to.draws)
        return torch.stack([score(self.model, batch, **changes(circuit, condition, one)).cpu() for one in behind])

    def parts(self, batch: PairBatch) -> list[Part]:
        """A batch in parts, each with its background, which takes a run of the model to make."""
        if self._split is None or self._split[0] is not batch:
            parts = [batch.take(pairs.to(batch.tokens.device)) for pairs in torch.arange(batch.n_pairs).split(CHUNK)]
            self._split = batch, [Part(self.model, self.ablated_to, part.to(self.model.device)) for part in parts]
        return self._split[1]


@dataclass(frozen=True)
class Part:
    """A few pairs, and a background that follows from them."""

    model: Transformer
    ablated_to: AblationValues
    batch: PairBatch

    @cached_property
    def behind(self) -> Background:
        return background(self.model, self.ablated_to, self.batch)

    @cached_property
    def frozen(self) -> FrozenRows:
        if self.model.device.type == "cpu":
            return FrozenRows(self.behind)
        cpu = torch.device("cpu")
        return FrozenRows(background(self.model.on_cpu(), self.ablated_to.to(cpu), self.batch.to(cpu)))

    @torch.no_grad()
    def answers(self, circuit: Circuit | Subgraph, condition: Condition) -> Float[Tensor, "prompt 2"]:
        if condition is not Condition.CIRCUIT:
            return answers_of(self.model, self.batch, **changes(circuit, condition, self.behind)).cpu()
        return self.frozen.answers(circuit.nodes, circuit.edges, self.batch.answers.cpu())


def changes(circuit: Circuit | Subgraph, condition: Condition, behind: Background) -> dict[str, Any]:
    """Keyword arguments of ``answers_of`` for a condition that leaves too much of the model for the compact executor to
    gain by."""
    if condition is Condition.ABLATED_EDGES:
        cuts = edge_cuts(behind.model, circuit.edges, behind.values, keep=False)
        return behind.run(None, sparse_cuts(behind.model, cuts))
    masks = masks_in(behind.model, circuit.nodes)
    if condition is Condition.NODES_ONLY:
        return NodeMasks(behind.model, behind)(masks)
    return behind.run(mask_nodes({key: 1 - mask for key, mask in masks.items()}, behind.values))


def score_compact(compact: Compact, batch: PairBatch) -> Float[Tensor, "prompt 2"]:
    """``scoring.score`` of a compact circuit: logits of the two answers in the batch's order, computed in chunks."""
    batch = batch.to(torch.device("cpu"))
    scored = torch.empty(batch.answers.shape)
    for rows in batch.last.argsort(stable=True).split(CHUNK):
        last = batch.last[rows]
        prompts = PackedPrompts.of(batch.tokens[rows, : int(last.max()) + 1], last)
        scored[rows] = compact.answers(prompts, batch.answers[rows], Trace())
    return scored


def accuracy(answers: Float[Tensor, "*draw prompt 2"]) -> float:
    """Fraction of prompts whose right answer has the larger logit; a tie is wrong."""
    return float((answers[..., 0] > answers[..., 1]).float().mean())
