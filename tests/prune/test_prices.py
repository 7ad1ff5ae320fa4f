"""What single removals are estimated to cost, against what they cost."""

from __future__ import annotations

import torch

from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.graph import Parts
from pipeline.prune.discretise import Candidate
from pipeline.prune.prune import make_problem


def test_prices_are_the_slopes_of_what_a_circuit_has_to_answer_for(able, pairs, params):
    """Half the train pairs are further ones, so that the spread of the losses counts; by removals of what is cheap."""
    model, means = able
    config = params.prune.model_copy(update={"calibration_pairs": pairs.n_pairs // 2})
    problem = make_problem(model, AblationValues.at_means(means), {"train": pairs, "validation": pairs}, config, 0)
    order = -problem.masking.slopes(torch.ones(1, problem.masking.layout.n_units), pairs)[1][0]
    nodes, edges = problem.masking.layout.circuit((order > order.median()).float(), model)
    evaluation = problem.evaluator(nodes, edges, target=10.0)
    costs = problem.costs(Candidate.of(nodes, edges, evaluation))
    parts = Parts(nodes, edges)
    assert set(costs.rises) == set(parts.list_items())
    cheap = sorted(parts.list_edges(), key=lambda edge: abs(costs.rises[edge]))[: parts.n_edges // 2]
    some = cheap[:: max(1, len(cheap) // 40)]
    estimated = torch.tensor([costs.rises[edge] for edge in some])
    found = torch.tensor([removed(problem, parts, edge).loss - evaluation.loss for edge in some])
    assert found.abs().max() > 1e-4 and torch.corrcoef(torch.stack([found, estimated]))[0, 1] > 0.95
    assert (found - estimated).std() < 0.3 * found.std()


def removed(problem, parts, edge):
    less, _ = parts.without([edge])
    return problem.evaluator(less.nodes, less.edges, target=10.0)
