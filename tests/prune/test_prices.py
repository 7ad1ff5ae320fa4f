"""What single removals are estimated to cost, against what they cost."""

from __future__ import annotations

import torch

from pipeline.model.held_at import Held
from pipeline.prune.discretise import Sketch
from pipeline.prune.graph import Parts
from pipeline.prune.prune import make_case


def test_prices_are_the_slopes_of_what_a_circuit_has_to_answer_for(able, pairs, params):
    """Half the train pairs are further ones, so that the spread of the losses counts; by removals of what is cheap."""
    model, means = able
    config = params.prune.model_copy(update={"calibration_pairs": pairs.n_pairs // 2})
    case = make_case(model, Held.at_means(means), {"train": pairs, "validation": pairs}, config, 0)
    order = -case.masking.slopes(torch.ones(1, case.masking.layout.n_units), pairs)[1][0]
    nodes, edges = case.masking.layout.circuit((order > order.median()).float(), model)
    verdict = case.judge(nodes, edges, target=10.0)
    prices = case.prices(Sketch.of(nodes, edges, verdict))
    parts = Parts(nodes, edges)
    assert set(prices.rises) == set(parts.list_items())
    cheap = sorted(parts.list_edges(), key=lambda edge: abs(prices.rises[edge]))[: parts.n_edges // 2]
    some = cheap[:: max(1, len(cheap) // 40)]
    estimated = torch.tensor([prices.rises[edge] for edge in some])
    found = torch.tensor([removed(case, parts, edge).loss - verdict.loss for edge in some])
    assert found.abs().max() > 1e-4 and torch.corrcoef(torch.stack([found, estimated]))[0, 1] > 0.95
    assert (found - estimated).std() < 0.3 * found.std()


def removed(case, parts, edge):
    less, _ = parts.without([edge])
    return case.judge(less.nodes, less.edges, target=10.0)
