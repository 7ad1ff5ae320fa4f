"""The effect of single nodes on the whole model."""

from __future__ import annotations

import torch

from pipeline.circuit import Circuit
from pipeline.circuit.node_masks import NodeMasks
from pipeline.data.pairs import PairBatch, answer_logits
from pipeline.model.scoring import mean_loss
from pipeline.model.transformer import Transformer
from pipeline.sites import split_node_name

AT_ONCE = 8  # nodes ablated in one forward pass, each in a copy of the prompts of its own


@torch.no_grad()
def ablated_losses(model: Transformer, circuit: Circuit, batch: PairBatch) -> dict[str, float]:
    """Node → task loss in nats of the whole model with this one node ablated, as the circuit's complement is.

    Uncalibrated: calibration is the circuit's. Mean over draws where there are several.
    """
    batch, names = batch.to(model.device), circuit.node_names
    draws = [NodeMasks(model, ablated_to) for ablated_to in circuit.ablation_values.to(model.device).draws]
    found: dict[str, float] = {}
    for some in (names[i : i + AT_ONCE] for i in range(0, len(names), AT_ONCE)):
        masks = {key: torch.ones(len(some), n, device=model.device) for key, n in model.widths().items()}
        for copy, name in enumerate(some):
            key, index = split_node_name(name)
            masks[key][copy, index] = 0
        runs = [model(batch.tokens, at=batch.last, copies=len(some), **masking(masks)) for masking in draws]
        for copy, name in enumerate(some):
            of_copy = [answer_logits(logits.chunk(len(some))[copy], batch) for logits in runs]
            found[name] = sum(mean_loss(answers.cpu()) for answers in of_copy) / len(draws)
    return found
