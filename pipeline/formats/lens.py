"""Our dense models as TransformerLens models, and a circuit's nodes by its hook names (the extra ``lens``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.formats.errors import FormatError, refuse
from pipeline.model.norm import NormTerms
from pipeline.model.transformer import Transformer
from pipeline.sites import Site, split_node_name, split_site_key

HOOKS = {
    Site.ATTN_IN: "ln1.hook_normalized",
    Site.ATTN_Q: "attn.hook_q",
    Site.ATTN_K: "attn.hook_k",
    Site.ATTN_V: "attn.hook_v",
    Site.ATTN_OUT: "hook_attn_out",
    Site.MLP_IN: "ln2.hook_normalized",
    Site.MLP_NEURON: "mlp.hook_post",
    Site.MLP_OUT: "hook_mlp_out",
}


def to_transformer_lens(model: Transformer) -> Any:
    """A ``HookedTransformer`` with the same logits within 1e-4.

    Raises FormatError for a model with options that it does not have (AbsTopK, a sink, a bigram table), and where
    TransformerLens is not installed.
    """
    shape = model.config
    reasons = {"AbsTopK (afrac below 1)": shape.afrac < 1, "a sink": shape.sink, "a bigram table": shape.bigram}
    reasons |= {"a residual ReLU": shape.residual_relu, "positions beside the residual stream": bool(shape.d_pos)}
    refuse("TransformerLens", (name for name, there in reasons.items() if there), "this model cannot be one of its")
    try:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
    except ImportError as error:
        raise FormatError('TransformerLens 3 is not installed; pip install "sparse-circuits[lens]"') from error
    config = HookedTransformerConfig(
        n_layers=shape.n_layer, d_model=shape.d_model, n_ctx=shape.n_ctx, d_head=shape.d_head, n_heads=shape.n_head,
        d_mlp=shape.d_mlp, d_vocab=model.vocab_size, act_fn=shape.activation, device="cpu",
        normalization_type="RMS" if shape.norm == "rms" else "LN",
        eps=NormTerms.of(model.on_cpu().transformer["ln_f"]).eps, default_prepend_bos=False,
    )  # fmt: skip
    hooked = HookedTransformer(config)
    hooked.load_state_dict(_their_weights(model), strict=False)
    return hooked.eval()


def _their_weights(model: Transformer) -> dict[str, Tensor]:
    """The parameters by TransformerLens' names and in its shapes: maps are [in, out], heads apart."""
    ours = {name: p.detach().float().cpu() for name, p in model.named_parameters()}
    shape = model.config
    found = {"embed.W_E": ours["transformer.wte.weight"], "unembed.W_U": ours["lm_head.weight"].T}
    found["pos_embed.W_pos"] = ours.get("transformer.wpe.weight", torch.zeros(shape.n_ctx, shape.d_model))
    found["unembed.b_U"] = ours.get("final_logits_bias", torch.zeros(model.vocab_size))
    found |= _norm("ln_final", "transformer.ln_f", ours)
    for layer in range(shape.n_layer):
        at, to = f"transformer.h.{layer}", f"blocks.{layer}"
        weights, biases = ours[f"{at}.attn.c_attn.weight"].chunk(3), ours[f"{at}.attn.c_attn.bias"].chunk(3)
        for letter, weight, bias in zip("QKV", weights, biases, strict=True):
            found[f"{to}.attn.W_{letter}"] = weight.unflatten(0, (shape.n_head, shape.d_head)).transpose(1, 2)
            found[f"{to}.attn.b_{letter}"] = bias.unflatten(0, (shape.n_head, shape.d_head))
        found[f"{to}.attn.W_O"] = ours[f"{at}.attn.c_proj.weight"].T.unflatten(0, (shape.n_head, shape.d_head))
        found[f"{to}.attn.b_O"] = ours[f"{at}.attn.c_proj.bias"]
        for name, (theirs, bias_name) in {"c_fc": ("W_in", "b_in"), "c_proj": ("W_out", "b_out")}.items():
            found[f"{to}.mlp.{theirs}"] = ours[f"{at}.mlp.{name}.weight"].T
            found[f"{to}.mlp.{bias_name}"] = ours[f"{at}.mlp.{name}.bias"]
        for half in "12":
            found |= _norm(f"{to}.ln{half}", f"{at}.ln_{half}", ours)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _norm(theirs: str, name: str, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """A norm's gain and bias; TransformerLens ignores the bias of an RMSNorm, which has none."""
    gain = ours[f"{name}.weight"]
    return {f"{theirs}.w": gain, f"{theirs}.b": ours.get(f"{name}.bias", torch.zeros_like(gain))}


def hook_of(node: str, d_head: int) -> tuple[str, tuple[int, ...]]:
    """The hook point of a node and its place in the last dimensions there: (index,), or (head, channel) in heads.

    A read, ``attn_in`` and ``mlp_in``, is the hook's value times the norm's gain. Raises ValueError for other names.
    """
    key, index = split_node_name(node)
    layer, site = split_site_key(key)
    return f"blocks.{layer}.{HOOKS[site]}", divmod(index, d_head) if site.in_head else (index,)


def hooks_of(circuit: Circuit, d_head: int) -> dict[str, list[tuple[int, ...]]]:
    """Hook point → places of a circuit's nodes there."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for node in circuit.node_names:
        hook, place = hook_of(node, d_head)
        found.setdefault(hook, []).append(place)
    return found
