"""A model's run and its circuit's on the same prompts: the value at every site, and where a value can matter.

A circuit whose complement is ablated to several draws has one run here, at the first draw: values and attention
patterns are those of one run, and a mean over draws would be those of none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.cut_linear import sparse_cuts
from pipeline.circuit.masked import Masked
from pipeline.data.pairs import PairBatch, answer_logits
from pipeline.model.layout import pick
from pipeline.model.record import record
from pipeline.model.transformer import Cuts, Intervene, Transformer
from pipeline.sites import Site, split_site_key
from pipeline.validate.circuit_under_test import CircuitUnderTest, PromptAnswers

Indices = Mapping[str, Int[Tensor, " _n"]]  # site key → nodes
RecordedValues = Mapping[str, Float[Tensor, "prompt pos _width"]]  # by site key


class Recorded(NamedTuple):
    """A run's answer logits, and its values at all sites and positions, as the rest of the model saw them."""

    answers: PromptAnswers
    values: RecordedValues


@torch.no_grad()
def recorded(
    model: Transformer, batch: PairBatch, intervene: Intervene | None = None, cuts: Cuts | None = None
) -> Recorded:
    """One pass over all prompts at once. Raises CompiledModelError."""
    logits, values = record(model, batch.tokens, intervene, cuts)
    return Recorded(answer_logits(pick(logits, batch.last)[:, 0], batch).cpu(), values)


@torch.no_grad()
def padded_answers(
    model: Transformer, batch: PairBatch, intervene: Intervene, cuts: Cuts | None = None
) -> PromptAnswers:
    """Answer logits of one pass over all prompts at once, for interventions that know one prompt from another."""
    return answer_logits(model(batch.tokens, at=batch.last, intervene=intervene, cuts=cuts), batch).cpu()


def at_positions_of(
    x: Float[Tensor, "prompt at width"], values: Float[Tensor, "prompt pos width"], last: Int[Tensor, " prompt"]
) -> Float[Tensor, "prompt at width"]:
    """Recorded values at the positions that a site's value has in a run: all, or in the last layer the last one."""
    return values if values.shape[1] == x.shape[1] else pick(values, last)


def writing(nodes: Indices, written: Callable[[str, Tensor], Tensor], before: Intervene) -> Intervene:
    """An intervention that puts ``written(key, x)``, a value for each of the ``nodes`` of a site, into its value x,
    after another intervention."""

    def intervene(key: str, x: Tensor) -> Tensor:
        x = before(key, x)
        return x.index_copy(-1, nodes[key].to(x.device), written(key, x)) if key in nodes else x

    return intervene


def given(
    nodes: Indices, values: RecordedValues, last: Int[Tensor, " prompt"], before: Intervene = lambda _, x: x
) -> Intervene:
    """An intervention that writes recorded values into some nodes, after another intervention has been made."""
    own = {key: values[key][..., indices.to(last.device)] for key, indices in nodes.items()}
    return writing(nodes, lambda key, x: at_positions_of(x, own[key], last), before)


def real(batch: PairBatch) -> Bool[Tensor, "prompt pos"]:
    """The positions that hold a prompt's tokens."""
    return torch.arange(batch.tokens.shape[1], device=batch.last.device) <= batch.last[:, None]


def reaches(circuit: Circuit, key: str) -> bool:
    """Whether a site's values before the last position can reach the answer through the circuit.

    They do through a key or a value of a kept head. After the ``last`` layer that has one, and in it for queries and
    all that comes after attention, only the value at the last position matters.
    """
    layer, site = split_site_key(key)
    sites = map(split_site_key, circuit.nodes)
    last = max((n for n, kept in sites if kept in (Site.ATTN_K, Site.ATTN_V)), default=-1)
    return layer < last or (layer == last and site in (Site.ATTN_IN, Site.ATTN_K, Site.ATTN_V))


@dataclass(frozen=True)
class PairedRuns:
    """The model's run and the circuit's on a batch, with the complement ablated to the circuit's first draw."""

    tested: CircuitUnderTest
    batch: PairBatch

    @cached_property
    def masked(self) -> Masked:
        return self.tested.circuit.on(self.tested.model, self.batch)

    @cached_property
    def cuts(self) -> Cuts:
        return sparse_cuts(self.tested.model, self.masked.cuts, few=True)

    @cached_property
    def model(self) -> Recorded:
        return recorded(self.tested.model, self.batch)

    @cached_property
    def circuit(self) -> Recorded:
        return recorded(self.tested.model, self.batch, self.masked.intervene, self.cuts)

    def answers(self, intervene: Intervene, cuts: Cuts | None = None) -> PromptAnswers:
        """Answers of one more run of the batch; at all positions, where the complement has a value for each of them."""
        if self.tested.circuit.ablation_values.kind.varies:
            return recorded(self.tested.model, self.batch, intervene, cuts).answers
        return padded_answers(self.tested.model, self.batch, intervene, cuts)

    def matters(self, key: str) -> Bool[Tensor, "prompt pos"]:
        """The positions at which a site's values can reach the answer through the circuit."""
        if reaches(self.tested.circuit, key):
            return real(self.batch)
        return torch.arange(self.batch.tokens.shape[1], device=self.batch.last.device) == self.batch.last[:, None]
