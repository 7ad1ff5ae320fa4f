"""Estimated costs of single removals, against measured ones."""

from __future__ import annotations

import torch

from pipeline.circuit.ablation_values import AblationValues
from pipeline.prune.problem import make_problem


def test_attributions_are_the_slopes_of_the_loss_that_has_to_meet_the_target(able, pairs, params):
    """Half the train pairs are extra pairs, so that the spread of the losses counts; by removals of cheap edges."""
    model, means = able
    config = params.prune.model_copy(update={"calibration_pairs": pairs.n_pairs // 2})
    problem = make_problem(model, [AblationValues.at_means(means)], {"train": pairs, "validation": pairs}, config, 0)
    scores = -problem.masking.slopes(torch.ones(1, problem.masking.layout.n_units), pairs)[1][0]
    circuit = problem.masking.layout.circuit((scores > scores.median()).float(), model)
    evaluation = problem.evaluator(circuit, target=10.0)
    rises = problem.attributions(evaluation.candidate)
    assert set(rises) == set(circuit.list_items())
    cheap = sorted(circuit.list_edges(), key=lambda edge: abs(rises[edge]))[: circuit.n_edges // 2]
    some = cheap[:: max(1, len(cheap) // 40)]
    estimated = torch.tensor([rises[edge] for edge in some])
    found = torch.tensor([removed(problem, circuit, edge).loss - evaluation.loss for edge in some])
    assert found.abs().max() > 1e-4 and torch.corrcoef(torch.stack([found, estimated]))[0, 1] > 0.95
    assert (found - estimated).std() < 0.3 * found.std()


def removed(problem, circuit, edge):
    return problem.evaluator(circuit.without([edge])[0], target=10.0)
