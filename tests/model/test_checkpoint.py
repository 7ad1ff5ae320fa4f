"""Checkpoints come back exactly, and nothing else passes for one."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.artifacts import ArtifactError
from pipeline.circuit.compact import Compact, Frozen
from pipeline.circuit.graph import induced_edges
from pipeline.circuit.interventions import node_masks
from pipeline.circuit.masked import Masked
from pipeline.model.checkpoint import load_means, load_model, model_hash, save_means, save_model
from pipeline.shape import ModelShape
from pipeline.sites import site_keys


@pytest.fixture
def saved(tiny_model, tmp_path):
    model = tiny_model(sink=True, positions=True)
    save_model(model, tmp_path, {"name": "tiny"})
    return model, tmp_path


def test_a_loaded_model_has_the_saved_weights_bit_for_bit(saved):
    model, folder = saved
    loaded = load_model(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_the_hash_changes_with_one_weight(saved, tiny_model):
    model, folder = saved
    before = model_hash(folder)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    save_model(model, folder, {"name": "tiny"})
    assert model_hash(folder) != before


def test_a_damaged_file_is_refused_by_name(saved):
    _, folder = saved
    (folder / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ArtifactError, match="model.safetensors: damaged"):
        load_model(folder)


def test_a_missing_or_foreign_tensor_is_refused(saved):
    _, folder = saved
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "bigram_table"}, folder / "model.safetensors")
    with pytest.raises(ArtifactError, match="bigram_table"):
        load_model(folder)


def test_another_format_is_refused(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text()) | {"format": 99}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="format 99"):
        load_model(folder)


def test_means_that_lack_a_site_are_refused(saved):
    _, folder = saved
    save_means({key: torch.zeros(4) for key in site_keys(2)[1:]}, folder)
    with pytest.raises(ArtifactError, match="0.attn_in"):
        load_means(folder)


def test_a_checkpoint_stores_its_shape_and_not_how_it_was_trained(tiny_model, tmp_path):
    save_model(tiny_model(), tmp_path, {})
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["format"] == 2 and ModelShape.model_validate(stored["model"]) == tiny_model().config.shape
    assert "lr" not in stored["model"]


def test_a_checkpoint_of_the_first_format_loads(tiny_model, tmp_path):
    model = tiny_model(positions=True)
    save_model(model, tmp_path, {})
    old = {
        "format": 1, "vocab_size": 24, "tokenizer": "t1",
        "model": {
            "n_layer": 2, "d_model": 16, "d_head": 4, "n_ctx": 32, "afrac": 1.0, "block_density": 1.0,
            "embed_density": 1.0, "sink": False, "positions": True, "lr": 0.01, "tokens": 4096,
        },
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(old))
    tokens = torch.arange(10)[None]
    assert torch.equal(load_model(tmp_path)(tokens), model(tokens))
    old["model"]["n_layers"] = 2
    (tmp_path / "config.json").write_text(json.dumps(old))
    with pytest.raises(ArtifactError, match="n_layers"):
        load_model(tmp_path)


def test_a_model_without_a_bigram_table_is_saved_loaded_and_computed_by_a_circuit_alone(tiny_model, tmp_path):
    model = tiny_model(bigram=False, afrac=0.5)
    save_model(model, tmp_path, {})
    again, tokens = load_model(tmp_path), torch.arange(10)[None]
    assert again.bigram_table is None and torch.equal(again(tokens), model(tokens))
    values = {key: torch.full((width,), 0.1) for key, width in model.widths().items()}
    nodes = {key: torch.arange(0, len(value), 2) for key, value in values.items()}
    edges = induced_edges(model, node_masks(nodes, values))
    compact, masked = Compact(Frozen(model, values), nodes, edges), Masked(model, nodes, edges, values)
    torch.testing.assert_close(compact(tokens), masked(tokens), rtol=1e-4, atol=1e-4)
