"""The two circuits of a task in results/summary.json: the paper's and the deciding one, by the same facts of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.validation import at, brief
from pipeline.rows import AblationRow, PruneRow, ValidationRow

SIZES = (
    "target_loss",
    "n_nodes",
    "n_edges",
    "validation_loss",
    "discretised",
    "calibration_scale",
    "one_minimal",
    "n_trials",
    "curve",
)
LOSSES = ("counterfactual_loss", "counterfactual_accuracy", "ablated_nodes_loss", "ablated_edges_loss")


def both_circuits(
    pruned: PruneRow, ablated: AblationRow | Mapping[str, Any], tested: ValidationRow | None
) -> dict[str, dict[str, Any] | None]:
    """``paper``: the circuit of the study's ablation, calibrated; ``deciding``: the one that meets its target under
    several ablations. None for one that the search did not find."""
    deciding = pruned.get("deciding")
    return {
        "paper": circuit_facts(pruned, ablated, tested),
        "deciding": deciding
        and circuit_facts(deciding, ablated.get("deciding") or {}, tested and tested.get("deciding"), whole=True),
    }


def circuit_facts(
    pruned: PruneRow, ablated: AblationRow | Mapping[str, Any], tested: Any, *, whole: bool = False
) -> dict[str, Any] | None:
    """Sizes, losses on test pairs in nats, and what validation measured of one circuit; with ``whole``, its validation
    too. None where the search found none."""
    if pruned["n_edges"] is None:
        return None
    facts = {name: pruned.get(name) for name in SIZES} | {"loss": ablated.get("circuit_loss")}
    facts |= {name: ablated.get(name) for name in LOSSES}
    facts["flip_accuracy"] = at(tested, ("decides", "flip", "accuracy", "mean"))
    facts["median_fvu"] = at(tested, ("mechanism", "nodes", "where_it_matters", "median_fvu"))
    return facts | ({"validation": tested and brief(tested)} if whole else {})
