"""The background of a run: what every node outside a circuit is ablated to, at every row of a batch of pairs (§4, §6).

Means, zeros and draws are the same at all positions of all prompts. Counterfactual values and the means over a task
differ by prompt and position: they follow from the batch, and from how its prompts are laid out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.ablation import Ablation
from pipeline.circuit.ablation_values import AblationValues, Values
from pipeline.circuit.cut_linear import Sources
from pipeline.circuit.interventions import SOURCES
from pipeline.data.pairs import PairBatch, counterparts, parting
from pipeline.model.layout import PackedPrompts
from pipeline.model.record import record
from pipeline.model.transformer import Cuts, Intervene, Transformer
from pipeline.sites import Site, site_key, split_site_key

EVERYWHERE = (Site.ATTN_IN, Site.ATTN_K, Site.ATTN_V)  # sites that the last layer needs at all positions


@dataclass(frozen=True)
class Background:
    """Ablation values: site key → [width], the same everywhere, or [row, width].

    Rows are those of ``prompts``, and its prompts' ends where the last layer needs no more; without them, every
    position of every padded prompt.
    """

    model: Transformer
    values: Values
    prompts: PackedPrompts | None = None
    moved: Int[Tensor, " moved"] | None = None  # rows at which a value may differ from the model's own; None: all
    _outputs: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def varies(self) -> bool:
        """Whether values differ by row."""
        return next(iter(self.values.values())).ndim > 1

    @torch.no_grad()
    def output(self, layer: int, name: str) -> Float[Tensor, "*row out"]:
        """What a linear map gives where all that it reads is ablated; not for the one behind attention."""
        key = f"{layer}.{name}"
        if key not in self._outputs:
            part = self.model.transformer["h"][layer].get_submodule(name)
            self._outputs[key] = part(self.values[site_key(layer, SOURCES[name])])
        return self._outputs[key]

    def sources(self, name: str, n_head: int) -> Sources:
        """The ablation values of what a linear map, ``"0.mlp.c_fc"`` and its like, reads, and what it makes of them."""
        layer, _, matrix = name.partition(".")
        source = SOURCES[matrix]
        ablated_to = self.values[site_key(int(layer), source)]
        if self.varies:
            return Sources(ablated_to, None if source is Site.ATTN_V else self.output(int(layer), matrix))
        key = f"{name} by head"
        if key not in self._outputs:
            weight = self.model.transformer["h"][int(layer)].get_submodule(matrix).weight
            self._outputs[key] = (weight * ablated_to).unflatten(1, (n_head, -1)).sum(-1).T
        return Sources(ablated_to, self._outputs[key])

    def run(self, intervene: Intervene | None = None, cuts: Cuts | None = None) -> dict[str, Any]:
        """Keyword arguments of ``answers_of`` for a run that these changes make, laid out as the values are."""
        if self.prompts is not None:
            return {"intervene": intervene, "cuts": cuts, "prompts": self.prompts}
        if self.varies:  # not marked as position-free: padded prompts are needed
            intervene = partial(intervene or unchanged)
        return {"intervene": intervene, "cuts": cuts}


def unchanged(_: str, x: Tensor) -> Tensor:
    return x


def background(
    model: Transformer, ablated_to: AblationValues, batch: PairBatch, draw: int = 0, *, packed: bool = True
) -> Background:
    """The ablation values of a draw for a run of a batch: where they differ by row, of ``packed`` prompts on a CPU,
    else of padded ones at all positions."""
    values = ablated_to.draws[draw]
    if not ablated_to.kind.varies:
        return Background(model, values)
    prompts = None
    if packed and model.device.type == "cpu":
        prompts = PackedPrompts.of(batch.tokens, batch.last, apart=parting(batch).repeat_interleave(2))
    rows = {False: Rows.of(batch, prompts), True: Rows.of_ends(batch)}
    if ablated_to.kind is Ablation.TASK_MEAN:
        return Background(model, at_places(model, batch, values, rows, prompts), prompts)
    moved = rows[False].position >= parting(batch)[rows[False].prompt // 2]
    return Background(model, counterfactual(model, batch, values, rows, prompts), prompts, moved.nonzero().flatten())


@dataclass(frozen=True)
class Rows:
    """Which prompt and position each row of a layout is of, and which row it is aligned with in the pair's other
    prompt (−1: none)."""

    prompt: Int[Tensor, " row"]
    position: Int[Tensor, " row"]
    counterpart: Int[Tensor, " row"]

    @classmethod
    def of(cls, batch: PairBatch, prompts: PackedPrompts | None) -> Rows:
        """All rows of packed prompts, or of padded ones."""
        shape = batch.tokens.shape
        row = torch.arange(batch.tokens.numel(), device=batch.tokens.device).view(shape)
        prompt, position = row.flatten() // shape[1], row.flatten() % shape[1]
        if prompts is not None:
            row, (prompt, position) = prompts.index, prompts.places
        aligned = counterparts(batch)[prompt, position]
        there = row[prompt ^ 1, aligned.clamp(min=0)]
        return cls(prompt, position, torch.where(aligned < 0, -1, there))

    @classmethod
    def of_ends(cls, batch: PairBatch) -> Rows:
        """Of every prompt the position that decides; it is aligned with the other's."""
        prompt = torch.arange(len(batch.tokens), device=batch.tokens.device)
        return cls(prompt, batch.last, prompt ^ 1)


def ends_only(key: str, model: Transformer, prompts: PackedPrompts | None) -> bool:
    """Whether a site holds one row a prompt."""
    layer, site = split_site_key(key)
    return prompts is not None and layer == model.config.n_layer - 1 and site not in EVERYWHERE


def counterfactual(
    model: Transformer, batch: PairBatch, means: Values, rows: Mapping[bool, Rows], prompts: PackedPrompts | None
) -> dict[str, Float[Tensor, "_row _width"]]:
    """Every node's value in the unpruned model on the pair's other prompt, at the position that is aligned with the
    row's; its mean where there is none."""
    with torch.no_grad():
        recorded = record(model, batch.tokens if prompts is None else prompts)[1]
    values = {}
    for key, found in recorded.items():
        there = rows[ends_only(key, model, prompts)].counterpart
        values[key] = found.flatten(0, 1)[there.clamp(min=0)]
        values[key][there < 0] = means[key].to(values[key].dtype)
    return values


def at_places(
    model: Transformer, batch: PairBatch, table: Values, rows: Mapping[bool, Rows], prompts: PackedPrompts | None
) -> dict[str, Float[Tensor, "_row _width"]]:
    """Every node's mean over the task at the row's place (``task_means``)."""
    place = {which: places(batch, some.prompt, some.position) for which, some in rows.items()}
    found = {}
    for key, values in table.items():
        at = place[ends_only(key, model, prompts)]
        found[key] = values[torch.where(at < len(values), at, 0)]
    return found


def places(batch: PairBatch, prompt: Int[Tensor, " n"], position: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Numbers of aligned positions: odd ones count from the start, 1, 3, 5 …, up to where the pair's prompts part; even
    ones from the answer backwards, 2, 4, 6 …"""
    before = position < parting(batch)[prompt // 2]
    back = (batch.last[prompt] - position).clamp(min=0)
    return torch.where(before, 2 * position + 1, 2 * back + 2)


@torch.no_grad()
def task_means(model: Transformer, batch: PairBatch, means: Values) -> AblationValues:
    """Every node's mean over a task's prompts at each aligned position: site key → [place, width].

    Place 0, and those that no prompt has, hold the mean over the pretraining distribution.
    """
    inside = torch.arange(batch.tokens.shape[1], device=batch.tokens.device) <= batch.last[:, None]
    prompt, position = inside.nonzero().T
    place = places(batch, prompt, position)
    count = torch.bincount(place, minlength=int(place.max()) + 1)[:, None]
    table = {}
    for key, values in record(model, batch.tokens)[1].items():
        total = values.new_zeros(len(count), values.shape[2]).index_add_(0, place, values[prompt, position])
        table[key] = torch.where(count > 0, total / count.clamp(min=1), means[key].to(total.dtype))
    return AblationValues(Ablation.TASK_MEAN, (table,))
