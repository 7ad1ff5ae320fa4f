"""Contrast pairs as tokens: which token really follows each prompt, and whether a vocabulary can express a task.

A prompt with its answer and what comes after is tokenised as one text. BPE merges newlines, quotes and brackets with
their neighbours, so an answer encoded alone may never occur there. A pair is expressible when a token ends where the
prompt ends, on both sides, and the tokens that follow differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from pipeline.config import TasksConfig
from pipeline.data.pair_tables import PairRow, pair_schema, write_tables
from pipeline.data.tasks.base import Pair, Side, Task
from pipeline.data.tasks.generate import SPARE, candidates, pairs_wanted
from pipeline.data.tasks.registry import find_task, task_names
from pipeline.data.tokenizer import Tokenizer
from pipeline.data.words import SPLITS

EXPRESSIBLE_FRAC = 0.9  # of the pairs made; under it the task is not expressible in this vocabulary

SCHEMA = pair_schema("split", ["a_answer_token", "b_answer_token"])


@dataclass(frozen=True)
class EncodedPair:
    """A pair that the vocabulary can express: tokens of each prompt from ``<|endoftext|>`` on, and of each answer."""

    index: int  # among the candidates of its task and split
    pair: Pair
    tokens: tuple[list[int], list[int]]
    answers: tuple[int, int]


@dataclass(frozen=True)
class Unfit:
    """Why a pair cannot be expressed, in words that are the same for all pairs of one cause."""

    reason: str


def encode_tasks(config: TasksConfig, seed: int, tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """The report; writes ``pairs.parquet`` and ``report.json`` into ``folder``, whole or not at all.

    Every task takes, for each split, its first pairs that this tokenizer can express. A task of which fewer than
    ``EXPRESSIBLE_FRAC`` of the pairs are expressible is reported with the most frequent reason, and has no rows.
    """
    rows: list[PairRow] = []
    report: dict[str, Any] = {}
    for name in tqdm(task_names(), desc="tasks", unit="task"):
        task_rows, report[name] = encode_task(find_task(name), config, seed, tokenizer)
        rows += task_rows
    whole = {"tokenizer": tokenizer.hash, "seed": seed, "tasks": report}
    write_tables(folder, SCHEMA, rows, whole)
    return whole


def encode_task(
    task: Task, config: TasksConfig, seed: int, tokenizer: Tokenizer
) -> tuple[list[PairRow], dict[str, Any]]:
    """Rows of the Parquet file (none where the task is not expressible) and the task's part of the report."""
    made = {split: candidates(task.name, split, config, seed) for split in SPLITS}
    encoded = {split: [encode_pair(i, pair, tokenizer) for i, pair in enumerate(made[split])] for split in SPLITS}
    counts = Counter(item.answers for items in encoded.values() for item in items if isinstance(item, EncodedPair))
    usual = None if task.varied or not counts else counts.most_common(1)[0][0]
    encoded = {split: [_checked(item, usual, tokenizer) for item in items] for split, items in encoded.items()}
    fit = {split: [item for item in items if isinstance(item, EncodedPair)] for split, items in encoded.items()}
    reason = _why_not(fit, encoded)
    wanted = pairs_wanted(config)
    kept = {split: [] if reason else fit[split][: wanted[split]] for split in SPLITS}
    rows = [row_of(SCHEMA, task.name, split, item, *item.answers) for split in SPLITS for item in kept[split]]
    return rows, _report(task, made["train"][0], kept, reason, tokenizer)


def encode_pair(index: int, pair: Pair, tokenizer: Tokenizer) -> EncodedPair | Unfit:
    """The pair in tokens, or why it has none."""
    a, b = (encode_side(side, tokenizer) for side in pair.sides)
    if isinstance(a, Unfit):
        return a
    if isinstance(b, Unfit):
        return b
    if a[1] == b[1]:
        return Unfit(f"the same token {tokenizer.decode([a[1]])!r} follows both prompts")
    return EncodedPair(index, pair, (a[0], b[0]), (a[1], b[1]))


def encode_side(side: Side, tokenizer: Tokenizer) -> tuple[list[int], int] | Unfit:
    """Tokens of the prompt, ``<|endoftext|>`` in front, and the token that really follows it."""
    ids = tokenizer.encode(side.text)
    pieces = [tokenizer.encoding.decode_single_token_bytes(token) for token in ids]
    ends = list(accumulate(map(len, pieces)))
    end = len(side.prompt.encode())
    if end not in ends:
        across = next(i for i, position in enumerate(ends) if position > end)
        return Unfit(f"the token {tokenizer.decode([ids[across]])!r} reaches from the prompt into the answer")
    cut = ends.index(end) + 1
    return [tokenizer.eot, *ids[:cut]], ids[cut]


def _checked(item: EncodedPair | Unfit, usual: tuple[int, int] | None, tokenizer: Tokenizer) -> EncodedPair | Unfit:
    """The same, but unfit without the ``usual`` answers; where none are usual, with an answer that is not one token."""
    if isinstance(item, Unfit) or item.answers == usual:
        return item
    found = [tokenizer.decode([token]) for token in item.answers]
    if usual is not None:
        return Unfit(f"{' and '.join(map(repr, found))} follow instead of the task's usual two tokens")
    broken = [side.answer for side, text in zip(item.pair.sides, found, strict=True) if text != side.answer]
    return Unfit(f"the answer {broken[0]!r} is not one token") if broken else item


def _why_not(fit: dict[str, list[EncodedPair]], encoded: dict[str, list[EncodedPair | Unfit]]) -> str | None:
    """The reason why a task is not expressible, None where it is."""
    n_fit, n_made = (sum(map(len, part.values())) for part in (fit, encoded))
    short = any(len(fit[split]) * SPARE < len(encoded[split]) for split in SPLITS)
    if n_fit >= EXPRESSIBLE_FRAC * n_made and not short:
        return None
    reasons = Counter(item.reason for items in encoded.values() for item in items if isinstance(item, Unfit))
    most = reasons.most_common(1)[0][0]
    return f"{n_fit / n_made:.0%} of its pairs are expressible, {EXPRESSIBLE_FRAC:.0%} are needed; most often {most}"


def row_of(schema: pa.Schema, task: str, part: str, item: EncodedPair, *answers: int) -> PairRow:
    """A pair as a table of that schema has it; ``answers``: the tokens for the schema's last columns."""
    texts = [text for side in item.pair.sides for text in (side.prompt, side.answer)]
    return dict(zip(schema.names, (task, part, item.index, *texts, *item.tokens, *answers), strict=True))


def _report(
    task: Task, example: Pair, kept: dict[str, list[EncodedPair]], reason: str | None, tokenizer: Tokenizer
) -> dict[str, Any]:
    """The task's part of the report; nulls where the task is not expressible."""
    pairs = [item for items in kept.values() for item in items]
    lengths = [len(tokens) for item in pairs for tokens in item.tokens]
    same = [len(a) == len(b) for a, b in (item.tokens for item in pairs)]
    return {
        "description": task.description,
        "decides": task.decides,
        "published_answers": list(task.published),
        "variant": task.variant,
        "expressible": reason is None,
        "reason": reason,
        "answers": [_answers(pairs, side, tokenizer) for side in (0, 1)] if pairs else None,
        "n_pairs": {split: len(items) for split, items in kept.items()},
        "n_tokens_median": median(lengths) if lengths else None,
        "n_tokens_max": max(lengths, default=None),
        "same_length_frac": sum(same) / len(same) if same else None,
        "example": [[side.prompt, side.answer] for side in example.sides],
    }


def _answers(pairs: Iterable[EncodedPair], side: int, tokenizer: Tokenizer) -> list[str]:
    """The answer tokens of one side as text, the most frequent first."""
    counts = Counter(item.answers[side] for item in pairs)
    return [tokenizer.decode([token]) for token, _ in counts.most_common()]
