"""The six claims as signs, the same on every surface: page, command line, MLflow, Prefect."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.rows import Claims

NOT_TESTED = "not tested"
SIGNS = {"supported": "✓", "not supported": "✗", NOT_TESTED: "–"}  # of a claim's outcome
SIGNS_SAID = ", ".join(f"{sign} {outcome}" for outcome, sign in SIGNS.items())
# Checks that pass at or above their limit; all others at or below it
AT_LEAST = {"counterfactual_accuracy", "flip_accuracy", "necessary_nodes", "necessary_edges", "minimality"}
AT_LEAST |= {"found_again"}
NAMES = {name: name.replace("_", " ") for name in Claims.__annotations__}  # in plain words, in the order that is shown
NAMES_SAID = ", ".join(NAMES.values())


def chips(claims: Mapping[str, object]) -> dict[str, str]:
    """Every claim in plain words → the sign of its outcome."""
    return {said: SIGNS[str(claims.get(name, NOT_TESTED))] for name, said in NAMES.items()}
