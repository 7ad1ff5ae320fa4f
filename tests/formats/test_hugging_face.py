"""A folder for transformers: its own classes load it, with the same logits, and it needs nothing of this project."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from pipeline.formats import foreign
from pipeline.formats.foreign import HUB_CODE, Format, export_model, read_foreign
from pipeline.formats.tensors import write_shards
from tests.formats.conftest import CONFIG, random_tensors
from tests.formats.reference import reference

transformers = pytest.importorskip("transformers", reason="the extra `hf` is not installed")
TOKENS = torch.randint(280, (3, 24), generator=torch.Generator().manual_seed(0))
EVERY = {
    "as ours": {},
    "LayerNorm, ReLU, positions beside": {
        "rms_norm": False, "activation_type": "relu", "residual_activation_type": "relu", "d_pos_emb": 6, "sink": False,
        "afrac_loctypes": "attn_in,mlp_neuron,resid_post_attn,resid_post_mlp",
    },
    "no biases, other widths": {"bias": False, "ln_bias": False, "rms_norm": False, "d_head": 3, "d_mlp": 40},
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_modules(tmp_path, monkeypatch):
    """Code of exported folders is copied here, and the network is not asked."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))


def loaded(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(str(folder), trust_remote_code=True)


@pytest.mark.parametrize("changes", [{}, {"sink": True, "positions": True, "afrac": 0.25}, {"bigram": False}])
def test_transformers_loads_an_exported_model_with_the_same_logits(small_model, tokenizer, tmp_path, changes):
    model = small_model(**changes)
    export_model(model, tokenizer, Format.HF, tmp_path / "out")
    found = loaded(tmp_path / "out")
    with torch.no_grad():
        assert (found(TOKENS).logits - model(TOKENS)).abs().max() <= 1e-5
    words = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    text = "def f(x):\n    return [x, 1]\n\tπ 'quoted' 12345"
    assert words(text)["input_ids"] == tokenizer.encode(text)
    assert words.decode(tokenizer.encode(text)) == text
    assert words.eos_token_id == tokenizer.eot


@pytest.mark.parametrize("changes", EVERY.values(), ids=EVERY)
def test_its_code_computes_every_option_as_the_format_says(tmp_path, changes):
    config = CONFIG | changes
    tensors = random_tensors(config)
    folder = tmp_path / "every"
    folder.mkdir()
    described = foreign.released.as_json(foreign.released.ReleasedConfig.model_validate(config))
    module = HUB_CODE.stem
    auto = {"AutoConfig": "SparseCircuitsConfig", "AutoModelForCausalLM": "SparseCircuitsForCausalLM"}
    auto = {key: f"{module}.{name}" for key, name in auto.items()}
    settings = {"model_type": "sparse_circuits", "auto_map": auto, "released": described, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / HUB_CODE.name).write_text(HUB_CODE.read_text())
    write_shards(tensors, folder)
    with torch.no_grad():
        assert (loaded(folder)(TOKENS).logits - reference(config, tensors, TOKENS)).abs().max() <= 1e-5


def test_a_large_model_is_sharded_and_both_sides_read_the_shards(small_model, tmp_path, monkeypatch):
    model = small_model()
    monkeypatch.setattr(foreign, "write_shards", lambda tensors, folder: write_shards(tensors, folder, 20_000))
    export_model(model, None, Format.HF, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    assert read_foreign(tmp_path / "out").model(TOKENS).equal(model(TOKENS))
    with torch.no_grad():
        assert (loaded(tmp_path / "out")(TOKENS).logits - model(TOKENS)).abs().max() <= 1e-5


def test_it_saves_trains_and_generates(small_model, tokenizer, tmp_path):
    export_model(small_model(), tokenizer, Format.HF, tmp_path / "out")
    found = loaded(tmp_path / "out")
    found(TOKENS, labels=TOKENS).loss.backward()
    assert found.lm_head.weight.grad.abs().sum() > 0
    assert found.generate(TOKENS[:1, :5], max_new_tokens=4, do_sample=False).shape[1] <= 9
    found.save_pretrained(tmp_path / "again")
    assert read_foreign(tmp_path / "again").model(TOKENS).equal(small_model()(TOKENS))
    with pytest.raises(ValueError, match="25 tokens; allowed: 24"):
        found(torch.zeros(1, 25, dtype=torch.long))


def test_it_needs_nothing_of_this_project(small_model, tmp_path):
    export_model(small_model(), None, Format.HF, tmp_path / "out")
    code = (
        "import sys; from transformers import AutoModelForCausalLM as A;"
        f"A.from_pretrained({str(tmp_path / 'out')!r}, trust_remote_code=True);"
        "assert not any(name.split('.')[0] == 'pipeline' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"HF_HOME": str(tmp_path)})
