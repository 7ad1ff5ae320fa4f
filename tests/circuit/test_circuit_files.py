"""Circuits as files."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.artifacts import ArtifactError
from pipeline.circuit import Circuit, circuit


def test_circuits_saved_before_scores_had_their_name_are_read(tmp_path):
    means = {"0.mlp_neuron": torch.zeros(4)}
    Circuit({"0.mlp_neuron": torch.tensor([1])}, {}, means, {"0.mlp_neuron": torch.arange(4.0)}).save(tmp_path / "new")
    tensors = load_file(tmp_path / "new/circuit.safetensors")
    renamed = {key.replace("score.", "order."): value for key, value in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, tmp_path / "new/circuit.safetensors")
    assert torch.equal(Circuit.load(tmp_path / "new").scores["0.mlp_neuron"], torch.arange(4.0))


def test_many_edges_are_kept_as_numbers_and_read_back_the_same(tmp_path, monkeypatch):
    widths = {"0.mlp_in": 4, "0.mlp_neuron": 5, "0.mlp_out": 4}
    means = {key: torch.zeros(n) for key, n in widths.items()}
    nodes = {key: torch.arange(n) for key, n in widths.items()}
    edges = {
        "0.mlp_in->mlp_neuron": torch.cartesian_prod(torch.arange(4), torch.arange(5)),
        "0.mlp_neuron->mlp_out": torch.tensor([[0, 1], [4, 3]]),
    }
    whole = Circuit(nodes, edges, means, scores={key: torch.ones(n) for key, n in widths.items()})
    whole.save(tmp_path / "few")
    monkeypatch.setattr(circuit, "MANY_EDGES", 21)
    whole.save(tmp_path / "many")
    counts = json.loads((tmp_path / "many/circuit.json").read_text())["edges"]
    assert counts == {"0.mlp_in->mlp_neuron": 20, "0.mlp_neuron->mlp_out": 2}
    for name in ("few", "many"):
        back = Circuit.load(tmp_path / name)
        assert back.edge_names == whole.edge_names and back.scores.keys() == means.keys()
        assert all(pairs.dtype == torch.int64 for pairs in back.edges.values())
    tensors = load_file(tmp_path / "many/circuit.safetensors")
    del tensors["edge.0.mlp_in->mlp_neuron"]
    save_file(tensors, tmp_path / "many/circuit.safetensors")
    with pytest.raises(ArtifactError, match="no 0.mlp_in->mlp_neuron; run prune again"):
        Circuit.load(tmp_path / "many")
