"""Models with the options of other projects go the whole way: in, means, a circuit, its checks, its page, and out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from closing import TASK, TOKENIZER, closing_pairs, run, trained, write_settings, write_tokens

from pipeline import load_model
from pipeline.artifacts import Workspace
from pipeline.circuit import Circuit
from pipeline.data.pairs_file import read_pairs
from pipeline.formats.foreign import Format, export_model
from pipeline.shape import ModelShape

SIZES = {"n_layer": 1, "d_model": 12, "d_head": 4, "n_ctx": 32, "bigram": False}
MODELS = {
    "as GPT-2": ({"norm": "layer", "activation": "gelu_new", "positions": True, "logits_bias": False}, Format.GPT2),
    "everything else": (
        {
            "norm": "layer", "norm_bias": False, "activation": "relu", "residual_relu": True, "d_pos": 4, "heads": 2,
            "hidden": 40, "sink": True, "logits_bias": True, "afrac": 0.5,
            "topk_at": ("attn_v", "mlp_neuron", "resid_post_mlp"),
        },
        Format.OPENAI,
    ),
}  # fmt: skip


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def foreign(request, tmp_path, monkeypatch) -> Path:
    """A workspace, and in ``foreign`` a trained model in a format of another project."""
    changes, form = request.param
    write_settings(tmp_path)
    (tmp_path / TASK).write_text("".join(json.dumps(pair) + "\n" for pair in closing_pairs(48)))
    pairs = read_pairs(tmp_path / TASK, TOKENIZER, n_ctx=32, seed=0)
    batches = [pairs.batch("closing", split) for split in ("train", "validation")]
    write_tokens(Workspace(tmp_path).tokens, batches[0])
    model = trained(ModelShape.model_validate(SIZES | changes), batches, n_steps=120)
    export_model(model, None, form, tmp_path / "foreign")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "foreign"


@pytest.mark.slow
def test_a_model_of_any_options_goes_all_the_way(foreign, monkeypatch, capsys):
    def say(*arguments: object) -> str:
        status, out, err = run(monkeypatch, capsys, *map(str, arguments))
        assert status == 0, err
        return out

    say("import", foreign, "--tokenizer", "data/tokens", "--out", "models/came")
    np.save("ids.npy", np.random.default_rng(0).integers(257, size=4000))
    say("means", "models/came", "--data", "ids.npy", "--tokens", 2000)
    say("prune", "--model", "models/came", "--task", TASK, "--out", "circuits/came/closing")
    circuit, loaded = Circuit.load("circuits/came/closing"), load_model("models/came")
    batch = loaded.load_task(TASK).batch("test")
    masked = circuit(loaded)(batch.tokens, at=batch.last)
    assert (circuit.compact(loaded)(batch.tokens, at=batch.last) - masked).abs().max() <= 1e-4
    assert "supported" in say(
        "validate", "--model", "models/came", "--circuit", "circuits/came/closing", "--task", TASK, "--no-controls"
    )
    say("draw", "circuits/came/closing", "--task", TASK, "-o", "circuit.svg")
    assert Path("circuit.svg").read_text().startswith("<svg")
    say("show", "circuits/came/closing", "--task", TASK, "--no-browser", "--out", "page.html")
    say("export", "models/came", "--format", "gpt2" if loaded.model.config.positions else "openai", "--out", "again")
    tokens = batch.tokens
    assert load_model("again", "data/tokens").model(tokens).equal(loaded.model(tokens))
