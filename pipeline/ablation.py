"""The kinds of ablation, by the names that params.yaml and circuits have for them (§4, §6)."""

from __future__ import annotations

from enum import StrEnum


class Ablation(StrEnum):
    """The ablation value of a node of the complement (§4, §6): one number a node, or one a prompt and position."""

    MEAN = "mean"  # its average over the pretraining distribution
    ZERO = "zero"
    RESAMPLE = "resample"  # its value at a random place of the pretraining distribution; losses are means over draws
    TASK_MEAN = "task_mean"  # its average over the task's train prompts, at aligned positions
    COUNTERFACTUAL = "counterfactual"  # its value on the pair's other prompt, position by position

    @property
    def varies(self) -> bool:
        """Whether a node's value differs by prompt and position."""
        return self in (Ablation.TASK_MEAN, Ablation.COUNTERFACTUAL)

    @property
    def words(self) -> str:
        """What a node is ablated to, for a reader of a page."""
        return {
            Ablation.MEAN: "its mean over the pretraining distribution",
            Ablation.ZERO: "zero",
            Ablation.RESAMPLE: "a value of another place of the text (the first draw)",
            Ablation.TASK_MEAN: "its mean over the task's prompts at the same place",
            Ablation.COUNTERFACTUAL: "its value on the pair's other prompt",
        }[self]

    @property
    def as_tested(self) -> str:
        """Its name among validate's tests of sufficiency, which have several ways to resample."""
        return "resample_places" if self is Ablation.RESAMPLE else self.value
