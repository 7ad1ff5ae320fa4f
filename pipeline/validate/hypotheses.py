"""Hypothesis tests of circuits (Shi et al. 2024, arXiv 2410.13032): equivalence, independence, minimality.

Each null hypothesis is what would be true of an ideal circuit, so a small p refutes the circuit and a large one proves
nothing. p are corrected over the three tests (Holm).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from scipy.stats import binom
from torch import Tensor

from pipeline.ablate.conditions import Condition
from pipeline.model.scoring import calibrated
from pipeline.validate.claim import UNCALIBRATED, Claim, check, margins
from pipeline.validate.minimality import minimality

EPSILON = 0.1  # Shi et al.: how far from 1/2 the chance of doing better than the model may be
SILENT = 1e-2  # of the model's mean margin: a score without the circuit that varies less over pairs says nothing

Scores = Float[Tensor, " pair"]


def hypotheses(claim: Claim) -> dict[str, Any]:
    """The three tests, their p corrected over the three (``p_corrected``), and their checks at ``alpha``."""
    found = {"equivalence": equivalence(claim), "independence": independence(claim), "minimality": minimality(claim)}
    corrected = holm({name: test["p"] for name, test in found.items() if test["p"] is not None})
    alpha = claim.config.alpha
    tests = []
    for name, test in found.items():
        p = test["p_corrected"] = corrected.get(name)
        says = "the circuit has no parts" if p is None else f"{SAYS[name](test)}, p {p:.2g}"
        tests.append(check(name, None if p is None else p > alpha, p, alpha, says))
    return {"alpha": alpha, "correction": "holm", **found, "tests": tests}


def of_minimality(test: Mapping[str, Any]) -> str:
    counts = [(test[kind]["n_not_needed"], test[kind]["n_tested"], kind) for kind in ("nodes", "edges")]
    return "matter no more than random additions: " + ", ".join(f"{n} of {of} {kind}" for n, of, kind in counts)


SAYS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "equivalence": lambda test: f"better than the model on {test['share']:.0%} of pairs, ties half",
    "independence": lambda test: f"the model without the circuit varies with the model: HSIC {test['hsic']:.2g}",
    "minimality": of_minimality,
}


def equivalence(claim: Claim) -> dict[str, Any]:
    """Null hypothesis: the chance that the circuit does better than the model on a pair is within EPSILON of 1/2.

    Here a circuit does better by its loss, calibrated, and only where the two differ by more than the target: that is
    what is claimed of it. ``margins`` and ``margins_calibrated`` are Shi et al.'s test of any difference in margin,
    which refutes circuits that are known to be true as well: the final norm scales up what a circuit alone writes.
    """
    answers = claim.runner.answers(claim.circuit, Condition.CIRCUIT, claim.test)
    own = torch.stack([claim.losses(draw) for draw in answers]).mean(0)
    model = claim.losses(claim.of_model, UNCALIBRATED)
    scaled = torch.stack([calibrated(draw, claim.circuit.calibration) for draw in answers])
    return {
        **sign_test(model - own, claim.target),
        "epsilon": EPSILON,
        "tie": claim.target,
        "n_pairs": len(model),
        "margins": sign_test(margins(answers.mean(0)) - margins(claim.of_model), 0.0),
        "margins_calibrated": sign_test(margins(scaled.mean(0)) - margins(claim.of_model), 0.0),
    }


def sign_test(better: Scores, tie: float) -> dict[str, Any]:
    """``share`` of pairs on which the circuit does better, ties half; ``difference``, the mean; ``p``.

    p: that the share is so far from 1/2, if the chance is at the edge of EPSILON (Shi et al.). ``p_apart``: the other
    way round, that the share is so near to 1/2 if the chance is EPSILON or more away; small, it proves equivalence.
    """
    n, ties = len(better), int((better.abs() <= tie).sum())
    wins = int((better > tie).sum()) + ties / 2
    far = abs(wins - n / 2)
    chance = binom(n, 0.5 + EPSILON)
    p = chance.cdf(math.floor(n / 2 - far)) + chance.sf(math.ceil(n / 2 + far) - 1)  # halves are exact
    return {
        "share": wins / n,
        "n_ties": ties,
        "difference": float(better.mean()),
        "p": min(1.0, float(p)),
        "p_apart": float(chance.cdf(math.floor(n / 2 + far))),
    }


def independence(claim: Claim) -> dict[str, Any]:
    """Null hypothesis: the model's margin on a pair, and its margin with the circuit's nodes held, are independent.

    Of pairs, since the two prompts of one are not drawn independently. ``spread``: how much the margin without the
    circuit deviates over pairs, as a share of the model's mean margin; up to SILENT, nothing is left to depend, and p
    is 1. ``rest``: its mean.
    """
    rest = margins(claim.runner.answers(claim.circuit, Condition.ABLATED_NODES, claim.test).mean(0))
    model = margins(claim.of_model)
    spread = float(rest.std()) / float(model.abs().mean())
    found: dict[str, Any] = {"n_pairs": len(model), "spread": spread, "rest": float(rest.mean()), "hsic": 0.0, "p": 1.0}
    if not claim.circuit.n_nodes:
        return found | {"p": None}
    if spread <= SILENT:
        return found
    hsic, p = hsic_test(model, rest, claim.config.permutations, claim.generator("independence"))
    return found | {"hsic": hsic, "p": p}


def hsic_test(x: Scores, y: Scores, permutations: int, generator: torch.Generator) -> tuple[float, float]:
    """The Hilbert-Schmidt independence criterion (Gretton et al. 2007, biased) of two scores, and its p: how many
    permutations of one score give as much."""
    k, l_ = centred(gaussian(x)), centred(gaussian(y))
    n = len(x)
    orders = [torch.randperm(n, generator=generator) for _ in range(permutations)]
    seen = float((k * l_).sum())
    found = torch.stack([(k * l_[order][:, order]).sum() for order in orders])
    p = (1 + int((found >= seen * (1 - 1e-12)).sum())) / (1 + permutations)
    return seen / (n - 1) ** 2, p


def gaussian(x: Scores) -> Float[Tensor, "pair pair"]:
    """Gaussian kernel as wide as the median distance between two pairs; 1 everywhere for a constant score."""
    apart = (x.double()[:, None] - x.double()[None]).abs()
    width = float(apart[~torch.eye(len(x), dtype=torch.bool)].median())
    return torch.exp(-(apart**2) / (2 * width**2)) if width else (apart == 0).double()


def centred(kernel: Float[Tensor, "pair pair"]) -> Float[Tensor, "pair pair"]:
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()


def holm(p: dict[str, float]) -> dict[str, float]:
    """p corrected so that the chance of refuting any true hypothesis is at most the level (Holm 1979)."""
    corrected: dict[str, float] = {}
    most = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        most = max(most, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = most
    return corrected
