"""How many first units of a ranking are taken, on losses that are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.circuit.graph import Subgraph
from pipeline.prune.discretise import Ranking
from pipeline.prune.evaluator import Evaluation, Evaluator
from pipeline.prune.masks import UnitLayout


class Counting(Evaluator):
    def __init__(self):
        self.n_evaluated = 0

    def __call__(self, circuit, target=0.0):
        self.n_evaluated += 1
        found = 1 - circuit.n_edges / 1000
        return Evaluation(circuit.nodes, circuit.edges, found, 0.0, (1.0, 0.0), torch.zeros(1), runs=())


class Known(Ranking):
    """Of 1000 units: the first k leave a loss of 1 − k/1000, by extra pairs too ``apart`` more; None: not there."""

    def __init__(self, apart):
        super().__init__(Counting(), object.__new__(UnitLayout), torch.arange(1000.0).flip(0))
        self.apart, self.n_checks = apart, 0

    def circuit(self, k):
        return Subgraph({}, {"0.mlp_in->mlp_neuron": torch.zeros(k, 2)})

    def check(self, k):
        self.n_checks += 1
        found = self.first(k)
        return replace(found, loss=found.loss + self.apart)


@pytest.mark.parametrize(("apart", "least"), [(0.0, 500), (0.01, 510), (0.1, 600), (0.45, 950)])
def test_units_are_added_until_the_extra_pairs_are_content_and_few_numbers_are_tried(apart, least):
    ranking = Known(apart)
    found = ranking.smallest(0.5)
    assert least <= found.n_edges <= least + 0.5 * (least - 500) + 0.05 * 500 and ranking.n_checks <= 12


def test_no_circuit_is_found_where_not_even_all_units_meet_the_target_or_more_than_may_be_tried_are_needed():
    assert Known(0.6).smallest(0.5) is None
    assert Known(0.1).smallest(0.5, max_units=590) is None and Known(0.1).smallest(0.5, max_units=400) is None
    assert (
        Known(0.1).smallest(0.5, max_units=640).n_edges <= 640 and Known(0.1).smallest(0.5, max_units=5000) is not None
    )


def test_what_was_asked_for_one_target_is_not_asked_again_for_another():
    ranking = Known(0.0)
    assert ranking.smallest(0.55).n_edges == pytest.approx(450, rel=0.02)
    n = len(ranking.seen)
    assert ranking.smallest(0.56).n_edges == pytest.approx(440, rel=0.03) and len(ranking.seen) - n <= 3
    assert ranking.smallest(0.35, max_units=500) is None and ranking.smallest(0.55).n_edges <= 459


def test_no_circuit_that_was_run_is_kept_and_the_one_that_is_found_is_made_again():
    ranking = Known(0.0)
    found = ranking.fewest(0.5)
    assert len(ranking.seen) > 5 and not any(isinstance(kept, Subgraph) for kept in ranking.seen.values())
    n = ranking.evaluator.n_evaluated
    assert found.candidate.n_edges == found.n_edges and ranking.evaluator.n_evaluated == n
    assert found.candidate.loss == found.loss
