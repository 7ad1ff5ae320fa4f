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
    """The test pairs of a task; none, and the reason, where they are not known or not expressible."""

    tasks: TaskSet | None
    task: str
    why_none: str | None = None

    @property
    def batch(self) -> PairBatch | None:
        """All of them as tensors."""
        return None if self.tasks is None or self.why_none else self.tasks.batch(self.task, "test")

    def described(self, text_of: Callable[[int], str]) -> dict[str, Any]:
        """Ready for JSON: the first ``pairs`` of prompts and answer tokens (side a's first); the task's own two
        ``answers`` where all pairs have the same."""
        rows = [row for row in self.tasks.rows[self.task] if row["split"] == "test"] if self.tasks else []
        pairs = [
            {"prompts": [row["a_prompt"], row["b_prompt"]], "answers": [row["a_answer_token"], row["b_answer_token"]]}
            for row in rows
        ]
        found = {tuple(pair["answers"]) for pair in pairs}
        return {
            "pairs": [pair | {"texts": [text_of(token) for token in pair["answers"]]} for pair in pairs[:N_PAIRS]],
            "answers": list(found.pop()) if len(found) == 1 else [],
            "why_none": self.why_none,
        }
