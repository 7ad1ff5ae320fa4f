"""A seeded generator of simple, repetitive Python: the counterpart of the paper's simple component (§2).

Small models learn from it the regularities of the language that large ones pick up from far more code: which bracket
closes a list, how a set grows, what follows a parameter with a default. Names and strings come from
``IDIOM_WORDS``, which share nothing with what the tasks' prompts use.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

from pipeline.data.idioms.functions import write_document
from pipeline.seeds import seed_of

FILE_SIZE = 20  # documents of a pseudo-file, the unit in which idioms are split into training and validation

__all__ = ["FILE_SIZE", "idiom_files", "write_document"]


def idiom_files(seed: int) -> Iterator[tuple[str, list[str]]]:
    """Endless pseudo-files: a name, and the documents that its own seed generates."""
    for name in (f"idioms/{number:06d}" for number in count()):
        rng = Random(seed_of(seed, name))
        yield name, [write_document(rng) for _ in range(FILE_SIZE)]
