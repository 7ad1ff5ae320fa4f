"""The forward pass against an independent reference, and what interventions and cuts must do to it."""

from __future__ import annotations

import math

import jaxtyping
import pytest
import torch
import torch.nn.functional as F

from pipeline.circuit.interventions import edge_cuts, mask_nodes
from pipeline.data.pairs import PairBatch
from pipeline.model.record import record
from pipeline.model.scoring import score
from pipeline.model.transformer import CompiledModelError
from pipeline.sites import EDGE_KINDS, SITES, edge_key, site_key, site_keys

TOKENS = torch.randint(0, 24, (3, 9), generator=torch.Generator().manual_seed(5))


def reference(model, tokens, afrac):
    """§1 spelled out with loops over heads and an explicit softmax; float64."""
    state = {name: p.double() for name, p in model.named_parameters()}

    def norm(x, gain):
        return x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt() * gain

    def top(x):
        k = int(afrac * x.shape[-1])
        keep = torch.zeros_like(x).scatter_(-1, x.abs().topk(k).indices, 1)
        return x * keep

    x = state["transformer.wte.weight"][tokens]
    for i in range(model.config.n_layer):
        p = {k.removeprefix(f"transformer.h.{i}."): v for k, v in state.items()}
        h = top(norm(x, p["ln_1.weight"])) @ p["attn.c_attn.weight"].T + p["attn.c_attn.bias"]
        q, k, v = (top(part) for part in h.chunk(3, -1))
        heads = []
        for head in range(model.config.n_head):
            part = slice(head * model.config.d_head, (head + 1) * model.config.d_head)
            scores = q[..., part] @ k[..., part].mT / math.sqrt(model.config.d_head)
            scores = scores + torch.full(scores.shape[-2:], -torch.inf, dtype=torch.float64).triu(1)
            weights = scores.exp()
            total = weights.sum(-1, keepdim=True)
            if model.config.sink:
                total = total + p["attn.sink_logit"][head].exp()
            heads.append((weights / total) @ v[..., part])
        x = x + top(torch.cat(heads, -1) @ p["attn.c_proj.weight"].T + p["attn.c_proj.bias"])
        h = top(norm(x, p["ln_2.weight"])) @ p["mlp.c_fc.weight"].T + p["mlp.c_fc.bias"]
        x = x + top(top(F.gelu(h)) @ p["mlp.c_proj.weight"].T + p["mlp.c_proj.bias"])
    return norm(x, state["transformer.ln_f.weight"]) @ state["lm_head.weight"].T + state["bigram_table"][tokens]


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("afrac", [1.0, 0.25])
def test_logits_equal_the_method_written_out_in_float64(tiny_model, sink, afrac):
    model = tiny_model(sink=sink, afrac=afrac)
    expected = reference(model, TOKENS, afrac)
    torch.testing.assert_close(model(TOKENS).double(), expected, rtol=1e-4, atol=1e-4)


def test_the_future_does_not_change_the_past(tiny_model):
    model = tiny_model(sink=True)
    changed = TOKENS.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 24
    torch.testing.assert_close(model(TOKENS)[:, :6], model(changed)[:, :6])


def test_logits_at_one_position_equal_those_of_all_positions(tiny_model):
    model = tiny_model(sink=True, positions=True)
    at = torch.tensor([8, 0, 4])
    torch.testing.assert_close(model(TOKENS, at=at), model(TOKENS)[torch.arange(3), at])


def test_positions_change_the_logits_only_where_asked_for(tiny_model):
    same = torch.full((1, 6), 3)
    without, with_them = tiny_model()(same)[0], tiny_model(positions=True)(same)[0]
    torch.testing.assert_close(without[1], without[5])
    assert not torch.allclose(with_them[1], with_them[5], atol=1e-2)


def test_a_prompt_longer_than_the_context_is_refused(tiny_model):
    with pytest.raises(ValueError, match="33 tokens.*n_ctx 32"):
        tiny_model()(torch.zeros(1, 33, dtype=torch.long))


def test_recording_changes_nothing_and_visits_every_site_in_order(tiny_model):
    model = tiny_model(sink=True, afrac=0.5)
    logits, values = record(model, TOKENS)
    assert torch.equal(logits, model(TOKENS))
    assert list(values) == site_keys(2)
    assert all((value != 0).sum(-1).max() <= value.shape[-1] // 2 for value in values.values())


def test_all_ones_mask_equals_the_base_model(tiny_model):
    model = tiny_model(sink=True, afrac=0.5)
    _, values = record(model, TOKENS)
    ones = {key: torch.ones(value.shape[-1]) for key, value in values.items()}
    means = {key: torch.randn(value.shape[-1]) for key, value in values.items()}
    assert torch.equal(model(TOKENS, intervene=mask_nodes(ones, means)), model(TOKENS))


@pytest.mark.parametrize("source", ["attn_in", "attn_v", "mlp_in", "mlp_neuron"])
def test_cutting_every_edge_that_leaves_a_node_equals_ablating_it(tiny_model, source):
    """Where all that a node does goes through edges; with a sink the mean is mixed like any value."""
    model = tiny_model(sink=True, afrac=0.5)
    _, values = record(model, TOKENS)
    means = {key: value.mean((0, 1)) for key, value in values.items()}
    node, edges = 3, {}
    for kind in EDGE_KINDS:
        if kind.source == source:
            width = values[site_key(1, kind.target)].shape[-1]
            edges[edge_key(1, kind)] = torch.tensor([[node, target] for target in range(width)])
    masks = {f"1.{source}": torch.ones_like(means[f"1.{source}"])}
    masks[f"1.{source}"][node] = 0
    cut = model(TOKENS, cuts=edge_cuts(model, edges, means, keep=False))
    ablated = model(TOKENS, intervene=mask_nodes(masks, means))
    torch.testing.assert_close(cut, ablated, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(cut, model(TOKENS), atol=1e-4)


def test_keeping_every_edge_equals_the_base_model(tiny_model):
    model = tiny_model(sink=True)
    _, values = record(model, TOKENS)
    means = {key: value.mean((0, 1)) for key, value in values.items()}
    untouched = model(TOKENS, cuts=edge_cuts(model, {}, means, keep=False))
    torch.testing.assert_close(untouched, model(TOKENS), rtol=1e-5, atol=1e-6)


def test_there_are_eight_sites_a_layer():
    assert [site.value for site in SITES] == [
        "attn_in", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_neuron", "mlp_out"
    ]  # fmt: skip


def test_a_compiled_model_is_refused_where_interventions_are_asked_for(tiny_model, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it is no Transformer, which the check would say
    compiled, tokens = torch.compile(tiny_model(), backend="eager"), torch.randint(24, (2, 8))
    with pytest.raises(CompiledModelError, match="pass the model it was made from"):
        record(compiled, tokens)
    with pytest.raises(CompiledModelError):
        score(compiled, PairBatch(tokens, torch.tensor([7, 7]), torch.zeros(2, 2, dtype=torch.int64)))
