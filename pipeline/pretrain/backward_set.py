"""Between dense gradients: training of the weights that are there and of those that are likeliest to come (an option).

After annealing, a step's dearest part is the gradient of weights that are zero and stay so. With
``pretrain.dense_gradient_every`` = k above 1, only every k-th step computes all of it; in between each matrix has a
*backward set* (Top-KAST, Jayakumar et al. 2020; dense gradients every so many steps are RigL's, Evci et al. 2020): its
nonzero weights, and as many zero ones, those that Adam would move furthest: largest |m| / (√v + eps) after the last
dense step.

What is exact then: forward pass and gradients of the activations; gradient, Adam and decay of every weight in the set;
the projection with keep-alive, since what is not in the set is zero; every other parameter (embedding, biases, gains,
sinks, bigram table). What is approximated:

- A weight that is not in the set stays zero until the next dense step, and its moments stay as they are: they average
  over the dense steps alone.
- The gradient's root-mean-square takes the squares of the matrices' gradients to have changed since the last dense step
  as those of their nonzero weights have.

A matrix whose products do not skip zeros has no set: its gradient is dense at every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pipeline.config import PretrainConfig
from pipeline.kernels.backward_set import fill_scores
from pipeline.kernels.projection_cpu import keep_largest, keep_largest_of
from pipeline.kernels.sparse import CsrRows, Nonzeros
from pipeline.kernels.threads import in_shares
from pipeline.model.linear import Linear
from pipeline.pretrain.projection import Target

CANDIDATES = 1.0  # zero weights in a set for each nonzero one


@dataclass
class BackwardSet:
    """The weights of one matrix [out, in] that get gradients; ``places.value`` is where a step adds these up.

    ``weight``, ``mean`` and ``square`` are those of the n weights, the moments until ``settle`` more than a copy.
    """

    layer: Linear
    target: Target
    moments: dict[str, Tensor]  # Adam's, of the whole matrix
    places: CsrRows

    def __post_init__(self) -> None:
        row = np.repeat(np.arange(self.layer.out_features, dtype=np.int32), np.diff(self.places.start))
        flat = row.astype(np.int64) * self.layer.in_features + self.places.column
        self.line = self.places.column if self.target.alive_axis == 1 else row
        self.flat = torch.from_numpy(flat)  # in order, of the flattened matrix
        self.gradient = torch.from_numpy(self.places.value)
        whole = (self.layer.weight.detach(), self.moments["exp_avg"], self.moments["exp_avg_sq"])
        self.weight, self.mean, self.square = (x.view(-1)[self.flat] for x in whole)

    @classmethod
    def of_largest(
        cls, layer: Linear, target: Target, moments: dict[str, Tensor], eps: float, last: list[int]
    ) -> BackwardSet:
        """The nonzero weights, and the zero ones that Adam's ``moments`` would move furthest.

        ``last`` is the last threshold's bits: where to begin, which changes the time and not the choice.
        """
        score = torch.empty_like(layer.weight)
        whole = (layer.weight.detach(), moments["exp_avg"], moments["exp_avg_sq"])
        flat = [x.view(-1).numpy() for x in whole]
        into = score.view(-1).numpy()
        in_shares(lambda a, b: fill_scores(*(x[a:b] for x in flat), np.float32(eps), into[a:b]), len(into))
        size = round((1 + CANDIDATES) * target.budget(1.0))
        last[0] = keep_largest(score.view(torch.int32).numpy(), size, 0, False, last[0])
        return cls.at(layer, target, moments, Nonzeros.of(score).rows)

    @classmethod
    def at(cls, layer: Linear, target: Target, moments: dict[str, Tensor], rows: CsrRows) -> BackwardSet:
        """The weights at the places of ``rows``, whatever its values."""
        return cls(layer, target, moments, CsrRows(rows.start, rows.column, np.zeros_like(rows.value)))

    def squares(self) -> Tensor:
        """The sum of squares of the gradient at the nonzero weights."""
        return self.gradient[self.weight != 0].square().sum()

    def step(self, rate: float, shared: PretrainConfig) -> None:
        """Adam, projection and decay of the set's weights, in the order of all others; the gradient begins anew."""
        self.moments["step"] += 1
        n = float(self.moments["step"])
        self.mean.lerp_(self.gradient, 1 - shared.beta1)
        self.square.mul_(shared.beta2).addcmul_(self.gradient, self.gradient, value=1 - shared.beta2)
        root = self.square.sqrt().div_(math.sqrt(1 - shared.beta2**n)).add_(shared.eps)
        self.weight.addcdiv_(self.mean, root, value=-rate / (1 - shared.beta1**n))
        self._project(shared.keep_alive)
        self.weight.mul_(1 - rate * shared.weight_decay)
        self.layer.weight.detach().view(-1)[self.flat] = self.weight
        rows = self.places.without_zeros(self.weight.numpy())
        self.layer.know(Nonzeros.of_rows(rows, self.layer.in_features))
        self.gradient.zero_()

    def _project(self, keep_alive: int) -> None:
        axis, last = self.target.alive_axis, self.target.last
        n_lines, least = (len(self.line), 0) if axis is None else (self.layer.weight.shape[axis], keep_alive)
        bits, budget = self.weight.view(torch.int32).numpy(), self.target.budget(1.0)
        last[0] = keep_largest_of(bits, self.line, n_lines, budget, least, last[0])

    def settle(self) -> None:
        """Give Adam the moments back."""
        self.moments["exp_avg"].view(-1)[self.flat] = self.mean
        self.moments["exp_avg_sq"].view(-1)[self.flat] = self.square


class BackwardSets:
    """The sets of all matrices that have one; none before annealing has ended, and none where every step is dense."""

    def __init__(self, targets: Sequence[Target], shared: PretrainConfig) -> None:
        self.shared = shared
        self.matrices = [(target, target.layer, [0]) for target in targets if target.layer is not None]
        self.sets: list[BackwardSet] = []
        self.growth = 1.0  # square of the matrices' whole gradient ÷ that at their nonzero weights, at a dense step

    def prepare(self, step: int) -> None:
        """Have gradients computed as optimizer step number ``step`` (from 0) wants them: all, or those of the sets."""
        dense = step % self.shared.dense_gradient_every == 0
        for one in self.in_use if dense else []:
            one.settle()
        for one in self.sets:
            one.layer.backward_set = None if dense else one.places

    @property
    def in_use(self) -> list[BackwardSet]:
        """Those whose gradients the present step has computed in place of all."""
        return [one for one in self.sets if one.layer.backward_set is not None]

    def choose(self, adam: torch.optim.Adam) -> None:
        """New sets for the steps up to the next dense one; gradients are still there."""
        skipping = [of for of in self.matrices if of[1].nonzeros() is not None]
        self.sets = [
            BackwardSet.of_largest(layer, target, adam.state[layer.weight], self.shared.eps, last)
            for target, layer, last in skipping
        ]
        whole = sum(torch.linalg.vector_norm(_gradient(one)).square() for one in self.sets)
        at_nonzeros = sum(_gradient(one)[one.flat[one.weight != 0]].square().sum() for one in self.sets)
        self.growth = float(whole / at_nonzeros) if self.sets else 1.0

    def state(self) -> dict[str, Any]:
        """What a resumable checkpoint has to hold, beside Adam's moments, which are up to date then."""
        for one in self.in_use:
            one.settle()
        return {"growth": self.growth, "sets": {one.target.name: _places(one.places) for one in self.sets}}

    def restore(self, state: Mapping[str, Any], adam: torch.optim.Adam, step: int) -> None:
        """Go on before optimizer step number ``step``, with the weights and moments of then."""
        self.growth = state["growth"]
        chosen = [(target, layer) for target, layer, _ in self.matrices if target.name in state["sets"]]
        self.sets = [
            BackwardSet.at(layer, target, adam.state[layer.weight], _rows(*state["sets"][target.name]))
            for target, layer in chosen
        ]
        self.prepare(step)


def _places(rows: CsrRows) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows.start), torch.from_numpy(rows.column)


def _rows(start: Tensor, column: Tensor) -> CsrRows:
    return CsrRows(start.numpy(), column.numpy(), np.zeros(len(column), np.float32))


def _gradient(one: BackwardSet) -> Tensor:
    return cast(Tensor, one.layer.weight.grad).view(-1)
