"""Binarisation against every split tried in turn, and on planted circuits; kurtosis against sums written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model.layout import PaddedPrompts
from pipeline.model.scoring import score
from pipeline.validate import features as features_module
from pipeline.validate.features import Step, binarising, excess_kurtosis, features, fitted, residual_kurtosis
from pipeline.validate.paired_runs import PairedRuns, real


def squared_error(values, cut):
    """Of the best two values for what is up to the cut and what is above it."""
    parts = [[v for v in values if v <= cut], [v for v in values if v > cut]]
    return sum(sum((v - sum(part) / len(part)) ** 2 for v in part) for part in parts if part)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=12))
def test_two_values_are_the_best_of_all_splits(values):
    step = Step.fit(torch.tensor(values, dtype=torch.float32)[:, None])
    binary = step(torch.tensor(values, dtype=torch.float32)[:, None])[:, 0]
    error = float(((binary - torch.tensor(values)) ** 2).sum())
    best = min(squared_error(values, cut) for cut in values)
    assert error == pytest.approx(best, abs=1e-4)
    total = squared_error(values, max(values))
    assert float(step.left[0]) == pytest.approx(best / total if total else 0, abs=1e-5)


def test_nodes_are_split_as_if_each_were_alone():
    values = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    values[:, 2] = 1.25
    together = Step.fit(values)
    for node in range(4):
        alone = Step.fit(values[:, node : node + 1])
        for part in ("threshold", "low", "high", "left"):
            torch.testing.assert_close(getattr(together, part)[node], getattr(alone, part)[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(together(values)[:, 2], values[:, 2])


def test_two_levels_are_kept_as_they_are():
    values = torch.tensor([[1.0], [3.0], [1.0], [3.0], [3.0]])
    step = Step.fit(values)
    assert torch.equal(step(values), values) and step.threshold == 2 and step.left < 1e-12


def test_steps_are_fitted_on_train_pairs_where_values_matter(quote, claim_of):
    tested = claim_of(quote)
    steps = fitted(tested)
    train = tested.batches["train"].take(torch.arange(tested.config.few_pairs))
    values = PairedRuns(tested, train).circuit[1]
    for key, kept in quote.nodes.items():
        ends = torch.stack([values[key][row, last] for row, last in enumerate(train.last)])
        everywhere = torch.cat([values[key][row, : last + 1] for row, last in enumerate(train.last)])
        rows = everywhere if key.partition(".")[2] in ("attn_in", "attn_k", "attn_v") else ends
        expected = Step.fit(rows[:, kept])
        assert torch.equal(steps[key].low, expected.low) and torch.equal(steps[key].high, expected.high)


def test_losses_are_those_of_a_loop_over_prompts_without_padding(quote, claim_of):
    tested = claim_of(quote)
    steps, masked = fitted(tested), tested.circuit(quote.model)
    key, kept = next(iter(quote.nodes.items()))

    def losses(nodes):
        intervene = binarising(steps, quote.nodes, nodes, masked.intervene)
        return float(tested.losses(score(quote.model, tested.few, intervene=intervene, cuts=masked.cuts)).mean())

    found = features(tested)
    assert found["binarised"]["mean"] == pytest.approx(losses(quote.nodes), abs=1e-4)
    single = next(node for node in found["single"]["of_each"] if node["node"] == f"{key}.{int(kept[0])}")
    assert single["loss"]["mean"] == pytest.approx(losses({key: kept[:1]}), abs=1e-4)
    low, high = single["loss"]["interval"]
    assert low <= single["loss"]["mean"] <= high and single["loss"]["n"] == tested.few.n_pairs
    assert found["circuit"]["mean"] == pytest.approx(losses({}), abs=1e-4)


def test_binarising_one_node_leaves_the_others(quote, claim_of):
    tested = claim_of(quote)
    steps, runs = fitted(tested), PairedRuns(tested, tested.few)
    key, kept = max(quote.nodes.items(), key=lambda item: len(item[1]))
    x = runs.circuit[1][key]
    changed = binarising(steps, quote.nodes, {key: kept[1:2]}, lambda _, value: value)(key, x)
    others = torch.ones(x.shape[-1], dtype=torch.bool)
    others[kept[1]] = False
    assert torch.equal(changed[..., others], x[..., others])
    two = {float(steps[key].low[1]), float(steps[key].high[1])}
    assert set(changed[real(tested.few)][:, kept[1]].unique().tolist()) <= two


@pytest.mark.parametrize("name", ["quote", "induction"])
def test_the_answers_of_a_planted_circuit_are_binary_and_what_it_reads_is_not(name, claim_of, request):
    """Tokens write three levels and more into what is moved between positions (a kind, its opposite, nothing)."""
    found = features(claim_of(request.getfixturevalue(name)))
    assert found["late_binarised"]["mean"] < 0.02 and found["n_late"] > 0
    assert found["binarised"]["mean"] > 0.69
    assert 0 < found["single"]["n_harmless"] < found["single"]["n"]
    assert found["added"]["mean"] == pytest.approx(found["binarised"]["mean"] - found["circuit"]["mean"], abs=1e-5)
    assert [(test["name"], test["passed"]) for test in found["tests"]] == [("binarisation", None)]
    assert found["tests"][0]["value"] == pytest.approx(found["binarised"]["mean"])  # measured, nothing is asked


def test_a_large_circuit_has_some_of_its_nodes_binarised_alone(quote, claim_of, monkeypatch):
    every = {node["node"]: node for node in features(claim_of(quote))["single"]["of_each"]}
    monkeypatch.setattr(features_module, "MAX_SINGLE", 3)
    some = features(claim_of(quote))["single"]
    assert some["n"] == len(some["of_each"]) == 3
    assert all(every[node["node"]] == node for node in some["of_each"])


def test_a_circuit_without_a_node_loses_nothing(quote, claim_of, circuit_of):
    found = features(claim_of(quote, circuit_of(quote, {}, {})))
    assert found["added"]["mean"] == 0 and found["single"]["n"] == 0


def test_kurtosis_worked_out_by_hand():
    x = torch.tensor([[3.0, -1, -1, -1], [1, -1, 1, -1]])  # moments: (27·3 + 3)/4 = 21 over 3², and 1 over 1²
    torch.testing.assert_close(excess_kurtosis(x), torch.tensor([21 / 9 - 3, 1 - 3]).double())


def test_kurtosis_equals_that_of_scipy():
    kurtosis = pytest.importorskip("scipy.stats").kurtosis
    x = torch.randn(5, 7, 32, generator=torch.Generator().manual_seed(1)) ** 3
    torch.testing.assert_close(excess_kurtosis(x), torch.from_numpy(kurtosis(x.double().numpy(), axis=-1)))


def test_kurtosis_of_a_model_is_that_of_its_stream_before_the_last_norm(tiny_model):
    """Embedding plus everything that the layers write, token by token."""
    model = tiny_model()
    tokens = torch.randint(0, 24, (6, 9), generator=torch.Generator().manual_seed(2))
    stream = model.embed(PaddedPrompts(tokens, None))

    def add(key, x):
        nonlocal stream
        stream = stream + x if key.endswith("_out") else stream
        return x

    model(tokens, intervene=add)
    found = residual_kurtosis(model, [tokens[:4], tokens[4:]], n_bootstrap=200)
    values = excess_kurtosis(stream)
    assert found["mean"] == pytest.approx(float(values.mean()), rel=1e-5)
    assert found["n"] == 6 and found["interval"][0] < found["mean"] < found["interval"][1]
    assert not model.transformer["ln_f"]._forward_pre_hooks


def test_kurtosis_of_no_sequences_is_refused(tiny_model):
    with pytest.raises(ValueError, match="no sequences"):
        residual_kurtosis(tiny_model(), [], n_bootstrap=200)
