"""A circuit's nodes on a few contrast pairs, token by token: in the model as it is, and in the circuit alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch, prompt_losses
from pipeline.explain.rounding import rounded, together
from pipeline.model.record import record
from pipeline.model.scoring import calibrated
from pipeline.model.transformer import Cuts, Intervene, Transformer


@dataclass(frozen=True)
class PromptRun:
    """Answer logits (right, wrong) of prompts, and the value at every site as the rest of the model saw it."""

    answers: Float[Tensor, "prompt 2"]
    values: Mapping[str, Float[Tensor, "prompt pos _width"]]

    @classmethod
    @torch.no_grad()
    def of(
        cls, model: Transformer, batch: PairBatch, intervene: Intervene | None = None, cuts: Cuts | None = None
    ) -> PromptRun:
        """Raises CompiledModelError."""
        logits, values = record(model, batch.tokens.to(model.device), intervene, cuts)
        last = logits.cpu()[torch.arange(len(batch.last)), batch.last]
        return cls(last.gather(-1, batch.answers), {key: value.cpu() for key, value in values.items()})


@dataclass(frozen=True)
class PromptRuns:
    """The model's run and the circuit's, on the same pairs; the complement has its first draw of ablation values."""

    batch: PairBatch
    model: PromptRun
    circuit: PromptRun

    @classmethod
    def of(cls, model: Transformer, circuit: Circuit, batch: PairBatch) -> PromptRuns:
        """Raises WrongModelError, CompiledModelError."""
        masked = circuit.on(model, batch)
        return cls(batch, PromptRun.of(model, batch), PromptRun.of(model, batch, masked.intervene, masked.cuts))

    def length(self, prompt: int) -> int:
        """Tokens of a prompt, without padding."""
        return int(self.batch.last[prompt]) + 1


def prompts(runs: PromptRuns, circuit: Circuit, answer: Mapping[int, str]) -> list[dict[str, Any]]:
    """Each prompt: ``pair``, ``side``, ``tokens`` (ids), both answers, and those of the model and of the circuit.

    ``logit_difference``: right less wrong; the circuit's, and its ``loss`` in nats, are calibrated as its task loss is.
    ``answer``: the text of a token id.
    """
    alone = calibrated(runs.circuit.answers, circuit.calibration)
    losses = prompt_losses(alone).tolist()
    return [
        {
            "pair": row // 2,
            "side": "ab"[row % 2],
            "tokens": runs.batch.tokens[row, : runs.length(row)].tolist(),
            "answer": answer[right],
            "other": answer[wrong],
            "model": {"logit_difference": difference(runs.model.answers[row])},
            "circuit": {"logit_difference": difference(alone[row]), "loss": rounded(losses[row])},
        }
        for row, (right, wrong) in enumerate(runs.batch.answers.tolist())
    ]


def difference(answers: Float[Tensor, 2]) -> float:
    """Right less wrong, in nats."""
    return rounded(float(answers[0] - answers[1]))


def node_runs(runs: PromptRuns, key: str, index: int) -> dict[str, list[list[float]]]:
    """A node's values on each prompt, token by token, in the ``model`` and in the ``circuit`` alone."""
    both = [run.values[key][..., index] for run in (runs.model, runs.circuit)]
    lengths = [runs.length(row) for row in range(len(runs.batch.last))]
    most = max(float(values[row, :n].abs().max()) for values in both for row, n in enumerate(lengths))
    named = zip(("model", "circuit"), both, strict=True)
    return {name: [together(values[row, :n], most) for row, n in enumerate(lengths)] for name, values in named}
