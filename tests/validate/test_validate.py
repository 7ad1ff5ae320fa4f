"""The tests of the tests: a planted circuit supports every claim, and each wrong circuit fails the one for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.ablation import Ablation
from pipeline.circuit import WrongModelError
from pipeline.circuit.ablation_values import AblationValues
from pipeline.planted import Algorithm, plant
from pipeline.validate import validate_circuit
from pipeline.validate.complement import ablated_at, check_sufficient
from pipeline.validate.decides import decides
from pipeline.validate.generalisation import follows
from pipeline.validate.hypotheses import hypotheses
from pipeline.validate.mechanism import mechanism
from pipeline.validate.necessity import necessity
from pipeline.validate.searching import problem_of
from pipeline.validate.stability import stability
from pipeline.validate.verdict import verdict
from tests.validate.test_decides import cancelling
from tests.validate.test_mechanism import in_other_heads, random_parts
from tests.validate.test_searching import fast, known

__all__ = ["fast"]  # a fixture

SIX = ("alone", "decides", "needed", "mechanism", "elsewhere", "not_artefact")
algorithms = pytest.mark.parametrize("algorithm", Algorithm)


def outcomes(found):
    return {name: row["outcome"] for name, row in found["claims"].items()}


def refuted(**sections):
    """The claims that some sections of a validation alone refute."""
    return {name for name, outcome in outcomes(verdict(sections)).items() if outcome == "not supported"}


def at_means(tested):
    """The check of sufficiency with all else at its mean, without the other ablations, which take longer."""
    return {
        "tests": [check_sufficient(tested, "mean", ablated_at(tested, tested.circuit.ablation_values, tested.test))]
    }


def failed(found):
    return [test["name"] for section in found.values() for test in section.get("tests", ()) if test["passed"] is False]


@pytest.fixture
def validated(claim_of, params):
    """``validated(planted)``: what all tests find, but for searches."""

    def run(planted, circuit=None):
        tested = claim_of(planted, circuit)
        tested = replace(tested, config=tested.config.model_copy(update={"seeds": 0}))
        generalisation = {"other": planted.batch("other", 32)}
        return validate_circuit(tested, generalisation=generalisation, prune=params.prune, with_controls=False)

    return run


@algorithms
@pytest.mark.parametrize("seed", range(2))
def test_a_planted_circuit_supports_every_claim_and_survives_every_stress_test(validated, algorithm, seed):
    found = validated(plant(algorithm, d_model=64, seed=seed))
    assert failed(found) == []
    assert outcomes(found["verdict"]) == dict.fromkeys(SIX, "supported") | {"not_artefact": "not tested"}
    assert found["verdict"]["line"] == "supports 5 of 6 claims; 1 not tested"
    assert set(found) - {"verdict", "seconds"} == set(found["seconds"])


@pytest.mark.parametrize("kinds", [[Ablation.MEAN, Ablation.COUNTERFACTUAL], [Ablation.COUNTERFACTUAL]])
def test_a_planted_circuit_that_was_made_against_the_other_prompt_does_too(validated, circuit_of, quote, kinds):
    ablations = tuple(AblationValues.of(kind, quote.means) for kind in kinds)
    found = validated(quote, replace(circuit_of(quote), ablations=ablations))
    assert found["verdict"]["line"] == "supports 5 of 6 claims; 1 not tested"
    limits = {test["name"]: test["limit"] for test in found["decides"]["tests"]}
    assert limits["counterfactual_loss"] == pytest.approx(0.18)


@pytest.mark.slow
@algorithms
def test_a_planted_circuit_supports_all_six_claims_where_searches_are_made(claim_of, algorithm, params, fast):
    planted = plant(algorithm, d_model=64, seed=0)
    found = validate_circuit(
        known(claim_of(planted), fast), generalisation={"other": planted.batch("other", 32)}, prune=fast
    )
    assert outcomes(found["verdict"]) == dict.fromkeys(SIX, "supported")
    assert found["verdict"]["line"] == "supports 6 of 6 claims"


@algorithms
def test_with_any_one_edge_missing_it_does_not_do_it_alone(claim_of, circuit_of, algorithm):
    planted = plant(algorithm, d_model=64, seed=0)
    for key in planted.edges:
        broken = circuit_of(planted, edges=planted.edges | {key: planted.edges[key][1:]})
        assert refuted(complement=at_means(claim_of(planted, broken))) == {"alone"}


@algorithms
def test_with_ten_random_nodes_too_many_not_all_of_it_is_needed(claim_of, circuit_of, algorithm):
    planted = plant(algorithm, d_model=64, seed=0)
    generator, nodes = torch.Generator().manual_seed(1), dict(planted.nodes)
    for key in ["0.mlp_neuron", "1.mlp_neuron"]:
        others = torch.randperm(len(planted.means[key]), generator=generator)[:5]
        nodes[key] = torch.cat([nodes.get(key, torch.zeros(0, dtype=torch.long)), others]).unique()
    assert refuted(hypotheses=hypotheses(claim_of(planted, circuit_of(planted, nodes=nodes)))) == {"needed"}


def test_a_circuit_of_another_model_is_refused(validated, circuit_of, quote):
    other = plant(Algorithm.QUOTE, d_model=128, seed=0)
    with pytest.raises(WrongModelError):
        validated(other, circuit_of(quote))


def test_a_random_circuit_is_not_needed(claim_of, circuit_of, quote):
    circuit = circuit_of(quote, *random_parts(quote, torch.Generator().manual_seed(2), n=1))
    assert refuted(necessity=necessity(claim_of(quote, circuit))) == {"needed"}


@pytest.mark.parametrize("name", ["quote", "induction"])
def test_with_its_channels_in_other_heads_it_does_not_work_as_the_model_does(claim_of, circuit_of, name, request):
    planted = request.getfixturevalue(name)
    tested = claim_of(planted, circuit_of(planted, *in_other_heads(planted)))
    assert refuted(mechanism=mechanism(tested)) == {"mechanism"}


def test_sufficient_by_cancellation_only_it_does_it_alone_and_does_not_decide(claim_of, quote):
    tested = claim_of(cancelling(quote))
    found = {"complement": at_means(tested), "decides": decides(tested)}
    assert outcomes(verdict(found))["alone"] == "supported" and refuted(**found) == {"decides"}


def test_made_for_some_of_the_pairs_only_it_does_not_hold_elsewhere(claim_of, induction):
    """The values of every fourth pair differ in their first bit, those of the pair two further in the second: a circuit
    that copies one bit does the ones and not the others."""
    whole, pairs = claim_of(induction), torch.arange(0, 48, 4)
    first = {split: batch.take(pairs) for split, batch in whole.batches.items()}
    second = {"second": whole.batches["test"].take(pairs + 2)}
    copies = [name.split("->") for name in whole.circuit.edge_names if name.startswith("1.attn_v")]
    halves = [replace(whole, circuit=whole.circuit.without(*ends), batches=first) for ends in copies]
    found = [{"complement": at_means(half), "generalisation": follows(half, second)} for half in halves]
    assert sorted(map(sorted, (refuted(**of_half) for of_half in found))) == [["alone"], ["elsewhere"]]


def test_elsewhere_is_asked_with_all_else_at_its_mean_and_before_the_other_prompt_beside_it(claim_of, quote):
    """The circuit by cancellation does its task alone on any pairs, and decides none of them."""
    tested = claim_of(cancelling(quote))
    made_for = tuple(AblationValues.of(kind, quote.means) for kind in (Ablation.COUNTERFACTUAL, Ablation.MEAN))
    strict = replace(tested, circuit=replace(tested.circuit, ablations=made_for))
    found = follows(strict, {"other": tested.test})
    assert {test["name"]: test["passed"] for test in found["tests"]} == {
        "generalises_other": True,
        "decides_on_other": False,
    }
    assert outcomes(verdict({"generalisation": found}))["elsewhere"] == "supported"
    assert set(follows(tested, {"other": tested.test})["families"]["other"]) == {"model", "circuit"}


def test_the_task_is_done_at_the_studys_loss_and_other_seeds_search_at_the_circuits_own(
    claim_of, circuit_of, quote, fast
):
    circuit = circuit_of(quote)
    strict = claim_of(quote, replace(circuit, about=dict(circuit.about) | {"target_loss": 0.01}))
    assert (strict.target, strict.made_for) == (0.15, 0.01)
    assert problem_of(strict, quote.model, strict.batches, fast, 0).config.target_loss == 0.01
    assert claim_of(quote).made_for == 0.15


def test_that_no_other_seed_finds_it_may_be_an_artefact(claim_of, circuit_of, quote, fast):
    circuit = circuit_of(quote, *random_parts(quote, torch.Generator().manual_seed(2), n=2))
    tested = known(claim_of(quote, circuit), fast)
    assert refuted(stability=stability(tested, fast)()) == {"not_artefact"}
