"""Natural contexts: places in held-out real code where a task's decision is made and one of its answers follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from tqdm import tqdm

from pipeline.data.generalisation.held_out import TokenisedFunction
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
                for task in tasks_of.get(document.tokens[at], ()):
                    if fixed := self._fixed(task, document, at):
                        found[task][fixed[0]].append(fixed[1])
                for task in self.copying if document.before(at, at - 1).endswith("=") else ():
                    if copied := self._copied(task, document, at):
                        found[task][0].append(copied)
        return found

    def _fixed(self, task: str, document: TokenisedFunction, at: int) -> tuple[int, Context] | None:
        """Side and context where the rule decides, within the prompt, on the answer that follows."""
        tokens, start = self.answers[task], document.window(at, self.n_ctx - 1)
        side = None if start is None else RULES[task](document.place(at, start))
        if start is None or side is None or tokens[side] != document.tokens[at]:
            return None
        return side, Context(document, start, at, tokens[side], tokens[1 - side])

    def _copied(self, task: str, document: TokenisedFunction, at: int) -> Context | None:
        """The context where the answer is a name: its first token, and that of the first name with another one."""
        start = document.window(at, self.n_ctx - 1)
        decided = None if start is None else COPYING[task](document.place(at, start))
        if start is None or decided is None:
            return None
        right, *others = (self.tokenizer.encode(name)[0] for name in (decided[0], *decided[1]))
        wrong = next((token for token in others if token != right), None)
        if right != document.tokens[at] or wrong is None:
            return None
        return Context(document, start, at, right, wrong)


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
