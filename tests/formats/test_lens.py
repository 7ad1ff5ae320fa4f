"""TransformerLens: the same logits, and the same values at the hooks that nodes are named by."""

from __future__ import annotations

import pytest
import torch

from pipeline.formats import FormatError
from pipeline.formats.lens import hook_of, hooks_of, to_transformer_lens
from pipeline.model.record import record
from pipeline.sites import Site
from tests.formats.test_circuits import NODES, circuit_of

TOKENS = torch.randint(280, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": True},
        {"positions": False},
        {"norm": "layer", "activation": "gelu_new", "positions": True, "heads": 3, "hidden": 40, "logits_bias": True},
        {"norm": "layer", "norm_bias": False, "activation": "relu"},
    ],
)
def test_logits_and_values_at_hooks_are_the_same(small_model, changes):
    lens = pytest.importorskip("transformer_lens", reason="the extra `lens` is not installed")
    assert lens.HookedTransformer
    model = small_model(bigram=False, **changes)
    hooked = to_transformer_lens(model)
    logits, cache = hooked.run_with_cache(TOKENS)
    ours, values = record(model, TOKENS)
    assert (logits - ours).abs().max() <= 1e-4
    for key, value in values.items():
        hook, place = hook_of(f"{key}.5", 4)
        there = cache[hook][(..., *place)]
        layer, site = int(key[0]), Site(key[2:])
        if site.reads_residual:
            norm = getattr(model.transformer["h"][layer], "ln_1" if site is Site.ATTN_IN else "ln_2")
            bias = getattr(norm, "bias", None)
            there = there * norm.weight[5] + (0 if bias is None else bias[5])
        assert (there - value[..., 5]).abs().max() <= 1e-4


def test_nodes_have_hook_names(small_model):
    assert hook_of("1.attn_q.6", 4) == ("blocks.1.attn.hook_q", (1, 2))
    assert hook_of("0.mlp_neuron.17", 4) == ("blocks.0.mlp.hook_post", (17,))
    found = hooks_of(circuit_of(small_model(), NODES), 4)
    assert found["blocks.0.attn.hook_v"] == [(0, 2), (1, 1)]
    assert sum(map(len, found.values())) == 10


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"bigram": True}, "a bigram table"), ({"bigram": False, "sink": True}, "a sink"), ({"afrac": 0.5}, "AbsTopK")],
)
def test_options_that_it_lacks_are_refused_by_name(small_model, changes, named):
    with pytest.raises(FormatError, match=named):
        to_transformer_lens(small_model(**changes))
