"""What each node of a circuit does in its task, by rule: where the sides of a pair differ at it, or where it is high.

A statement is chosen on one half of the pairs and scored on the other, by the area under the curve (AUC). *Of sides*:
the share of pairs of one prompt of side a and one of side b that the node's value at a place tells apart. *Of a place*:
the share of pairs of one position there and one elsewhere; such a place also has to be distinct: not one of many at
which the node is as high. Among the places that tell clearly, that one is named at
which the difference moves the answer most; the sides come first, where that does not lose much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.explain.task_places import END, NEARLY_ALL, TaskPlace, TaskPlaces
from pipeline.explain.task_scores import Contrast, Half
from pipeline.explain.task_values import TaskValues

CLEAR = 0.9  # AUC from which a statement says what a node does
TELLING = 0.75  # AUC from which a kind of token is told of a node of which no place stands out
DISTINCT = 0.5  # F1 of a place from which it stands out
AS_STRONG = 0.75  # of a mean: a value that counts as strong as it
STEADY = 0.1  # of a node's mean: a standard deviation below which it has one value, unless it tells the sides apart
LEAST_PROMPTS = 8  # of each side of each half, that have a place for it to be tried
COMMON = 0.1  # positions for each prompt of the half of the choice at which a token is, for a statement to name it
MOST_TOKENS = 3  # of a set
# How much more a statement counts than one of a place: the sides are the task; the end is where the answer is given
PREFER_SIDES, PREFER_END, LESS_EACH_TOKEN = 2.0, 1.5, 0.8


@dataclass(frozen=True)
class TaskStatement:
    """A description of a node: AUC on the half of its choice, AUC and the means of both groups on the other.

    ``of_sides``: the groups are sides a and b at the place; else they are the place and all other positions, from which
    it is ``distinct`` so far (``Half.distinct``, on the half of its choice). ``shared``: the node is as strong on the
    other side as well, at another place.
    """

    place: TaskPlace
    of_sides: bool
    chosen: float
    moves: float
    score: float
    means: tuple[float, float]
    distinct: float = 1.0
    shared: bool = False

    @property
    def rank(self) -> tuple[bool, float]:
        """The larger, the rather it is the label."""
        weight = self._preference * self.moves * (2 * self.chosen - 1)
        return self.clear, self.distinct * (weight if self.clear else self.chosen)

    @property
    def clear(self) -> bool:
        """Whether it tells clearly, of a place also that it stands out."""
        return self.chosen >= CLEAR and self.distinct >= DISTINCT

    @property
    def larger(self) -> int:
        """The group of larger magnitude: 0 or 1."""
        return int(abs(self.means[1]) > abs(self.means[0]))

    @property
    def _preference(self) -> float:
        if self.of_sides:
            return (1.0 if self.shared else PREFER_SIDES) * (PREFER_END if self.place.name == END else 1.0)
        return LESS_EACH_TOKEN ** len(self.place.tokens)


class TaskStatements:
    """Describes the nodes of one circuit by their values on pairs: ``statements(name)``, the best of all or None for a
    node that has one value only, or of which no place stands out."""

    def __init__(self, values: TaskValues, text: Callable[[int], str]) -> None:
        self.values, self.places = values, TaskPlaces(values.batch, text)
        pair = torch.arange(len(values.batch.last)) // 2
        self.choice, self.test = (Half(self.places, (pair % 2 == half).nonzero().flatten()) for half in (0, 1))
        self.n_tokens = int(values.batch.tokens.max()) + 1

    def __call__(self, name: str) -> TaskStatement | None:
        best = self.best(name)
        told = best.clear and (best.of_sides or not steady(self.values.nodes[name][self.places.there]))
        return best if told else None

    def kind(self, name: str) -> TaskStatement | None:
        """The kind of token that tells most of a node's values, of a node of which no place stands out; None where none
        tells much, and of a node that has one value."""
        values, names = self.values.nodes[name], {place.name for place in self.places.kinds}
        found = [each for each in self._of_places(values, self.values.slopes[name]) if each.place.name in names]
        best = max(found, key=lambda each: each.chosen, default=None)
        told = best is not None and best.chosen >= TELLING and not steady(values[self.places.there])
        return best if told else None

    def best(self, name: str) -> TaskStatement:
        """The best statement about a node, however little it tells."""
        values, slopes = self.values.nodes[name], self.values.slopes[name]
        return max((*self._of_sides(values, slopes), *self._of_places(values, slopes)), key=lambda each: each.rank)

    def _of_sides(self, values: Tensor, slopes: Tensor) -> Iterator[TaskStatement]:
        choice, test = (half.of_sides(values, slopes, LEAST_PROMPTS) for half in (self.choice, self.test))
        for statement in statements(self.places.named, True, choice, test):
            yield replace(statement, shared=self._shared(statement, values))

    def _shared(self, statement: TaskStatement, values: Tensor) -> bool:
        """Whether nearly all prompts of the other side have a value as strong behind the first difference."""
        strong, side_a = statement.means[statement.larger], self.places.side_a
        other = self.places.behind & (side_a if statement.larger else ~side_a)[:, None]
        has = ((values * (1 if strong > 0 else -1) >= AS_STRONG * abs(strong)) & other).any(1)
        return bool(has[other.any(1)].float().mean() >= NEARLY_ALL)

    def _of_places(self, values: Tensor, slopes: Tensor) -> Iterator[TaskStatement]:
        halves = self.choice, self.test
        columns = [half.columns(values, slopes) for half in halves]
        whole = [column.sum(0) for column in columns]
        fixed = [half.against_elsewhere(half.members @ c, w) for half, c, w in zip(halves, columns, whole, strict=True)]
        yield from self._distinct(self.choice.fixed, values, *fixed)
        for follows in (False, True):
            sums = [half.by_token(c, follows, self.n_tokens) for half, c in zip(halves, columns, strict=True)]
            sets = list(extreme_tokens(sums[0], round(COMMON * len(self.choice.rows))))
            if not sets:  # no token is seen often enough
                continue
            of_sets = [torch.stack([part[list(tokens)].sum(0) for tokens in sets]) for part in sums]
            found = [half.against_elsewhere(s, w) for half, s, w in zip(halves, of_sets, whole, strict=True)]
            places = [self.places.of_tokens(tokens, follows) for tokens in sets]
            yield from self._distinct(places, values, *found)

    def _distinct(
        self, places: Sequence[TaskPlace], values: Tensor, choice: Contrast, test: Contrast
    ) -> Iterator[TaskStatement]:
        shares = self.choice.distinct(places, choice, values).tolist()
        for statement, share in zip(statements(places, False, choice, test), shares, strict=True):
            yield replace(statement, distinct=share)


def steady(real: Float[Tensor, " n"]) -> bool:
    """Whether a node has one value, by its values at all positions."""
    return float(real.std()) <= STEADY * abs(float(real.mean()))


def statements(
    places: Sequence[TaskPlace], of_sides: bool, choice: Contrast, test: Contrast
) -> Iterator[TaskStatement]:
    """A statement for each place, its score in the direction of the half of the choice."""
    columns = (choice.auc, choice.moves, test.auc, test.mean, test.other)
    for place, row in zip(places, torch.stack([column.double() for column in columns], dim=1).tolist(), strict=True):
        chosen, moves, score, mean, other = row
        up = chosen >= 0.5
        yield TaskStatement(
            place, of_sides, chosen if up else 1 - chosen, moves, score if up else 1 - score, (mean, other)
        )


def extreme_tokens(sums: Float[Tensor, "token column"], least: int) -> Iterator[tuple[int, ...]]:
    """Sets of the one to ``MOST_TOKENS`` tokens at which a node is highest or lowest, or moves the answer most by it.

    ``sums``: those of ``Half.columns`` by token; ``least``: positions that have such a token.
    """
    n, _, values, steep = sums.T
    mean = values.sum() / n.sum()
    apart = torch.where(n >= least, values / n.clamp(min=1) - mean, 0)
    for way in (apart * steep, -apart * steep, apart, -apart):
        order = way.argsort(descending=True)[:MOST_TOKENS]
        best = [token for token in order.tolist() if way[token] > 0]
        yield from (tuple(best[:size]) for size in range(1, len(best) + 1))
