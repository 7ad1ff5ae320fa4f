"""Are a circuit's nodes features? Its loss when each node has two values only (App. C), and a model's kurtosis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.model.record import record
from pipeline.model.transformer import Intervene, Transformer
from pipeline.stats import interval
from pipeline.validate.circuit_under_test import CircuitUnderTest
from pipeline.validate.limits import HARMLESS
from pipeline.validate.paired_runs import Indices, PairedRuns, reaches, writing
from pipeline.validate.verdict import check

MAX_SINGLE = 64  # nodes that are binarised alone, a pass of the model each; of a larger circuit, as many at random
SAYS = "loss with all nodes binarised (nats); for information: nothing in the method asks that nodes be binary"

RESIDUAL = "final_resid"

Columns = Float[Tensor, "place node"]


@dataclass(frozen=True)
class Step:
    """A step function for every kept node of a site: ``low`` up to the threshold, ``high`` above it.

    ``left``: the fraction of the variance on which it was fitted that remains; 0 where the node was constant.
    """

    threshold: Float[Tensor, " node"]
    low: Float[Tensor, " node"]
    high: Float[Tensor, " node"]
    left: Float[Tensor, " node"]

    @classmethod
    def fit(cls, values: Columns) -> Step:
        """The two values with the least squared error (2-means in one dimension, exactly): every split is tried.

        The threshold is midway between the values next to it. Equal values are never split.
        """
        x, n = values.double().sort(dim=0).values, len(values)
        if n == 1 or bool((x[0] == x[-1]).all()):
            return cls(x[-1].float(), x[-1].float(), x[-1].float(), torch.zeros_like(x[0]))
        mean = x.mean(0)
        below = (x - mean).cumsum(0)[:-1]  # of the first i; the rest is minus that
        count = torch.arange(1, n, dtype=x.dtype, device=x.device)[:, None]
        explained = below**2 / count + below**2 / (n - count)
        explained, first = explained.masked_fill(x[1:] == x[:-1], -1).max(0)  # [node]
        at = first[None]
        low = mean + below.gather(0, at)[0] / (first + 1)
        high = mean - below.gather(0, at)[0] / (n - first - 1)
        threshold = (x.gather(0, at)[0] + x.gather(0, at + 1)[0]) / 2
        constant, total = x[0] == x[-1], ((x - mean) ** 2).sum(0)
        threshold, low, high = (torch.where(constant, x[0], part).float() for part in (threshold, low, high))
        return cls(threshold, low, high, torch.where(constant, 0, 1 - explained / total).clamp(min=0))

    def __call__(self, x: Float[Tensor, "*place node"]) -> Float[Tensor, "*place node"]:
        return torch.where(x > self.threshold, self.high, self.low)


@torch.no_grad()
def features(tested: CircuitUnderTest) -> dict[str, Any]:
    """Losses in nats of the circuit with its nodes binarised, together and one at a time, on the first test pairs.

    Steps are fitted on the circuit's own values, over the first train pairs, at the positions that can reach the answer
    through the circuit; the complement is ablated to its first draw. ``added`` is ``binarised`` less ``circuit``, pair
    by pair. ``late_binarised``: only the ``n_late`` nodes that matter at the answer position alone; the others carry
    which token is where, and two values are few for that.
    """
    steps, runs, kept = fitted(tested), PairedRuns(tested, tested.few), tested.circuit.nodes
    late = {key: indices for key, indices in kept.items() if not reaches(tested.circuit, key)}
    before, after = tested.losses(runs.circuit.answers), losses_with(runs, steps, kept)
    return {
        "circuit": tested.estimate(before),
        "binarised": tested.estimate(after),
        "added": tested.estimate(after - before),
        "late_binarised": tested.estimate(losses_with(runs, steps, late)),
        "n_late": sum(map(len, late.values())),
        "single": singles(runs, steps, float(before.mean())),
        "tests": [check("binarisation", None, float(after.mean()), tested.target, SAYS)],
    }


def fitted(tested: CircuitUnderTest) -> dict[str, Step]:
    """Site key → the step functions of its kept nodes, from train pairs."""
    runs = PairedRuns(tested, tested.first("train"))
    return {
        key: Step.fit(runs.circuit.values[key][runs.matters(key)][:, kept.to(runs.batch.tokens.device)])
        for key, kept in tested.circuit.nodes.items()
        if len(kept)
    }


def losses_with(runs: PairedRuns, steps: Mapping[str, Step], nodes: Indices) -> Float[Tensor, " pair"]:
    """Losses of the circuit with some of its nodes binarised."""
    intervene = binarising(steps, runs.tested.circuit.nodes, nodes, runs.masked.intervene)
    return runs.tested.losses(runs.answers(intervene, runs.cuts))


def binarising(steps: Mapping[str, Step], kept: Indices, nodes: Indices, before: Intervene) -> Intervene:
    """An intervention that puts some of the kept nodes through their steps, after another intervention."""

    def written(key: str, x: Tensor) -> Tensor:
        chosen = torch.isin(kept[key], nodes[key]).to(x.device)
        return steps[key](x[..., kept[key].to(x.device)])[..., chosen]

    return writing(nodes, written, before)


def singles(runs: PairedRuns, steps: Mapping[str, Step], before: float) -> dict[str, Any]:
    """Every node binarised alone: its ``loss`` (an estimate), what the step ``left`` of its variance, the ``n`` that
    were tried, and how many of them do no harm. Of more than ``MAX_SINGLE`` nodes, as many at random."""
    tested = runs.tested
    every = [(key, place) for key, kept in tested.circuit.nodes.items() for place in range(len(kept))]
    some = torch.randperm(len(every), generator=tested.generator("features"))[:MAX_SINGLE].sort().values
    of_each: list[dict[str, Any]] = []
    for key, place in (every[i] for i in some.tolist()):
        node, step = tested.circuit.nodes[key][place : place + 1], steps[key]
        loss = tested.estimate(losses_with(runs, steps, {key: node}))
        two = [float(step.low[place]), float(step.high[place])]
        of_each.append({"node": f"{key}.{int(node)}", "loss": loss, "values": two, "left": float(step.left[place])})
    return {
        "n": len(of_each),
        "n_under_target": sum(node["loss"]["mean"] <= tested.target for node in of_each),
        "n_harmless": sum(node["loss"]["mean"] <= before + HARMLESS for node in of_each),
        "of_each": of_each,
    }


@torch.no_grad()
def residual_kurtosis(
    model: Transformer, batches: Iterable[Int[Tensor, "_batch _pos"]], *, n_bootstrap: int, seed: int = 0
) -> dict[str, Any]:
    """Excess kurtosis of the final residual stream over its channels, of the unpruned model (Fig 10).

    Before the final norm; of each token, then the mean over tokens. ``interval``: 95 %, by resampling the ``n``
    sequences ``n_bootstrap`` times. Raises ValueError for no sequences, CompiledModelError.
    """
    found = []
    for batch in batches:
        _, values = record(model, batch.to(model.device), names=(RESIDUAL,), residual=True)
        found.append(excess_kurtosis(values[RESIDUAL]).mean(-1).cpu())  # [batch]
    if not found:
        raise ValueError("kurtosis of no sequences; give at least one batch of tokens")
    kurtosis = torch.cat(found)
    ends = interval(kurtosis, n_bootstrap, torch.Generator().manual_seed(seed))
    return {"mean": float(kurtosis.mean()), "interval": ends, "n": len(kurtosis)}


def excess_kurtosis(x: Float[Tensor, "*row channel"]) -> Float[Tensor, "*row"]:
    """Fourth central moment over the squared second, less 3 (a normal distribution's), over the last dimension."""
    x = x.double()
    squares = (x - x.mean(-1, keepdim=True)) ** 2
    return (squares**2).mean(-1) / squares.mean(-1) ** 2 - 3
