"""The search once more: seeds that agree on a planted circuit, and controls that find nothing in nonsense."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.ablation import Ablation
from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.compact import Compact
from pipeline.circuit.conditions import score_compact
from pipeline.circuit.graph import Subgraph
from pipeline.data.pairs import PairBatch
from pipeline.model.means import node_means
from pipeline.model.scoring import mean_loss
from pipeline.prune.discretise import Ranking
from pipeline.prune.masks import UnitLayout
from pipeline.validate import controls as module
from pipeline.validate import searching
from pipeline.validate.circuit_under_test import CircuitUnderTest
from pipeline.validate.controls import (
    LEAST_LIKELY,
    check_control,
    control_found,
    controls,
    half_swapped,
    nonsense,
    random_weights,
    shuffled_labels,
    shuffled_weights,
)
from pipeline.validate.searching import ablated_as, one_trial, problem_of
from pipeline.validate.stability import OWN, items_of, jaccard, share, stability


@pytest.fixture
def fast(params):
    """Settings of pruning that take seconds on a planted model."""
    centre = params.prune.centres[0].model_copy(update={"k_coef": 3e-3, "lr": 0.05})
    return params.prune.model_copy(update={"steps": 60, "batch_pairs": 8, "centres": [centre]})


def known(tested, fast):
    """The claim, with a circuit that says how it was searched for."""
    about = dict(tested.circuit.about) | {"hyperparameters": fast.centres[0].model_dump()}
    return replace(tested, circuit=replace(tested.circuit, about=about))


def test_seeds_find_the_planted_circuit_again(claim_of, quote, fast):
    found = stability(known(claim_of(quote), fast), fast)()
    assert found["n_seeds"] == found["n_met"] == 5
    assert found["recovered_nodes"]["least"] == found["recovered_edges"]["least"] == 1
    again, stable = found["tests"]
    assert (again["passed"], again["value"]) == (True, 1) and stable["passed"] is None
    assert 0 < found["jaccard_edges"]["least"] <= found["jaccard_edges"]["median"] <= 1
    assert all(row["test_loss"] < 0.3 for row in found["circuits"])


def test_a_circuit_that_was_not_searched_for_has_no_stability(claim_of, quote, fast):
    tests = stability(claim_of(quote), fast)()["tests"]
    assert [test["name"] for test in tests] == ["found_again", "stable"]
    assert all(test["passed"] is test["value"] is None and "does not say" in test["says"] for test in tests)


def test_overlap_by_hand():
    edges = {"0.attn_in->attn_q": torch.tensor([[1, 2]])}
    one, other = (set(Subgraph({"0.attn_in": torch.tensor(nodes)}, edges).list_items()) for nodes in ([1, 2], [2, 3]))
    assert jaccard(one, other) == 2 / 4 and share(one, other) == 2 / 3
    assert jaccard(set(), set()) == share(set(), one) == 1


def test_a_seed_has_its_own_noise_and_its_own_batches(claim_of, quote, fast, monkeypatch):
    given = []

    def search(masking, train, config, trials, seeds, seed):
        given.append((config.target_loss, *seeds, seed))
        return {0: torch.rand(masking.layout.n_units, generator=torch.Generator().manual_seed(seed % 2**31))}

    monkeypatch.setattr(searching, "search", search)
    found = stability(replace(known(claim_of(quote), fast), target=0.2), fast)()
    targets, noise, batches = zip(*given, strict=True)
    assert set(targets) == {0.2} and len(set(noise) | set(batches)) == 8
    assert found["jaccard_edges"]["most"] < 1
    assert [row["seed"] for row in found["circuits"]] == [OWN, *(f"stability {i}" for i in range(1, 5))]


def test_the_first_seed_is_the_circuits_own_search_and_recovers_nothing_by_that(claim_of, quote, fast, monkeypatch):
    def nothing_of_it(masking, train, config, trials, seeds, seed):
        return {0: -masking.layout.flat(quote_order)}

    tested = known(claim_of(quote), fast)
    quote_order = tested.circuit.scores
    monkeypatch.setattr(searching, "search", nothing_of_it)
    found = stability(tested, fast)()
    own = found["circuits"][0]
    ranking = Ranking(
        problem_of(tested, tested.model, tested.batches, fast, tested.seed).evaluator,
        UnitLayout(tested.model.widths()),
        UnitLayout(tested.model.widths()).flat(quote_order),
    )
    assert own["n_nodes"] == ranking.smallest(tested.target).n_nodes == min(row["n_nodes"] for row in found["circuits"])
    assert own["n_nodes"] < found["circuits"][1]["n_nodes"]


def test_seeds_without_a_circuit_are_not_compared(claim_of, quote, fast):
    tested = known(claim_of(quote), fast)
    found = stability(replace(tested, batches=shuffled_labels(tested.batches, 0)), fast)()
    test, _ = found["tests"]
    assert found["n_met"] == 0 and len(found["circuits"]) == 5 and "jaccard_edges" not in found
    assert (test["passed"], test["value"]) == (None, None) and test["says"].startswith("0 of 5")


def test_controls_find_nothing_where_there_is_nothing(claim_of, quote, fast):
    found = controls(claim_of(quote), fast)()
    assert found["true"]["met"] and found["true"]["ratio_edges"] == 1
    assert not found["shuffled_labels"]["met"] and found["shuffled_labels"]["ratio_edges"] is None
    assert len(found["tests"]) == 4 and all(test["passed"] for test in found["tests"])
    assert len({row["seed"] for name, row in found.items() if name != "tests"}) == 1


def test_a_trial_finds_the_true_circuit_with_a_loss_in_its_interval(claim_of, quote, fast):
    tested = claim_of(quote)
    problem = problem_of(tested, quote.model, tested.batches, fast, 0)
    found = one_trial(problem, fast.centres[0], "here")
    row = found.row(tested, problem, tested.batches["test"])
    assert found.met and items_of(claim_of(quote).circuit)["nodes"] <= items_of(found.candidate)["nodes"]
    assert row["test_loss_interval"][0] <= row["test_loss"] <= row["test_loss_interval"][1] and row["n_pairs"] == 48
    few = replace(tested, config=tested.config.model_copy(update={"pairs": 7}))
    assert found.row(few, problem, tested.batches["test"])["n_pairs"] == 7


def test_a_control_that_is_the_true_model_fails(claim_of, quote, fast, monkeypatch):
    monkeypatch.setattr(module, "random_weights", lambda model, seed: model)
    monkeypatch.setattr(module, "nonsense", lambda tested, seed: tested.batches)
    found = controls(claim_of(quote), fast)()
    outcomes = {test["name"]: test["passed"] for test in found["tests"]}
    assert not outcomes["control_random_weights"] and not outcomes["control_nonsense"]
    assert outcomes["control_shuffled_labels"] and found["random_weights"]["ratio_edges"] == 1


def test_without_a_circuit_of_the_true_task_controls_are_not_tested(claim_of, quote, fast):
    tested = claim_of(quote)
    found = controls(replace(tested, batches=shuffled_labels(tested.batches, 0)), fast)()
    assert not found["true"]["met"] and found["true"]["ratio_edges"] is None
    assert {(test["passed"], test["value"]) for test in found["tests"]} == {(None, None)}
    assert all("true task's circuit misses the target" in test["says"] for test in found["tests"])


def random_claim(model, settings, n_pairs):
    """A claim about random prompts of a random model, whose right answers are random too."""
    generator = torch.Generator().manual_seed(1)

    def pairs(n):
        tokens = torch.randint(0, 20, (2 * n, 6), generator=generator)
        return PairBatch(tokens, torch.full((2 * n,), 5), torch.tensor([[20, 21], [21, 20]]).repeat(n, 1))

    windows = torch.randint(0, 24, (32, 32), generator=generator)
    means = node_means(model, [windows])
    circuit = Circuit({}, {}, means, {key: torch.zeros_like(mean) for key, mean in means.items()})
    batches = {"train": pairs(n_pairs), "validation": pairs(32), "test": pairs(32)}
    return CircuitUnderTest(model, circuit, batches, windows, settings, 0, 0.3)


@pytest.mark.parametrize(("n_pairs", "learnt"), [(2, True), (64, False)])
def test_shuffled_labels_of_few_pairs_can_be_learnt_by_heart_and_of_many_not(
    tiny_model, settings, fast, n_pairs, learnt
):
    tested = random_claim(tiny_model(), settings, n_pairs)
    row = control_found(tested, lambda: (tested.model, shuffled_labels(tested.batches, 0)), fast, 0)
    assert row["met"] == learnt and row["test_loss"] > 0.5
    assert check_control("shuffled_labels", row, {"met": True, "n_edges": 10**6})["passed"] != learnt


def test_what_is_held_is_of_the_circuits_kind_with_the_models_own_values(claim_of, quote):
    tested, other = claim_of(quote), shuffled_weights(quote.model, 0)
    means, samples = tested.circuit.means, {key: values[:3] for key, values in tested.samples.items()}
    for own in (AblationValues.at_means(means), AblationValues.at_zero(means), AblationValues.resampled(samples)):
        of_kind = replace(tested, circuit=replace(tested.circuit, ablations=(own,)))
        [ablated_to] = ablated_as(of_kind, other, tested.batches["train"])
        assert ablated_as(of_kind, tested.model, tested.batches["train"])[0] is own
        assert (ablated_to.kind, len(ablated_to.draws)) == (own.kind, len(own.draws))
        same = all(torch.equal(value, own.first[key]) for key, value in ablated_to.first.items())
        assert ablated_to.first.keys() == own.first.keys() and same == (own.kind is Ablation.ZERO)


def test_a_loss_is_the_mean_over_all_draws_of_what_is_held(claim_of, quote, fast):
    tested = claim_of(quote)
    draws = AblationValues.resampled({key: values[:3] for key, values in tested.samples.items()})
    tested = replace(tested, circuit=replace(tested.circuit, ablations=(draws,)))
    problem = problem_of(tested, tested.model, tested.batches, fast, 0)
    found = one_trial(problem, fast.centres[0], "here")
    parts = [
        Compact(frozen, found.candidate.nodes, found.candidate.edges) for frozen in problem.evaluator.stages[0].frozen
    ]
    losses = [mean_loss(score_compact(part, tested.test), found.candidate.calibration) for part in parts]
    row = found.row(tested, problem, tested.batches["test"])
    assert len({round(loss, 6) for loss in losses}) == 3
    assert row["test_loss"] == pytest.approx(sum(losses) / 3, abs=1e-5)


def test_shuffled_weights_keep_the_pattern_and_the_values(tiny_model):
    model = tiny_model()
    with torch.no_grad():
        model.transformer["h"][0].mlp.c_fc.weight[::2] = 0
    other = shuffled_weights(model, 0)
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine == 0, theirs == 0)
        assert torch.equal(mine.flatten().sort().values, theirs.flatten().sort().values)
        assert (mine.ndim == 2 and name != "bigram_table") != torch.equal(mine, theirs)


def test_random_weights_keep_the_pattern_only(tiny_model):
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[:5] = 0
    other = random_weights(model, 0)
    assert torch.equal(other.bigram_table, model.bigram_table)
    assert bool((other.lm_head.weight[:5] == 0).all()) and not torch.equal(other.lm_head.weight, model.lm_head.weight)


def test_shuffled_labels_swap_both_sides_of_half_the_pairs(claim_of, quote):
    batches = claim_of(quote).batches
    shuffled = shuffled_labels(batches, 0)
    swapped = shuffled["test"].answers != batches["test"].answers
    assert torch.equal(swapped[0::2], swapped[1::2]) and float(swapped.float().mean()) == 0.5
    assert shuffled["validation"] is shuffled["train"]
    one = batches["train"].take(torch.tensor([0]))
    assert torch.equal(half_swapped(one, 0).answers, one.answers.flip(1))


def test_nonsense_answers_never_follow_and_differ_by_side(claim_of, quote):
    tested = claim_of(quote)
    batch = nonsense(tested, 0)["test"]
    first, second = batch.answers[0].tolist()
    likely = quote.model(tested.batches["train"].tokens, at=tested.batches["train"].last).softmax(-1).amax(0)
    assert first != second
    assert all(int((likely < likely[token]).sum()) < LEAST_LIKELY * len(likely) for token in (first, second))
    assert torch.equal(batch.answers, torch.tensor([[first, second], [second, first]]).repeat(batch.n_pairs, 1))
