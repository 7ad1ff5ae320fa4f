"""The model with only some nodes and edges live: the definition that the compact executor has to equal (§5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit.interventions import edge_cuts, mask_nodes, node_masks
from pipeline.model.transformer import Transformer, refuse_compiled


class Masked:
    """``masked(tokens)``: logits of a model with only ``nodes`` and ``edges`` live.

    Other nodes have their ablation values, and other edges carry their source's. Raises CompiledModelError.
    """

    def __init__(
        self,
        model: Transformer,
        nodes: Mapping[str, Int[Tensor, " _n"]],
        edges: Mapping[str, Int[Tensor, "_n 2"]],
        ablated_to: Mapping[str, Float[Tensor, " _width"]],
    ) -> None:
        refuse_compiled(model)
        self.model = model
        ablated_to = {key: value.to(model.device) for key, value in ablated_to.items()}
        self.intervene = mask_nodes(node_masks(nodes, ablated_to), ablated_to)
        self.cuts = edge_cuts(model, edges, ablated_to, keep=True)

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "prompt pos"], *, at: Int[Tensor, " prompt"] | None = None) -> Tensor:
        """Logits [prompt, pos, vocab], or [prompt, vocab] at one position of each; as ``Transformer.forward``'s."""
        logits: Tensor = self.model(tokens, at=at, intervene=self.intervene, cuts=self.cuts)
        return logits
