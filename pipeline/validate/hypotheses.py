"""Hypothesis tests of circuits (Shi et al. 2024, arXiv 2410.13032): equivalence, independence, minimality.

The burden of proof differs. The null hypothesis of equivalence is that circuit and model are *not* equivalent: a small
p shows that they are, and a circuit of which too little is known fails. That of independence and of minimality is what
would be true of an ideal circuit: a small p refutes it, a large one proves nothing. Only those two are corrected for
being several (Holm): each is a chance to be refuted, while a circuit that has to pass more tests is not shown to be
equivalent by chance more often.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.stats import binom
from torch import Tensor

from pipeline.circuit.conditions import Condition
from pipeline.model.scoring import calibrated
from pipeline.rows import Check
from pipeline.stats import central
from pipeline.validate.circuit_under_test import UNCALIBRATED, CircuitUnderTest, margins
from pipeline.validate.limits import EPSILON, MARGIN, SILENT
from pipeline.validate.minimality import minimality
from pipeline.validate.verdict import check, untested

Scores = Float[Tensor, " n"]  # of pairs, or of prompts


def hypotheses(tested: CircuitUnderTest) -> dict[str, Any]:
    """The three tests and their checks at ``alpha``: ``p`` of equivalence at most that, ``p_corrected`` of the others
    above it. p None: the circuit has no nodes or edges to be tested."""
    alpha, same = tested.config.alpha, equivalence(tested)
    ideal = {"independence": independence(tested), "minimality": minimality(tested)}
    corrected = holm({name: test["p"] for name, test in ideal.items() if test["p"] is not None})
    for name, test in ideal.items():
        test["p_corrected"] = corrected.get(name)
    tests = [shown(same, alpha), *(refuted(name, test, alpha) for name, test in ideal.items())]
    return {"alpha": alpha, "correction": "holm", "equivalence": same} | ideal | {"tests": tests}


def shown(test: Mapping[str, Any], alpha: float) -> Check:
    """The check of equivalence, which has to be shown."""
    passed, (low, high) = test["p"] <= alpha, test["interval"]
    says = (
        f"loss minus the model's {test['difference']['mean']:.3f} nats, {1 - 2 * alpha:.0%} interval {low:.3f} to "
        f"{high:.3f}: {'' if passed else 'not '}shown to be within ±{test['delta']:.2f}, p {test['p']:.2g}"
    )
    return check("equivalence", passed, test["p"], alpha, says)


def refuted(name: str, test: Mapping[str, Any], alpha: float) -> Check:
    """The check of a test whose null hypothesis is an ideal circuit, which must not be refuted."""
    p = test["p_corrected"]
    if p is None:
        return untested(name, "the circuit has no parts", alpha)
    margins_depend = "HSIC {hsic:.2g} of the model's margins with and without the circuit"
    found = margins_depend.format(**test) if name == "independence" else of_minimality(test)
    says = f"{found}; {name} is {'not ' if p > alpha else ''}refuted, p {p:.2g}"
    return check(name, p > alpha, p, alpha, says)


def of_minimality(test: Mapping[str, Any]) -> str:
    """Both burdens of proof: nodes and edges shown not to be needed, and those not shown to be needed."""

    def counted(n: str) -> str:
        return ", ".join(f"{test[kind][n]} of {test[kind]['n_tested']} {kind}" for kind in ("nodes", "edges"))

    found, unproven = counted("n_not_needed"), counted("n_not_shown_needed")
    return f"matter no more than random additions: {found}; not shown to matter more: {unproven}"


def equivalence(tested: CircuitUnderTest) -> dict[str, Any]:
    """Null hypothesis: the circuit's loss, calibrated, differs from the model's by ``delta`` or more, on average.

    ``delta`` in nats is the target and MARGIN: all that is claimed of unseen pairs, where the model may lose nothing. A
    search stops as soon as the target is met, so that of a sure model the circuits lie on the target itself, and there
    δ = target would be passed or not by chance; ``p_at_target`` is the p of that. ``difference`` has a 95 % interval as
    all estimates have; ``interval`` is the one that decides, central 1 − 2α of the same resamples of draws and pairs:
    it lies within ±δ where p ≤ α. ``apart``, the mean of |difference|, tells where pairs cancel out. ``margins`` and
    ``margins_calibrated`` are Shi et al.'s test, of which pairs' margins are larger than the model's; it is reported
    only, as it refutes circuits that are known to be true: the final norm scales up what a circuit alone writes.
    """
    answers = tested.ablator.answers(tested.circuit, Condition.CIRCUIT, tested.test)
    more = tested.losses(answers) - tested.losses(tested.of_model, UNCALIBRATED)  # [draw, pair]
    means = tested.resampled(more, "bootstrap")  # as ``estimate``'s
    delta, alpha = tested.target + MARGIN, tested.config.alpha
    scaled = calibrated(answers, tested.circuit.calibration)
    return {
        "p": tost(means, delta),
        "p_at_target": tost(means, tested.target),
        "delta": delta,
        "interval": central(means, alpha),
        "difference": tested.estimate(more),
        "apart": tested.estimate(more.abs()),
        "n_pairs": more.shape[-1],
        "epsilon": EPSILON,
        "margins": sign_test(margins(answers).mean(0) - margins(tested.of_model)),
        "margins_calibrated": sign_test(margins(scaled).mean(0) - margins(tested.of_model)),
    }


def tost(means: Float[Tensor, " resample"], delta: float) -> float:
    """p of two one-sided tests (Schuirmann 1987) that a mean lies within ±δ, by its bootstrap: the larger of the shares
    of resampled means that lie beyond one end, the sample itself counted as beyond."""
    beyond = max(int((means >= delta).sum()), int((means <= -delta).sum()))
    return (1 + beyond) / (1 + len(means))


def sign_test(better: Scores) -> dict[str, Any]:
    """``share`` of pairs on which the circuit does better, equal ones half; ``difference``, the mean; ``p``.

    p: that the share is so far from 1/2, if the chance is at the edge of EPSILON: small, it refutes equivalence (Shi et
    al.). ``p_apart``: the other way round, that the share is so near to 1/2 if the chance is EPSILON or more away;
    small, it proves equivalence.
    """
    n = len(better)
    wins = int((better > 0).sum()) + int((better == 0).sum()) / 2
    far = abs(wins - n / 2)
    chance = binom(n, 0.5 + EPSILON)
    p = chance.cdf(math.floor(n / 2 - far)) + chance.sf(math.ceil(n / 2 + far) - 1)  # halves are exact
    return {
        "share": wins / n,
        "difference": float(better.mean()),
        "p": min(1.0, float(p)),
        "p_apart": float(chance.cdf(math.floor(n / 2 + far))),
    }


def independence(tested: CircuitUnderTest) -> dict[str, Any]:
    """Null hypothesis: the answers of the model without the circuit's nodes are independent of the whole model's.

    A prompt's score is half the difference between its answers' logits and those of the pair's other prompt: the pair's
    margin for one prompt and its negative for the other. So the test also fails where the rest of the model still knows
    the answer of all pairs or of some, however equally sure the model is of them. The part that both prompts share,
    such as the bigram table's, is left out. ``spread``: the root mean square of the score without the circuit, as a
    share of the model's mean margin; up to SILENT, nothing is left to depend, and p is 1. ``rest``: its mean margin.
    """
    rest = margins(tested.ablator.answers(tested.circuit, Condition.ABLATED_NODES, tested.test)).mean(0)
    model = margins(tested.of_model)
    spread = float(rest.square().mean().sqrt()) / float(model.abs().mean())
    found: dict[str, Any] = {"n_pairs": len(model), "spread": spread, "rest": float(rest.mean()), "hsic": 0.0, "p": 1.0}
    if not tested.circuit.n_nodes:
        return found | {"p": None}
    if spread <= SILENT:
        return found
    orders = orders_of_pairs(len(model), tested.config.permutations, tested.generator("independence"))
    hsic, p = hsic_test(torch.cat([model, -model]), torch.cat([rest, -rest]), orders)
    return found | {"hsic": hsic, "p": p}


def orders_of_pairs(n: int, times: int, generator: torch.Generator) -> list[Int[Tensor, " prompt"]]:
    """Random orders of n pairs' first prompts and then their second: pairs stay together, either is the first."""
    found = []
    for _ in range(times):
        order, swapped = torch.randperm(n, generator=generator), n * torch.randint(2, (n,), generator=generator)
        found.append(torch.cat([order + swapped, order + n - swapped]))
    return found


def hsic_test(x: Scores, y: Scores, orders: Sequence[Int[Tensor, " n"]]) -> tuple[float, float]:
    """The Hilbert-Schmidt independence criterion (Gretton et al. 2007, biased) of two scores, and its p: in how many
    orders of one score it is as much."""
    k, l_ = centred(gaussian(x)), centred(gaussian(y))
    seen = float((k * l_).sum())
    found = torch.stack([(k * l_[order][:, order]).sum() for order in orders])
    p = (1 + int((found >= seen * (1 - 1e-12)).sum())) / (1 + len(orders))
    return seen / (len(x) - 1) ** 2, p


def gaussian(x: Scores) -> Float[Tensor, "n n"]:
    """Gaussian kernel as wide as the median distance between two scores; 1 everywhere for a constant score."""
    apart = (x.double()[:, None] - x.double()[None]).abs()
    width = float(apart[~torch.eye(len(x), dtype=torch.bool)].median())
    return torch.exp(-(apart**2) / (2 * width**2)) if width else (apart == 0).double()


def centred(kernel: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()


def holm(p: dict[str, float]) -> dict[str, float]:
    """p corrected so that the chance of refuting any true hypothesis is at most the level (Holm 1979)."""
    corrected: dict[str, float] = {}
    most = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        most = max(most, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = most
    return corrected
