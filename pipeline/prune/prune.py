"""One model, one task: gate, search, discretise, calibrate; the smallest circuit over all candidates (METHOD §4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.config import PruneConfig
from pipeline.data.pairs import PairBatch
from pipeline.model.scoring import mean_loss, score
from pipeline.model.transformer import Transformer
from pipeline.prune.discretise import Evaluation, Ranking
from pipeline.prune.edges import count_edges, induced_edges
from pipeline.prune.masks import by_site
from pipeline.prune.search import Means, search
from pipeline.seeds import seed_of


@dataclass(frozen=True)
class Pruned:
    """What pruning found: a summary row, and the circuit where the model does the task."""

    row: dict[str, Any]
    circuit: Circuit | None


@dataclass(frozen=True)
class Candidate:
    """One search's ranking and the circuit it gives at the target loss."""

    k_coef: float
    ranking: Ranking
    found: Evaluation
    n_edges: int


def prune_task(
    *,
    model: Transformer,
    means: Means,
    batches: Mapping[str, PairBatch],
    config: PruneConfig,
    seed: int,
    about: Mapping[str, Any],
) -> Pruned:
    """The smallest circuit for a task at ``config.target_loss``, or none where the model does not do the task unpruned.

    ``batches`` has the train, validation and test pairs; test pairs are only reported on, never chosen by. ``about``
    (model, task, hashes) goes into the circuit.
    """
    row: dict[str, Any] = {
        "unpruned_loss": mean_loss(score(model, batches["test"])),
        "unpruned_validation_loss": mean_loss(score(model, batches["validation"])),
        "solved": False,
        "n_nodes": None,
        "n_edges": None,
        "validation_loss": None,
        "k_coef": None,
        "curve": [],
    }
    if row["unpruned_validation_loss"] > config.target_loss:
        return Pruned(row, None)
    best = smallest_candidate(model, means, batches, config, seed)
    if best is None:
        return Pruned(row, None)
    circuit = as_circuit(best, means, dict(about) | {"target_loss": config.target_loss})
    row |= {"solved": True, "n_nodes": circuit.n_nodes, "n_edges": circuit.n_edges, "k_coef": best.k_coef}
    return Pruned(row | {"validation_loss": best.found.loss, "curve": curve(best.ranking, config)}, circuit)


def smallest_candidate(
    model: Transformer, means: Means, batches: Mapping[str, PairBatch], config: PruneConfig, seed: int
) -> Candidate | None:
    """The candidate with the fewest edges over all values of k_coef; None where none meets the target."""
    candidates, train = [], batches["train"]
    fit = train.take(torch.arange(min(config.calibration_pairs, train.n_pairs)))
    for k_coef in config.k_coef:
        order = search(model, means, train, config, k_coef, seed_of(seed, "search"))
        ranking = Ranking(model, means, order, fit, batches["validation"], config.calibration_steps)
        if found := ranking.smallest(config.target_loss):
            candidates.append(Candidate(k_coef, ranking, found, count_edges(model, ranking.masks(found.k))))
    return min(candidates, key=lambda candidate: candidate.n_edges, default=None)


def as_circuit(best: Candidate, means: Means, about: dict[str, Any]) -> Circuit:
    """The candidate's circuit at the target loss, with all that is needed to run it again."""
    masks = best.ranking.masks(best.found.k)
    nodes = {key: mask.nonzero().flatten() for key, mask in masks.items() if mask.any()}
    order: dict[str, Float[Tensor, " width"]] = by_site(best.ranking.order, means)
    return Circuit(
        nodes=nodes,
        edges=induced_edges(best.ranking.model, masks),
        means=dict(means),
        order={key: torch.clone(value) for key, value in order.items()},
        calibration=best.found.calibration,
        about=about | {"validation_loss": best.found.loss, "k_coef": best.k_coef},
    )


def curve(ranking: Ranking, config: PruneConfig) -> list[dict[str, Any]]:
    """Size at each of ``config.curve_losses``, from the same order of nodes; nulls where no circuit gets there."""
    points = []
    for target in config.curve_losses:
        found = ranking.smallest(target)
        edges = count_edges(ranking.model, ranking.masks(found.k)) if found else None
        points.append(
            {
                "target_loss": target,
                "n_nodes": found.k if found else None,
                "n_edges": edges,
                "loss": found.loss if found else None,
            }
        )
    return points
