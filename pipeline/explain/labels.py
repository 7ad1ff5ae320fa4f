"""Short descriptions of nodes by rule: what of a place predicts a node best, said with how well it does.

A label is a hypothesis. What it says is chosen on one half of the documents; its score is the R² of that choice, with
the coefficients of that half, on the other half. A simple statement gives way to a longer one (a set of tokens, two
marks together, at last a table of all tokens) only where that is better by a margin. Of a node that is hardly ever
other than 0, nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.config import ExplainConfig
from pipeline.explain.candidates import Counts, Moments, Table, best_sets, pairs_between
from pipeline.explain.places import Facts, Places
from pipeline.explain.syntax import SYNTAX
from pipeline.rows import Label
from pipeline.seeds import seed_of

MEASURE = "R² on documents that it was not chosen on"
AT_ONCE = 64  # nodes
LAGS = {0: "at", 1: "after", 2: "two tokens after"}
LEAST_SEEN = 8  # times that a token is in the half of the choice, for a set to name it
LEAST_ACTIVE = 32  # places of each half where a node is not 0, for anything to be said of it
WHICH = {0: "the", 1: "the previous", 2: "the last but one"}
NAMED = 4  # tokens of a set that a label names
MOST_TOKENS = 12  # of a set
JOINED = 12  # marks, the best of each node, that are tried two together


@dataclass(frozen=True)
class Statement:
    """A description with its R² on the half of its choice and on the other; ``length``: 0 simple, 1 a
    set of tokens, 2 two marks together, 3 a table of all tokens."""

    text: str
    chosen: float
    score: float
    length: int


@dataclass(frozen=True)
class Half:
    """The places of one half of the documents."""

    marks: Float[Tensor, "place mark"]
    levels: Float[Tensor, "place level"]
    parsed: Bool[Tensor, " place"]
    tokens: dict[int, Tensor]  # lag → [place]
    values: Float[Tensor, "place node"]


class Labeller:
    """Describes nodes by their values at places: ``labeller(values)``."""

    def __init__(self, places: Places, facts: Facts, config: ExplainConfig, seed: int) -> None:
        self.places, self.facts, self.config = places, facts, config
        documents = places.documents.flatten()
        generator = np.random.default_rng(seed_of(seed, "halves"))
        first = torch.from_numpy(generator.random(int(documents.max()) + 2) < 0.5)[documents]
        read = torch.from_numpy(facts.read)
        self.halves = [(read & first).nonzero().flatten(), (read & ~first).nonzero().flatten()]
        self.syntax = [i for i, name in enumerate(facts.mark_names) if name in SYNTAX]
        self.plain = [i for i, name in enumerate(facts.mark_names) if name not in SYNTAX]

    def __call__(self, values: Float[Tensor, "place node"]) -> list[Label | None]:
        """A label for each node: ``text``, ``score``, ``measure``, ``others`` (the next best); None where there is
        none to give."""
        return [label for some in values.split(AT_ONCE, dim=1) for label in self._labels(some)]

    def _labels(self, values: Float[Tensor, "place node"]) -> Iterator[Label | None]:
        choice, test = (self._half(rows, values) for rows in self.halves)
        active = [(half.values != 0).sum(0) for half in (choice, test)]
        singles, (sets, tables) = self._lines(choice, test), self._sets(choice, test)
        for node in range(values.shape[1]):
            if min(int(count[node]) for count in active) < LEAST_ACTIVE:
                yield None
                continue
            parts: list[Lines | Sets | Tables] = [singles, *sets, *tables]
            found = [statement for part in parts for statement in part.statements(node)]
            yield self._best([*found, *self._pairs(choice, test, node, singles, sets)])

    def _half(self, rows: Tensor, values: Tensor) -> Half:
        facts, index = self.facts, rows.numpy()
        tokens = {lag: self.places.previous(lag).flatten()[rows] for lag in LAGS}
        marks, levels, parsed = (
            torch.from_numpy(column[index]) for column in (facts.marks, facts.levels, facts.parsed)
        )
        return Half(marks.float(), levels, parsed, tokens, values[rows])

    def _lines(self, choice: Half, test: Half) -> Lines:
        """Every mark and level by itself."""
        groups = []
        for names, moments in self._groups(choice, test):
            intercept, slope = moments[0].line()
            scores = [of.explained(intercept, slope) for of in moments]
            groups.append((names, slope, *scores))
        names = [name for group in groups for name in group[0]]
        slope, chosen, score = (torch.cat([group[i] for group in groups]) for i in (1, 2, 3))
        return Lines(names, set(self.facts.mark_names), slope, chosen, score)

    def _groups(self, choice: Half, test: Half) -> Iterator[tuple[list[str], list[Moments]]]:
        """Names and moments of marks of the text, of levels, and of marks of the syntax, these where it is known."""
        names = self.facts.mark_names
        halves = (choice, test)
        yield [names[i] for i in self.plain], [Moments.of(h.marks[:, self.plain], h.values) for h in halves]
        yield list(self.facts.level_names), [Moments.of(h.levels, h.values) for h in halves]
        known = [Moments.of(h.marks[h.parsed][:, self.syntax], h.values[h.parsed]) for h in halves]
        if all(of.n > 1 for of in known):
            yield [names[i] for i in self.syntax], known

    def _sets(self, choice: Half, test: Half) -> tuple[list[Sets], list[Tables]]:
        """At each lag, each node's best single token, its best set of tokens, and its table of all tokens."""
        n_tokens, sets, tables = self.places.tokenizer.vocab_size, list[Sets](), list[Tables]()
        of = [Moments.of(half.marks[:, :0], half.values) for half in (choice, test)]
        for lag in LAGS:
            counts = [Counts.of(half.tokens[lag], half.values, n_tokens) for half in (choice, test)]
            pull = counts[0].y - counts[0].n[:, None] * of[0].y / of[0].n
            for tokens in best_sets(counts[0], of[0], least=LEAST_SEEN, most=MOST_TOKENS):
                moments = [count.moments(tokens, m) for count, m in zip(counts, of, strict=True)]
                intercept, slope = moments[0].line()
                scores = [m.explained(intercept, slope).diagonal() for m in moments]
                sets.append(Sets(self._names, lag, tokens, pull, slope.diagonal(), *scores))
            table = Table.of(counts[0], of[0], LEAST_SEEN)
            chosen, score = (table.explained(*one, of[0].y / of[0].n) for one in zip(counts, of, strict=True))
            tables.append(Tables(self._names, lag, pull, table.adjusted(chosen, of[0].n), score))
        return sets, tables

    def _names(self, tokens: Sequence[int]) -> list[str]:
        return [repr(self.places.tokenizer.decode([token])) for token in tokens]

    def _pairs(self, choice: Half, test: Half, node: int, singles: Lines, sets: list[Sets]) -> list[Statement]:
        """The best two marks together, a set of tokens counting as one; none where there are not two."""
        sets = [part for part in sets if bool(part.tokens[:, node].any())]
        best = [i for i in singles.chosen[:, node].argsort(descending=True).tolist() if singles.is_mark(i)][:JOINED]
        marks = [self.facts.mark_names.index(singles.names[i]) for i in best]
        columns = [self._columns(half, node, marks, sets) for half in (choice, test)]
        names = [*(singles.names[i] for i in best), *(part.name(node) for part in sets)]
        of = Moments.of(choice.marks[:, :0], choice.values[:, node : node + 1])
        joint, without = pairs_between(columns[0], choice.values[:, node], of)
        joint.fill_diagonal_(0)
        both = float(joint.max()) >= float(without.max())
        i, j = divmod(int((joint if both else without).argmax()), len(names))
        chosen, score, slope = fitted(
            *((c[:, i] * (c[:, j] if both else 1 - c[:, j]), h.values[:, node])
              for c, h in zip(columns, (choice, test), strict=True))
        )  # fmt: skip
        text = f"{direction(slope)} {names[i]} {'and' if both else 'but not'} {names[j]}"
        return [Statement(text, chosen, score, 2)]

    def _columns(self, half: Half, node: int, marks: Sequence[int], sets: list[Sets]) -> Float[Tensor, "place mark"]:
        among = [part.tokens[:, node][half.tokens[part.lag]] & (half.tokens[part.lag] >= 0) for part in sets]
        return torch.cat([half.marks[:, list(marks)], torch.stack(among, dim=1).float()], dim=1)

    def _best(self, found: list[Statement]) -> Label | None:
        """What is said: the best simple statement, or a longer one that is better by the margin of each step."""
        ordered = sorted(found, key=lambda s: -s.chosen)
        best = next(s for s in ordered if s.length == 0)
        for length in (1, 2, 3):
            longer = next((s for s in ordered if s.length == length), best)
            best = longer if longer.chosen >= best.chosen + self.config.margin else best
        if best.score < self.config.least_score:
            return None
        others = [s for s in ordered if s is not best and s.length < 2 and s.score >= self.config.least_score]
        return {
            "text": best.text,
            "score": best.score,
            "measure": MEASURE,
            "others": [{"text": s.text, "score": s.score} for s in others[: self.config.others]],
        }


@dataclass(frozen=True)
class Lines:
    """What each mark and level predicts of each node by itself."""

    names: list[str]
    marks: set[str]
    slope: Float[Tensor, "column node"]
    chosen: Float[Tensor, "column node"]
    score: Float[Tensor, "column node"]

    def is_mark(self, column: int) -> bool:
        return self.names[column] in self.marks

    def statements(self, node: int, most: int = 4) -> Iterator[Statement]:
        """The best few."""
        for i in self.chosen[:, node].argsort(descending=True)[:most].tolist():
            slope = float(self.slope[i, node])
            how = direction(slope) if self.is_mark(i) else "rises with" if slope > 0 else "falls with"
            text = f"{how} {self.names[i]}"
            yield Statement(text, float(self.chosen[i, node]), float(self.score[i, node]), 0)


@dataclass(frozen=True)
class Sets:
    """A set of tokens for each node, and what it predicts of it; ``pull``: how much each token moves it, all in all."""

    names: Callable[[Sequence[int]], list[str]]
    lag: int
    tokens: Bool[Tensor, "token node"]
    pull: Float[Tensor, "token node"]
    slope: Float[Tensor, " node"]
    chosen: Float[Tensor, " node"]
    score: Float[Tensor, " node"]

    def name(self, node: int) -> str:
        """``at '(' or '['``"""
        members = self.tokens[:, node].nonzero().flatten()
        ordered = members[self.pull[members, node].abs().argsort(descending=True)].tolist()
        *shown, last = self.names(ordered[:NAMED])
        if len(ordered) > NAMED:
            n_more = len(ordered) - NAMED
            return f"{LAGS[self.lag]} {', '.join([*shown, last])} or {n_more} other token{'s' if n_more > 1 else ''}"
        return f"{LAGS[self.lag]} {' or '.join([', '.join(shown), last] if shown else [last])}"

    def statements(self, node: int) -> Iterator[Statement]:
        if n := int(self.tokens[:, node].sum()):
            text = f"{direction(float(self.slope[node]))} {self.name(node)}"
            yield Statement(text, float(self.chosen[node]), float(self.score[node]), int(n > 1))


@dataclass(frozen=True)
class Tables:
    """What the token by itself, whichever it is, predicts of each node."""

    names: Callable[[Sequence[int]], list[str]]
    lag: int
    pull: Float[Tensor, "token node"]
    chosen: Float[Tensor, " node"]
    score: Float[Tensor, " node"]

    def statements(self, node: int) -> Iterator[Statement]:
        order = self.pull[:, node].argsort(descending=True).tolist()
        high, low = (", ".join(self.names(some)) for some in (order[:NAMED], order[: -NAMED - 1 : -1]))
        text = f"by {WHICH[self.lag]} token: high for {high}; low for {low}"
        yield Statement(text, float(self.chosen[node]), float(self.score[node]), 3)


def fitted(choice: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> tuple[float, float, float]:
    """R² of one column (x, y) on the half where it is fitted and on the other, and its slope."""
    moments = [Moments.of(x[:, None], y[:, None]) for x, y in (choice, test)]
    intercept, slope = moments[0].line()
    chosen, score = (float(of.explained(intercept, slope)) for of in moments)
    return chosen, score, float(slope)


def direction(slope: float) -> str:
    return "high" if slope > 0 else "low"
