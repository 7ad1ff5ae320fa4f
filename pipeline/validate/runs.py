"""A model's run and its circuit's on the same prompts: the value at every site, and where a value can matter.

A circuit whose outside is held at several draws (random places) has one run here, at the first draw: values and
patterns are those of one run, and a mean over draws would be those of none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.cut_linear import sparse_cuts
from pipeline.circuit.masked import Masked
from pipeline.data.pairs import PairBatch, answer_logits
from pipeline.model.layout import pick
from pipeline.model.record import record
from pipeline.model.transformer import Cuts, Intervene, Transformer
from pipeline.sites import Site, split_site_key
from pipeline.validate.circuit_under_test import Answers, CircuitUnderTest

Values = Mapping[str, Float[Tensor, "prompt pos width"]]


@torch.no_grad()
def recorded(
    model: Transformer, batch: PairBatch, intervene: Intervene | None = None, cuts: Cuts | None = None
) -> tuple[Answers, Values]:
    """Answer logits, and the value at every site as the rest of the model saw it, at all positions. Raises
    CompiledModelError."""
    logits, values = record(model, batch.tokens, intervene, cuts)
    return answer_logits(pick(logits, batch.last)[:, 0], batch).cpu(), values


@torch.no_grad()
def padded_answers(model: Transformer, batch: PairBatch, intervene: Intervene, cuts: Cuts | None = None) -> Answers:
    """Answer logits of one pass over all prompts at once, for interventions that know one prompt from another."""
    return answer_logits(model(batch.tokens, at=batch.last, intervene=intervene, cuts=cuts), batch).cpu()


def real(batch: PairBatch) -> Bool[Tensor, "prompt pos"]:
    """The positions that hold a prompt's tokens."""
    return torch.arange(batch.tokens.shape[1], device=batch.last.device) <= batch.last[:, None]


def carrier(circuit: Circuit) -> int:
    """The last layer with a kept key or value channel: after it, nothing moves between positions. −1: none."""
    sites = map(split_site_key, circuit.nodes)
    return max((layer for layer, site in sites if site in (Site.ATTN_K, Site.ATTN_V)), default=-1)


def reaches(circuit: Circuit, key: str) -> bool:
    """Whether a site's values before the last position can reach the answer through the circuit.

    They do through a key or a value of a kept head. Where they do not, only the value at the last position matters: so
    at all sites of later layers, and in that layer for queries and all that comes after attention.
    """
    (layer, site), last = split_site_key(key), carrier(circuit)
    return layer < last or (layer == last and site in (Site.ATTN_IN, Site.ATTN_K, Site.ATTN_V))


@dataclass(frozen=True)
class Runs:
    """The model's run and the circuit's on a batch; what is outside is held at the circuit's first draw."""

    tested: CircuitUnderTest
    batch: PairBatch

    @cached_property
    def masked(self) -> Masked:
        return self.tested.circuit(self.tested.model)

    @cached_property
    def cuts(self) -> Cuts:
        return sparse_cuts(self.tested.model, self.masked.cuts)

    @cached_property
    def model(self) -> tuple[Answers, Values]:
        return recorded(self.tested.model, self.batch)

    @cached_property
    def circuit(self) -> tuple[Answers, Values]:
        return recorded(self.tested.model, self.batch, self.masked.intervene, self.cuts)

    def matters(self, key: str) -> Bool[Tensor, "prompt pos"]:
        """The positions at which a site's values can reach the answer through the circuit."""
        if reaches(self.tested.circuit, key):
            return real(self.batch)
        return torch.arange(self.batch.tokens.shape[1], device=self.batch.last.device) == self.batch.last[:, None]
