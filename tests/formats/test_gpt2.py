"""GPT-2 of transformers, read with its own logits and written from ours; what is not it is refused by name."""

from __future__ import annotations

import json

import pytest
import torch

from pipeline.formats import FormatError, import_model, read_foreign
from pipeline.formats.foreign import Format, export_model
from pipeline.model.checkpoint import load_model

transformers = pytest.importorskip("transformers", reason="the extra `hf` is not installed")
TOKENS = torch.randint(280, (3, 24), generator=torch.Generator().manual_seed(0))
SMALL = {"n_layer": 2, "n_head": 4, "n_embd": 16, "n_positions": 24, "vocab_size": 280}


def theirs(**changes):
    """A random GPT-2 with nontrivial parameters."""
    config = transformers.GPT2Config(**(SMALL | changes), bos_token_id=279, eos_token_id=279)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_inner": 40}, {"activation_function": "gelu"}, {"activation_function": "relu"},
     {"tie_word_embeddings": False}],
)  # fmt: skip
def test_logits_are_those_of_transformers(tmp_path, changes):
    model = theirs(**changes)
    model.save_pretrained(tmp_path / "gpt2")
    found = read_foreign(tmp_path / "gpt2").model
    with torch.no_grad():
        assert (found(TOKENS) - model(TOKENS).logits).abs().max() <= 1e-5
    import_model(str(tmp_path / "gpt2"), str(tmp_path / "ours"))
    assert load_model(tmp_path / "ours")(TOKENS).equal(found(TOKENS))


def test_shards_and_half_precision_are_read(tmp_path):
    model = theirs().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "gpt2", max_shard_size="20KB")
    assert len(list((tmp_path / "gpt2").glob("model-*.safetensors"))) > 1
    with torch.no_grad():
        expected = model.float()(TOKENS).logits
        assert (read_foreign(tmp_path / "gpt2").model(TOKENS) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("changes", [{"positions": True}, {"activation": "gelu_new", "hidden": 40}])
def test_a_dense_model_that_fits_is_written_and_transformers_reads_it(small_model, tokenizer, tmp_path, changes):
    model = small_model(norm="layer", bigram=False, **changes)
    export_model(model, tokenizer, Format.GPT2, tmp_path / "out")
    found = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"))
    assert type(found).__name__ == "GPT2LMHeadModel"
    with torch.no_grad():
        assert (found(TOKENS).logits - model(TOKENS)).abs().max() <= 1e-5
    assert read_foreign(tmp_path / "out").model(TOKENS).equal(model(TOKENS))
    words = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    assert words.encode("x = 1") == tokenizer.encode("x = 1")


def test_a_model_that_does_not_fit_is_refused_with_all_that_is_in_the_way(small_model, tmp_path):
    with pytest.raises(FormatError, match="RMSNorm; a sink; a bigram table; this model does not fit"):
        export_model(small_model(sink=True), None, Format.GPT2, tmp_path / "out")
    with pytest.raises(FormatError, match="gelu_new: the released format has gelu and relu"):
        export_model(small_model(activation="gelu_new"), None, Format.OPENAI, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-06"),
        ({"activation_function": "silu"}, "activation_function 'silu'"),
        ({"n_embd": None}, "lacks n_embd"),
        ({"n_head": 5}, "n_embd 16 is not a multiple of n_head 5"),
        ({"n_layer": 3}, "lacks h.2.ln_1.weight"),
        ({"n_inner": 8}, "has a wrong shape of h.0.mlp.c_fc.weight"),
    ],
)
def test_other_options_and_tensors_are_refused_by_name(tmp_path, changes, named):
    theirs().save_pretrained(tmp_path / "gpt2")
    path = tmp_path / "gpt2/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(FormatError, match=named) as caught:
        read_foreign(tmp_path / "gpt2")
    assert "\n" not in str(caught.value)
