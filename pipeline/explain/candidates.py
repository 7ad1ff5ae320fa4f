"""How well a mark of places predicts a node: least squares on one half of the documents, scored on the other.

Sums are enough: of a predictor, of its square, of its product with the node. Predictors are marks and
levels (a line each), sets of tokens at, one or two before the place (two values), two marks together, and a table of
all tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TINY = 1e-12  # variance below which a column is constant


@dataclass(frozen=True)
class Moments:
    """Sums over places of columns x [place, column] and nodes y [place, node], as least squares needs them."""

    n: float
    x: Float[Tensor, " column"]
    xx: Float[Tensor, " column"]
    xy: Float[Tensor, "column node"]
    y: Float[Tensor, " node"]
    yy: Float[Tensor, " node"]

    @classmethod
    def of(cls, x: Float[Tensor, "place column"], y: Float[Tensor, "place node"]) -> Moments:
        x, y = x.float(), y.float()
        sums = ((t.sum(0, dtype=torch.float64), (t.double() ** 2).sum(0)) for t in (x, y))
        (sx, sxx), (sy, syy) = sums
        return cls(len(y), sx, sxx, (x.T @ y).double(), sy, syy)

    def line(self) -> tuple[Float[Tensor, "column node"], Float[Tensor, "column node"]]:
        """Intercept and slope of each node on each column; slope 0 for a constant column."""
        spread = self.xx - self.x**2 / self.n
        slope = (self.xy - self.x[:, None] * self.y / self.n) / spread.clamp(min=TINY)[:, None]
        slope = torch.where(spread[:, None] > TINY, slope, 0)
        return (self.y - slope * self.x[:, None]) / self.n, slope

    def explained(
        self, intercept: Float[Tensor, "column node"], slope: Float[Tensor, "column node"]
    ) -> Float[Tensor, "column node"]:
        """R² of lines on these places."""
        errors = self.yy + self.n * intercept**2 + slope**2 * self.xx[:, None]
        errors = errors + 2 * (intercept * slope * self.x[:, None] - intercept * self.y - slope * self.xy)
        return self.r2(errors)

    def r2(self, errors: Float[Tensor, "*column node"]) -> Float[Tensor, "*column node"]:
        """1 less the squared errors over the squared deviations of each node from its mean; 0 for a constant node."""
        total = (self.yy - self.y**2 / self.n).clamp(min=0)
        return torch.where(total > TINY * self.n, 1 - errors / total.clamp(min=TINY), 0)


@dataclass(frozen=True)
class Fit:
    """Lines fitted on one half of the documents: their slope, R² there (``chosen``), on the other (``score``)."""

    slope: Float[Tensor, "*column node"]
    chosen: Float[Tensor, "*column node"]
    score: Float[Tensor, "*column node"]

    @classmethod
    def of(cls, choice: Moments, test: Moments) -> Fit:
        intercept, slope = choice.line()
        return cls(slope, choice.explained(intercept, slope), test.explained(intercept, slope))

    @property
    def own(self) -> Fit:
        """Of one column a node: each column's fit to its own node, [node]."""
        return Fit(self.slope.diagonal(), self.chosen.diagonal(), self.score.diagonal())


@dataclass(frozen=True)
class Counts:
    """How often each token is at a place (or before it), and sums of the nodes there."""

    n: Float[Tensor, " token"]
    y: Float[Tensor, "token node"]

    @classmethod
    def of(cls, tokens: Int[Tensor, " place"], y: Float[Tensor, "place node"], n_tokens: int) -> Counts:
        """Places whose token is −1 count for none."""
        there = tokens >= 0
        n = torch.bincount(tokens[there], minlength=n_tokens).double()
        sums = torch.zeros(n_tokens, y.shape[1]).index_add_(0, tokens[there], y[there])
        return cls(n, sums.double())

    def deviations(self, of: Moments, least: int) -> Float[Tensor, "token node"]:
        """Each node's mean at a token, less its mean; 0 for a token that is seen fewer than ``least`` times."""
        away = self.y / self.n.clamp(min=1)[:, None] - of.y / of.n
        return torch.where((self.n >= least)[:, None], away, 0)

    def moments(self, chosen: Bool[Tensor, "token node"], of: Moments) -> Moments:
        """Moments of one column a node: whether the token is among the chosen."""
        n = chosen.double().T @ self.n
        return Moments(of.n, n, n, torch.diag_embed((self.y * chosen).sum(0)), of.y, of.yy)


def best_sets(counts: Counts, of: Moments, *, least: int, most: int) -> list[Bool[Tensor, "token node"]]:
    """For each node, the single token that explains most of it, and the set of at most ``most`` tokens.

    A set is made of the tokens that pull a node up most (or down most), by mean and by number: as many of them as
    explain most. Tokens seen fewer than ``least`` times are in no set.
    """
    often = (counts.n >= least)[:, None]
    n, y = (counts.n[:, None] * often).expand_as(counts.y), counts.y * often
    single = torch.arange(len(often))[:, None] == _between(n, y, of).argmax(0)
    pull = y - n * of.y / of.n
    best = torch.zeros_like(of.y)
    chosen = torch.zeros_like(pull, dtype=torch.bool)
    for way in (pull, -pull):
        order = way.argsort(dim=0, descending=True)[:most]
        explained = _between(n.gather(0, order).cumsum(0), y.gather(0, order).cumsum(0), of)
        gain, last = explained.max(0)
        some = torch.zeros_like(chosen).scatter_(0, order, torch.arange(len(order))[:, None] <= last)
        chosen, best = torch.where(gain > best, some, chosen), torch.maximum(gain, best)
    return [single, chosen & often]


@dataclass(frozen=True)
class Table:
    """A value of each node for every token: its mean where the token is seen often enough, else over all places."""

    means: Float[Tensor, "token node"]
    size: int  # tokens with a mean of their own

    @classmethod
    def of(cls, counts: Counts, moments: Moments, least: int) -> Table:
        means, often = counts.y / counts.n.clamp(min=1)[:, None], counts.n >= least
        return cls(torch.where(often[:, None], means, moments.y / moments.n), int(often.sum()))

    def adjusted(self, explained: Float[Tensor, " node"], n: float) -> Float[Tensor, " node"]:
        """R² on the ``n`` places that the table was made of, less the share of noise that so many means explain."""
        return 1 - (1 - explained) * n / max(1.0, n - self.size)

    def explained(self, counts: Counts, of: Moments, rest: Float[Tensor, " node"]) -> Float[Tensor, " node"]:
        """R² of the table on places; those without a token are given ``rest``."""
        n, y = of.n - counts.n.sum(), of.y - counts.y.sum(0)
        errors = of.yy - 2 * (self.means * counts.y).sum(0) + counts.n @ self.means**2
        return of.r2(errors - 2 * rest * y + n * rest**2)


def _between(n: Tensor, sums: Tensor, of: Moments) -> Tensor:
    """Squares that are explained by a set of n places with those sums, and the rest, having two means."""
    away = sums - n * of.y / of.n
    return torch.where((n > 0) & (n < of.n), away**2 * of.n / (n * (of.n - n)).clamp(min=TINY), 0)


def pairs_between(
    columns: Float[Tensor, "place mark"], y: Float[Tensor, " place"], of: Moments
) -> tuple[Float[Tensor, "mark mark"], Float[Tensor, "mark mark"]]:
    """Squares of one node that are explained by "i and j", and by "i and not j", for all marks."""
    both, sums = (columns.T @ columns).double(), (columns.T @ (columns * y[:, None])).double()
    without, rest = both.diagonal()[:, None] - both, sums.diagonal()[:, None] - sums
    return _between(both, sums, of), _between(without, rest, of)
