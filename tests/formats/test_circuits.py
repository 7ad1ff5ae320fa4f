"""Circuits in formats of others: the released mapping both ways, graphs, attribution graphs that add up."""

from __future__ import annotations

import json
from collections import defaultdict

import networkx
import pytest
import torch

from pipeline.circuit import Circuit
from pipeline.circuit.graph import induced_edges
from pipeline.circuit.interventions import node_masks
from pipeline.formats import FormatError
from pipeline.formats.attribution_graph import EMBEDDING, LOGIT, Attribution, attribution_graph
from pipeline.formats.graphs import write_graphml, write_node_link
from pipeline.formats.viz import read_viz, strip_padding, to_circuit_folder, write_viz
from pipeline.model.record import record

TOKENS = torch.randint(280, (9,), generator=torch.Generator().manual_seed(2))
NODES = {"0.attn_in": [1, 3], "0.attn_v": [2, 5], "0.attn_out": [0, 7], "1.mlp_in": [0, 7], "1.mlp_neuron": [4, 9]}


def circuit_of(model, nodes=None):
    """A circuit of some nodes, all by default, and all edges between them; complements at zero."""
    means = {key: torch.zeros(n) for key, n in model.widths().items()}
    if nodes is None:
        nodes = {key: range(n) for key, n in model.widths().items()}
    kept = {key: torch.tensor(list(some)) for key, some in nodes.items()}
    edges = induced_edges(model, node_masks(kept, means))
    return Circuit(kept, edges, means, scores=means, about={"model": "tiny", "task": "any"})


def saved(path, **content):
    torch.save(content, path)
    return path


@pytest.fixture
def model(small_model):
    return small_model(sink=True)


@pytest.fixture
def means(model):
    return {key: torch.zeros(n) for key, n in model.widths().items()}


def test_a_released_circuit_is_read_with_names_edges_and_halved_losses(model, means, tmp_path):
    kept = {
        "0.attn.act_in": torch.tensor([3, 1]), "0.attn.v": torch.tensor([2, 5]), "0.attn.q": [],
        "0.attn.resid_delta": [0, 7], "1.mlp.act_in": [0, 7], "1.mlp.post_act": [4, 9], "final_resid": [0, 7],
    }  # fmt: skip
    padded = torch.tensor([[5, 0, 6, 0, 0], [1, 2, 3, 4, 0]])
    found = read_viz(
        saved(
            tmp_path / "viz_data.pt",
            circuit_data=kept,
            importances={"loss": 0.25, "interv_loss": torch.tensor(0.3), "task_samples": (padded, {})},
            prune_config={"k": 7},
        ),
        model,
        means,
    )
    assert {key: some.tolist() for key, some in found.circuit.nodes.items()} == NODES
    assert found.circuit.edge_names == circuit_of(model, NODES).edge_names
    assert found.losses == {"loss": 0.125, "interv_loss": pytest.approx(0.15)}
    assert found.samples == ([5, 0, 6], [1, 2, 3, 4])
    assert ["final_resid keeps 2 of 16" in note for note in found.notes] == [True]
    to_circuit_folder(found, tmp_path / "circuit")
    back = Circuit.load(tmp_path / "circuit")
    assert back.node_names == found.circuit.node_names and back.about["published_loss"] == 0.125


def test_ours_written_and_read_back_has_the_same_nodes(model, means, tmp_path):
    circuit = circuit_of(model, NODES)
    write_viz(circuit, tmp_path / "viz_data.pt")
    stored = torch.load(tmp_path / "viz_data.pt", weights_only=True)["circuit_data"]
    assert stored["1.mlp.post_act"].tolist() == [4, 9] and len(stored) == 16
    back = read_viz(tmp_path / "viz_data.pt", model, means).circuit
    assert back.node_names == circuit.node_names and back.edge_names == circuit.edge_names


def test_padding_is_stripped_at_the_end_only():
    assert strip_padding([0, 4, 0, 0]) == [0, 4]
    assert strip_padding([0, 0]) == []
    assert strip_padding([0, 7]) == [0, 7]


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"circuit_data": {"0.mlp.post_act": [64]}}, "0.mlp.post_act keeps 64; a circuit of another model"),
        ({"circuit_data": {"0.mlp.post_act": [1], "7.mlp.post_act": [1]}}, "unknown site 7.mlp.post_act"),
        ({"circuit_data": {"0.mlp.post_act": [0.5]}}, "0.mlp.post_act is no list of indices"),
        ({"circuit_data": {"0.mlp.post_act": [-1]}}, "no list of indices"),
        ({"other": {}}, "has no circuit_data"),
        ({"circuit_data": {"0.mlp.post_act": [1]}, "x": Evil()}, "it was not loaded"),
    ],
)
def test_files_that_are_no_circuit_of_the_model_are_refused(model, means, tmp_path, capsys, content, said):
    with pytest.raises(FormatError, match=said):
        read_viz(saved(tmp_path / "viz_data.pt", **content), model, means)
    assert "code ran" not in capsys.readouterr().out


def test_graphs_have_the_circuits_nodes_edges_and_weights(model, tmp_path):
    circuit = circuit_of(model, NODES)
    write_graphml(circuit, tmp_path / "c.graphml", model)
    write_node_link(circuit, tmp_path / "c.json", model)
    described = json.loads((tmp_path / "c.json").read_text())
    for graph in (networkx.read_graphml(tmp_path / "c.graphml"), networkx.node_link_graph(described, edges="links")):
        assert set(graph.nodes) == set(circuit.node_names)
        assert {f"{a}->{b}" for a, b in graph.edges} == set(circuit.edge_names)
        assert graph.nodes["1.mlp_neuron.9"] == {"layer": 1, "site": "mlp_neuron", "index": 9}
        weight = model.transformer["h"][1].mlp.c_fc.weight[9, 7]
        assert graph.edges["1.mlp_in.7", "1.mlp_neuron.9"]["weight"] == pytest.approx(float(weight))


@pytest.mark.parametrize("changes", [{"sink": True, "positions": True}, {"afrac": 0.5, "bigram": False}])
def test_what_flows_into_a_node_of_the_whole_model_adds_up_to_its_value(small_model, changes):
    model = small_model(**changes)
    found = Attribution(circuit_of(model), model, TOKENS)
    into = defaultdict(float)
    for link in found.links():
        assert link.source[2] <= link.target[2] and link.weight
        into[link.target] += link.weight
    logits, values = record(model, TOKENS[None], residual=True)
    bigram = 0 if model.bigram_table is None else model.bigram_table[TOKENS[-1]]
    for token in found.answers:
        assert into[LOGIT, token, 8] == pytest.approx(float((logits[0, -1] - bigram)[token]), abs=1e-4)
    blocks = model.transformer["h"]
    biases = {"1.attn_in": None, "0.mlp_in": None, "1.attn_out": blocks[1].attn.c_proj.bias}
    biases["0.mlp_out"] = blocks[0].mlp.c_proj.bias
    checked = 0
    for key, bias in biases.items():
        for p, c in values[key][0].nonzero().tolist():
            constant = 0 if bias is None else float(bias[c])
            assert into[key, c, p] + constant == pytest.approx(float(values[key][0, p, c]), abs=1e-4)
            checked += 1
    assert checked > 100


def test_the_attribution_graph_has_the_viewers_shape(model):
    texts = [f"t{i}" for i in range(280)]
    graph = attribution_graph(circuit_of(model, NODES), model, TOKENS, texts, "any")
    assert set(graph) == {"metadata", "qParams", "nodes", "links"}
    ids = [node["node_id"] for node in graph["nodes"]]
    assert len(ids) == len(set(ids))
    assert {link[end] for link in graph["links"] for end in ("source", "target")} == set(ids)
    assert graph["metadata"]["prompt_tokens"] == [texts[token] for token in TOKENS]
    kinds = {node["feature_type"] for node in graph["nodes"]}
    assert kinds == {"embedding", "cross layer transcoder", "logit"}
    assert [node["layer"] for node in graph["nodes"] if node["feature_type"] == "logit"] == ["13", "13"]
    assert sum(node["is_target_logit"] for node in graph["nodes"]) == 1
    assert all(node["layer"] == EMBEDDING for node in graph["nodes"] if node["feature_type"] == "embedding")
    json.dumps(graph, allow_nan=False)
