"""Two or three words for a node, of circuits that were planted and of labels written by hand."""

from __future__ import annotations

import re

import pytest
import torch

from pipeline.circuit import Circuit
from pipeline.explain.shorts import MOST_CHARS, clipped, first_of
from pipeline.explain.task_nodes import TaskReading
from pipeline.planted import Algorithm, plant
from pipeline.whitespace import all_visible
from tests.explain.conftest import Letters


@pytest.fixture(scope="module", params=list(Algorithm))
def labels(request):
    model = plant(request.param, d_model=64, seed=0)
    scores = {key: torch.zeros_like(mean) for key, mean in model.means.items()}
    circuit = Circuit(model.nodes, model.edges, model.means, scores)
    reading = TaskReading.of(model.model, circuit, model.batch("test", 64), Letters(), circuit.node_names)
    return request.param, {name: reading.label(name) for name in circuit.node_names}


def test_every_short_form_is_short_and_says_something(labels):
    _, found = labels
    assert all(0 < len(label["short"]) <= MOST_CHARS for label in found.values())


def test_the_short_form_says_what_the_role_says(labels):
    _, found = labels
    for name, label in found.items():
        short, role = label["short"], label["role"]
        if ".attn_q." in name:
            assert short.startswith("asks ")
        if ".attn_k." in name:
            assert short.startswith("finds ")
        if ".attn_v." in name:
            assert short.startswith("copies ") == role.startswith("copies ")
        pushed = re.search(r"pushes (`[^`]+`) ", role)
        assert short.startswith("→ ") == (pushed is not None)
        assert pushed is None or short == f"→ {pushed[1]}"


def test_a_planted_neuron_that_thresholds_its_only_source_says_where(labels):
    algorithm, found = labels
    neurons = [label for name, label in found.items() if ".mlp_neuron." in name]
    if algorithm is Algorithm.LISTS:
        assert [label["role"].startswith("thresholds") for label in neurons] == [True]
        assert neurons[0]["short"][:2] in ("> ", "< ")
        assert float(neurons[0]["short"][2:].replace("−", "-"))


@pytest.mark.parametrize(
    ("words", "short"),
    [("finds `(\"`", "finds `(\"`"), ("copies `␣configuration_of_it`", "copies `␣configurati…`"),
     ("one and two and three and four", "one and two and three")],
)  # fmt: skip
def test_too_many_words_are_cut_and_a_token_keeps_its_quotes(words, short):
    assert clipped(words) == short and len(clipped(words)) <= MOST_CHARS


def test_of_several_tokens_the_first_is_named():
    assert first_of("`[` or `(` or `{`") == "`[` …"
    assert first_of("`[` or `{`") == "`[` …"
    assert first_of("`[`") == "`[`"


def test_no_token_is_followed_by_punctuation(labels):
    _, found = labels
    for label in found.values():
        for text in (label["text"], label["role"], label["short"]):
            assert not re.search(r"`[^`\s]+`[.,;:]", text)


def test_blanks_are_counted_from_three_on():
    assert [all_visible(" " * n + "x") for n in (1, 2, 3, 7)] == ["␣x", "␣␣x", "␣×3x", "␣×7x"]
