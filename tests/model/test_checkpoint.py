"""Checkpoints come back exactly, and nothing else passes for one."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.artifacts import ArtifactError
from pipeline.model.checkpoint import load_means, load_model, model_hash, save_means, save_model
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
