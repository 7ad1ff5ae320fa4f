"""What every test of a circuit needs, and how the tests write down what they found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.ablate.bootstrap import interval
from pipeline.ablate.conditions import Runner, pair_losses
from pipeline.circuit import Circuit
from pipeline.config import ValidateConfig
from pipeline.data.pairs import PairBatch, prompt_losses
from pipeline.model.samples import node_samples
from pipeline.model.scoring import calibrated, score
from pipeline.model.transformer import Transformer
from pipeline.seeds import seed_of

Answers = Float[Tensor, "prompt 2"]  # logits of the right and the wrong answer
UNCALIBRATED = (1.0, 0.0)


@dataclass(frozen=True)
class Claim:
    """That a circuit is what its model does on a task; each test tries to refute it.

    ``batches``: the task's train, validation and test pairs, on the model's device. Everything is measured on test
    pairs; what has to be fitted (a threshold, a control's circuit) is fitted on the others. ``windows``:
    sequences of the pretraining distribution. ``target``: the loss in nats that the circuit was made for.
    """

    model: Transformer
    circuit: Circuit
    batches: Mapping[str, PairBatch]
    windows: Int[Tensor, "window pos"]
    config: ValidateConfig
    seed: int
    target: float

    @property
    def test(self) -> PairBatch:
        return self.batches["test"]

    @cached_property
    def few(self) -> PairBatch:
        """The first test pairs, for tests that run the whole model again and again."""
        return self.first("test")

    def first(self, split: str) -> PairBatch:
        """The first ``few_pairs`` pairs of a split."""
        batch = self.batches[split]
        return batch.take(torch.arange(min(self.config.few_pairs, batch.n_pairs), device=batch.tokens.device))

    @cached_property
    def samples(self) -> dict[str, Float[Tensor, "draw width"]]:
        """Site key → values of all nodes at random places of the windows, the same places at every site."""
        return node_samples(self.model, [self.windows], len(self.windows), seed_of(self.seed, "validate", "samples"))

    @cached_property
    def runner(self) -> Runner:
        """Runs circuits with what is outside held as this circuit's is."""
        return Runner(self.model, self.circuit.outside)

    @cached_property
    def of_model(self) -> Answers:
        """The unpruned model's answers to the test pairs."""
        return score(self.model, self.test).cpu()

    @cached_property
    def nothing(self) -> Circuit:
        """The circuit without a node: ∅."""
        return Circuit({}, {}, self.circuit.means, self.circuit.order, self.circuit.held)

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers of a test's own: the same whatever other tests are run."""
        return torch.Generator().manual_seed(seed_of(self.seed, "validate", purpose))

    def losses(self, answers: Answers, calibration: tuple[float, float] | None = None) -> Float[Tensor, " pair"]:
        """Loss in nats of each pair, with the circuit's calibration or another."""
        return pair_losses(prompt_losses(calibrated(answers.cpu(), calibration or self.circuit.calibration)))

    def estimate(self, values: Float[Tensor, " pair"]) -> dict[str, Any]:
        """``mean``, its 95 % ``interval`` (bootstrap over pairs) and ``n``, of one value a pair."""
        values = values.detach().cpu()
        found = interval(values, self.config.n_bootstrap, self.generator("bootstrap"))
        return {"mean": float(values.mean()), "interval": found, "n": len(values)}

    def faithfulness(
        self, of_circuit: Float[Tensor, " pair"], of_nothing: Float[Tensor, " pair"], of_model: Float[Tensor, " pair"]
    ) -> dict[str, Any]:
        """(m(circuit) − m(∅)) / (m(model) − m(∅)) of mean margins, with a bootstrap interval over pairs (MIB)."""
        above, whole = of_circuit - of_nothing, of_model - of_nothing
        picks = torch.randint(
            len(whole), (self.config.n_bootstrap, len(whole)), generator=self.generator("faithfulness")
        )
        ratios = above.double()[picks].mean(1) / whole.double()[picks].mean(1)
        ends = ratios.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        return {"mean": float(above.mean() / whole.mean()), "interval": ends, "n": len(whole)}


def margins(answers: Answers) -> Float[Tensor, " pair"]:
    """Mean over a pair's prompts of the right answer's logit minus the wrong one's: MIB's m, uncalibrated."""
    return pair_losses(answers[..., 0] - answers[..., 1])


def check(name: str, passed: bool | None, value: float | None, limit: float | None, says: str) -> dict[str, Any]:
    """One line of a circuit's verdict. ``passed`` None: not tested here, and ``says`` tells why."""
    return {"name": name, "passed": passed, "value": value, "limit": limit, "says": says}
