"""A tiny model of every option, a tokenizer of its size, and folders of other projects that tests write themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.data.tokenizer import Tokenizer
from pipeline.model.initial import new_model
from pipeline.model.transformer import Transformer
from pipeline.shape import ModelShape
from tests.randomised import randomised

TEXT = ["def f(x):\n    return [x, 1]\n", "for name in names:\n    print(name)\n"] * 30
TINY = {"n_layer": 2, "d_model": 16, "d_head": 4, "n_ctx": 24}
CONFIG = {
    "block_size": 24, "vocab_size": 280, "n_layer": 2, "n_head": 4, "d_head": 4, "d_model": 16, "d_mlp": 64,
    "rms_norm": True, "tied_unembed": False, "enable_bigram_table": True, "sink": True, "afrac": 0.5,
    "afrac_loctypes": "attn_in,attn_q,attn_k,attn_v,attn_out,mlp_in,mlp_neuron,mlp_out",
}  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE of 280 ids."""
    return Tokenizer.train(TEXT, 280)


@pytest.fixture(scope="session")
def small_model() -> Callable[..., Transformer]:
    """A random frozen model of 280 tokens with nontrivial parameters; keyword arguments change its shape."""

    def build(seed: int = 0, **changes: Any) -> Transformer:
        model = new_model(ModelShape.model_validate(TINY | changes), vocab_size=280, seed=seed, bigram=None)
        return randomised(model, seed + 1)

    return build


def random_tensors(config: dict[str, Any], seed: int = 0, matrices: float = 0.2) -> dict[str, Tensor]:
    """A state dict of the released names for a config, written from docs/checkpoint_format.md alone.

    Its logits are of sizes up to 10. ``matrices``: the standard deviation of the weights of linear maps; from about
    twice as large ones on, rounding grows from layer to layer.
    """
    generator = torch.Generator().manual_seed(seed)
    d, heads = config["d_model"], config["n_head"] * (config.get("d_head") or config["d_model"] // config["n_head"])
    d_pos, hidden = config.get("d_pos_emb"), config.get("d_mlp") or 4 * d
    read, vocab = d + (d_pos or 0), config["vocab_size"]
    found = {"transformer.wte.weight": (vocab, d), "transformer.wpe.weight": (config["block_size"], d_pos or d)}
    norm_bias = config.get("ln_bias", True) and not config.get("rms_norm", False)

    def norm(name: str, width: int) -> None:
        found.update({f"{name}.weight": (width,)} | ({f"{name}.bias": (width,)} if norm_bias else {}))

    for layer in range(config["n_layer"]):
        at = f"transformer.h.{layer}"
        for number in "12":
            norm(f"{at}.ln_{number}", d)
            if d_pos:
                norm(f"{at}.ln_p{number}", d_pos)
        maps = {"attn.c_attn": (3 * heads, read), "attn.c_proj": (d, heads)}
        maps |= {"mlp.c_fc": (hidden, read), "mlp.c_proj": (d, hidden)}
        for name, (out, into) in maps.items():
            found[f"{at}.{name}.weight"] = (out, into)
            if config.get("bias", True):
                found[f"{at}.{name}.bias"] = (out,)
        if config.get("sink"):
            found[f"{at}.attn.attn_imp.sink_logit"] = (config["n_head"],)
    norm("transformer.ln_f", d)
    found["lm_head.weight"] = (vocab, d)
    found["final_logits_bias"] = (vocab,)
    if config.get("enable_bigram_table"):
        found["bigram_table"] = (vocab, vocab)
    scale = {name: matrices if ".c_" in name and name.endswith("weight") else 0.4 for name in found}
    tensors = {name: scale[name] * torch.randn(shape, generator=generator) for name, shape in found.items()}
    tensors |= {name: 1 + tensor for name, tensor in tensors.items() if ".ln_" in name and name.endswith("weight")}
    if config.get("tied_unembed", True):
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    return tensors


def write_released(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """A folder as the released ones are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "beeg_config.json").write_text(json.dumps(config))
    torch.save(tensors, folder / "final_model.pt")
    return folder


@pytest.fixture
def released(tmp_path: Path) -> Callable[..., Path]:
    """A folder of a random released model; keyword arguments change its config."""

    def build(name: str = "released", seed: int = 0, **changes: Any) -> Path:
        config = CONFIG | changes
        tensors = random_tensors(config, seed) | {"final_logits_bias": torch.zeros(config["vocab_size"])}
        return write_released(tmp_path / name, config, tensors)

    return build
