"""The projection keeps exactly what §2 says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pretrain.projection import project, sparse_targets
from tests.pretrain.oracle import largest


def test_the_largest_are_kept_worked_out_by_hand():
    weight = np.array([[1.0, -5.0, 2.0], [0.5, 3.0, -4.0]], dtype=np.float32)
    assert largest(weight, 3, 0, None).tolist() == [[False, True, False], [False, True, True]]


def test_keep_alive_counts_inside_the_budget():
    weight = np.array([[9.0, 8.0, 7.0], [0.2, 0.1, 0.3]], dtype=np.float32)
    assert largest(weight, 3, 1, 0).tolist() == [[True, True, False], [False, False, True]]
    assert largest(weight, 4, 1, 1).tolist() == [[True, True, True], [False, False, True]]


def test_ties_go_to_the_lower_index():
    assert largest(np.ones((2, 3), dtype=np.float32), 2, 0, None).tolist() == [[True, True, False], [False] * 3]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 3), st.sampled_from([0, 1]), st.integers(30, 64))
def test_exactly_the_budget_survives_and_every_line_stays_alive(seed, keep_alive, axis, budget):
    weight = np.random.default_rng(seed).standard_normal((8, 8)).astype(np.float32)
    weight[0] *= 1e-3
    keep = largest(weight, budget, keep_alive, axis)
    assert keep.sum() == budget
    assert keep.sum(axis=1 - axis).min() >= keep_alive


def test_the_input_is_not_changed_by_the_choice():
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    before = weight.copy()
    largest(weight, 20, 2, 0)
    assert np.array_equal(weight, before)


def test_every_zero_is_exactly_zero_and_the_rest_is_untouched(tiny_model, tiny_config):
    config = tiny_config(block_density=0.25, embed_density=0.5)
    model = tiny_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    targets = sparse_targets(model, config)
    project(targets, 1.0, keep_alive=2)
    touched = {target.name: target for target in targets}
    for name, parameter in model.named_parameters():
        if name not in touched:
            assert torch.equal(parameter, before[name]), name
            continue
        kept = parameter != 0
        assert int(kept.sum()) == touched[name].budget(1.0)
        assert torch.equal(parameter[kept], before[name][kept])


def test_block_and_embedding_densities_go_where_the_method_puts_them(tiny_model, tiny_config):
    targets = {t.name: t for t in sparse_targets(tiny_model(), tiny_config(block_density=0.25, embed_density=0.5))}
    assert targets["transformer.h.0.attn.c_attn.weight"].density == 0.25
    assert targets["transformer.h.1.mlp.c_proj.weight"].alive_axis == 1
    assert targets["transformer.h.1.mlp.c_fc.bias"].density == 0.5
    assert targets["lm_head.weight"].density == targets["transformer.wte.weight"].density == 0.5
    assert not any("ln_" in name or name in ("bigram_table",) or "sink" in name for name in targets)


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 256), (0.5, 160), (1.0, 64)])
def test_the_budget_falls_linearly(tiny_model, tiny_config, progress, expected):
    targets = sparse_targets(tiny_model(), tiny_config(block_density=0.25))
    c_proj = next(t for t in targets if t.name == "transformer.h.0.attn.c_proj.weight")  # 16 × 16
    assert c_proj.budget(progress) == expected


def test_a_dense_model_has_nothing_to_project(tiny_model, tiny_config):
    assert sparse_targets(tiny_model(), tiny_config()) == []
