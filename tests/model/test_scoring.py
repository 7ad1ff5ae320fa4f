"""What an intervention sees while answers are scored: the same tensor, whatever the device and the prompts."""

from __future__ import annotations

import pytest
import torch

from pipeline.circuit.interventions import edge_cuts, mask_nodes
from pipeline.circuit.node_masks import NodeMasks
from pipeline.data.pairs import PairBatch, answer_logits
from pipeline.model.layout import PackedPrompts
from pipeline.model.scoring import answers_of, score
from pipeline.model.transformer import is_position_free
from pipeline.sites import site_keys


@pytest.fixture
def batch():
    """Three pairs that begin alike, of different lengths, padded on the right."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(24, (6, 12), generator=generator)
    tokens[1::2, :4] = tokens[::2, :4]
    return PairBatch(tokens, torch.tensor([11, 11, 6, 7, 9, 5]), torch.tensor([[1, 2], [2, 1]] * 3))


def doubled_at_two(key, x):
    """Twice the value at position 2 of every prompt, at every site."""
    y = x.clone()
    y[:, 2] *= 2
    return y


def plain(model, batch, intervene):
    """The answers of one padded run of each prompt by itself."""
    prompts = [tokens[None, : int(last) + 1] for tokens, last in zip(batch.tokens, batch.last, strict=True)]
    logits = [model(prompt, intervene=intervene)[:, -1] for prompt in prompts]
    return answer_logits(torch.cat(logits), batch)


def test_a_hook_for_one_position_acts_on_that_position_of_every_prompt(tiny_model, batch):
    model = tiny_model(afrac=0.5, sink=True, positions=True)
    expected = plain(model, batch, doubled_at_two)
    torch.testing.assert_close(score(model, batch, intervene=doubled_at_two), expected)
    assert not torch.allclose(expected, score(model, batch), atol=1e-3)


def test_a_hook_sees_every_position_at_every_site_of_all_layers(tiny_model, batch):
    model, seen = tiny_model(), {}

    def look(key, x):
        seen[key] = x.shape
        return x

    score(model, batch, intervene=look)
    assert list(seen) == site_keys(2) and {shape[:2] for shape in seen.values()} == {(6, 12)}


def test_a_cut_of_the_users_own_is_given_the_same_tensor(tiny_model, batch):
    model, seen = tiny_model(), []

    def own_map(layer, x, attention_mass=None):
        seen.append(x.shape[:2])
        return layer(x)

    answers = score(model, batch, cuts={"1.mlp.c_fc": own_map})
    assert seen == [(6, 12)]
    torch.testing.assert_close(answers, score(model, batch))


def test_what_the_library_does_alike_at_all_positions_is_packed(tiny_model, batch, monkeypatch):
    model = tiny_model(afrac=0.5)
    values = {key: torch.full((width,), 0.1) for key, width in model.widths().items()}
    masks = {key: (torch.arange(len(value)) % 2).float() for key, value in values.items()}
    packed, make = [], PackedPrompts.of
    monkeypatch.setattr(PackedPrompts, "of", lambda *arguments: packed.append(1) or make(*arguments))
    for changes in (
        {"intervene": mask_nodes(masks, values)},
        NodeMasks(model, values)(masks),
        {"cuts": edge_cuts(model, {}, values, keep=True)},
    ):
        assert is_position_free(changes.get("intervene"), changes.get("cuts"))
        found = answers_of(model, batch, **changes)
        logits = model(batch.tokens, **changes)[torch.arange(6), batch.last]
        torch.testing.assert_close(found, answer_logits(logits, batch), rtol=1e-4, atol=1e-5)
    assert len(packed) == 3


def test_masks_that_differ_by_position_are_not_packed(tiny_model):
    value = torch.zeros(16)
    assert not is_position_free(mask_nodes({"0.attn_in": torch.ones(12, 16)}, {"0.attn_in": value}), None)
