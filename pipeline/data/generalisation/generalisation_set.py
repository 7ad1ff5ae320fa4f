"""The generalisation sets of a study, read back."""

from __future__ import annotations

from pathlib import Path

from pipeline.artifacts import ArtifactError
from pipeline.data.pair_tables import PairTables, TaskError, group_rows, pair_schema, read_tables, rows_hash
from pipeline.data.pairs import PairBatch
from pipeline.data.tasks import TaskSet

NATURAL = "natural"  # the family that is mined, not made

# Right and wrong answer of each prompt: in real code, the two prompts of a pair have nothing else in common.
SCHEMA = pair_schema("family", [f"{side}_{token}_token" for side in "ab" for token in ("right", "wrong")])


class GeneralisationSet(PairTables):
    """Generalisation sets by task and family, and the report about them. Make one with ``load``."""

    @classmethod
    def load(cls, folder: Path) -> GeneralisationSet:
        """The sets that were written to a folder. Raises ArtifactError where one is missing, damaged or incomplete."""
        report, found = read_tables(folder, SCHEMA, "generalisation")
        n_pairs = {
            (task, family): about["n_pairs"]
            for task, entry in report["tasks"].items()
            for family, about in entry["families"].items()
        }
        return cls(report, group_rows(found, ["task", "family"], n_pairs, folder, "generalisation"))

    @property
    def all_families(self) -> tuple[str, ...]:
        """Every family that some task has or lacks."""
        return tuple(dict.fromkeys(family for task in self.names for family in self.about(task)["families"]))

    def check_tasks(self, tasks: TaskSet, folder: Path) -> None:
        """Raises ArtifactError where these were made from other pairs than those of ``tasks``."""
        for task in (task for task in self.names if task in tasks.names):
            made, now = self.report["tasks"][task].get("hash"), tasks.hash(task)
            if made != now:
                raise ArtifactError(
                    f"{folder}: made from pairs {made} of {task}, not from {now} as data/tasks has them; run dvc repro"
                )

    def families(self, task: str) -> tuple[str, ...]:
        """The families that a task has, ``natural`` last. Raises TaskError for an unknown task."""
        return tuple(family for family in self.about(task)["families"] if self.reason(task, family) is None)

    def reason(self, task: str, family: str) -> str | None:
        """Why a task has not this family, None where it has. Raises TaskError for unknown names."""
        about = self.about(task)["families"]
        if family not in about:
            raise TaskError(f"unknown family {family!r} of task {task}; allowed: {', '.join(about)}")
        reason = about[family]["reason"]
        return None if reason is None else str(reason)

    def batch(self, task: str, family: str) -> PairBatch:
        """All pairs of a family. Raises TaskError for unknown names, and where the task has not this family."""
        if reason := self.reason(task, family):
            raise TaskError(f"task {task} has no generalisation set {family}: {reason}")
        rows = [(row, side) for row in self.rows[task, family] for side in "ab"]
        answers = [[row[f"{side}_right_token"], row[f"{side}_wrong_token"]] for row, side in rows]
        return PairBatch.of([row[f"{side}_tokens"] for row, side in rows], answers)

    def hash(self, task: str) -> str:
        """The identity of a task's generalisation sets: every prompt and answer of every family, in tokens."""
        return rows_hash(task, (row for family in self.families(task) for row in self.rows[task, family]), SCHEMA)
