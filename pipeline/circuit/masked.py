"""The model with only some nodes and edges live: the definition that the compact executor has to equal (§5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.background import background
from pipeline.circuit.interventions import edge_cuts, mask_nodes, masks_in
from pipeline.circuit.parts import check_tokens
from pipeline.data.pairs import PairBatch
from pipeline.model.layout import pick
from pipeline.model.transformer import Transformer, refuse_compiled


class Masked:
    """``masked(tokens)``: logits of a model with only ``nodes`` and ``edges`` live.

    Other nodes have their ablation values, and other edges carry their source's: the same for all tokens, or a value
    for each of the tokens of a padded batch (``Background``). Raises CompiledModelError.
    """

    def __init__(
        self,
        model: Transformer,
        nodes: Mapping[str, Int[Tensor, " _n"]],
        edges: Mapping[str, Int[Tensor, "_n 2"]],
        ablated_to: Mapping[str, Float[Tensor, "*_row _width"]],
    ) -> None:
        refuse_compiled(model)
        self.model = model
        ablated_to = {key: value.to(model.device) for key, value in ablated_to.items()}
        self.intervene = mask_nodes(masks_in(model, nodes), ablated_to)
        self.cuts = edge_cuts(model, edges, ablated_to, keep=True)

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "prompt pos"], *, at: Int[Tensor, " prompt"] | None = None) -> Tensor:
        """Logits [prompt, pos, vocab], or [prompt, vocab] at one position of each; as ``Transformer.forward``'s."""
        check_tokens(tokens, self.model.vocab_size)
        logits: Tensor = self.model(tokens, at=at, intervene=self.intervene, cuts=self.cuts)
        return logits


class MaskedPairs:
    """The same for ablation values that follow from the prompts: rows 2i and 2i + 1 are the two sides of a pair."""

    def __init__(
        self,
        model: Transformer,
        nodes: Mapping[str, Int[Tensor, " _n"]],
        edges: Mapping[str, Int[Tensor, "_n 2"]],
        ablated_to: AblationValues,
    ) -> None:
        refuse_compiled(model)
        self.model, self.nodes, self.edges, self.ablated_to = model, nodes, edges, ablated_to.to(model.device)

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "prompt pos"], *, at: Int[Tensor, " prompt"] | None = None) -> Tensor:
        """Logits [prompt, pos, vocab], or [prompt, vocab] at the last position of each prompt, ``at``; without it,
        prompts end with the last token. Raises ValueError for an odd number of prompts."""
        if len(tokens) % 2:
            kind = self.ablated_to.kind.value
            raise ValueError(f"{len(tokens)} prompts; {kind} ablation needs both sides of each pair")
        last = torch.full((len(tokens),), tokens.shape[1] - 1, device=tokens.device) if at is None else at
        batch = PairBatch(tokens, last, tokens.new_zeros(len(tokens), 2))
        behind = background(self.model, self.ablated_to, batch, packed=False)
        logits = Masked(self.model, self.nodes, self.edges, behind.values)(tokens)
        return logits if at is None else pick(logits, at)[:, 0]
