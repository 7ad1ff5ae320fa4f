"""Prompts of a circuit's task, to begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.data.pairs import PairBatch
from pipeline.data.tasks import TaskSet

N_PAIRS = 4


@dataclass(frozen=True)
class Examples:
    """The test pairs of a task; none, and the reason, where they are not known."""

    tasks: TaskSet | None
    task: str
    why_none: str | None = None

    @property
    def batch(self) -> PairBatch | None:
        """All of them as tensors."""
        return None if self.tasks is None else self.tasks.batch(self.task, "test")

    def described(self, text_of: Callable[[int], str]) -> dict[str, Any]:
        """Ready for JSON: the first ``pairs`` of prompts and answer tokens (side a's first); the task's own two
        ``answers`` where all pairs have the same."""
        rows = [row for row in self.tasks.rows[self.task] if row["split"] == "test"] if self.tasks else []
        found = {(row["a_answer_token"], row["b_answer_token"]) for row in rows}
        return {
            "pairs": [
                {
                    "prompts": [row["a_prompt"], row["b_prompt"]],
                    "answers": [row["a_answer_token"], row["b_answer_token"]],
                    "texts": [text_of(row[f"{side}_answer_token"]) for side in "ab"],
                }
                for row in rows[:N_PAIRS]
            ],
            "answers": list(found.pop()) if len(found) == 1 else [],
            "why_none": self.why_none,
        }
