"""The tasks of a study, read back: what pretraining, pruning and ablation know of them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pipeline.artifacts import ArtifactError
from pipeline.data.pair_tables import PairTables, TaskError, group_rows, read_tables, rows_hash
from pipeline.data.pairs import PairBatch
from pipeline.data.tasks.base import Pair, Side
from pipeline.data.tasks.encode import SCHEMA
from pipeline.data.words import SPLITS


class TaskSet(PairTables):
    """Encoded contrast pairs by task, and the report about them. Make one with ``load``."""

    @classmethod
    def load(cls, folder: Path) -> TaskSet:
        """The tasks written by ``encode_tasks``. Raises ArtifactError where they are missing, damaged or incomplete."""
        report, found = read_tables(folder, SCHEMA, "tasks")
        try:
            n_pairs = {(name,): sum(about["n_pairs"].values()) for name, about in report["tasks"].items()}
            longest = [about["n_tokens_max"] or 0 for about in report["tasks"].values() if about["expressible"]]
            if not isinstance(report["tokenizer"], str) or any(not isinstance(n, int) for n in longest):
                raise TypeError("its tokenizer, or a number of tokens, is none")
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{folder}: its report is damaged ({error!r}); run the stage tasks again") from error
        groups = group_rows(found, ["task"], n_pairs, folder, "tasks")
        return cls(report, {name: rows for (name,), rows in groups.items()})

    @cached_property
    def n_tokens_max(self) -> int:
        """Tokens of the longest prompt; a model's n_ctx must not be smaller."""
        return max((entry["n_tokens_max"] or 0 for entry in self.report["tasks"].values()), default=0)

    def expressible(self, name: str) -> bool:
        """Whether this vocabulary can express the task."""
        return bool(self.about(name)["expressible"])

    def reason(self, name: str) -> str | None:
        """Why the task is not expressible, None where it is."""
        reason = self.about(name)["reason"]
        return None if reason is None else str(reason)

    def batch(self, name: str, split: str) -> PairBatch:
        """All pairs of a split. Raises TaskError for an unknown split, or a task that is not expressible."""
        if not self.expressible(name):
            raise TaskError(f"task {name} is not expressible in this vocabulary: {self.reason(name)}")
        if split not in SPLITS:
            raise TaskError(f"unknown split {split!r} of task {name}; allowed: {', '.join(SPLITS)}")
        rows = [row for row in self.rows[name] if row["split"] == split]
        answers = [[row[f"{x}_answer_token"] for x in order] for row in rows for order in ("ab", "ba")]
        return PairBatch.of([row[f"{side}_tokens"] for row in rows for side in "ab"], answers)

    def hash(self, name: str) -> str:
        """The identity of a task: every prompt and answer in every split, in tokens."""
        self.about(name)
        return rows_hash(name, self.rows[name], SCHEMA)

    def examples(self, name: str, n: int) -> list[Pair]:
        """The first ``n`` test pairs as text, without what comes after; one pair if the task is not expressible."""
        if not self.expressible(name):
            a, b = self.about(name)["example"]
            return [Pair(Side(a[0], a[1], ""), Side(b[0], b[1], ""))][:n]
        rows = [row for row in self.rows[name] if row["split"] == "test"][:n]
        return [Pair(*(Side(row[f"{side}_prompt"], row[f"{side}_answer"], "") for side in "ab")) for row in rows]
