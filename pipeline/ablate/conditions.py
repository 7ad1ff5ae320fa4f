"""The ways in which ablate runs a model, each as the two arguments of the forward pass (METHOD §6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.model.ablation import edge_cuts, hold_at_means
from pipeline.model.held import only, spare
from pipeline.model.scoring import score
from pipeline.model.transformer import Transformer


class Condition(Enum):
    """What is left of the model. Values are the names under which losses are reported.

    For a circuit that has all edges between its nodes, CIRCUIT and EDGES_ONLY differ in one thing: which nodes AbsTopK
    keeps. Nodes outside the circuit compete for a place before they are held at their means, with their live values in
    the first case, and with the constants that cut inputs give them in the second. Without AbsTopK the two are equal.
    """

    CIRCUIT = "circuit"  # only the circuit's nodes; every other node is at its mean
    EDGES_ONLY = "edges_only"  # only the circuit's edges between its nodes; every other edge carries its source's mean
    ABLATED_NODES = "ablated_nodes"  # everything but the circuit's nodes, which are at their means
    ABLATED_EDGES = "ablated_edges"  # everything but the circuit's edges, which carry their source's mean

    @property
    def keeps(self) -> bool:
        """Whether the circuit is what remains (a test of sufficiency), or what is removed (of necessity)."""
        return self in (Condition.CIRCUIT, Condition.EDGES_ONLY)

    @property
    def of_edges(self) -> bool:
        return self in (Condition.EDGES_ONLY, Condition.ABLATED_EDGES)


@dataclass(frozen=True)
class Runner:
    """A frozen model and its node means, ready to be run under any condition."""

    model: Transformer
    means: Mapping[str, Float[Tensor, " width"]]

    def answers(self, circuit: Circuit, condition: Condition, batch: PairBatch) -> Float[Tensor, "prompt 2"]:
        """Logits of the right and the wrong answer with the circuit kept or removed, uncalibrated."""
        return score(self.model, batch, **self._changes(circuit, condition))

    def _changes(self, circuit: Circuit, condition: Condition) -> dict[str, Any]:
        masks = circuit.node_masks()
        if condition is Condition.CIRCUIT:
            return only(self.model, masks, self.means)
        if condition is Condition.ABLATED_NODES:
            return self._holding({key: 1 - mask for key, mask in masks.items()})
        cuts = edge_cuts(self.model, circuit.edges, self.means, keep=condition.keeps)
        return {"cuts": spare(self.model, cuts)} | (self._holding(masks) if condition.keeps else {})

    def _holding(self, masks: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"intervene": hold_at_means(masks, self.means)}


def accuracy(answers: Float[Tensor, "prompt 2"]) -> float:
    """Fraction of prompts whose right answer has the larger logit; a tie is wrong."""
    return float((answers[:, 0] > answers[:, 1]).float().mean())


def pair_losses(losses: Float[Tensor, " prompt"]) -> Float[Tensor, " pair"]:
    """Mean of the two prompts' losses of every pair: the unit of the bootstrap."""
    return torch.stack([losses[0::2], losses[1::2]]).mean(0)
