"""What is kept of nodes, against what the model does, and what follows from circuits that were planted."""

from __future__ import annotations

import json

import pytest
import torch

from pipeline.circuit import Circuit
from pipeline.circuit.heads import attention_patterns, kept_heads
from pipeline.circuit.masked import Masked
from pipeline.data.pairs import answer_logits
from pipeline.explain import assembled, explain_circuit, explain_nodes
from pipeline.explain.distribution import extremes, node_values, of_node
from pipeline.explain.effects import ablated_losses
from pipeline.explain.places import Places
from pipeline.explain.rounding import rounded, together
from pipeline.model.initial import new_model
from pipeline.model.record import record
from pipeline.model.scoring import mean_loss, score
from pipeline.planted import Algorithm, plant
from tests.explain.conftest import Letters


@pytest.fixture(scope="module")
def planted():
    return plant(Algorithm.QUOTE, d_model=64, seed=0)


@pytest.fixture(scope="module")
def circuit(planted):
    """The planted circuit, with a certificate that gives its i-th node the loss i."""
    order = {key: torch.zeros_like(mean) for key, mean in planted.means.items()}
    number = iter(range(1000))
    losses = {key: [float(next(number)) for _ in indices] for key, indices in planted.nodes.items()}
    return Circuit(planted.nodes, planted.edges, planted.means, order, certificate={"nodes": losses})


@pytest.fixture(scope="module")
def batch(planted):
    return planted.batch("test", 6)


@pytest.fixture(scope="module")
def found(planted, circuit, batch, config):
    return explain_circuit(planted.model, circuit, batch, Letters(), config)


def test_a_node_has_a_value_a_token_of_every_prompt_without_padding(found, batch, config):
    lengths = (batch.last[: 2 * config.pairs] + 1).tolist()
    assert [len(prompt["tokens"]) for prompt in found["prompts"]] == lengths
    assert [(p["pair"], p["side"]) for p in found["prompts"]] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    for node in found["nodes"].values():
        assert [len(values) for values in node["model"]] == [len(values) for values in node["circuit"]] == lengths


def test_values_are_those_of_the_model_and_of_the_circuit_alone(found, planted, circuit, batch, config):
    few = batch.first(config.pairs)
    masked = Masked(planted.model, circuit.nodes, circuit.edges, planted.means)
    _, model = record(planted.model, few.tokens)
    seen = {}
    planted.model(few.tokens, intervene=lambda k, x: seen.setdefault(k, masked.intervene(k, x)), cuts=masked.cuts)
    for name, node in found["nodes"].items():
        key, _, index = name.rpartition(".")
        for kind, values in (("model", model), ("circuit", seen)):
            exact = [values[key][row, : int(n) + 1, int(index)] for row, n in enumerate(few.last)]
            most = max(float(values[key][..., int(index)].abs().max()) for values in (model, seen))
            for kept, real in zip(node[kind], exact, strict=True):
                assert torch.allclose(torch.tensor(kept, dtype=torch.float), real, atol=6e-3 * most + 1e-9)


def test_answers_are_those_of_the_two_runs(found, planted, circuit, batch, config):
    few = batch.first(config.pairs)
    answers = score(planted.model, few)
    alone = answer_logits(circuit(planted.model)(few.tokens, at=few.last), few)
    for row, prompt in enumerate(found["prompts"]):
        assert (
            prompt["answer"] == f"<{int(few.answers[row, 0])}>" and prompt["other"] == f"<{int(few.answers[row, 1])}>"
        )
        assert prompt["model"]["logit_difference"] == pytest.approx(float(answers[row, 0] - answers[row, 1]), rel=6e-3)
        gap = float(alone[row, 0] - alone[row, 1])
        assert prompt["circuit"]["logit_difference"] == pytest.approx(gap, rel=6e-3)


def test_a_nodes_losses_are_the_certificates_and_of_the_model_with_it_held(found, planted, circuit, batch, config):
    few = batch.first(config.ablated_pairs)
    assert found["model_loss"] == pytest.approx(mean_loss(score(planted.model, few)), rel=6e-3)
    number = iter(range(1000))
    for key, indices in circuit.nodes.items():
        for index in indices.tolist():
            node = found["nodes"][f"{key}.{index}"]
            assert node["removed_loss"] == next(number)

            def hold(at, x, key=key, index=index):
                if at == key:
                    x = x.clone()
                    x[..., index] = planted.means[key][index]
                return x

            assert node["ablated_loss"] == pytest.approx(mean_loss(score(planted.model, few, intervene=hold)), rel=6e-3)


def test_nodes_of_largest_effect_are_shown_where_not_all_are(planted, circuit, batch, config):
    few = config.model_copy(update={"most_nodes": 3})
    found = explain_circuit(planted.model, circuit, batch, Letters(), few)
    assert [node["removed_loss"] for node in found["nodes"].values()] == [
        circuit.n_nodes - 1 - i for i in range(3)
    ]  # as the fixture's certificate has it


def test_without_a_certificate_no_loss_is_given_for_the_circuit(planted, circuit, batch, config):
    bare = Circuit(circuit.nodes, circuit.edges, circuit.means, circuit.scores)
    nodes = explain_circuit(planted.model, bare, batch, Letters(), config)["nodes"].values()
    assert {node["removed_loss"] for node in nodes} == {None}
    losses = [node["ablated_loss"] for node in nodes]
    assert losses == sorted(losses, reverse=True)


def test_ablated_losses_do_not_depend_on_how_many_nodes_run_at_once(planted, circuit, batch, monkeypatch):
    together_ = ablated_losses(planted.model, circuit, batch)
    monkeypatch.setattr("pipeline.explain.effects.AT_ONCE", 1)
    alone = ablated_losses(planted.model, circuit, batch)
    assert together_ == pytest.approx(alone, abs=1e-5)


def softmax_patterns(q, k, sink, n_head):
    """The definition, written out: softmax over the keys so far and the sink's logit."""
    q, k = (x.unflatten(-1, (n_head, -1)).transpose(1, 2).double() for x in (q, k))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
    logit = torch.full((1, n_head, 1, 1), -torch.inf) if sink is None else sink.view(1, -1, 1, 1)
    return torch.cat([logit.double().expand(*scores.shape[:3], 1), scores], dim=-1).softmax(-1)[..., 1:]


@pytest.mark.parametrize("sink", [False, True])
def test_patterns_are_the_softmax_that_attention_takes(tiny_model, sink):
    attention = tiny_model(sink=sink).transformer["h"][0].attn
    q, k = torch.randn(2, 2, 11, 16, generator=torch.Generator().manual_seed(0))
    expected = softmax_patterns(q, k, attention.sink_logit, attention.n_head)
    found = attention_patterns(q, k, attention.sink_logit, attention.n_head)[..., -11:]
    assert torch.allclose(found, expected, atol=1e-5)


def test_heads_with_a_kept_channel_are_drawn_and_no_others(found, planted, circuit, config):
    d_head = planted.model.config.d_head
    kept = [(layer, h) for layer in range(planted.model.config.n_layer) for h in kept_heads(circuit, layer, d_head)]
    assert [(head["layer"], head["head"]) for head in found["heads"]] == kept and kept
    for head in found["heads"]:
        assert all(index // d_head == head["head"] for letter in "qkv" for index in head[letter])
        for drawn in head["patterns"].values():
            assert len(drawn) == 2 * config.pattern_pairs
            for matrix, prompt in zip(drawn, found["prompts"], strict=False):
                assert [len(row) for row in matrix] == list(range(1, len(prompt["tokens"]) + 1))
                assert all(0 <= weight and sum(row) <= 1 + 0.005 * len(row) for row in matrix for weight in row)


@pytest.fixture
def watched(tokenizer, tiny_config):
    """A small model that reads the tokens of the held-out snippets."""
    config = tiny_config(n_ctx=32)
    return new_model(config, vocab_size=tokenizer.vocab_size, seed=0, bigram=None).freeze()


def test_numbers_of_a_node_are_those_of_its_values_at_all_places(watched, stream, tokenizer, config):
    names = ["0.mlp_neuron.5", "1.attn_q.3"]
    found = explain_nodes(watched, names, stream=stream, tokenizer=tokenizer, config=config, seed=0)
    places = Places.of(stream, tokenizer, config.tokens, 32)
    assert list(found) == names
    for name, node in found.items():
        key, _, index = name.rpartition(".")
        values = record(watched, places.tokens)[1][key][..., int(index)]
        assert node["mean"] == pytest.approx(float(values.mean()), rel=6e-3)
        assert (node["least"], node["most"]) == (rounded(float(values.min())), rounded(float(values.max())))
        assert sum(node["histogram"]["counts"]) == values.numel() and len(node["histogram"]["counts"]) == config.bins
        top, bottom = node["top"][0], node["bottom"][0]
        assert top["values"][top["at"]] == pytest.approx(float(values.max()), abs=6e-3 * float(values.abs().max()))
        assert bottom["values"][bottom["at"]] == pytest.approx(
            float(values.min()), abs=6e-3 * float(values.abs().max())
        )
        window, place = divmod(int(values.flatten().argmax()), 32)
        assert top["tokens"][top["at"]] == int(places.tokens[window, place])
        assert all(len(c["tokens"]) == len(c["values"]) == config.context_tokens for c in node["random"])


def test_extreme_contexts_are_of_different_documents_where_there_are_enough(places):
    values = torch.zeros(places.tokens.numel())
    values[:8] = torch.arange(8, 0, -1.0)  # all in one document
    values[500], values[900] = 0.5, 0.25
    documents = places.documents.flatten()
    assert len({int(documents[i]) for i in (0, 7, 500, 900)}) == 3
    assert extremes(values, places, 3) == [0, 500, 900]
    assert extremes(values, places, 5) == [0, 500, 900, 1, 2]
    assert extremes(-values, places, 3) == []  # what is 0 is not shown as low


def test_a_context_lies_in_its_window_and_says_where_the_place_is(places, config):
    values = torch.zeros(places.tokens.shape)
    values[0, 0] = values[3, -1] = values[5, 16] = 1.0
    node = of_node(values, places, config.model_copy(update={"contexts": 3}), [0])
    for context in node["top"]:
        assert context["values"][context["at"]] == 1 and len(context["tokens"]) == config.context_tokens
    assert [context["at"] for context in node["top"]] == [0, config.context_tokens - 1, 5]


def test_tokens_become_places_in_a_table_of_their_texts(tokenizer):
    a, b, c = tokenizer.encode("=")[0], tokenizer.encode("(")[0], tokenizer.encode("apple")[0]
    nodes = {"0.mlp_out.1": {"top": [{"tokens": [a, b], "values": [1, 2], "at": 0}], "label": None}}
    circuits = {"task": {"prompts": [{"tokens": [c, a]}], "nodes": {"0.mlp_out.1": {"model": [[1, 2]]}}}}
    found = assembled("m", "hash", nodes, circuits, tokenizer)
    texts = [found["tokens"][i] for i in found["nodes"]["0.mlp_out.1"]["top"][0]["tokens"]]
    assert texts == [tokenizer.decode([a]), tokenizer.decode([b])]
    prompt = found["circuits"]["task"]["prompts"][0]["tokens"]
    assert [found["tokens"][i] for i in prompt] == [tokenizer.decode([c]), tokenizer.decode([a])]
    assert len(found["tokens"]) == len({a, b, c})
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_values_together_have_three_digits_of_the_largest():
    assert together(torch.tensor([[1.23456, -0.00123], [12.3456, 0.0]]), 12.3456) == [[1.2, 0], [12.3, 0]]
    assert together(torch.tensor([1234.5, -6.7]), 1234.5) == [1230, -10]
    assert rounded(0.0123456) == 0.0123 and rounded(1234.5) == 1230


def test_values_of_nodes_are_of_the_model_as_it_is(watched, places):
    nodes = {"0.attn_k": torch.tensor([3, 7])}
    found = node_values(watched, places.tokens[:20], nodes)
    _, values = record(watched, places.tokens[:20])
    assert torch.allclose(found["0.attn_k"], values["0.attn_k"][..., [3, 7]], atol=1e-6)
