"""The story of circuits that were planted: its sentences name the planted parts, and swaps do what they say."""

from __future__ import annotations

import re

import pytest
import torch

from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import AblationValues
from pipeline.data.pairs import PairBatch
from pipeline.explain import explain_circuit
from pipeline.explain.roles import Roles
from pipeline.explain.story import NO_NODE, NO_STEP, limit, named_by, sentence, story, whole
from pipeline.explain.story_gist import GIST, _moves, gist
from pipeline.explain.story_steps import FlowPart, FlowStep
from pipeline.explain.story_words import StoryWords
from pipeline.explain.story_writes import in_words, pushes
from pipeline.explain.swaps import Outcome, Swaps
from pipeline.explain.task_nodes import TaskReading
from pipeline.explain.task_values import TaskValues
from pipeline.planted import Algorithm, plant
from pipeline.rows import Story
from pipeline.sites import split_node_name
from tests.circuit.test_compact import drawn
from tests.explain.conftest import Letters
from tests.report.row_types import wrong

N_PAIRS = 48


def read(algorithm: Algorithm) -> TaskReading:
    planted = plant(algorithm, d_model=64, seed=0)
    scores = {key: torch.zeros_like(mean) for key, mean in planted.means.items()}
    circuit = Circuit(planted.nodes, planted.edges, planted.means, scores)
    return TaskReading.of(planted.model, circuit, planted.batch("test", N_PAIRS), Letters(), circuit.node_names)


@pytest.fixture(scope="module")
def readings() -> dict[Algorithm, TaskReading]:
    return {algorithm: read(algorithm) for algorithm in Algorithm}


@pytest.fixture(scope="module")
def quote(readings) -> TaskReading:
    return readings[Algorithm.QUOTE]


def swaps_of(reading: TaskReading) -> Swaps:
    return Swaps(reading.model, reading.circuit, reading.values)


def of_site(reading: TaskReading, site: str) -> list[str]:
    return [name for name in reading.circuit.node_names if f".{site}." in name]


def test_the_quotes_story_is_read_copied_and_written_by_the_planted_nodes(quote):
    told = story(quote)
    reads, moves, writes = told["sentences"]
    (value,), (key,), (write,) = (of_site(quote, site) for site in ("attn_v", "attn_k", "attn_out"))
    sources = {edge.split("->")[0] for edge in quote.circuit.edge_names if edge.endswith(value)}
    assert sources & set(reads["nodes"]) and set(reads["nodes"]) <= set(of_site(quote, "attn_in"))
    assert {value, key} <= set(moves["nodes"]) and moves["carriers"] == [write] and writes["nodes"] == [write]
    head = f"head {split_node_name(value)[0].split('.')[0]}.{split_node_name(value)[1] // quote.model.config.d_head}"
    assert "ead" in reads["text"] and head in moves["text"].lower() and "copies from" in moves["text"]
    assert f"hannel {split_node_name(write)[1]} pushes `<" in writes["text"] and " logits " in writes["text"]


def test_the_lists_story_has_the_head_that_averages_and_the_neuron(readings):
    reading = readings[Algorithm.LISTS]
    told = story(reading)
    (neuron,), (value,) = of_site(reading, "mlp_neuron"), of_site(reading, "attn_v")
    by_node = {name: each for each in told["sentences"] for name in each["nodes"]}
    assert f"euron {split_node_name(neuron)[1]} of layer" in by_node[neuron]["text"]
    assert "average" in by_node[value]["text"]
    assert [neuron in each["nodes"] for each in told["sentences"]][-2] and " logits " in told["sentences"][-1]["text"]


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_planted_steps_move_the_held_out_prompts_and_all_of_them_flip_the_answer(readings, algorithm):
    told = story(readings[algorithm])
    assert wrong(told, Story) == []
    assert told["sentences"] and len(told["gist"]) <= GIST
    for each in told["sentences"]:
        assert each["n_prompts"] == N_PAIRS and each["share"] > 0.1
        assert (each["moved_whole"] < 0.8) == each["weak"] == ("of prompts only" in each["text"])
        assert each["apart"] == (each["moved"] < 0.8 <= each["moved_whole"])
        assert not re.search(r"`[^`\s]+`[.,;:]", each["text"])
    assert bool(told["limit"]) == any(each["apart"] for each in told["sentences"])
    assert told["all"]["flips"] > 0.95 and told["all"]["moved"] > 0.95
    assert sum(not each["weak"] for each in told["sentences"]) >= 2


def test_a_step_that_does_nothing_moves_no_prompt_and_its_sentence_says_so(quote):
    (query,) = of_site(quote, "attn_q")
    (ask,) = {edge.split("->")[0] for edge in quote.circuit.edge_names if edge.endswith(query)}
    swaps = swaps_of(quote)
    outcome = swaps([ask, query])  # both prompts end alike
    assert outcome.moved == outcome.flips == 0 and outcome.share == pytest.approx(0, abs=1e-5)
    step = FlowStep(FlowPart.READ, 0, (ask,))
    told = sentence(step, words_of(quote, step), outcome)
    assert told["weak"] and told["text"].lower().endswith("swapping it moves the answer in 0\u00a0% of prompts only.")


def test_swapping_all_that_is_written_gives_the_other_prompts_answer(quote):
    swaps = swaps_of(quote)
    other = swaps.margins.view(-1, 2).flip(1).flatten()
    assert torch.allclose(swaps.swapped(of_site(quote, "attn_out")), -other, atol=1e-3)
    assert torch.equal(swaps.swapped(()), swaps.margins) and float(swaps.margins.min()) > 0


def test_a_position_without_a_counterpart_has_the_mean(quote):
    batch = PairBatch.of([[1, 2, 3], [1, 4, 5, 3]], [[6, 7], [7, 6]])
    name, values = quote.circuit.node_names[0], torch.arange(8.0).view(2, 4) + 1
    key, index = split_node_name(name)
    mean = float(quote.circuit.means[key][index])
    swaps = Swaps(quote.model, quote.circuit, TaskValues(batch, {name: values}, {name: values}, {}))
    # up to where they part the same position, then backwards from the end
    assert swaps.other[name][0, :3].tolist() == [5, 7, 8]
    assert swaps.other[name][1].tolist() == pytest.approx([1, mean, 2, 3])


@pytest.mark.parametrize(("sink", "afrac"), [(True, 0.25), (False, 1.0)])
def test_the_compact_executor_swaps_as_the_models_own_forward_pass_does(tiny_model, sink, afrac):
    model = tiny_model(sink=sink, afrac=afrac)
    tokens = torch.randint(0, 24, (6, 7), generator=torch.Generator().manual_seed(1))
    tokens[1::2, :2] = tokens[0::2, :2]  # pairs begin alike
    batch = PairBatch(tokens, torch.tensor([4, 6] * 3), torch.tensor([[3, 4], [4, 3]]).repeat(3, 1))
    means, _, nodes, edges = drawn(model, tokens, 0.5, 0)
    circuit = Circuit(nodes, edges, means, {}, (AblationValues.at_means(means),))
    swaps = Swaps(model, circuit, TaskValues.of(model, circuit, batch, circuit.node_names))
    for key in nodes:
        some = [name for name in circuit.node_names if split_node_name(name)[0] == key]
        torch.testing.assert_close(swaps._compact(some), swaps._by_definition(some), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(swaps._compact(circuit.node_names), swaps._compact(()), atol=1e-2)


def test_an_outcome_counts_falls_of_a_twentieth_of_the_distance_and_flips_of_right_answers():
    before, last = torch.tensor([3.0, 1.0, 2.0, -1.0, 1.0, -3.0]), torch.tensor([5, 5, 5, 4, 5, 5])
    after = torch.tensor([2.9, -1.0, 2.0, -2.0, 0.0, -4.0])  # of distances 4, 4, 1, 1, and −2: nowhere to move to
    outcome = Outcome.of(before, after, last)
    assert outcome.moved == pytest.approx(2 / 6) and outcome.n_prompts == 6
    assert outcome.moved_whole == pytest.approx(1 / 5)  # without the shorter prompt
    assert outcome.shorter == pytest.approx(1 / 6)
    assert outcome.flips == pytest.approx(1 / 4)
    assert outcome.share == pytest.approx(float((before - after).sum()) / 6)


@pytest.mark.parametrize("n_nodes", [0, 1])
def test_a_circuit_of_one_node_or_none_is_told_too(quote, config, n_nodes):
    circuit = quote.circuit.of_names(of_site(quote, "attn_out")[:n_nodes], [])
    told = explain_circuit(quote.model, circuit, quote.values.batch.first(16), Letters(), config)["story"]
    assert wrong(told, Story) == []
    assert told["gist"] == (NO_STEP if n_nodes else NO_NODE) and told["sentences"] == []


def test_steps_that_shorter_prompts_have_no_place_for_are_counted_apart_and_the_limit_says_so_once(quote):
    step = FlowStep(FlowPart.READ, 0, (of_site(quote, "attn_in")[0],))
    words = words_of(quote, step)
    outcome = Outcome(moved=0.51, moved_whole=0.98, flips=0.5, share=0.5, n_prompts=100, shorter=0.48)
    told = sentence(step, words, outcome)
    assert told["apart"] and not told["weak"] and "%" not in told["text"]
    said = limit([told, told], outcome.shorter)
    assert said.count("48\u00a0%") == 1 and "steps 1 and 2 (*)" in said and "of the others 98\u00a0% move" in said
    assert limit([told | {"apart": False}], outcome.shorter) == ""


@pytest.mark.parametrize(
    ("pushes", "side", "far"),  # of each side's right answer
    [((1.0, 0.02), 0, ("1.0", "0")), ((1.0, -0.4), 0, ("1.0", "0.4")), ((-0.4, 1.0), 1, ("0.4", "1.0"))],
)
def test_the_answer_that_no_write_pushes_wins_by_default(quote, monkeypatch, pushes, side, far):
    step, words = written(quote, monkeypatch, pushes)
    pushed, other = (quote.words.quoted(quote.words.answers[n]) for n in (side, 1 - side))
    text = words.sentence(step)
    assert f"pushes {pushed} by {far[side]} logits after `<{side + 1}>` and " in text
    assert f"{far[1 - side]} after `<{2 - side}>`" in text
    assert f"nothing pushes {other} and it wins by default" in text and f"and {other} otherwise" in gist([step], words)


def test_a_write_that_turns_pushes_both_answers_and_has_no_default(quote, monkeypatch):
    step, words = written(quote, monkeypatch, (1.0, 0.4))
    first, second = (quote.words.quoted(answer) for answer in quote.words.answers)
    text = words.sentence(step)
    assert f"pushes {first} by 1.0 logits after `<1>` and {second} by 0.4 after `<2>`" in text
    assert "by default" not in text and "otherwise" not in gist([step], words)


def written(reading: TaskReading, monkeypatch, pushes: tuple[float, float]) -> tuple[FlowStep, StoryWords]:
    """The step of the planted write, as if it pushed each side's right answer so far."""
    monkeypatch.setattr(Roles, "pushes", lambda *_: list(pushes))
    for sides in ("after", "conditions"):
        monkeypatch.setattr(reading.words, sides, ["after `<1>`", "after `<2>`"])
    step = FlowStep(FlowPart.WRITE, 1, tuple(of_site(reading, "attn_out")))
    return step, words_of(reading, step)


def test_channels_that_several_nodes_write_are_told_by_node_and_the_whole_lead_is_told(quote, monkeypatch):
    answers, names = [quote.words.quoted(answer) for answer in quote.words.answers], ("0.attn_out.7", "1.mlp_out.7")
    monkeypatch.setattr(Roles, "pushes", lambda _, name: [0.1, 0.5] if name == names[0] else [0.9, 0.2])
    monkeypatch.setattr(quote.words, "conditions", ["after `<1>`", "otherwise"])
    text = in_words(pushes(names, quote.roles), quote.words, (2.0, -0.31))
    assert f"1.mlp_out.7 pushes {answers[0]} by 0.9" in text and f"0.attn_out.7 pushes {answers[0]}" in text
    assert text.endswith(f"in all, {answers[0]} leads by 2.0 logits after `<1>` and {answers[1]} by −0.3 otherwise")


def words_of(reading: TaskReading, *steps: FlowStep) -> StoryWords:
    return StoryWords(reading, dict.fromkeys(reading.values.nodes, 1.0), steps)


def test_channels_that_no_other_step_fills_or_reads_are_counted_apart(quote):
    (value,) = of_site(quote, "attn_v")
    read = FlowStep(FlowPart.READ, 0, ("0.attn_in.1",))
    move = FlowStep(FlowPart.MOVE, 0, (value,), ("0.attn_out.3", "0.attn_out.7"))
    combine = FlowStep(FlowPart.COMBINE, 1, ("1.mlp_neuron.2",), ("1.mlp_in.3", "1.mlp_in.5"))
    words = words_of(quote, read, move, combine)
    assert words._into(move) == " into channel 3 and 1 that no step here reads"
    assert words._reading(combine) == "reading channel 3 and 1 that no step here fills, "


def test_a_gist_names_what_each_head_brings(quote, monkeypatch):
    (value,) = of_site(quote, "attn_v")
    head = quote.roles.head(split_node_name(value))
    words = words_of(quote)
    heads = [head, (head[0], head[1] + 1), (head[0], head[1] + 2)]
    brought = dict(zip(heads, ("`a`", "`b`", None), strict=True))
    monkeypatch.setattr(StoryWords, "brought", lambda self, one: brought[one])
    name = [f"{layer}.{number}" for layer, number in heads]
    assert _moves(heads, "`a`", words) == f"heads {name[0]} and {name[2]} bring it to the end and head {name[1]} `b`"
    assert _moves(heads[:1], "`b`", words) == f"head {name[0]} brings `a` to the end"


def test_the_planted_key_draws_its_head_to_the_quote_and_no_further_place_is_told_of_a_head_that_copies(quote):
    (key,), (value,) = of_site(quote, "attn_k"), of_site(quote, "attn_v")
    assert quote.label(key)["role"].endswith(": draws attention")
    assert "%" not in quote.label(value)["role"]


def test_heads_and_neurons_that_no_step_is_about_are_named(readings):
    reading = readings[Algorithm.LISTS]
    (neuron,) = of_site(reading, "mlp_neuron")
    (value,) = of_site(reading, "attn_v")
    head = reading.roles.head(split_node_name(value))
    names, outcome = reading.circuit.node_names, Outcome(None, None, None, None, 0)
    in_head = {name for name in names if ".attn_q." in name or ".attn_k." in name or name == value}
    text = whole(outcome, names, set(names) - in_head - {neuron}, reading.roles)["text"]
    assert f"among them head {head[0]}.{head[1]} and neuron {split_node_name(neuron)[1]}." in text
    assert "among them" not in whole(outcome, names, {value, neuron}, reading.roles)["text"]


def test_an_example_number_is_of_a_value_that_is_far_from_0_where_its_head_looks(quote, monkeypatch):
    (value,) = of_site(quote, "attn_v")
    step = FlowStep(FlowPart.MOVE, 1, (value,))
    words = words_of(quote, step)
    assert quote.statements[value].of_sides and "attn_v" in words.sentence(step)
    place = quote.roles.looked_at(quote.roles.head(split_node_name(value)))[0]
    larger = quote.statements[value].larger
    monkeypatch.setattr(type(quote.roles), "looked_at", lambda self, head: (place, larger))
    assert "attn_v" in words.sentence(step)
    monkeypatch.setattr(type(quote.roles), "looked_at", lambda self, head: (place, 1 - larger))
    assert "value channel" not in words.sentence(step)


def test_all_nodes_of_the_sentences_are_named(quote):
    told = story(quote)["sentences"]
    assert named_by(told) == {name for each in told for name in each["nodes"] + each["carriers"]}
