"""Short descriptions of nodes by rule: the mark of a place that predicts a node best, and how well it does.

A label is a hypothesis. Its statement is chosen on one half of the documents; its score is the R² of that choice, with
the coefficients of that half, on the other half. A simple statement gives way to a longer one (a set of tokens, two
marks together, at last a table of all tokens) only where that is better by a margin. A node that is hardly ever other
than 0 has no label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.config import ExplainConfig
from pipeline.explain.candidates import Counts, Fit, Moments, Table, best_sets, pairs_between
from pipeline.explain.places import Facts, Places
from pipeline.explain.rounding import rounded
from pipeline.explain.syntax import SYNTAX
from pipeline.explain.words import either, quoted
from pipeline.rows import Label
from pipeline.seeds import seed_of

MEASURE = "R² on documents that it was not chosen on"
WEAK_R2 = 0.3  # below which a label explains little, and has to look so
STANDS_OUT = 1.5  # times the next token's deviation, from which a token is named alone
AT_ONCE = 64  # nodes
LAGS = {0: "at", 1: "after", 2: "two tokens after"}
LEAST_SEEN = 8  # times that a token is in the half of the choice, for a set to name it
LEAST_ACTIVE = 32  # places of each half where a node is not 0, for anything to be said of it
WHICH = {0: "the", 1: "the previous", 2: "the last but one"}
BEST_LINES = 4  # single marks and levels of a node that become statements
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
class DocumentHalf:
    """The places of one half of the documents."""

    marks: Float[Tensor, "place mark"]
    levels: Float[Tensor, "place level"]
    parsed: Bool[Tensor, " place"]
    tokens: dict[int, Tensor]  # lag → [place]
    values: Float[Tensor, "place node"]


@dataclass(frozen=True)
class TokenSets:
    """A set of tokens for each node, at one lag, with its fit [node] and its name."""

    lag: int
    tokens: Bool[Tensor, "token node"]
    fit: Fit
    names: list[str]  # "" for an empty set

    def statement(self, node: int) -> Statement:
        text = f"{direction(self.fit.slope[node])} {self.names[node]}"
        length = int(self.tokens[:, node].sum() > 1)
        return Statement(text, float(self.fit.chosen[node]), float(self.fit.score[node]), length)


Halves = tuple[DocumentHalf, DocumentHalf]  # the statement is chosen on the first, and scored on the second


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
        """A label for each node: ``text``, ``score``, ``measure``, ``weak``, ``others`` (the next best); None
        where there is none to give."""
        return [label for some in values.split(AT_ONCE, dim=1) for label in self._labels(some)]

    def _labels(self, values: Float[Tensor, "place node"]) -> Iterator[Label | None]:
        halves = self._half(self.halves[0], values), self._half(self.halves[1], values)
        active = torch.stack([(half.values != 0).sum(0) for half in halves]).amin(0)
        names, lines = self._lines(halves)
        sets, tables = self._tokens(halves)
        for node in range(values.shape[1]):
            if active[node] < LEAST_ACTIVE:
                yield None
                continue
            order = lines.chosen[:, node].argsort(descending=True).tolist()
            found = [self._line(names[i], lines, i, node) for i in order[:BEST_LINES]]
            found += [part.statement(node) for part in sets if part.names[node]]
            found += [statements[node] for statements in tables]
            marks = [names[i] for i in order if names[i] in self.facts.mark_names][:JOINED]
            yield self._best([*found, self._pair(halves, node, marks, [part for part in sets if part.names[node]])])

    def _half(self, rows: Tensor, values: Tensor) -> DocumentHalf:
        facts, index = self.facts, rows.numpy()
        tokens = {lag: self.places.previous(lag).flatten()[rows] for lag in LAGS}
        marks, levels, parsed = (
            torch.from_numpy(column[index]) for column in (facts.marks, facts.levels, facts.parsed)
        )
        return DocumentHalf(marks.float(), levels, parsed, tokens, values[rows])

    def _lines(self, halves: Halves) -> tuple[list[str], Fit]:
        """Every mark and level by itself: marks of the text, levels, and marks of the syntax where it is known."""
        marks, (choice, test) = self.facts.mark_names, halves
        names = [*(marks[i] for i in self.plain), *self.facts.level_names]
        fits = [Fit.of(*(Moments.of(half.marks[:, self.plain], half.values) for half in halves))]
        fits.append(Fit.of(Moments.of(choice.levels, choice.values), Moments.of(test.levels, test.values)))
        known = [Moments.of(h.marks[h.parsed][:, self.syntax], h.values[h.parsed]) for h in halves]
        if all(of.n > 1 for of in known):
            names += [marks[i] for i in self.syntax]
            fits.append(Fit.of(*known))
        return names, Fit(*(torch.cat([getattr(fit, part) for fit in fits]) for part in ("slope", "chosen", "score")))

    def _line(self, name: str, lines: Fit, i: int, node: int) -> Statement:
        rises = "rises with" if lines.slope[i, node] > 0 else "falls with"
        how = direction(lines.slope[i, node]) if name in self.facts.mark_names else rises
        return Statement(f"{how} {name}", float(lines.chosen[i, node]), float(lines.score[i, node]), 0)

    def _tokens(self, halves: Halves) -> tuple[list[TokenSets], list[list[Statement]]]:
        """At each lag, each node's best single token and its best set of tokens; and its table of all tokens."""
        n_tokens, sets, tables = self.places.tokenizer.vocab_size, list[TokenSets](), list[list[Statement]]()
        of = [Moments.of(half.marks[:, :0], half.values) for half in halves]
        for lag in LAGS:
            counts = [Counts.of(half.tokens[lag], half.values, n_tokens) for half in halves]
            away = counts[0].deviations(of[0], LEAST_SEEN)
            for tokens in best_sets(counts[0], of[0], least=LEAST_SEEN, most=MOST_TOKENS):
                fit = Fit.of(*(count.moments(tokens, m) for count, m in zip(counts, of, strict=True))).own
                names = [self._set_name(lag, tokens[:, node], away[:, node]) for node in range(away.shape[1])]
                sets.append(TokenSets(lag, tokens, fit, names))
            table = Table.of(counts[0], of[0], LEAST_SEEN)
            chosen, score = (table.explained(*one, of[0].y / of[0].n) for one in zip(counts, of, strict=True))
            adjusted = zip(table.adjusted(chosen, of[0].n).tolist(), score.tolist(), away.T, strict=True)
            tables.append([Statement(self._table_text(lag, d), fitted, tested, 3) for fitted, tested, d in adjusted])
        return sets, tables

    def _set_name(self, lag: int, tokens: Bool[Tensor, " token"], away: Float[Tensor, " token"]) -> str:
        """``at `(` or `[```, the tokens at which the node is farthest from its mean first; "" for no tokens."""
        members = tokens.nonzero().flatten()
        ordered = members[away[members].abs().argsort(descending=True)].tolist()
        shown, n_more = self._names(ordered[:NAMED]), len(ordered) - NAMED
        if n_more > 0:
            shown.append(f"{n_more} other token{'s' if n_more > 1 else ''}")
        return f"{LAGS[lag]} {either(shown)}" if shown else ""

    def _table_text(self, lag: int, away: Float[Tensor, " token"]) -> str:
        """The tokens at which a node is farthest above and below its mean; one that stands out alone says so."""
        order = away.abs().argsort(descending=True).tolist()
        if float(away[order[0]].abs()) >= STANDS_OUT * float(away[order[1]].abs()):
            (first,) = self._names(order[:1])
            return f"by {WHICH[lag]} token: {direction(away[order[0]])} for {first} far more than for any other"
        order = away.argsort(descending=True).tolist()
        high, low = (" and ".join(self._names(some)) for some in (order[:NAMED], order[: -NAMED - 1 : -1]))
        return f"by {WHICH[lag]} token: high for {high} – low for {low}"

    def _names(self, tokens: Sequence[int]) -> list[str]:
        return [quoted(self.places.tokenizer.decode([token])) for token in tokens]

    def _pair(self, halves: Halves, node: int, marks: Sequence[str], sets: Sequence[TokenSets]) -> Statement:
        """The best two marks together, a set of tokens counting as one."""
        columns = [self._columns(half, node, marks, sets) for half in halves]
        names = [*marks, *(part.names[node] for part in sets)]
        values = [half.values[:, node] for half in halves]
        of = Moments.of(halves[0].marks[:, :0], values[0][:, None])
        joint, without = pairs_between(columns[0], values[0], of)
        joint.fill_diagonal_(0)
        both = float(joint.max()) >= float(without.max())
        i, j = divmod(int((joint if both else without).argmax()), len(names))
        together = [(c[:, i] * (c[:, j] if both else 1 - c[:, j]))[:, None] for c in columns]
        fit = Fit.of(*(Moments.of(x, y[:, None]) for x, y in zip(together, values, strict=True))).own
        text = f"{direction(fit.slope[0])} {names[i]} {'and' if both else 'but not'} {names[j]}"
        return Statement(text, float(fit.chosen), float(fit.score), 2)

    def _columns(
        self, half: DocumentHalf, node: int, marks: Sequence[str], sets: Sequence[TokenSets]
    ) -> Float[Tensor, "place mark"]:
        among = [part.tokens[:, node][half.tokens[part.lag]] & (half.tokens[part.lag] >= 0) for part in sets]
        indices = [self.facts.mark_names.index(name) for name in marks]
        return torch.cat([half.marks[:, indices], torch.stack(among, dim=1).float()], dim=1)

    def _best(self, found: list[Statement]) -> Label | None:
        """The best simple statement, or a longer one that is better by the margin of each step."""
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
            "score": rounded(best.score),
            "measure": MEASURE,
            "weak": best.score < WEAK_R2,
            "others": [{"text": s.text, "score": rounded(s.score)} for s in others[: self.config.others]],
        }


def direction(slope: Float[Tensor, ""]) -> str:
    return "high" if slope > 0 else "low"
