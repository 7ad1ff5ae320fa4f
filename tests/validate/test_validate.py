"""The tests of the tests: a planted circuit passes all of them, and each kind of wrong circuit fails the one for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.circuit import WrongModelError
from pipeline.planted import Algorithm, plant
from pipeline.validate import validate_circuit
from pipeline.validate.verdict import check, verdict


@pytest.fixture
def validated(claim_of, params):
    """``validated(planted, circuit)``: what all tests find, but for searches."""

    def run(planted, circuit=None):
        tested = claim_of(planted, circuit)
        tested = replace(tested, config=tested.config.model_copy(update={"seeds": 0}))
        generalisation = {"other": planted.batch("other", 32)}
        return validate_circuit(tested, generalisation=generalisation, prune=params.prune, with_controls=False)

    return run


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("seed", range(2))
def test_a_planted_circuit_passes_every_test(validated, algorithm, seed):
    found = validated(plant(algorithm, d_model=64, seed=seed))
    assert found["verdict"]["failed"] == [], found["verdict"]["line"]
    assert found["verdict"]["n_passed"] >= 15
    assert set(found) - {"verdict", "seconds"} == set(found["seconds"])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", Algorithm)
def test_one_edge_missing_is_not_sufficient(validated, circuit_of, algorithm):
    planted = plant(algorithm, d_model=64, seed=0)
    for key in list(planted.edges)[::2]:
        broken = circuit_of(planted, edges=planted.edges | {key: planted.edges[key][1:]})
        assert {"sufficient_mean", "equivalence"} <= set(validated(planted, broken)["verdict"]["failed"])


@pytest.mark.parametrize("algorithm", Algorithm)
def test_ten_random_nodes_too_many_are_not_minimal(validated, circuit_of, algorithm):
    planted = plant(algorithm, d_model=64, seed=0)
    generator, nodes = torch.Generator().manual_seed(1), dict(planted.nodes)
    for key in ["0.mlp_neuron", "1.mlp_neuron"]:
        others = torch.randperm(len(planted.means[key]), generator=generator)[:5]
        nodes[key] = torch.cat([nodes.get(key, torch.zeros(0, dtype=torch.long)), others]).unique()
    assert "minimality" in validated(planted, circuit_of(planted, nodes=nodes))["verdict"]["failed"]


def test_a_circuit_of_another_model_is_refused(validated, circuit_of, quote):
    other = plant(Algorithm.QUOTE, d_model=128, seed=0)
    with pytest.raises(WrongModelError):
        validated(other, circuit_of(quote))


def test_the_verdict_names_what_failed_with_its_numbers():
    good, bad, none = (
        check("a", True, 1, 2, "good"),
        check("b", False, 3.0, 2, "loss 3"),
        check("c", None, None, 1, "no"),
    )
    found = verdict({"one": {"tests": [good, none]}, "two": {"tests": [bad]}, "three": {}})
    assert (found["n_passed"], found["n_failed"], found["not_tested"], found["measured"]) == (1, 1, ["c"], [])
    assert found["line"] == "passes 1 of 2; fails b (loss 3)"
    assert verdict({"one": {"tests": [good]}})["line"] == "passes 1 of 1"
    assert verdict({})["line"].startswith("not tested: the circuit is empty")
