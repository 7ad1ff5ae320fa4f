"""Failures foretold: prompts that are what they claim to be, and a planted average that is diluted and fooled."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

from pipeline.circuit.random_circuits import disjoint_sets
from pipeline.config import TasksConfig
from pipeline.data.pairs import PairBatch
from pipeline.data.tasks import TaskSet, encode_tasks, generate
from pipeline.data.tokenizer import Tokenizer
from pipeline.model.record import record
from pipeline.model.scoring import score
from pipeline.planted import Algorithm, Planted, plant
from pipeline.report.charts import predictions
from pipeline.report.figures import figure
from pipeline.validate.prediction import measure, prediction
from pipeline.validate.prediction_node import (
    answering_nodes,
    auc,
    best_threshold,
    correlation,
    readings,
    varying,
    watch,
)
from pipeline.validate.prediction_prompts import COMMENTS, MARKS, NO_COMMENT, Manipulation, example, manipulated

TASK = "bracket_counting"
SEED = 7
N_PAIRS = 6


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A vocabulary in which the task is expressible, as in the tests of the tasks."""
    texts = [side.text for pair in generate(TASK, "train", 200, SEED) for side in pair.sides]
    letters = " ".join("abcdefgh" * 3)
    return Tokenizer.train([*texts, f"# {letters} [ [[ ] [ [["] * 2, 480)


@pytest.fixture(scope="module")
def test_pairs(tokenizer, tmp_path_factory) -> PairBatch:
    folder = tmp_path_factory.mktemp("study") / "tasks"
    encode_tasks(TasksConfig(n_train=4, n_validation=4, n_test=12, tail_chars=32), SEED, tokenizer, folder)
    return TaskSet.load(folder).batch(TASK, "test")


@pytest.fixture(scope="module")
def points(test_pairs, tokenizer):
    return manipulated(test_pairs, tokenizer, n_ctx=128, n_pairs=N_PAIRS, seed=0)


def prompt(batch: PairBatch, row: int, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(batch.tokens[row, 1 : int(batch.last[row]) + 1].tolist())


# Prompts


def test_prompts_are_the_test_pairs_with_other_rows_and_a_comment_before(points, test_pairs, tokenizer):
    heads = {text[: text.rindex("[")] for text in (prompt(test_pairs, 2 * i, tokenizer) for i in range(12))}
    for point, batch in points.items():
        for row in range(2 * N_PAIRS):
            *lines, comment, last = prompt(batch, row, tokenizer).split("\n")
            if point.comment == NO_COMMENT:
                lines, comment = [*lines, comment], "    #"
            head, brackets, items = last.partition("[[" if row % 2 else "[")
            assert "\n".join([*lines, head]) in heads
            assert len(items.split(", ")) == point.length
            assert all(2 <= int(item) <= 40 for item in items.split(", "))
            assert [c for c in comment if c in "[]"] == list(MARKS.get(point.comment, "").strip())


def test_every_point_has_every_comment_and_comments_have_as_many_tokens(points):
    lengths = {point.length for point in points}
    assert set(points) == {Manipulation(comment, n) for comment in COMMENTS for n in lengths}
    for n in lengths:
        lasts = [points[Manipulation(mark, n)].last for mark in MARKS]
        assert all(torch.equal(last, lasts[0]) for last in lasts)
        assert (lasts[0] > points[Manipulation(NO_COMMENT, n)].last).all()


def test_prompts_go_on_with_the_answers_of_the_task_and_fit(points, test_pairs, tokenizer):
    for batch in points.values():
        assert batch.n_pairs == N_PAIRS
        assert batch.last.max() < 128
        assert torch.equal(batch.answers, test_pairs.answers[: 2 * N_PAIRS])
        for row in range(2 * N_PAIRS):
            text = prompt(batch, row, tokenizer) + tokenizer.decode([int(batch.answers[row, 0])])
            assert tokenizer.encode(text) == [*batch.tokens[row, 1 : int(batch.last[row]) + 1], batch.answers[row, 0]]


def test_longer_lists_for_a_longer_context_and_none_for_one_too_short(test_pairs, tokenizer):
    def longest(n_ctx: int) -> int:
        points = manipulated(test_pairs, tokenizer, n_ctx=n_ctx, n_pairs=N_PAIRS, seed=0)
        return max((point.length for point in points), default=0)

    assert longest(16) == 0 < longest(64) < longest(128) < longest(256)


def test_equal_seeds_make_equal_prompts(points, test_pairs, tokenizer):
    again = manipulated(test_pairs, tokenizer, n_ctx=128, n_pairs=N_PAIRS, seed=0)
    assert all(torch.equal(again[point].tokens, batch.tokens) for point, batch in points.items())
    other = manipulated(test_pairs, tokenizer, n_ctx=128, n_pairs=N_PAIRS, seed=1)
    assert example(other, tokenizer) != example(points, tokenizer)


def test_a_vocabulary_without_words_for_comments_makes_no_prompts(test_pairs, tokenizer):
    letterless = {token: rank for token, rank in tokenizer.ranks.items() if not (len(token) == 2 and token[:1] == b" ")}
    ranks = {token: rank for rank, token in enumerate(letterless)}
    assert manipulated(test_pairs, Tokenizer(ranks, tokenizer.pattern), n_ctx=128, n_pairs=1, seed=0) == {}


# Reading a node


def test_auc_threshold_and_correlation_by_hand():
    values = torch.tensor([0.0, 1.0, 2.0, 2.0, 5.0])
    nested = torch.tensor([False, False, False, True, True])
    assert auc(values, nested) == (2 + 0.5 + 3) / 6
    assert best_threshold(values, nested) == 3.5  # 1 error, as at 1.5, and the gap is wider
    assert correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, -2.0, -3.0])) == pytest.approx(-1)
    assert correlation(values, torch.ones(5)) == 0


def test_a_node_that_falls_for_nested_lists_is_read_upside_down():
    values = {"0.mlp_out": torch.tensor([[0.0, 3.0, 1.0], [-2.0, 3.0, 1.5], [0.5, 3.0, 2.0], [-3.0, 3.0, 1.4]])}
    nested = torch.tensor([False, True, False, True])
    (reading,) = readings({"0.mlp_out": torch.tensor([4, 5, 9])}, values, nested)
    assert (reading.name, reading.auc, reading.threshold, reading.means) == ("0.mlp_out.4", 0.0, -1.0, (0.25, -2.5))
    assert reading.says_nested(torch.tensor([-1.5, -0.5])).tolist() == [True, False]
    assert reading.scaled(torch.tensor([0.25, -2.5])).tolist() == [0.0, 1.0]


def test_watching_gives_the_models_answers_and_values(claim_of, lists):
    batch, nodes = lists.batch("test", 20), answering_nodes(claim_of(lists).circuit)
    answers, values = watch(lists.model, batch, nodes)
    everything = record(lists.model, batch.tokens)[1]
    torch.testing.assert_close(answers, score(lists.model, batch))
    for key, indices in nodes.items():
        expected = everything[key][torch.arange(40), batch.last][:, indices]
        torch.testing.assert_close(values[key], expected)


# Measuring, where the answer is known: the planted head averages, and the neuron turns at 1.5 brackets in 12 tokens


@pytest.fixture
def lists() -> Planted:
    return plant(Algorithm.LISTS, d_model=64, seed=0)


def changed(lists: Planted, *, longer: int = 0, stray: bool = False) -> PairBatch:
    """Test pairs with items put before them, or with an open bracket in the place of an item of both sides."""
    batch, names = lists.batch("test", 24), lists.tokens
    tokens, item = batch.tokens.clone(), torch.full((48, longer), names["item 0"])
    if stray:
        items = torch.isin(tokens, torch.tensor([names[f"item {i}"] for i in range(4)]))
        in_both = (items[0::2] & items[1::2]).int().argmax(1).repeat_interleave(2)
        tokens[torch.arange(48), in_both] = names["open 0"]
    return PairBatch(torch.cat([item, tokens], dim=1), batch.last + longer, batch.answers)


@pytest.fixture
def measured(claim_of, circuit_of, lists):
    """``measured()``; with nodes, of a circuit of those instead."""
    batches = {
        Manipulation("none", 12): changed(lists),
        Manipulation("none", 24): changed(lists, longer=12),
        Manipulation("plain", 12): changed(lists),
        Manipulation("[", 12): changed(lists, stray=True),
    }

    def run(nodes=None):
        circuit = circuit_of(lists) if nodes is None else circuit_of(lists, nodes, {})
        return measure(claim_of(lists, circuit), batches, nested=lists.tokens["close nested"])

    return run


@pytest.fixture
def found(measured):
    return measured()


def test_a_long_context_dilutes_a_planted_average(found):
    dilution = found["effects"]["dilution"]
    assert dilution["nested"]["model_p"]["mean"] < -0.9
    assert dilution["nested"]["node"]["mean"] < -0.5
    assert abs(dilution["flat"]["model_p"]["mean"]) < 0.1


def test_a_stray_bracket_fools_a_planted_average(found):
    stray = found["effects"]["strays"]["["]
    assert stray["flat"]["model_p"]["mean"] > 0.9
    assert stray["flat"]["node"]["mean"] == pytest.approx(1, abs=0.3)
    assert abs(stray["nested"]["model_p"]["mean"]) < 0.1


def test_the_planted_node_foresees_every_failure(found):
    assert (
        found["model_accuracy"]["mean"] == 0.75
    )  # wrong on all long nested lists and on all flat ones after a stray bracket
    assert found["agreement"]["mean"] == found["circuit_agreement"]["mean"] == found["point_rate"] == 1
    assert found["foreseen"] == {"mean": 1, "interval": [1, 1], "n": 48}
    assert found["false_alarms"] == {"mean": 0, "interval": [0, 0], "n": 144}
    assert found["gain"]["interval"][0] == found["tests"][0]["value"] == pytest.approx(0.25)
    assert found["tests"][0]["passed"] is True
    assert json.loads(json.dumps(found)) == found


def test_points_tell_flat_from_nested(found):
    first = found["points"][0]
    assert first["flat"]["model_p"]["mean"] < 0.1 < 0.9 < first["nested"]["model_p"]["mean"]
    assert first["flat"]["circuit_p"]["mean"] < 0.1 < 0.9 < first["nested"]["circuit_p"]["mean"]
    assert first["model_accuracy"]["mean"] == first["circuit_accuracy"]["mean"] == 1
    means = found["node"]["train_means"]
    assert first["nested"]["node"]["mean"] == pytest.approx(means["nested"], rel=0.1)


def test_no_random_node_foresees_as_much_as_the_planted_one(found):
    null = found["null"]
    assert (null["n"], null["n_nodes"], null["as_good"]) == (20, 1, 0)
    assert null["p"] == 1 / 21 and null["median"] < 0.6 < null["max"] < found["agreement"]["mean"]


def test_a_node_that_has_nothing_to_do_with_it_predicts_nothing(measured):
    found = measured({"1.mlp_neuron": torch.tensor([3])})
    assert found["agreement"]["mean"] < found["base_rate"]["mean"] and found["null"]["as_good"] > 0
    assert found["tests"][0]["passed"] is False


def test_a_node_that_beats_the_guess_by_luck_is_refuted_by_others_as_good(measured):
    """Distractors too are read from what the head writes: the planted node itself is among the random ones here."""
    found = measured({"1.mlp_in": torch.tensor([7, 8, 9])})
    assert found["gain"]["interval"][0] > 0 and found["null"]["as_good"] > 0
    assert found["tests"][0]["passed"] is False


def test_random_sets_are_of_varying_nodes_and_use_all_before_any_twice():
    values = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    values[:, [2, 7]] = 1.5

    def draw(size, n, values=values):
        return disjoint_sets(varying(values), size=size, n=n, generator=torch.Generator().manual_seed(1))

    assert [len(some) for some in draw(3, 4)] == [3] * 4
    assert sorted(int(i) for some in draw(1, 20) for i in some) == [0, 1, 3, 4, 5, 6, 8, 9]  # no more sets than nodes
    assert len(set(torch.cat(draw(2, 4)).tolist())) == 8
    assert draw(1, 20, values[:, [2, 7]]) == []


def test_nothing_is_claimed_where_the_model_never_fails(claim_of, lists):
    token = lists.tokens["close nested"]
    (verdict,) = measure(claim_of(lists), {Manipulation("none", 12): changed(lists)}, nested=token)["tests"]
    assert verdict["passed"] is None
    assert "right" in verdict["says"]


def test_a_circuit_without_a_node_that_answers_predicts_nothing(claim_of, lists):
    circuit = claim_of(lists).circuit
    values = {key: nodes for key, nodes in circuit.nodes.items() if key.endswith("attn_v")}
    tested = claim_of(lists, replace(circuit, nodes=values, edges={}))
    found = measure(tested, {Manipulation("none", 12): changed(lists)}, nested=lists.tokens["close nested"])
    assert found["tests"][0]["passed"] is None
    assert "no node" in found["tests"][0]["says"]


def test_other_tasks_are_not_tested(claim_of, quote, tokenizer):
    (verdict,) = prediction(claim_of(quote), tokenizer)["tests"]
    assert (verdict["name"], verdict["passed"]) == ("prediction", None)


# The plot


def test_the_plot_shows_every_comment_and_both_kinds_of_list(found):
    svg = figure("prediction", predictions(found))
    ElementTree.fromstring(svg)
    for text in ("nested lists", "flat lists", "comment with [", found["node"]["name"], "currentColor"):
        assert text in svg
    assert svg == figure("prediction", predictions(found))


def test_the_plot_says_why_there_is_nothing_to_show(claim_of, quote, tokenizer):
    says = prediction(claim_of(quote), tokenizer)["tests"][0]["says"]
    assert "bracket_counting only" in says and says.split(";")[0] in figure("prediction", {}, says)
