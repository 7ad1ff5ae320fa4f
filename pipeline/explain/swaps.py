"""What becomes of the answer where some nodes of a circuit have their values on the pair's other prompt.

The circuit runs alone; a swapped node has, at every position, the value of the circuit's own run at the position of
the other prompt that counterfactual ablation aligns it with (its mean where there is none, as there).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.background import Rows, ends_only
from pipeline.circuit.compact import Compact
from pipeline.circuit.cut_linear import sparse_cuts
from pipeline.data.pairs import PairBatch, counterparts, parting
from pipeline.explain.swapped_circuit import swapped_answers
from pipeline.explain.task_values import NodeNumbers, TaskValues
from pipeline.model.layout import PackedPrompts
from pipeline.model.scoring import calibrated
from pipeline.model.transformer import Transformer
from pipeline.sites import split_node_name

# Of the distance between a pair's two answers, in logits: a smaller fall does not count as moved. Of the paths of a
# circuit that are as strong as each other, twenty would each be as weak.
LEAST_MOVE = 0.05


@dataclass(frozen=True)
class Outcome:
    """What swapping did to ``n_prompts`` prompts; the numbers are None where there are none.

    ``moved``: the share of prompts whose right answer's logit less the wrong one's falls by more than ``LEAST_MOVE`` of
    the distance between the pair's two prompts. ``flips``: of the prompts that the circuit answers right, the share
    that it then answers wrong. ``share``: all falls over all distances, the part of the way to the other answer.
    ``moved_whole``: ``moved`` of prompts that are not shorter than their pair's other one, which may have a token there
    is no place for; ``shorter``: the share of those that are.
    """

    moved: float | None
    moved_whole: float | None
    flips: float | None
    share: float | None
    n_prompts: int
    shorter: float = 0.0

    @classmethod
    def of(
        cls, before: Float[Tensor, " prompt"], after: Float[Tensor, " prompt"], last: Int[Tensor, " prompt"]
    ) -> Outcome:
        """From the logits of the right answers less those of the wrong ones, with nothing swapped and with a part."""
        distance = before.view(-1, 2).sum(1).repeat_interleave(2)
        fall, right = before - after, before > 0
        # without a distance there is no other answer to move to
        moved = ((fall > LEAST_MOVE * distance) & (distance > 0)).float()
        longest = last == last.view(-1, 2).amax(1).repeat_interleave(2)
        flips = float((after[right] < 0).float().mean()) if right.any() else None
        whole = float(distance.sum())
        share = float(fall.sum()) / whole if whole > 0 else None
        shorter = 1 - float(longest.float().mean())
        return cls(float(moved.mean()), float(moved[longest].mean()), flips, share, len(before), shorter)


@dataclass(frozen=True)
class Swaps:
    """Runs of a circuit alone on pairs, with some nodes swapped. ``values``: of the circuit's nodes on these pairs."""

    model: Transformer
    circuit: Circuit
    values: TaskValues

    @property
    def batch(self) -> PairBatch:
        return self.values.batch

    def __call__(self, names: Collection[str]) -> Outcome:
        """The outcome of swapping the nodes of these names, all at once."""
        return Outcome.of(self.margins, self.swapped(names), self.batch.last)

    @cached_property
    def margins(self) -> Float[Tensor, " prompt"]:
        """The calibrated logit of every right answer less that of the wrong one, with nothing swapped."""
        return self.swapped(())

    def swapped(self, names: Collection[str]) -> Float[Tensor, " prompt"]:
        """The same with some nodes swapped."""
        run = self._by_definition if self.circuit.ablation_values.kind.varies else self._compact
        right, wrong = calibrated(run(names), self.circuit.calibration).unbind(1)
        return right - wrong

    @cached_property
    def aligned(self) -> Int[Tensor, "prompt pos"]:
        """The position of the pair's other prompt that each position is aligned with; −1 where there is none."""
        return counterparts(self.batch)

    @cached_property
    def other(self) -> NodeNumbers:
        """Node → its value at the aligned position of the pair's other prompt."""
        return {name: self._across(name, values) for name, values in self.values.nodes.items()}

    def _across(self, name: str, values: Float[Tensor, "prompt pos"]) -> Float[Tensor, "prompt pos"]:
        key, index = split_node_name(name)
        other = on_other_prompt(values, self.aligned)
        return torch.where(self.aligned < 0, self.circuit.means[key][index].to(other), other)

    @cached_property
    def compact(self) -> Compact:
        return self.circuit.compact(self.model)

    @cached_property
    def prompts(self) -> PackedPrompts:
        """Packed; from where its pair parts on, a prompt has rows of its own: values depend on the other one too."""
        return PackedPrompts.of(self.batch.tokens, self.batch.last, apart=parting(self.batch).repeat_interleave(2))

    def _compact(self, names: Collection[str]) -> Float[Tensor, "prompt 2"]:
        rows = {False: Rows.of(self.batch, self.prompts), True: Rows.of_ends(self.batch)}
        swapped: dict[str, dict[int, Tensor]] = {}
        for name in names:
            key, index = split_node_name(name)
            at = rows[ends_only(key, self.model, self.prompts)]
            swapped.setdefault(key, {})[index] = self.other[name][at.prompt, at.position]
        return swapped_answers(self.compact, self.circuit, self.prompts, self.batch.answers, swapped)

    @torch.no_grad()
    def _by_definition(self, names: Collection[str]) -> Float[Tensor, "prompt 2"]:
        """The same by the model's own forward pass: for ablation values that differ by prompt."""
        batch = self.batch.to(self.model.device)
        masked = self.circuit.on(self.model, batch)
        nodes = [(*split_node_name(name), self.other[name].to(self.model.device)) for name in names]

        def intervene(at: str, x: Tensor) -> Tensor:
            x = masked.intervene(at, x)
            here = [(index, values) for key, index, values in nodes if key == at]
            x = x.clone() if here else x
            for index, values in here:
                x[..., index] = values.to(x.dtype)
            return x

        logits = self.model(batch.tokens, intervene=intervene, cuts=sparse_cuts(self.model, masked.cuts, few=True))
        return logits[torch.arange(len(batch.last)), batch.last].gather(-1, batch.answers).float().cpu()


def on_other_prompt(
    values: Float[Tensor, "prompt pos"], aligned: Int[Tensor, "prompt pos"]
) -> Float[Tensor, "prompt pos"]:
    """Values of the pair's other prompt at aligned positions; where there is none, its first one."""
    return values.unflatten(0, (-1, 2)).flip(1).flatten(0, 1).gather(1, aligned.clamp(min=0))
