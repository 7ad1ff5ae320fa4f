"""Weights in few bytes are the same weights, rounded to 16 bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pipeline.artifacts import ArtifactError
from pipeline.model.checkpoint import load_model, save_model
from pipeline.model.packed import packed, unpacked


@given(st.integers(0, 2**31), st.floats(0, 1), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_what_was_packed_comes_back_rounded(seed, density, shape):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < density)
    again = unpacked(packed({"w": weight}), {"w": weight.shape})
    assert again.keys() == {"w"} and torch.equal(again["w"], weight.half().float())


def test_a_sparse_matrix_takes_only_its_nonzeros():
    assert packed({"w": torch.eye(64)})["w.value"].shape == (64,)
    assert packed({"w": torch.ones(8, 8)}).keys() == {"w"}


def test_a_small_checkpoint_is_the_rounded_model_and_an_index_outside_is_refused(tiny_model, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[3:] = 0
    save_model(model, tmp_path, {}, small=True)
    assert "lm_head.weight.index" in load_file(tmp_path / "model.safetensors")
    again = load_model(tmp_path)
    for (name, one), (_, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one.half().float(), other), name
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        tensors | {"lm_head.weight.index": tensors["lm_head.weight.index"] + 10**6}, tmp_path / "model.safetensors"
    )
    with pytest.raises(ArtifactError, match="not a checkpoint"):
        load_model(tmp_path)
