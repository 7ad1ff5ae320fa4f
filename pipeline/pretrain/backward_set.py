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
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.config import PretrainConfig
from pipeline.kernels.projection_cpu import keep_largest, keep_largest_of
from pipeline.kernels.sparse import CsrRows, Nonzeros
from pipeline.model.linear import Linear
from pipeline.pretrain.projection import Target

CANDIDATES = 1.0  # zero weights in a set for each nonzero one


@dataclass
class BackwardSet:
    """The weights of one matrix [out, in] that get gradients; ``places.value`` is where a step adds these up."""

    layer: Linear
    target: Target
    flat: Int[Tensor, " n"]  # places in the flattened matrix, in order
    weight: Float[Tensor, " n"]  # as it is there
    places: CsrRows

    @classmethod
    def of_largest(cls, layer: Linear, target: Target, moments: Mapping[str, Tensor], eps: float) -> BackwardSet:
        """The nonzero weights, and the zero ones that Adam's ``moments`` would move furthest."""
        weight = layer.weight.detach()
        score = (moments["exp_avg_sq"].sqrt() + eps).reciprocal_().mul_(moments["exp_avg"])
        score[weight != 0] = math.inf
        size = round((1 + CANDIDATES) * target.budget(1.0))
        keep_largest(score.view(torch.int32).numpy(), size, 0, False, 0)
        return cls.at(layer, target, score.view(-1).nonzero()[:, 0])

    @classmethod
    def at(cls, layer: Linear, target: Target, flat: Tensor) -> BackwardSet:
        """The weights at the places ``flat`` [n], in order, of the flattened matrix."""
        start = torch.searchsorted(flat, torch.arange(layer.out_features + 1) * layer.in_features)
        column = (flat % layer.in_features).int()
        places = CsrRows(start.int().numpy(), column.numpy(), np.zeros(len(flat), np.float32))
        return cls(layer, target, flat, layer.weight.detach().view(-1)[flat], places)

    @property
    def gradient(self) -> Tensor:
        """[n], added up where the layer's backward pass can see it."""
        return torch.from_numpy(self.places.value)

    def squares(self) -> Tensor:
        """The sum of squares of the gradient at the nonzero weights."""
        return self.gradient[self.weight != 0].square().sum()

    def step(self, moments: dict[str, Tensor], rate: float, shared: PretrainConfig) -> None:
        """Adam, projection and decay of the set's weights, in the order of all others; the gradient begins anew."""
        moments["step"] += 1
        n, gradient = float(moments["step"]), self.gradient
        mean, square = (moments[name].view(-1)[self.flat] for name in ("exp_avg", "exp_avg_sq"))
        mean.lerp_(gradient, 1 - shared.beta1)
        square.mul_(shared.beta2).addcmul_(gradient, gradient, value=1 - shared.beta2)
        moments["exp_avg"].view(-1)[self.flat], moments["exp_avg_sq"].view(-1)[self.flat] = mean, square
        root = square.sqrt_().div_(math.sqrt(1 - shared.beta2**n)).add_(shared.eps)
        self.weight.addcdiv_(mean, root, value=-rate / (1 - shared.beta1**n))
        self._project(shared.keep_alive)
        self.weight.mul_(1 - rate * shared.weight_decay)
        self.layer.weight.detach().view(-1)[self.flat] = self.weight
        rows = self.places.without_zeros(self.weight.numpy())
        self.layer.know(Nonzeros.of_rows(rows, self.layer.in_features))
        self.places.value[:] = 0

    def _project(self, keep_alive: int) -> None:
        axis, bits = self.target.alive_axis, self.weight.view(torch.int32).numpy()
        line = self.places.column if axis == 1 else (self.flat // self.layer.in_features).int().numpy()
        n_lines, least = (len(line), 0) if axis is None else (self.layer.weight.shape[axis], keep_alive)
        last = self.target.last
        last[0] = keep_largest_of(bits, line, n_lines, self.target.budget(1.0), least, last[0])


class BackwardSets:
    """The sets of all matrices that have one; none before annealing has ended, and none where every step is dense."""

    def __init__(self, model: nn.Module, targets: Sequence[Target], shared: PretrainConfig) -> None:
        self.shared = shared
        weights = [target for target in targets if target.parameter.ndim == 2]
        modules = [(target, model.get_submodule(target.name.removesuffix(".weight"))) for target in weights]
        self.matrices = [(target, module) for target, module in modules if isinstance(module, Linear)]
        self.sets: list[BackwardSet] = []
        self.growth = 1.0  # square of the matrices' whole gradient ÷ that at their nonzero weights, at a dense step

    def prepare(self, step: int) -> None:
        """Have gradients computed as optimizer step number ``step`` (from 0) wants them: all, or those of the sets."""
        for one in self.sets:
            one.layer.backward_set = one.places if step % self.shared.dense_gradient_every else None

    @property
    def in_use(self) -> list[BackwardSet]:
        """Those whose gradients the present step has computed in place of all."""
        return [one for one in self.sets if one.layer.backward_set is not None]

    def choose(self, adam: torch.optim.Adam) -> None:
        """New sets for the steps up to the next dense one; gradients are still there."""
        skipping = [(target, layer) for target, layer in self.matrices if layer.nonzeros() is not None]
        self.sets = [
            BackwardSet.of_largest(layer, target, adam.state[layer.weight], self.shared.eps)
            for target, layer in skipping
        ]
        whole = sum(_gradient(one).square().sum() for one in self.sets)
        at_nonzeros = sum(_gradient(one)[one.flat[one.weight != 0]].square().sum() for one in self.sets)
        self.growth = float(whole / at_nonzeros) if self.sets else 1.0

    def state(self) -> dict[str, Any]:
        """What a resumable checkpoint has to hold."""
        return {"growth": self.growth, "sets": {one.target.name: one.flat for one in self.sets}}

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        """Go on before optimizer step number ``step``, with the weights of then."""
        self.growth = state["growth"]
        chosen = [(target, layer) for target, layer in self.matrices if target.name in state["sets"]]
        self.sets = [BackwardSet.at(layer, target, state["sets"][target.name]) for target, layer in chosen]
        self.prepare(step)


def _gradient(one: BackwardSet) -> Tensor:
    return cast(Tensor, one.layer.weight.grad).view(-1)
