"""What single nodes are worth: to the circuit (its certificate), and to the whole model."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.node_masks import NodeMasks
from pipeline.data.pairs import PairBatch, answer_logits
from pipeline.explain.prompts import shown
from pipeline.model.scoring import mean_loss
from pipeline.model.transformer import Transformer

AT_ONCE = 8  # nodes held in one forward pass, each in a copy of the prompts of its own

Node = tuple[str, int]


def removed_losses(circuit: Circuit) -> dict[Node, float]:
    """Node → loss of the circuit without it, in nats on the pairs of the certificate; empty where it has none."""
    found = circuit.certificate["nodes"] if circuit.certificate else {}
    return {
        (key, index): float(loss)
        for key, indices in circuit.nodes.items()
        if key in found
        for index, loss in zip(indices.tolist(), found[key], strict=True)
    }


@torch.no_grad()
def ablated_losses(model: Transformer, circuit: Circuit, batch: PairBatch) -> dict[Node, float]:
    """Node → task loss in nats of the whole model with this one node held where the circuit holds what is outside.

    Uncalibrated: calibration is the circuit's. Mean over draws where there are several.
    """
    batch, nodes = batch.to(model.device), shown(circuit.nodes)
    draws = [NodeMasks(model, ablated_to) for ablated_to in circuit.ablation_values.to(model.device).draws]
    found: dict[Node, float] = {}
    for some in (nodes[i : i + AT_ONCE] for i in range(0, len(nodes), AT_ONCE)):
        masks = {key: torch.ones(len(some), n, device=model.device) for key, n in model.widths().items()}
        for copy, (key, index) in enumerate(some):
            masks[key][copy, index] = 0
        answers = [without(model, batch, masking, masks, len(some)) for masking in draws]
        for copy, node in enumerate(some):
            found[node] = sum(mean_loss(drawn[copy]) for drawn in answers) / len(answers)
    return found


def without(model: Transformer, batch: PairBatch, masking: NodeMasks, masks: dict[str, Tensor], copies: int) -> Tensor:
    """Answer logits [copy, prompt, 2] with what each copy's mask leaves out held."""
    logits = model(batch.tokens, at=batch.last, copies=copies, **masking(masks))
    return torch.stack([answer_logits(part, batch) for part in logits.chunk(copies)]).cpu()


def by_effect(circuit: Circuit, removed: dict[Node, float], ablated: dict[Node, float]) -> list[Node]:
    """The circuit's nodes, those first whose removal costs the circuit most; without a certificate, the model most."""
    worth = removed or ablated
    return sorted(shown(circuit.nodes), key=lambda node: -worth.get(node, 0.0))
