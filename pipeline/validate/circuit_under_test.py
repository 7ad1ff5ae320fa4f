"""What every test of a circuit needs, and how the tests write down what they found."""

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
from pipeline.circuit.random_circuits import edge_pools
from pipeline.config import ValidateConfig
from pipeline.data.pairs import PairBatch, of_pairs, prompt_losses
from pipeline.model.scoring import calibrated, score
from pipeline.model.transformer import Transformer
from pipeline.seeds import seed_of
from pipeline.stats import central, resampled_means, rows

Answers = Float[Tensor, "prompt 2"]  # logits of the right and the wrong answer
UNCALIBRATED = (1.0, 0.0)
MARGIN = 0.03  # nats that a circuit's loss on unseen pairs may be above its target
LEAST_GAP = 1e-3  # logits between the model and nothing, under which faithfulness means nothing


@dataclass(frozen=True)
class CircuitUnderTest:
    """That a circuit is what its model does on a task; each test tries to refute it.

    ``batches``: the task's train, validation and test pairs, on the model's device. Everything is measured on the first
    ``pairs`` test pairs; what has to be fitted (a threshold, a control's circuit) is fitted on the others. ``windows``:
    sequences of the pretraining distribution. ``target``: the loss in nats that the circuit was made for.
    """

    model: Transformer
    circuit: Circuit
    batches: Mapping[str, PairBatch]
    windows: Int[Tensor, "window pos"]
    config: ValidateConfig
    seed: int
    target: float

    @cached_property
    def test(self) -> PairBatch:
        """The first ``pairs`` test pairs."""
        return first_of(self.batches["test"], self.config.pairs)

    @cached_property
    def few(self) -> PairBatch:
        """The first test pairs, for tests that run the whole model again and again."""
        return self.first("test")

    def first(self, split: str) -> PairBatch:
        """The first ``few_pairs`` pairs of a split."""
        return first_of(self.batches[split], self.config.few_pairs)

    @cached_property
    def samples(self) -> dict[str, Float[Tensor, "draw width"]]:
        """Site key → values of all nodes at random places of the windows, the same places at every site."""
        return node_samples(self.model, [self.windows], len(self.windows), seed_of(self.seed, "validate", "samples"))

    @cached_property
    def ablator(self) -> Ablator:
        """Runs circuits with what is outside held as this circuit's is."""
        return Ablator(self.model, self.circuit.ablation_values)

    def model_answers(self, batch: PairBatch) -> Answers:
        """The unpruned model's."""
        return score(self.model, batch).cpu()

    @cached_property
    def of_model(self) -> Answers:
        """The unpruned model's answers to the test pairs."""
        return self.model_answers(self.test)

    @cached_property
    def model_of_few(self) -> Answers:
        """The unpruned model's answers to the few pairs."""
        return self.model_answers(self.few)

    @cached_property
    def nothing_of_few(self) -> Answers:
        """The answers of ∅ to the few pairs, mean over draws."""
        return self.ablator.answers(self.nothing, Condition.CIRCUIT, self.few).mean(0)

    @cached_property
    def nothing(self) -> Circuit:
        """The circuit without a node: ∅."""
        return Circuit({}, {}, self.circuit.means, self.circuit.order, self.circuit.ablated_to)

    @cached_property
    def other_edges(self) -> dict[str, Int[Tensor, "n 2"]]:
        """Edge key → the model's edges that are not the circuit's."""
        return edge_pools(self.model, excluded=self.circuit)

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers of a test's own: the same whatever other tests are run."""
        return torch.Generator().manual_seed(seed_of(self.seed, "validate", purpose))

    def losses(
        self, answers: Float[Tensor, "*draw prompt 2"], calibration: tuple[float, float] | None = None
    ) -> Float[Tensor, "*draw pair"]:
        """Loss in nats of each pair, with the circuit's calibration or another."""
        return of_pairs(prompt_losses(calibrated(answers.cpu(), calibration or self.circuit.calibration)))

    def estimate(self, values: Float[Tensor, "*draw pair"]) -> dict[str, Any]:
        """``mean``, its 95 % ``interval`` and ``n`` pairs, of one value a pair, or one a draw and pair.

        Percentile bootstrap over pairs, and over draws where there are several: both are samples.
        """
        values = rows(values)
        means = resampled_means(values, self.config.n_bootstrap, self.generator("bootstrap"))
        return {"mean": float(values.mean()), "interval": central(means), "n": values.shape[1]}

    def faithfulness(
        self,
        of_circuit: Float[Tensor, "*draw pair"],
        of_nothing: Float[Tensor, "*draw pair"],
        of_model: Float[Tensor, " pair"],
    ) -> dict[str, Any]:
        """(m(circuit) − m(∅)) / (m(model) − m(∅)) of mean margins, with a bootstrap interval as ``estimate``'s (MIB).

        ``mean`` and ``interval`` are None where the model's margin is nothing's, up to LEAST_GAP.
        """
        above, whole = rows(of_circuit - of_nothing), rows(of_model - of_nothing)
        value = ratio(float(above.mean()), float(whole.mean()))
        found = [
            resampled_means(part, self.config.n_bootstrap, self.generator("faithfulness")) for part in (above, whole)
        ]  # the same resamples of both
        ends = None if value is None else central(found[0] / found[1])
        return {"mean": value, "interval": ends, "n": whole.shape[1]}


def ratio(above: float, whole: float) -> float | None:
    """None where the whole is too small to be divided by."""
    return above / whole if abs(whole) >= LEAST_GAP else None


def first_of(batch: PairBatch, n: int) -> PairBatch:
    """The first pairs of a batch, as many as there are up to ``n``."""
    return batch.take(torch.arange(min(n, batch.n_pairs), device=batch.tokens.device))


def margins(answers: Float[Tensor, "*draw prompt 2"]) -> Float[Tensor, "*draw pair"]:
    """Mean over a pair's prompts of the right answer's logit minus the wrong one's: MIB's m, uncalibrated."""
    return of_pairs(answers[..., 0] - answers[..., 1])
