"""The parts of published mechanisms are found in planted circuits that work by them, and not where one is broken."""

from __future__ import annotations

import importlib
import random
from dataclasses import replace

import pytest
import torch

from pipeline.data.pairs import PairBatch
from pipeline.rows import PublishedRow
from pipeline.validate.published import MECHANISMS, published
from pipeline.validate.published_run import OwnRun, shared_end, signed_auc, told_apart, upstream
from tests.report.row_types import wrong

QUOTES, BINDING = "single_double_quote", "set_or_string"


def of_task(tested, task, batch=None):
    """The same claim about a circuit of another task, and other test pairs."""
    circuit = replace(tested.circuit, about={"task": task})
    return replace(tested, circuit=circuit, batches=tested.batches | ({"test": batch} if batch else {}))


def found(tested):
    return {name for name, part in published(tested)["parts"].items() if part["found"]}


def names_at(planted, site):
    return [f"{key}.{i}" for key, indices in planted.nodes.items() if site in key for i in indices.tolist()]


@pytest.fixture
def quotes(claim_of, quote):
    return of_task(claim_of(quote), QUOTES)


def without(tested, *names):
    return replace(tested, circuit=tested.circuit.without(*names))


@pytest.fixture
def bound(claim_of, induction):
    """The induction model on pairs in which a name has one of two values: the planted heads put the name onto the
    value, and go from the name's last use back to it."""
    tokens, draw, prompts, answers = induction.tokens, random.Random(3), [], []
    for _ in range(12):
        gap = [f"filler {draw.randrange(8)}" for _ in range(draw.randrange(1, 5))]
        name, other, value = (f"{kind} {draw.randrange(i, 4, 2)}" for kind, i in (("key", 0), ("key", 1), ("value", 0)))
        for kind in (0, 1):
            text = [*gap, other, value, name, f"value {kind}", "filler 0", *gap, name]
            prompts.append([tokens[word] for word in text])
            answers.append([tokens[f"value {kind}"], tokens[f"value {1 - kind}"]])
    return of_task(claim_of(induction), BINDING, PairBatch.of(prompts, answers, pad=0))


def test_all_parts_are_found_in_the_planted_circuit_of_quotes(quotes, quote):
    row = published(quotes)
    assert wrong(row, PublishedRow) == []
    assert row["line"] == "3 of 3 parts found"
    parts, (value,), (output,) = row["parts"], names_at(quote, "attn_v"), names_at(quote, "attn_out")
    assert parts["detector"]["at"] == names_at(quote, "attn_k")[0] and parts["detector"]["auc"] == 1
    assert parts["classifier"]["at"] == value and parts["classifier"]["n_found"] == 1  # half a kind is none
    head = parts["copying_head"]
    assert (head["value"], head["output"], head["auc"], head["output_auc"]) == (value, output, 1, 1)
    assert head["weight"] > 0.9 and head["lift"] > 5


def test_a_head_that_looks_at_all_alike_does_not_copy(quotes, quote):
    blind = without(quotes, *names_at(quote, "attn_q"), *names_at(quote, "attn_k"))
    assert found(blind) == {"classifier"}
    deaf = replace(
        quotes, circuit=replace(quotes.circuit, edges={k: e for k, e in quote.edges.items() if "_k" not in k})
    )
    assert found(deaf) == {"classifier"}  # a key that reads nothing is kept


def test_values_that_do_not_differ_are_no_classifier_and_nothing_is_copied(quotes, quote):
    alike = {key: pairs for key, pairs in quote.edges.items() if "->attn_v" not in key}
    assert found(replace(quotes, circuit=replace(quotes.circuit, edges=alike))) == {"detector"}


def test_a_kind_that_is_not_written_is_not_copied(quotes, quote):
    silent = {key: pairs for key, pairs in quote.edges.items() if "attn_v->" not in key}
    assert found(replace(quotes, circuit=replace(quotes.circuit, edges=silent))) == {"detector", "classifier"}


def test_both_steps_are_found_in_a_planted_circuit_that_binds_a_name(bound, induction):
    parts = published(bound)["parts"]
    assert found(bound) == {"binding_step", "recall_step"}
    first, second = sorted({key.partition(".")[0] for key in induction.nodes})
    assert parts["binding_step"]["at"].startswith(f"{first}.") and parts["recall_step"]["at"].startswith(f"{second}.")
    assert "the name before it" in parts["binding_step"]["says"] and "on the definition" in parts["recall_step"]["says"]


def test_a_step_that_does_not_lead_to_the_keys_of_the_other_binds_nothing(bound):
    keys = [name for name in bound.circuit.edge_names if name.startswith("1.") and "attn_k" in name]
    assert found(without(bound, *keys)) == set()
    looks = [name for name in bound.circuit.node_names if name.startswith("0.attn_k")]
    assert "binding_step" not in found(without(bound, *looks))


def test_places_of_a_pair_worked_out_by_hand(claim_of, induction):
    prompts = [[9, 4, 5, 6, 1, 2, 7, 3, 4, 5], [9, 4, 5, 6, 8, 7, 3, 4, 5]]  # the name is 4 5, set to 1 2 or to 8
    batch = PairBatch.of(prompts, [[1, 2], [2, 1]], pad=0)
    run = OwnRun.of(of_task(claim_of(induction), BINDING, batch))
    assert [row.nonzero().flatten().tolist() for row in run.name] == [[1, 2], [1, 2]]
    assert [row.nonzero().flatten().tolist() for row in run.definition] == [[4, 5], [4]]
    assert [row.nonzero().flatten().tolist() for row in run.after_definition(2)] == [[7], [6]]
    assert run.opening.nonzero().tolist() == [[0, 4], [1, 4]]


def test_what_differs_by_rounding_only_tells_nothing_apart():
    group = torch.tensor([True, True, False, False])
    assert signed_auc(torch.tensor([1.0, 2.0, 3.0, 4.0]), group) == 0
    assert told_apart(torch.tensor([1.0, 2.0, 3.0, 4.0]), group) == 1
    assert told_apart(1 + 1e-7 * torch.tensor([1.0, 2.0, 3.0, 4.0]), group) == 0.5
    assert shared_end([1, 2, 3], [2, 3]) == 2 and shared_end([], [1]) == 0


def test_what_leads_to_a_node_goes_through_the_residual_stream_and_not_through_scores(bound):
    circuit = bound.circuit
    keys = [(key, i) for key, indices in circuit.nodes.items() if key == "1.attn_k" for i in indices.tolist()]
    sites = {key for key, _ in upstream(circuit, keys)}
    assert sites == {"1.attn_k", "1.attn_in", "0.attn_out", "0.attn_v", "0.attn_in"}


@pytest.mark.parametrize(("task", "sections"), [(QUOTES, {"published"}), ("for_while", set())])
def test_only_tasks_with_a_published_mechanism_have_the_section_and_no_claim_follows(
    quotes, params, monkeypatch, task, sections
):
    """All other sections are left out."""

    def run(tests, *_):
        return {name: [(piece(), 0.0) for piece in tests[name].pieces] for name in tests if name == "published"}

    module = importlib.import_module("pipeline.validate.validate")
    monkeypatch.setattr(module, "run", run)
    row = module.validate_circuit(of_task(quotes, task), generalisation={}, prune=params.prune)
    assert set(row) - {"verdict", "seconds"} == sections and row["verdict"]["n_tested"] == 0
    assert set(MECHANISMS) == {QUOTES, BINDING, f"{BINDING}_fixedvarname"}
