"""The bundle of a circuit's page has the circuit's own numbers, each beside the node that it is of."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.data.tokenizer import END_OF_TEXT, Tokenizer
from pipeline.model.transformer import Transformer
from pipeline.report.bundle import circuit_bundle, node_names, own_part, token_texts

TEXTS = [f"t{token}" for token in range(24)]
BATCH = PairBatch(torch.tensor([[5, 6, 7], [5, 6, 8]]), torch.tensor([2, 2]), torch.tensor([[1, 2], [2, 1]]))
NODES = {"0.attn_in": [2, 5], "0.attn_v": [3]}
EDGES = {"0.attn_in->attn_v": [[2, 3], [5, 3]]}
CERTIFICATE = {"loss": 0.14321, "target_loss": 0.15, "nodes": {"0.attn_in": [0.2, 0.3], "0.attn_v": [0.6912]},
               "edges": {"0.attn_in->attn_v": [0.25, 0.35]}}  # fmt: skip
MODEL_ROW = {"name": "m", "kind": "sparse", "n_layer": 2, "d_model": 16, "l0": 9, "val_loss_nats": 3.0, "tasks": {}}


def node_entry(mean: float) -> dict[str, Any]:
    """One node over code: its contexts hold tokens 4 and 2 of the explanation's table."""
    context = {"tokens": [4, 2], "values": [0.0, mean], "at": 1}
    return {
        "mean": mean, "std": 1.0, "density": 1.0, "least": 0.0, "most": mean,
        "histogram": {"low": 0.0, "high": mean, "counts": [1, 1]}, "top": [context], "bottom": [], "random": [context],
        "label": None,
    }  # fmt: skip


@pytest.fixture
def explanation() -> dict[str, Any]:
    """Of a model with a circuit of three nodes, and a node of another circuit."""
    names = ["0.attn_v.3", "0.attn_in.5", "0.attn_in.2", "1.mlp_in.0"]
    prompt = {"pair": 0, "tokens": [2, 1], "answer": "t1", "other": "t2", "model": {"logit_difference": 1.0}}
    prompts = [prompt | {"side": side, "circuit": {"logit_difference": 2.0, "loss": 0.1}} for side in "ab"]
    values = {"model": [[1.0, 2.0]] * 2, "circuit": [[0.0, 1.0]] * 2, "removed_loss": 0.5, "ablated_loss": 0.25}
    circuit = {"prompts": prompts, "nodes": dict.fromkeys(names[:3], values), "heads": []}
    nodes = {name: node_entry(float(i)) for i, name in enumerate(names, start=1)}
    return {"model": "m", "tokens": ["zero", "one", "two", "three", "four"], "nodes": nodes, "circuits": {"t": circuit}}


@pytest.fixture
def bundle_of(tiny_model: Callable[..., Transformer]) -> Callable[..., dict[str, Any]]:
    means = {"0.attn_in": torch.arange(16.0), "0.attn_v": torch.full((16,), 0.5)}
    circuit = Circuit(
        {key: torch.tensor(indices) for key, indices in NODES.items()},
        {key: torch.tensor(pairs) for key, pairs in EDGES.items()},
        means, {}, certificate=CERTIFICATE, calibration=(2.0, -1.0),
    )  # fmt: skip
    model = tiny_model()

    def make(explanation: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
        row = {"n_nodes": 3, "n_edges": 2, "unpruned_loss": 0.05, "verdict": {"long": 1}}
        facts: dict[str, Any] = {"task": "t", "model_row": MODEL_ROW, "row": row, "batch": BATCH, "texts": TEXTS}
        return circuit_bundle(circuit, model, explanation=explanation, **(facts | changes))

    return make


def test_nodes_stand_in_forward_order_with_their_ablation_values(bundle_of: Callable[..., dict[str, Any]]) -> None:
    drawing = bundle_of(None)["drawing"]
    assert node_names(drawing) == ["0.attn_in.2", "0.attn_in.5", "0.attn_v.3"]
    assert drawing["nodes"]["ablated_to"] == [2, 5, 0.5]
    assert (drawing["edges"]["source"], drawing["edges"]["target"]) == ([0, 1], [2, 2])


def test_the_certificates_losses_stand_beside_their_nodes_and_edges(bundle_of: Callable[..., dict[str, Any]]) -> None:
    bundle = bundle_of(None)
    assert bundle["certificate"] == {"loss": 0.143, "nodes": [0.2, 0.3, 0.691], "edges": [0.25, 0.35]}


def test_explanations_follow_the_drawings_order_and_leave_other_circuits_nodes_out(
    bundle_of: Callable[..., dict[str, Any]], explanation: dict[str, Any]
) -> None:
    explained = bundle_of(explanation)["explanation"]
    assert [node["mean"] for node in explained["nodes"]] == [3, 2, 1]
    assert explained["nodes"][0]["ablated_loss"] == 0.25 and explained["nodes"][0]["model"] == [[1, 2]] * 2


def test_texts_of_tokens_survive_their_new_numbers(
    bundle_of: Callable[..., dict[str, Any]], explanation: dict[str, Any]
) -> None:
    explained = bundle_of(explanation)["explanation"]
    texts = explained["tokens"]
    assert sorted(texts) == ["four", "one", "two"]  # no others occur
    assert [texts[token] for token in explained["prompts"][0]["tokens"]] == ["two", "one"]
    assert [texts[token] for token in explained["nodes"][0]["top"][0]["tokens"]] == ["four", "two"]


def test_without_an_explanation_or_with_one_of_other_tasks_there_is_none(
    bundle_of: Callable[..., dict[str, Any]], explanation: dict[str, Any]
) -> None:
    assert bundle_of(None)["explanation"] is None
    assert bundle_of(explanation, task="another")["explanation"] is None


def test_an_explanation_that_lacks_a_node_is_refused(
    bundle_of: Callable[..., dict[str, Any]], explanation: dict[str, Any]
) -> None:
    del explanation["nodes"]["0.attn_in.2"]
    with pytest.raises(KeyError, match="0.attn_in.2"):
        bundle_of(explanation)


def test_a_bundle_is_finite_json_with_few_fields_of_the_summary(bundle_of: Callable[..., dict[str, Any]]) -> None:
    bundle = json.loads(json.dumps(bundle_of(None), allow_nan=False))
    assert bundle["row"]["unpruned_loss"] == 0.05 and "verdict" not in bundle["row"]
    assert bundle["model_row"]["name"] == bundle["model"] == "m" and "tasks" not in bundle["model_row"]


def test_every_token_has_a_text_that_is_shown_even_half_a_character() -> None:
    tokenizer = Tokenizer.train(["é = 1\n" * 3, "ab = cd\n" * 3], 260)
    texts = token_texts(tokenizer)
    assert len(texts) == tokenizer.vocab_size and texts[-1] == END_OF_TEXT
    assert texts[ord("a")] == "a" and texts[0xC3] == "\\xc3"


def test_a_node_that_explain_leaves_out_has_no_entry_alone_and_in_the_study(
    bundle_of: Callable[..., dict[str, Any]], explanation: dict[str, Any]
) -> None:
    [task] = explanation["circuits"]
    explanation["circuits"][task] |= {"model_loss": 0.125, "story": {"gist": "Reads."}}
    del explanation["circuits"][task]["nodes"]["0.attn_in.2"]
    del explanation["nodes"]["0.attn_in.2"]
    alone, in_study = bundle_of(explanation), own_part(bundle_of(None), explanation)
    for bundle in (alone, in_study):
        missing = [
            name
            for name, node in zip(node_names(bundle["drawing"]), bundle["explanation"]["nodes"], strict=True)
            if node is None
        ]
        assert missing == ["0.attn_in.2"]
        assert bundle["explanation"]["model_loss"] == 0.125 and bundle["explanation"]["story"]["gist"] == "Reads."


def test_what_edges_carry_stands_in_the_pictures_order_and_paths_are_numbers_of_nodes(
    bundle_of: Callable[..., dict[str, Any]], explanation: dict[str, Any]
) -> None:
    found = {"carried": [0.5, -2], "paths": [["0.attn_in.5", "0.attn_v.3"]], "order": [1, 0], "sizes": [[2, 0.1]]}
    assert bundle_of(explanation)["explanation"]["paths"] == []  # made before there were any
    explanation["circuits"]["t"] |= found
    for bundle in (bundle_of(explanation), own_part(bundle_of(None), explanation)):
        assert {key: bundle["explanation"][key] for key in found} == found | {"paths": [[1, 2]]}
