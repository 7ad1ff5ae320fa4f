"""The stage generalisation: each task's generalisation sets, in tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from pipeline.artifacts import ArtifactError
from pipeline.config import GeneralisationConfig
from pipeline.data.generalisation.families import FAMILIES, Change
from pipeline.data.generalisation.generalisation_set import NATURAL, SCHEMA
from pipeline.data.generalisation.held_out import TokenisedFunction, real_documents
from pipeline.data.generalisation.natural import LEAST_PAIRS, Context, Mine, choose
from pipeline.data.generalisation.rules import COPYING, RULES
from pipeline.data.pair_tables import PairRow, write_tables
from pipeline.data.tasks import Pair, TaskSet, find_task, generate
from pipeline.data.tasks.encode import EncodedPair, Unfit, encode_pair, row_of
from pipeline.data.tokenizer import Tokenizer
from pipeline.data.words import ATTRIBUTES
from pipeline.seeds import seed_of

LEAST_FRAC = 0.5  # of the pairs wanted; a family of fewer is absent


def make_generalisation_sets(
    config: GeneralisationConfig,
    *,
    tasks: TaskSet,
    tokenizer: Tokenizer,
    corpus: Path,
    n_ctx: int,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """The report; writes ``pairs.parquet`` and ``report.json`` into ``folder``, whole or not at all.

    Every family of a task takes the first of its changed test pairs that keep their answer tokens and fit into
    ``n_ctx`` tokens. A family that a task cannot have is reported with the reason, and has no rows. Raises
    ArtifactError where tasks, tokenizer and corpus are missing or do not belong together.
    """
    if tasks.tokenizer_hash != tokenizer.hash:
        raise ArtifactError(
            f"the tasks are in the tokens of tokenizer {tasks.tokenizer_hash}, not of {tokenizer.hash}; run tasks again"
        )
    maker = _Maker(config, tasks, tokenizer, real_documents(corpus, tokenizer), n_ctx, seed)
    report = {"tokenizer": tokenizer.hash, "seed": seed, "n_ctx": n_ctx, "tasks": maker.report()}
    write_tables(folder, SCHEMA, maker.rows, report)
    return report


class _Maker:
    """The material of all families of all tasks, and the rows made so far."""

    def __init__(
        self,
        config: GeneralisationConfig,
        tasks: TaskSet,
        tokenizer: Tokenizer,
        documents: Sequence[TokenisedFunction],
        n_ctx: int,
        seed: int,
    ) -> None:
        self.config, self.tasks, self.tokenizer, self.n_ctx, self.seed = config, tasks, tokenizer, n_ctx, seed
        self.rows: list[PairRow] = []
        ordered = sorted((len(document.tokens), document.text.decode()) for document in documents)
        # whole functions that leave room for a prompt, the shortest first, with their numbers of tokens
        self.functions = ordered[: bisect_right(ordered, n_ctx, key=lambda item: item[0])]
        self.plain = [name for name in ATTRIBUTES if len(tokenizer.encode(f" {name}")) == 1]
        expressible = [name for name in tasks.names if tasks.expressible(name)]
        answers = {name: _answers(tasks.rows[name]) for name in expressible if name in RULES}
        self.copying = tuple(name for name in expressible if name in COPYING)
        self.found = Mine(answers, self.copying, tokenizer, n_ctx).contexts(documents)

    def report(self) -> dict[str, Any]:
        """The families of every task; their rows are added."""
        return {name: {"hash": self.tasks.hash(name), "families": self._families(name)} for name in self.tasks.names}

    def _families(self, task: str) -> dict[str, Any]:
        if not self.tasks.expressible(task):
            unfit = f"the task is not expressible in this vocabulary: {self.tasks.reason(task)}"
            return {family: _about([], unfit) for family in (*FAMILIES, NATURAL)}
        pairs = _test_pairs(self.tasks, task)
        made = {family: self._family(task, family, pairs) for family in FAMILIES}
        made[NATURAL] = self._natural(task)
        self.rows += [row for rows, _ in made.values() for row in rows]
        about = {family: _about(rows, reason) for family, (rows, reason) in made.items()}
        about[NATURAL]["found"] = [  # by side; of each function, one context at most is taken
            {"contexts": len(side), "functions": len({context.document.text for context in side})}
            for side in self.found.get(task, ([], []))
        ]
        return about

    def _family(
        self, task: str, family: str, pairs: dict[int, tuple[Pair, PairRow]]
    ) -> tuple[list[PairRow], str | None]:
        """The rows of a family, and why it is absent if it is."""
        wanted = min(self.config.n_pairs, len(pairs))
        rows: list[PairRow] = []
        reasons: Counter[str] = Counter()
        for index, (pair, row) in pairs.items():
            if len(rows) == wanted:
                break
            item = self._changed(task, family, index, pair, row)
            if isinstance(item, Unfit):
                reasons[item.reason] += 1
            else:
                rows.append(row_of(SCHEMA, task, family, item, *item.answers, *reversed(item.answers)))
        if len(rows) >= LEAST_FRAC * wanted:
            return rows, None
        most = reasons.most_common(1)[0][0]
        return [], f"{len(rows)} of {len(pairs)} pairs can be changed so, {wanted} are wanted; most often {most}"

    def _changed(self, task: str, family: str, index: int, pair: Pair, row: PairRow) -> EncodedPair | Unfit:
        """A test pair after a family's change, in tokens, or why it does not do."""
        varied = find_task(task).varied
        room = self.n_ctx - max(len(row["a_tokens"]), len(row["b_tokens"]))
        rng = Random(seed_of(self.seed, "rivals", task, family, str(index)))
        changed = FAMILIES[family](pair, Change(task, rng, self.plain if varied else None, self.functions, room))
        if changed is None:
            return Unfit("the family has no change that fits")
        item = encode_pair(index, changed, self.tokenizer)
        if isinstance(item, Unfit):
            return item
        if max(map(len, item.tokens)) > self.n_ctx:
            return Unfit(f"a prompt has more than {self.n_ctx} tokens")
        expected = tuple(side.answer for side in changed.sides) if varied else _answers([row])
        follow = tuple(self.tokenizer.decode([token]) for token in item.answers) if varied else item.answers
        return item if follow == expected else Unfit("other tokens follow than the task's answers")

    def _natural(self, task: str) -> tuple[list[PairRow], str | None]:
        """The rows of natural contexts, and why there are none if so."""
        if task not in self.found:
            return [], "no rule says where real code makes this decision"
        sides, copying = self.found[task], task in self.copying
        pairs = choose(task, sides, self.config.n_natural, self.seed, copying=copying)
        needed = max(1, min(LEAST_PAIRS, self.config.n_natural // 2))
        if len(pairs) >= needed:
            return [_row_of_contexts(task, i, pair, self.tokenizer) for i, pair in enumerate(pairs)], None
        counts = f"{len(sides[0])}" if copying else f"{len(sides[0])} of side a and {len(sides[1])} of side b"
        most = "one a function at most"
        return [], f"{counts} found in held-out code, {most}, which gives {len(pairs)} pairs; {needed} are needed"


def _answers(rows: Sequence[PairRow]) -> tuple[int, int]:
    """The answer tokens of a task that has the same ones in all pairs."""
    return rows[0]["a_answer_token"], rows[0]["b_answer_token"]


def _test_pairs(tasks: TaskSet, task: str) -> dict[int, tuple[Pair, PairRow]]:
    """The test pairs by index: as they were made, with what comes after, and their rows. Raises ArtifactError."""
    rows = {row["index"]: row for row in tasks.rows[task] if row["split"] == "test"}
    made = generate(task, "test", max(rows) + 1, tasks.report["seed"])
    for index, row in rows.items():
        if [side.prompt for side in made[index].sides] != [row["a_prompt"], row["b_prompt"]]:
            raise ArtifactError(f"data/tasks: test pair {index} of {task} is not what the task makes; run tasks again")
    return {index: (made[index], row) for index, row in rows.items()}


def _row_of_contexts(task: str, index: int, pair: tuple[Context, Context], tokenizer: Tokenizer) -> PairRow:
    texts = [text for context in pair for text in (context.prompt(), tokenizer.decode([context.right]))]
    tokens = [context.tokens(tokenizer) for context in pair]
    answers = [token for context in pair for token in (context.right, context.wrong)]
    return dict(zip(SCHEMA.names, (task, NATURAL, index, *texts, *tokens, *answers), strict=True))


def _about(rows: Sequence[PairRow], reason: str | None) -> dict[str, Any]:
    """The report's entry on a family of a task."""
    lengths = [len(row[f"{side}_tokens"]) for row in rows for side in "ab"]
    return {
        "n_pairs": len(rows),
        "reason": reason,
        "n_tokens_max": max(lengths, default=None),
        "example": [[rows[0][f"{side}_prompt"], rows[0][f"{side}_answer"]] for side in "ab"] if rows else None,
    }
