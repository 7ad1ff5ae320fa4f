"""The circuit with a part of its complement alive: random nodes or edges, or those that hurt most (§6).

m = g + (1 − g)·u for each node, or each edge, where g is 1 in the circuit: what is outside has u of its own value and
1 − u of what it is held at. Random: u is uniform. Adversarial: one u for all pairs, found by projected gradient ascent
on train pairs and scored on test pairs. Nodes outside are held at the circuit's values, edges carry them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import Values
from pipeline.circuit.cut_linear import sparse_cuts
from pipeline.circuit.interventions import SOURCES, edge_cuts, mask_nodes
from pipeline.circuit.random_circuits import edge_pools, random_edges, random_nodes
from pipeline.data.pairs import PairBatch, prompt_losses
from pipeline.model.scoring import answers_of, calibrated
from pipeline.model.transformer import Cut
from pipeline.sites import site_key
from pipeline.validate.circuit_under_test import Answers, CircuitUnderTest

STEP = 0.25  # of the adversary, in how alive a part is
RIVALS = 2  # random sets, as large as the circuit, that the same adversary attacks
Masks = Mapping[str, Tensor]


@dataclass(frozen=True)
class Parts:
    """Nodes or edges of a claim's model: which are the circuit's, and how to run it with each part so alive."""

    tested: CircuitUnderTest
    kept: Callable[[Circuit], Masks]  # 1 for a circuit's parts
    run: Callable[[CircuitUnderTest, Masks, PairBatch, Values], Tensor]
    random: Callable[[torch.Generator], Circuit]  # as many parts of each kind


def nodes_of(tested: CircuitUnderTest) -> Parts:
    def kept(circuit: Circuit) -> Masks:
        return {key: mask.to(tested.model.device) for key, mask in circuit.node_masks().items()}

    return Parts(tested, kept, run_nodes, lambda generator: random_nodes(tested.circuit, generator))


def edges_of(tested: CircuitUnderTest) -> Parts:
    def kept(circuit: Circuit) -> Masks:
        cuts = edge_cuts(tested.model, circuit.edges, tested.ablator.ablated_to.first, keep=True)
        return {key: cut.keep for key, cut in cuts.items()}

    pools = edge_pools(tested.model)
    return Parts(tested, kept, run_edges, lambda generator: random_edges(tested.circuit, pools, generator))


def run_nodes(tested: CircuitUnderTest, alive: Masks, batch: PairBatch, ablated_to: Values) -> Tensor:
    """Answer logits [prompt, 2] with every node at m·x + (1 − m)·held."""
    return answers_of(tested.model, batch, intervene=mask_nodes(alive, ablated_to))


def run_edges(tested: CircuitUnderTest, alive: Masks, batch: PairBatch, ablated_to: Values) -> Tensor:
    """The same with every edge carrying m·x + (1 − m)·held of its source; nodes are live."""
    cuts = {key: Cut(mask, ablated_to[source_of(key)]) for key, mask in alive.items()}
    return answers_of(tested.model, batch, cuts=sparse_cuts(tested.model, cuts))


def source_of(key: str) -> str:
    """The site that a matrix reads."""
    layer, _, name = key.partition(".")
    return site_key(int(layer), SOURCES[name])


def subsets(tested: CircuitUnderTest) -> dict[str, tuple[list[Answers], dict[str, Any]]]:
    """Name → answers to ``tested.few``, one a draw, and what else is known of them.

    ``random_subset`` and ``random_edges``: one u a node or edge and draw, over ``draws``. ``adversarial_subset`` and
    ``adversarial_edges``: the worst of all steps; ``random``: losses in nats of RIVALS random sets of as many parts
    kept, each attacked by an adversary of its own.
    """
    found: dict[str, tuple[list[Answers], dict[str, Any]]] = {}
    for name, parts in {"subset": nodes_of(tested), "edges": edges_of(tested)}.items():
        generator = tested.generator(f"random {name}")
        found[f"random_{name}"] = random_subset(parts, generator), {}
        generalisation = [attacked_loss(parts, parts.random(generator)) for _ in range(RIVALS)]
        more = {"low": min(generalisation), "high": max(generalisation), "losses": generalisation}
        found[f"adversarial_{name}"] = [attacked(parts, tested.circuit)], {"random": more}
    return found


@torch.no_grad()
def random_subset(parts: Parts, generator: torch.Generator) -> list[Answers]:
    """Answers over draws of u; draws of held values take turns."""
    tested, kept, answers = parts.tested, parts.kept(parts.tested.circuit), []
    ablated_to = tested.ablator.ablated_to.draws
    for draw in range(tested.config.draws):
        uniform = {key: torch.rand(g.shape, generator=generator).to(g.device) for key, g in kept.items()}
        alive = {key: g + (1 - g) * uniform[key] for key, g in kept.items()}
        answers.append(parts.run(tested, alive, tested.few, ablated_to[draw % len(ablated_to)]).cpu())
    return answers


def attacked_loss(parts: Parts, circuit: Circuit) -> float:
    """Loss in nats, with the claim's calibration, of another circuit attacked."""
    return float(parts.tested.losses(attacked(parts, circuit)).mean())


def attacked(parts: Parts, circuit: Circuit) -> Answers:
    """Answers to the few test pairs with parts outside as alive as hurt most on the few train pairs.

    Projected gradient ascent on the loss with the claim's calibration, from held (0), by steps of the gradient's sign;
    the step with the worst train loss counts. Held values: the first draw.
    """
    tested, kept = parts.tested, parts.kept(circuit)
    train, ablated_to = tested.first("train"), tested.ablator.ablated_to.first
    alive = {key: torch.zeros_like(g) for key, g in kept.items()}
    worst, chosen = -float("inf"), alive
    for _ in range(tested.config.adversary_steps + 1):
        loss, slopes = ascent(parts, kept, alive, train)
        if loss > worst:
            worst, chosen = loss, alive
        alive = {key: (u + STEP * slopes[key].sign()).clamp(0, 1) for key, u in alive.items()}
    with torch.no_grad():
        return parts.run(
            tested, {key: g + (1 - g) * chosen[key] for key, g in kept.items()}, tested.few, ablated_to
        ).cpu()


def ascent(parts: Parts, kept: Masks, alive: Masks, batch: PairBatch) -> tuple[float, Masks]:
    """Loss in nats with parts outside as alive as given, and its slope in that, 0 in the circuit."""
    tested = parts.tested
    leaves = {key: u.clone().requires_grad_(True) for key, u in alive.items()}
    masks = {key: kept[key] + (1 - kept[key]) * leaf for key, leaf in leaves.items()}
    answers = parts.run(tested, masks, batch, tested.ablator.ablated_to.first)
    loss = prompt_losses(calibrated(answers, tested.circuit.calibration)).mean()
    slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found: dict[str, Float[Tensor, ...]] = {}
    for (key, leaf), slope in zip(leaves.items(), slopes, strict=True):
        found[key] = torch.zeros_like(leaf) if slope is None else slope * (1 - kept[key])
    return float(loss.detach()), found
