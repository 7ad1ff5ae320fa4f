"""Labels in the task, of nodes whose values are written down by hand and of a circuit that was planted."""

from __future__ import annotations

import re

import pytest
import torch

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.explain.task_labels import TaskStatements
from pipeline.explain.task_nodes import STEADY_MEASURE, TaskReading, label_of
from pipeline.explain.task_scores import auc_of, ranks_of
from pipeline.explain.task_values import TaskValues
from pipeline.explain.task_words import TaskWords, numbers
from pipeline.planted import Algorithm, plant
from pipeline.sites import split_node_name
from tests.explain.conftest import Letters

WORDS = ("<s>", " x", " [", " [[", " 1", " 2", " 3", "\n", "]", "]]")
START, X, ONE, TWO, *DIGITS, LINE, CLOSE, CLOSE_TWO = range(len(WORDS))
N_PAIRS = 64


@pytest.fixture(scope="module")
def batch() -> PairBatch:
    """``<s> x [ 1 2 … \\n`` against ``<s> x [[ 1 2 … \\n``: two to four digits behind the bracket."""
    draw = torch.Generator().manual_seed(0)
    prompts, answers = [], []
    for pair in range(N_PAIRS):
        digits = [DIGITS[int(torch.randint(3, (1,), generator=draw))] for _ in range(2 + pair % 3)]
        prompts += [[START, X, bracket, *digits, LINE] for bracket in (ONE, TWO)]
        answers += [[CLOSE, CLOSE_TWO], [CLOSE_TWO, CLOSE]]
    return PairBatch.of(prompts, answers)


@pytest.fixture(scope="module")
def said(batch):
    """``said(values)``: the label of a node with these values; it moves the answer alike at all places, or as given."""

    def label(values: torch.Tensor, slopes: torch.Tensor | None = None):
        there = torch.arange(batch.tokens.shape[1]) <= batch.last[:, None]
        slopes = torch.ones_like(values) if slopes is None else slopes
        statements = TaskStatements(
            TaskValues(batch, {"n": values * there}, {"n": slopes * there}, {}), WORDS.__getitem__
        )
        best = statements("n")
        kind = statements.kind("n") if best is None else None
        return label_of(best, TaskWords(statements.places), values * there, kind)

    return label


def at(batch: PairBatch, token: int) -> torch.Tensor:
    return (batch.tokens == token).float()


def noise(batch: PairBatch, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch.tokens.shape, generator=torch.Generator().manual_seed(seed))


def at_end(batch: PairBatch) -> torch.Tensor:
    return (torch.arange(batch.tokens.shape[1]) == batch.last[:, None]).float()


def test_a_node_that_embeds_the_bracket_has_both_means_at_the_two_visible_tokens(said, batch):
    label = said(6.3 * at(batch, TWO) + 1.4 * at(batch, ONE) + 0.01 * noise(batch))
    assert label["text"] == "6.3 at `␣[[` and 1.4 at `␣[`"
    assert label["score"] == 1 and not label["weak"]


def test_a_node_that_knows_the_side_at_the_end_says_after_which_token(said, batch):
    nested = (batch.answers[:, :1] == CLOSE_TWO).float()
    label = said(at_end(batch) * (2.0 - 2.5 * nested) + 0.01 * noise(batch))
    assert label["text"] == "at `⏎` (the end): 2.0 after `␣[` and −0.5 after `␣[[`"


def test_a_node_that_marks_a_place_of_both_sides_is_described_against_all_others(said, batch):
    label = said(4.2 * (at(batch, TWO) + at(batch, ONE)) + 0.1 * noise(batch))
    assert label["text"].startswith("4.2 at `␣[` or `␣[[` (the first difference) and ")
    assert label["text"].endswith(" elsewhere") and label["score"] == 1 and "other places" in label["measure"]


def test_a_node_that_is_high_at_numbers_says_so(said, batch):
    numbers_ = torch.isin(batch.tokens, torch.tensor(DIGITS)).float()
    text = said(3 * numbers_ + 0.1 * noise(batch))["text"]
    assert text.startswith("3.0 at `␣") and text.endswith(" (numbers) and 0 elsewhere")


def test_of_pure_noise_no_place_stands_out_and_a_score_is_of_pairs_that_it_was_not_chosen_on(said, batch):
    labels = [said(noise(batch, seed)) for seed in range(8)]
    assert all(label["weak"] and label["score"] is None for label in labels)
    assert all(
        re.fullmatch(r"no place stands out: about \S+ early, \S+ midway, \S+ late in the prompt", label["text"])
        for label in labels
    )
    drawn = {str(seed): noise(batch, seed) for seed in range(8)}
    statements = TaskStatements(TaskValues(batch, drawn, drawn, {}), WORDS.__getitem__)
    scores = [statements.best(name).score for name in drawn]
    assert sum(scores) / len(scores) == pytest.approx(0.5, abs=0.1)


def test_a_node_that_is_high_at_most_of_a_kind_of_token_and_elsewhere_too_names_the_kind(said, batch):
    numbers_ = torch.isin(batch.tokens, torch.tensor(DIGITS)).float()
    chance = torch.rand(batch.tokens.shape, generator=torch.Generator().manual_seed(0))
    label = said((chance < 0.15 + 0.6 * numbers_) * 2.0 + 0.01 * noise(batch))
    assert re.fullmatch(r"no place stands out: 1\.\d at `␣.*numbers\) and 0\.\d\d? elsewhere", label["text"]), label
    assert label["score"] > 0.7 and label["weak"] == (label["score"] < 0.8)


def test_a_place_that_is_one_of_many_at_which_a_node_is_as_high_does_not_stand_out(said, batch):
    label = said(3 * (at(batch, ONE) + at(batch, TWO) + at(batch, DIGITS[0])) + 0.1 * noise(batch))
    assert "first difference" not in label["text"] and "␣1" in label["text"]


def test_a_node_that_is_high_early_says_so(said, batch):
    early = (torch.arange(batch.tokens.shape[1]) < 4).float().expand_as(noise(batch))
    assert said(2 * early + 0.1 * noise(batch))["text"] == "2.0 among the first 4 tokens and 0 elsewhere"


def test_another_token_at_which_the_node_is_as_strong_is_told(said, batch):
    values = 6.3 * at(batch, TWO) + 1.4 * at(batch, ONE) + 6 * at(batch, X) + 0.01 * noise(batch)
    assert said(values)["text"] == "6.3 at `␣[[` and 1.4 at `␣[` – also 6.0 at `␣x`"


def test_a_node_with_one_value_has_no_score_and_says_its_value(said, batch):
    label = said(3 + 0.01 * noise(batch))
    assert label["text"] == "about 3.0 everywhere, on both sides"
    assert label["score"] is None and label["measure"] == STEADY_MEASURE


def test_of_two_places_that_tell_the_sides_apart_the_one_that_moves_the_answer_is_named(said, batch):
    nested = (batch.answers[:, :1] == CLOSE_TWO).float()
    values = nested * (at_end(batch) + at(batch, TWO)) + 0.001 * noise(batch)
    brackets = at(batch, TWO) + at(batch, ONE)
    assert said(values, 0.01 + at_end(batch))["text"].startswith("at `⏎` (the end): ")
    assert said(values, 0.01 + brackets)["text"] == "1.0 at `␣[[` and 0 at `␣[`"


def test_auc_is_the_share_of_couples_that_are_in_order_ties_half():
    values = torch.tensor([3.0, 1.0, 2.0, 2.0, 0.0])
    group = torch.tensor([True, False, True, False, False])
    assert auc_of(values, group) == pytest.approx((3 + 2.5) / 6)  # 3 above all three; 2 above 1 and 0, level with 2
    assert auc_of(torch.ones(4) + 1e-7 * torch.arange(4), torch.tensor([True, False, True, False])) == 0.5
    assert ranks_of(values).tolist() == [5, 2, 3.5, 3.5, 1]


@pytest.mark.parametrize(
    ("means", "shown"),
    [((6.31, 1.42), ("6.3", "1.4")), ((7.14, -0.004), ("7.1", "0")), ((25.1, 25.3), ("25.1", "25.3")),
     ((-0.302, 0.0), ("−0.30", "0")), ((0.0, 0.0), ("0", "0"))],
)  # fmt: skip
def test_two_means_have_the_decimals_of_the_larger_and_more_where_they_would_look_alike(means, shown):
    assert numbers(means) == shown


@pytest.fixture(scope="module")
def planted():
    """The planted quote circuit's labels by site."""
    model = plant(Algorithm.QUOTE, d_model=64, seed=0)
    scores = {key: torch.zeros_like(mean) for key, mean in model.means.items()}
    circuit = Circuit(model.nodes, model.edges, model.means, scores)
    reading = TaskReading.of(model.model, circuit, model.batch("test", 64), Letters(), circuit.node_names)
    return {name: reading.label(name) for name in circuit.node_names}


def of_site(labels, site: str):
    return [label for name, label in labels.items() if f".{site}." in name]


def test_the_planted_value_tells_the_quotes_apart_and_the_write_brings_that_to_the_end(planted):
    (value,), (write,) = of_site(planted, "attn_v"), of_site(planted, "attn_out")
    assert value["score"] > 0.95 and "two sides" in value["measure"]
    assert value["role"].startswith("copies from ") and " to the end (head 1." in value["role"]
    assert re.match(r"at `<\d+>` \(the end\): ", write["text"]) and write["score"] > 0.95
    assert write["role"].startswith("copies from ") and re.search(r", pushes `<\d+>` where it is right$", write["role"])


def test_the_planted_key_marks_the_quote_of_either_kind_and_its_reads_embed(planted):
    (key,) = of_site(planted, "attn_k")
    assert key["role"].startswith("detects, as key of head 1.") and "other places" in key["measure"]
    assert key["score"] > 0.95
    assert {label["role"] for label in of_site(planted, "attn_in")} == {"embeds"}


def test_a_slope_is_the_change_of_the_answers_difference_by_the_value_at_its_place():
    planted = plant(Algorithm.QUOTE, d_model=64, seed=0)
    scores = {key: torch.zeros_like(mean) for key, mean in planted.means.items()}
    circuit, batch = Circuit(planted.nodes, planted.edges, planted.means, scores), planted.batch("test", 2)
    name = next(name for name in circuit.node_names if ".attn_out." in name)
    found = TaskValues.of(planted.model, circuit, batch, [name])
    masked, (key, index), rows = circuit.on(planted.model, batch), split_node_name(name), torch.arange(4)

    def difference(step: float) -> torch.Tensor:
        def intervene(at: str, x: torch.Tensor) -> torch.Tensor:
            x = masked.intervene(at, x).clone()
            if at == key:
                x[rows, batch.last, index] += step
            return x

        logits = planted.model(batch.tokens, intervene=intervene, cuts=masked.cuts)[rows, batch.last]
        return logits.gather(-1, batch.answers) @ torch.tensor([1.0, -1.0])

    slope = (difference(0.01) - difference(-0.01)) / 0.02
    assert torch.allclose(found.slopes[name][rows, batch.last], slope, rtol=0.02, atol=1e-3)
