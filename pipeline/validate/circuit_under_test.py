"""The circuit under test: its model, pairs and values, and the estimates that all tests share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import node_samples
from pipeline.circuit.conditions import Ablator, Condition
from pipeline.circuit.random_circuits import Complement
from pipeline.config import ValidateConfig
from pipeline.data.pairs import PairBatch, of_pairs, prompt_losses
from pipeline.model.scoring import calibrated, score
from pipeline.model.transformer import Transformer
from pipeline.seeds import seed_of
from pipeline.stats import central, resampled_means, rows
from pipeline.validate.limits import MIN_GAP

PromptAnswers = Float[Tensor, "prompt 2"]  # logits of the right and the wrong answer
PairsBySplit = Mapping[str, PairBatch]  # train, validation, test
UNCALIBRATED = (1.0, 0.0)


@dataclass(frozen=True)
class CircuitUnderTest:
    """A circuit that is said to be what its model does on a task; each test tries to refute that.

    ``batches``: the task's pairs by split, on the model's device. Everything is measured on the first ``pairs`` test
    pairs; a threshold or a control's circuit is fitted on the other splits. ``windows``: sequences of the pretraining
    distribution. ``target``: the loss in nats at which the task counts as done. The circuit may have been made for less
    (``made_for``), so that it does the task on other pairs too.
    """

    model: Transformer
    circuit: Circuit
    batches: PairsBySplit
    windows: Int[Tensor, "window pos"]
    config: ValidateConfig
    seed: int
    target: float

    @property
    def made_for(self) -> float:
        """The loss in nats that the circuit was made for."""
        return float(self.circuit.about.get("target_loss", self.target))

    @cached_property
    def test(self) -> PairBatch:
        """The first ``pairs`` test pairs."""
        return self.batches["test"].first(self.config.pairs)

    @cached_property
    def few(self) -> PairBatch:
        """The first test pairs, for tests that run the whole model again and again."""
        return self.first("test")

    def first(self, split: str) -> PairBatch:
        """The first ``few_pairs`` pairs of a split."""
        return self.batches[split].first(self.config.few_pairs)

    @cached_property
    def samples(self) -> dict[str, Float[Tensor, "draw _width"]]:
        """Site key → values of all nodes at random places of the windows, the same places at every site."""
        return node_samples(self.model, [self.windows], len(self.windows), seed_of(self.seed, "validate", "samples"))

    @cached_property
    def ablator(self) -> Ablator:
        """Runs circuits with their complements ablated to this circuit's ablation values."""
        return Ablator(self.model, self.circuit.ablation_values)

    def model_answers(self, batch: PairBatch) -> PromptAnswers:
        """The answers of the unpruned model."""
        return score(self.model, batch).cpu()

    @cached_property
    def of_model(self) -> PromptAnswers:
        """The unpruned model's answers to the test pairs."""
        return self.model_answers(self.test)

    @cached_property
    def model_of_few(self) -> PromptAnswers:
        """The unpruned model's answers to the few pairs."""
        return self.model_answers(self.few)

    @cached_property
    def nothing(self) -> Circuit:
        """The circuit without a node: ∅."""
        return Circuit({}, {}, self.circuit.means, self.circuit.scores, self.circuit.ablations)

    @cached_property
    def nothing_of_few(self) -> PromptAnswers:
        """The answers of ∅ to the few pairs, mean over draws."""
        return self.ablator.answers(self.nothing, Condition.CIRCUIT, self.few).mean(0)

    @cached_property
    def complement(self) -> Complement:
        """All that is not the circuit's, from which random sets are drawn."""
        return Complement(self.model, self.circuit)

    def generator(self, purpose: str) -> torch.Generator:
        """The random numbers of one test, which do not depend on the other tests."""
        return torch.Generator().manual_seed(seed_of(self.seed, "validate", purpose))

    def losses(
        self, answers: Float[Tensor, "*draw prompt 2"], calibration: tuple[float, float] | None = None
    ) -> Float[Tensor, "*draw pair"]:
        """Loss in nats of each pair, with the circuit's calibration or another."""
        return of_pairs(prompt_losses(calibrated(answers.cpu(), calibration or self.circuit.calibration)))

    def estimate(self, values: Float[Tensor, "*draw pair"]) -> dict[str, Any]:
        """``mean``, its 95 % ``interval`` and ``n`` pairs, of one value a pair, or one a draw and pair.

        Percentile bootstrap over pairs, and over draws where there are several, since both are samples.
        """
        interval = central(self.resampled(values, "bootstrap"))
        return {"mean": float(rows(values).mean()), "interval": interval, "n": values.shape[-1]}

    def faithfulness(
        self,
        of_circuit: Float[Tensor, "*draw pair"],
        of_nothing: Float[Tensor, "*draw pair"],
        of_model: Float[Tensor, " pair"],
    ) -> dict[str, Any]:
        """(m(circuit) − m(∅)) / (m(model) − m(∅)) of mean margins, with a bootstrap interval as ``estimate``'s (MIB).

        ``mean`` and ``interval`` are None where the model's margin is ∅'s, up to MIN_GAP.
        """
        above, whole = rows(of_circuit - of_nothing), rows(of_model - of_nothing)
        value = ratio(float(above.mean()), float(whole.mean()))
        found, of_whole = (self.resampled(part, "faithfulness") for part in (above, whole))  # the same resamples
        ends = None if value is None else central(found / of_whole)
        return {"mean": value, "interval": ends, "n": whole.shape[1]}

    def resampled(self, values: Float[Tensor, "*draw pair"], purpose: str) -> Float[Tensor, " resample"]:
        """Bootstrapped means over draws and pairs; values of equal shape are resampled alike for the same purpose."""
        return resampled_means(rows(values), self.config.n_bootstrap, self.generator(purpose))


def ratio(above: float, whole: float) -> float | None:
    """None where the whole is too small to be divided by."""
    return above / whole if abs(whole) >= MIN_GAP else None


def margins(answers: Float[Tensor, "*draw prompt 2"]) -> Float[Tensor, "*draw pair"]:
    """Mean over a pair's prompts of the right answer's logit minus the wrong one's, uncalibrated (MIB's m)."""
    return of_pairs(answers[..., 0] - answers[..., 1])
