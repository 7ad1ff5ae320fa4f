"""Contrast pairs as text: the same for a seed whatever the tokenizer, so that a corpus can be kept free of them."""

from __future__ import annotations

import random

from pipeline.config import TasksConfig
from pipeline.data.pair_tables import TaskError
from pipeline.data.tasks.base import Draw, Pair
from pipeline.data.tasks.registry import find_task, task_names
from pipeline.data.words import SPLITS, TASK_WORDS
from pipeline.seeds import seed_of

SPARE = 2  # candidates made for each pair wanted; some do not survive tokenisation


def generate(name: str, split: str, n: int, seed: int) -> list[Pair]:
    """The first ``n`` pairs of a task's split; more pairs for a larger ``n``, never other ones.

    No prompt occurs twice. Raises TaskError for an unknown task or split, or where the task has too few prompts.
    """
    task = find_task(name)
    if split not in SPLITS:
        raise TaskError(f"unknown split {split!r} of task {name}; allowed: {', '.join(SPLITS)}")
    pairs: list[Pair] = []
    seen: set[str] = set()
    for index in range(10 * n):
        if len(pairs) == n:
            break
        rng = random.Random(seed_of(seed, name, split, str(index)))
        pair = task.make(Draw(rng, TASK_WORDS[split]))
        assert pair.a.prompt != pair.b.prompt, name
        prompts = {side.prompt for side in pair.sides}
        if not prompts & seen:
            seen |= prompts
            pairs.append(pair)
    if len(pairs) < n:
        raise TaskError(f"task {name}: {n} pairs wanted for {split}, only {len(pairs)} differ; lower tasks.n_{split}")
    return pairs


def candidates(name: str, split: str, config: TasksConfig, seed: int) -> list[Pair]:
    """``SPARE`` pairs for each one wanted: the study takes the first ones that its tokenizer can express."""
    return generate(name, split, SPARE * pairs_wanted(config)[split], seed)


def pairs_wanted(config: TasksConfig) -> dict[str, int]:
    """Number of pairs by split."""
    return {"train": config.n_train, "validation": config.n_validation, "test": config.n_test}


def prompt_tails(config: TasksConfig, seed: int) -> set[str]:
    """The last ``config.tail_chars`` characters of every prompt the study may use; none may occur in training text."""
    return {
        side.prompt[-config.tail_chars :]
        for name in task_names()
        for split in SPLITS
        for pair in candidates(name, split, config, seed)
        for side in pair.sides
    }
