"""Six claims about a circuit, and the checks by which each is supported or not (§6).

A claim is **supported** where every *essential* check of it that could be made is passed, **not supported** where one
of them fails, and **not tested** where none could be made. *Extra* checks bear on a claim without deciding it: the
same question with a weaker or a stricter measure. All other checks are **stress tests**: the complement at values that
no prompt of the task gives it, or as alive as hurts most. They show how far a circuit carries, and decide no claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from pipeline.rows import Check, ClaimRow

SUPPORTED, NOT_SUPPORTED, NOT_TESTED = "supported", "not supported", "not tested"
STRESS = "stress"  # in the place of a claim's name, for a check that belongs to none


@dataclass(frozen=True)
class Claim:
    """A statement about a circuit, and the names of its checks; ``*`` stands for any end of a name.

    ``number``: the check whose value stands for the claim; None: the share of its essential checks that are passed.
    ``measure`` says in words what that number is.
    """

    statement: str
    essential: tuple[str, ...]
    extra: tuple[str, ...]
    number: str | None
    measure: str


CLAIMS: Mapping[str, Claim] = {
    "alone": Claim(
        "does the task alone, all else at its mean",
        essential=("sufficient_mean",),
        extra=("equivalence",),
        number="sufficient_mean",
        measure="loss alone, nats",
    ),
    "decides": Claim(
        "decides the answer, whatever all else says",
        essential=("counterfactual_accuracy", "counterfactual_loss", "flip_accuracy"),
        extra=("flip_edges_accuracy", "sufficient_counterfactual"),
        number="counterfactual_accuracy",
        measure="accuracy against all else",
    ),
    "needed": Claim(
        "has to be there: without it the model fails, and it has no needless part",
        essential=("necessary_nodes", "necessary_edges", "minimality"),
        extra=("independence",),
        number="necessary_edges",
        measure="loss without its edges, at least, nats",
    ),
    "mechanism": Claim(
        "works as the model does",
        essential=("attention", "values", "interchange", "interchange_into_model"),
        extra=("values_follow",),
        number="values",
        measure="median node's FVU",
    ),
    "elsewhere": Claim(
        "works on other inputs of the task as well, and in natural code",
        essential=("generalises_*",),
        extra=("prediction", "decides_on_*"),
        number=None,
        measure="share of the other test sets",
    ),
    "not_artefact": Claim(
        "comes of the model, not of the method: other seeds find it, and where there is nothing, nothing is found",
        essential=("found_again", "control_*"),
        extra=("stable",),
        number="found_again",
        measure="share of its edges that other seeds find",
    ),
}


def place_of(check: str) -> tuple[str, bool]:
    """The name of the claim that a check belongs to, or STRESS; and whether it is essential to that claim."""
    for name, claim in CLAIMS.items():
        if among(check, (*claim.essential, *claim.extra)):
            return name, among(check, claim.essential)
    return STRESS, False


def among(check: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(check, pattern) for pattern in patterns)


def claim_row(name: str, checks: Sequence[Check]) -> ClaimRow:
    """Whether the ``checks`` of a circuit support one claim, with its number and the sentences that say why."""
    claim, essential = CLAIMS[name], [check for check in checks if check["claim"] == name and check["essential"]]
    tested = [check for check in essential if check["passed"] is not None]
    failed = [check for check in tested if not check["passed"]]
    return {
        "outcome": NOT_SUPPORTED if failed else SUPPORTED if tested else NOT_TESTED,
        "statement": claim.statement,
        "number": number(claim, tested),
        "measure": claim.measure,
        "says": says(claim, tested or essential, failed),
    }


def number(claim: Claim, tested: Sequence[Check]) -> float | None:
    """The value that stands for a claim; None where it was not measured."""
    if claim.number is None:
        return sum(bool(check["passed"]) for check in tested) / len(tested) if tested else None
    return next((check["value"] for check in tested if check["name"] == claim.number), None)


def says(claim: Claim, checks: Sequence[Check], failed: Sequence[Check]) -> str:
    """The sentences of the checks that fail; where none does, that of the claim's number, or else of all checks."""
    chosen = failed or [check for check in checks if check["name"] == claim.number] or checks
    return "; ".join(check["says"] for check in chosen) or "none of its checks was made"
