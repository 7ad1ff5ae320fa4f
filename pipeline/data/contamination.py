"""The search for the tasks' prompts in training text: what is tested must not have been read (§3)."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import ahocorasick


class ContaminationError(RuntimeError):
    """A task prompt's tail stands in the training split."""


class TailIndex:
    """All tails at once: finds the first of them in a text, in time that depends on the text's length only."""

    def __init__(self, tails: Collection[str]) -> None:
        if any(not tail.strip() for tail in tails):
            raise ValueError("an empty prompt tail would be found in every text; raise tasks.tail_chars")
        self.n_tails = len(set(tails))
        self._automaton = ahocorasick.Automaton()
        for tail in tails:
            self._automaton.add_word(tail, tail)
        self._automaton.make_automaton()

    def find(self, text: str) -> str | None:
        """A tail that occurs in the text, None where there is none."""
        if not self.n_tails:
            return None
        hit: tuple[int, str] | None = next(self._automaton.iter(text), None)
        return hit[1] if hit else None


def check_clean(texts: Iterable[str], index: TailIndex) -> int:
    """How many texts hold a tail: always 0, for ContaminationError is raised at the first that does."""
    for text in texts:
        tail = index.find(text)
        if tail is not None:
            raise ContaminationError(f"the task prompt ending {tail!r} occurs in the training split, in:\n{text[:400]}")
    return 0
