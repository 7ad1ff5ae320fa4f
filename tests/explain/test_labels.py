"""Labels: what was planted is named, what is noise is not, and scores are of documents not chosen on."""

from __future__ import annotations

import pytest
import torch

from pipeline.explain.candidates import Counts, Moments, Table, best_sets
from pipeline.explain.labels import MEASURE, Labeller
from pipeline.explain.places import Places


@pytest.fixture(scope="module")
def labeller(places, config):
    return Labeller(places, places.facts(), config, seed=0)


@pytest.fixture(scope="module")
def mark(labeller):
    """``mark(name)``: where a mark holds, as numbers."""
    names = labeller.facts.mark_names
    return lambda name: torch.from_numpy(labeller.facts.marks[:, names.index(name)]).float()


def noise(places: Places, seed: int = 0) -> torch.Tensor:
    return torch.randn(places.tokens.numel(), generator=torch.Generator().manual_seed(seed))


def label_of(labeller, values):
    return labeller(values[:, None])[0]


def test_a_node_planted_inside_double_quotes_is_labelled_so_with_the_r2_it_was_planted_with(labeller, mark, places):
    inside = mark("inside a double-quoted string")
    signal = inside / inside.std()
    found = label_of(labeller, signal + 0.5 * noise(places))
    assert found["text"] == "high inside a double-quoted string" and found["measure"] == MEASURE
    assert found["score"] == pytest.approx(1 / 1.25, abs=0.03)  # variance 1 of the signal, a quarter of the noise


def test_a_sign_turns_high_into_low(labeller, mark, places):
    found = label_of(labeller, -mark("inside a comment") + 0.1 * noise(places))
    assert found["text"] == "low inside a comment"


def test_pure_noise_has_no_label(labeller, places):
    assert labeller(torch.stack([noise(places, seed) for seed in range(20)], dim=1)) == [None] * 20


def test_a_node_that_is_hardly_ever_other_than_0_has_no_label(labeller, places):
    values = torch.zeros(places.tokens.numel())
    values[:40] = 1
    assert label_of(labeller, values) is None


def test_a_level_is_said_to_rise(labeller, places):
    depth = torch.from_numpy(labeller.facts.levels[:, labeller.facts.level_names.index("bracket depth")])
    assert label_of(labeller, depth + 0.1 * noise(places))["text"] == "rises with bracket depth"


def test_two_marks_together_are_said_only_where_both_are_needed(labeller, mark, places):
    both = mark("inside brackets") * mark("at a token that the context already had")
    found = label_of(labeller, both + 0.05 * noise(places))
    assert set(found["text"].removeprefix("high ").split(" and ")) == {
        "inside brackets", "at a token that the context already had"
    }  # fmt: skip
    assert found["score"] > 0.9


def test_a_token_before_is_named(labeller, places, tokenizer):
    (token,) = tokenizer.encode(" return")
    after = (places.previous(1) == token).flatten().float()
    assert label_of(labeller, after + 0.1 * noise(places))["text"] == "high after `␣return`"


def test_a_node_that_is_a_table_of_tokens_is_said_to_be_one(labeller, places):
    table = torch.randn(places.tokenizer.vocab_size, generator=torch.Generator().manual_seed(1))
    found = label_of(labeller, table[places.tokens.flatten()])
    assert found["text"].startswith("by the token: high for ") and found["score"] > 0.9


def test_a_node_that_embeds_one_token_names_that_token_however_rare_it_is(labeller, places, tokenizer):
    table = 0.3 * torch.randn(places.tokenizer.vocab_size, generator=torch.Generator().manual_seed(1))
    (rare,) = tokenizer.encode(" #")
    table[rare] = 3
    found = label_of(labeller, table[places.tokens.flatten()])
    assert "high for `␣#` far more than for any other" in found["text"] or found["text"] == "high at `␣#`"


def test_no_document_is_in_both_halves(labeller, places):
    documents = places.documents.flatten()
    first, second = (set(documents[rows].tolist()) for rows in labeller.halves)
    assert first and second and not first & second


def test_sums_give_the_r2_that_least_squares_gives():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 3, generator=generator), torch.randn(50, 2, generator=generator)
    y[:, 0] += 2 * x[:, 1]
    moments = Moments.of(x, y)
    found = moments.explained(*moments.line())
    expected = torch.corrcoef(torch.cat([x, y], dim=1).T)[:3, 3:] ** 2
    assert torch.allclose(found.float(), expected, atol=1e-5)


def test_the_set_is_of_the_tokens_that_a_node_was_made_of():
    tokens = torch.arange(600) % 6
    y = torch.isin(tokens, torch.tensor([1, 4])).float()[:, None] + 3
    of = Moments.of(torch.zeros(600, 0), y)
    single, chosen = best_sets(Counts.of(tokens, y, 6), of, least=8, most=4)
    assert chosen.flatten().tolist() == [False, True, False, False, True, False]
    assert int(single.sum()) == 1


def test_a_table_explains_all_of_a_node_that_follows_from_the_token():
    tokens = torch.arange(600) % 6
    y = (tokens**2).float()[:, None]
    counts, of = Counts.of(tokens, y, 6), Moments.of(torch.zeros(600, 0), y)
    assert float(Table.of(counts, of, 8).explained(counts, of, of.y / of.n)) == pytest.approx(1)


def test_what_a_table_explains_of_noise_is_taken_off():
    tokens = torch.arange(4000) % 400
    y = torch.randn(4000, 30, generator=torch.Generator().manual_seed(0))
    counts, of = Counts.of(tokens, y, 400), Moments.of(torch.zeros(4000, 0), y)
    table = Table.of(counts, of, 8)
    fit = table.explained(counts, of, of.y / of.n)
    assert float(fit.mean()) == pytest.approx(0.1, abs=0.01)  # 400 means of 4000 places
    assert float(table.adjusted(fit, of.n).mean()) == pytest.approx(0, abs=0.01)
