"""The circuit with a part of its complement alive: random nodes or edges, or those that hurt most (§6).

Each node, or the source of each edge, is at m·x + (1 − m)·x_ablated, with m = g + (1 − g)·u and g = 1 in the circuit: u
is how alive the rest is. Random: u is uniform. Adversarial: one u for all pairs, found by projected gradient ascent on
train pairs and scored on test pairs. Values are ablated to the circuit's; to means, where those are another prompt's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import Values
from pipeline.circuit.cut_linear import sparse_cuts
from pipeline.circuit.interventions import SOURCES, edge_cuts, mask_nodes
from pipeline.data.pairs import PairBatch, prompt_losses
from pipeline.model.scoring import answers_of, calibrated
from pipeline.model.transformer import Cut
from pipeline.sites import site_key
from pipeline.validate.circuit_under_test import CircuitUnderTest, PromptAnswers

STEP = 0.25  # of the adversary, in u
N_ATTACKED = 2  # random sets, as large as the circuit, that the same adversary attacks
UnitMasks = Mapping[str, Tensor]  # site key → [width], or matrix → [target, source]; 1 = alive


@dataclass(frozen=True)
class Units:
    """All nodes, or all edges, of a model: runs it with each as alive as a mask says."""

    tested: CircuitUnderTest
    of_edges: bool

    def kept(self, circuit: Circuit) -> UnitMasks:
        """1 for the circuit's units, 0 for all others."""
        if self.of_edges:
            cuts = edge_cuts(self.tested.model, circuit.edges, self.tested.ablator.ablated_to.first, keep=True)
            return {key: cut.keep for key, cut in cuts.items()}
        return {key: mask.to(self.tested.model.device) for key, mask in circuit.node_masks().items()}

    def run(self, alive: UnitMasks, batch: PairBatch, ablated_to: Values) -> PromptAnswers:
        """Answers with every node at m·x + (1 − m)·x_ablated; or every edge's source, where nodes are live."""
        model = self.tested.model
        if self.of_edges:
            cuts = {key: Cut(mask, ablated_to[source_of(key)]) for key, mask in alive.items()}
            return answers_of(model, batch, cuts=sparse_cuts(model, cuts))
        return answers_of(model, batch, intervene=mask_nodes(alive, ablated_to))


def source_of(key: str) -> str:
    """The site that a matrix reads."""
    layer, _, name = key.partition(".")
    return site_key(int(layer), SOURCES[name])


def subsets(tested: CircuitUnderTest) -> dict[str, tuple[list[PromptAnswers], dict[str, Any]]]:
    """Name → answers to ``tested.few``, one tensor a draw, and what else is known of them.

    ``random_subset`` and ``random_edges``: another u for each node or edge and draw, over ``draws``.
    ``adversarial_subset`` and ``adversarial_edges``: the worst of all steps; ``random``: losses in nats of N_ATTACKED
    random sets of as many nodes or edges kept, each attacked by an adversary of its own.
    """
    found: dict[str, tuple[list[PromptAnswers], dict[str, Any]]] = {}
    for name, units in {"subset": Units(tested, of_edges=False), "edges": Units(tested, of_edges=True)}.items():
        generator = tested.generator(f"random {name}")
        found[f"random_{name}"] = random_subset(units, generator), {}
        random = [
            tested.complement.random_set(tested.circuit, generator, of_edges=units.of_edges) for _ in range(N_ATTACKED)
        ]
        losses = [attacked_loss(units, circuit) for circuit in random]
        known = {"low": min(losses), "high": max(losses), "losses": losses}
        found[f"adversarial_{name}"] = [attacked(units, tested.circuit)], {"random": known}
    return found


@torch.no_grad()
def random_subset(units: Units, generator: torch.Generator) -> list[PromptAnswers]:
    """Answers over draws of u; draws of ablation values take turns."""
    tested, kept, answers = units.tested, units.kept(units.tested.circuit), []
    ablated_to = tested.ablator.ablated_to.draws
    for draw in range(tested.config.draws):
        uniform = {key: torch.rand(g.shape, generator=generator).to(g.device) for key, g in kept.items()}
        answers.append(units.run(mixed(kept, uniform), tested.few, ablated_to[draw % len(ablated_to)]).cpu())
    return answers


def mixed(kept: UnitMasks, u: UnitMasks) -> UnitMasks:
    """g + (1 − g)·u."""
    return {key: g + (1 - g) * u[key] for key, g in kept.items()}


def attacked_loss(units: Units, circuit: Circuit) -> float:
    """Loss in nats, with the calibration of the circuit under test, of another circuit attacked."""
    return float(units.tested.losses(attacked(units, circuit)).mean())


def attacked(units: Units, circuit: Circuit) -> PromptAnswers:
    """Answers to the few test pairs with the circuit's complement as alive as hurts most on the few train pairs.

    Projected gradient ascent on the loss, with the calibration of the circuit under test, from u = 0, by steps of the
    gradient's sign; the step with the worst train loss counts. Ablation values: the first draw.
    """
    tested, kept = units.tested, units.kept(circuit)
    train = tested.first("train")
    u = {key: torch.zeros_like(g) for key, g in kept.items()}
    worst, chosen = -float("inf"), u
    for _ in range(tested.config.adversary_steps + 1):
        loss, slopes = ascent(units, kept, u, train)
        if loss > worst:
            worst, chosen = loss, u
        u = {key: (value + STEP * slopes[key].sign()).clamp(0, 1) for key, value in u.items()}
    with torch.no_grad():
        return units.run(mixed(kept, chosen), tested.few, tested.ablator.ablated_to.first).cpu()


def ascent(units: Units, kept: UnitMasks, u: UnitMasks, batch: PairBatch) -> tuple[float, UnitMasks]:
    """Loss in nats with the complement as alive as u says, and its slope in u, 0 in the circuit."""
    tested = units.tested
    leaves = {key: value.clone().requires_grad_(True) for key, value in u.items()}
    answers = units.run(mixed(kept, leaves), batch, tested.ablator.ablated_to.first)
    loss = prompt_losses(calibrated(answers, tested.circuit.calibration)).mean()
    slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return float(loss.detach()), {key: slope * (1 - kept[key]) for key, slope in zip(leaves, slopes, strict=True)}
