"""Circuits as files."""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save_file

from pipeline.circuit import Circuit


def test_circuits_saved_before_scores_had_their_name_are_read(tmp_path):
    means = {"0.mlp_neuron": torch.zeros(4)}
    Circuit({"0.mlp_neuron": torch.tensor([1])}, {}, means, {"0.mlp_neuron": torch.arange(4.0)}).save(tmp_path / "new")
    tensors = load_file(tmp_path / "new/circuit.safetensors")
    renamed = {key.replace("score.", "order."): value for key, value in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, tmp_path / "new/circuit.safetensors")
    assert torch.equal(Circuit.load(tmp_path / "new").scores["0.mlp_neuron"], torch.arange(4.0))
