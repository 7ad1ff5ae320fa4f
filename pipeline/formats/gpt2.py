"""GPT-2 of Hugging Face transformers, read as a dense model to prune and written from one that fits it.

A folder has ``config.json`` with model_type gpt2 and the weights, whole or in shards. Its linear maps are stored [in,
out], ours [out, in].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.formats.errors import FormatError, as_written, read_json, refuse
from pipeline.formats.tensors import fitted
from pipeline.model.transformer import Transformer
from pipeline.refusal import sentence
from pipeline.shape import ModelShape

WEIGHTS = ("model", "pytorch_model")
ACTIVATIONS = {"gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
MASKS = (".attn.bias", ".attn.masked_bias")
TURNED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
EPSILON = 1e-5
# What changes results, and the value with which it does not.
ONLY = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}


def read_shape(path: Path) -> tuple[ModelShape, int, bool]:
    """The shape of the model that a config describes, its vocabulary's size, and whether embeddings are tied.

    Raises FormatError for options that are not computed here, each by name.
    """
    with as_written(path):
        return _shape_in(read_json(path), path)


def _shape_in(given: dict[str, Any], path: Path) -> tuple[ModelShape, int, bool]:
    reasons = [f"{key} {given[key]!r}" for key, value in ONLY.items() if given.get(key, value) != value]
    epsilon, kind = given.get("layer_norm_epsilon", EPSILON), given.get("activation_function", "gelu_new")
    reasons += [f"layer_norm_epsilon {epsilon!r}"] if epsilon != EPSILON else []
    reasons += [f"activation_function {kind!r}"] if kind not in ACTIVATIONS else []
    refuse(path, reasons, f"allowed: {ONLY}, layer_norm_epsilon {EPSILON}, {', '.join(ACTIVATIONS)}")
    missing = [key for key in ("n_embd", "n_head", "n_layer", "vocab_size") if not isinstance(given.get(key), int)]
    refuse(path, (f"lacks {key}" for key in missing), "a config of GPT-2 has it")
    d_model, n_head, inner = given["n_embd"], given["n_head"], given.get("n_inner")
    if n_head < 1 or d_model % n_head:
        raise FormatError(f"{path}: n_embd {d_model} is not a multiple of n_head {n_head}")
    try:
        shape = ModelShape.model_validate(
            {
                "n_layer": given["n_layer"],
                "d_model": d_model,
                "d_head": d_model // n_head,
                "n_ctx": given.get("n_positions", 1024),
                "hidden": None if inner in (None, 4 * d_model) else inner,
                "positions": True,
                "bigram": False,
                "norm": "layer",
                "activation": ACTIVATIONS[kind],
            }
        )
    except ValidationError as error:
        raise FormatError(f"{path}: {'; '.join(sentence(dict(d), ModelShape) for d in error.errors())}") from error
    return shape, given["vocab_size"], given.get("tie_word_embeddings", True)


def shapes_of(shape: ModelShape, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor, as GPT-2 stores it."""
    d, h = shape.d_model, shape.d_mlp
    found: dict[str, tuple[int, ...]] = {"wte.weight": (vocab_size, d), "wpe.weight": (shape.n_ctx, d)}
    for layer in range(shape.n_layer):
        at = f"h.{layer}"
        for name in ("ln_1", "ln_2"):
            found[f"{at}.{name}.weight"], found[f"{at}.{name}.bias"] = (d,), (d,)
        maps = {"attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "mlp.c_fc": (d, h), "mlp.c_proj": (h, d)}
        for name, (into, out) in maps.items():
            found[f"{at}.{name}.weight"], found[f"{at}.{name}.bias"] = (into, out), (out,)
    found["ln_f.weight"], found["ln_f.bias"], found["lm_head.weight"] = (d,), (d,), (vocab_size, d)
    return found


def parameters_of(
    found: Mapping[str, Tensor], shape: ModelShape, vocab_size: int, tied: bool, place: Path
) -> dict[str, Tensor]:
    """Our parameters, out of GPT-2's tensors. Raises FormatError for tensors that do not fit."""
    plain = {name.removeprefix("transformer."): t for name, t in found.items() if not name.endswith(MASKS)}
    tensors = fitted(plain, shapes_of(shape, vocab_size), place, {"lm_head.weight"} if tied else ())
    head = tensors.pop("lm_head.weight", tensors["wte.weight"])
    if tied and not head.equal(tensors["wte.weight"]):
        raise FormatError(f"{place}: tie_word_embeddings is true, but wte.weight and lm_head.weight differ")
    ours = {f"transformer.{name}": t.T.contiguous() if name.endswith(TURNED) else t for name, t in tensors.items()}
    return ours | {"lm_head.weight": tensors["wte.weight"].clone() if tied else head}  # files hold no shared tensors


def beyond_gpt2(shape: ModelShape) -> list[str]:
    """The options of a shape that GPT-2 does not have."""
    has = {
        "RMSNorm": shape.norm != "layer",
        "LayerNorm without a bias": not shape.norm_bias,
        f"AbsTopK (afrac {shape.afrac:g})": shape.afrac < 1,
        "a sink": shape.sink,
        "a bigram table": shape.bigram,
        "positions beside the residual stream": shape.d_pos is not None,
        "a residual ReLU": shape.residual_relu,
        "a bias of the logits": shape.logits_bias,
        f"{shape.n_head} heads of {shape.d_head}": shape.n_head * shape.d_head != shape.d_model,
    }
    return [name for name, there in has.items() if there]


def config_of(model: Transformer) -> dict[str, Any]:
    """The config of one of our dense models. Raises FormatError, naming all options that GPT-2 does not have."""
    shape = model.config
    refuse("GPT-2", beyond_gpt2(shape), "this model does not fit it; export it as hf")
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_embd": shape.d_model,
        "n_inner": shape.d_mlp,
        "n_positions": shape.n_ctx,
        "vocab_size": model.vocab_size,
        "activation_function": shape.activation,
        "layer_norm_epsilon": EPSILON,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "dtype": "float32",
        "tie_word_embeddings": model.lm_head.weight.equal(model.transformer["wte"].weight),
    }


def tensors_of(model: Transformer, tied: bool) -> dict[str, Tensor]:
    """GPT-2's tensors of one of our models, in float32; without positions, a table of zeros."""
    ours = {name: p.detach().float().cpu() for name, p in model.named_parameters()}
    shape = model.config
    ours.setdefault("transformer.wpe.weight", torch.zeros(shape.n_ctx, shape.d_model))
    found = {name: (t.T if name.endswith(TURNED) else t).contiguous() for name, t in ours.items()}
    return {name: t for name, t in found.items() if not (tied and name == "lm_head.weight")}
