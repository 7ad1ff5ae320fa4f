"""Natural contexts: places in held-out real code where a task's decision is made and one of its answers follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from tqdm import tqdm

from pipeline.data.generalisation.held_out import TokenisedFunction
from pipeline.data.generalisation.place import Place
from pipeline.data.generalisation.rules import COPYING, RULES
from pipeline.data.tokenizer import Tokenizer
from pipeline.seeds import seed_of

LEAST_PAIRS = 8


@dataclass(frozen=True)
class Context:
    """One prompt of real code, its tokens from ``<|endoftext|>`` on, and the answer that really follows."""

    document: TokenisedFunction
    start: int  # the first token of the prompt
    at: int  # the token of the answer
    right: int
    wrong: int

    def prompt(self) -> str:
        return self.document.before(self.at, self.start)

    def tokens(self, tokenizer: Tokenizer) -> list[int]:
        return [tokenizer.eot, *self.document.tokens[self.start : self.at]]


ContextsBySide = tuple[list[Context], list[Context]]


@dataclass(frozen=True)
class Mine:
    """The continuations to look for, and the contexts found, by task and side."""

    answers: dict[str, tuple[int, int]]  # of tasks whose answers are fixed
    copying: tuple[str, ...]  # tasks whose answers are names
    tokenizer: Tokenizer
    n_ctx: int

    def contexts(self, documents: Sequence[TokenisedFunction]) -> dict[str, ContextsBySide]:
        """All contexts, of side a and of side b; where answers are names, all are of side a."""
        found: dict[str, ContextsBySide] = {task: ([], []) for task in (*self.answers, *self.copying)}
        tasks_of: dict[int, list[str]] = {}
        for task, tokens in self.answers.items():
            for token in tokens:
                tasks_of.setdefault(token, []).append(task)
        for document in tqdm(documents, desc="natural contexts", unit="function"):
            for at in range(1, len(document.tokens)):
                copying = self.copying if document.before(at, at - 1).endswith("=") else ()
                for task in (*tasks_of.get(document.tokens[at], ()), *copying):
                    start = document.window(at, self.n_ctx - 1)
                    decision = None if start is None else self._decide(task, document.place(at, start))
                    if start is not None and decision and decision[1] == document.tokens[at]:
                        side, right, wrong = decision
                        found[task][side].append(Context(document, start, at, right, wrong))
        return found

    def _decide(self, task: str, place: Place) -> tuple[int, int, int] | None:
        """Side, right and wrong answer where the task's rule decides; of answers that are names, their first tokens."""
        if task in self.answers:
            side, tokens = RULES[task](place), self.answers[task]
            return None if side is None else (side, tokens[side], tokens[1 - side])
        if (names := COPYING[task](place)) is None:
            return None
        right, *others = (self.tokenizer.encode(name)[0] for name in (names[0], *names[1]))
        wrong = next((token for token in others if token != right), None)
        return None if wrong is None else (0, right, wrong)


def choose(
    task: str, sides: ContextsBySide, n_contexts: int, seed: int, *, copying: bool
) -> list[tuple[Context, Context]]:
    """Pairs of a context of side a and one of side b, at most ``n_contexts`` contexts, one a side of a document."""
    rng = Random(seed_of(seed, "natural contexts", task))
    a, b = (list(_one_of_each(rng.sample(side, len(side)))) for side in sides)
    if copying:
        a, b = a[: len(a) // 2], a[len(a) // 2 :]
    return list(zip(a, b, strict=False))[: n_contexts // 2]


def _one_of_each(contexts: Iterable[Context]) -> Iterator[Context]:
    """The first of each document, so that pairs are independent; without repeated prompts."""
    seen: set[bytes | tuple[int, ...]] = set()
    for context in contexts:
        prompt = tuple(context.document.tokens[context.start : context.at])
        if not {prompt, context.document.text} & seen:
            seen |= {prompt, context.document.text}
            yield context
