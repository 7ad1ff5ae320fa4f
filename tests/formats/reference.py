"""The released format's forward pass, straight on, from docs/checkpoint_format.md: the oracle of these tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SITES = "attn_in,attn_out,mlp_in,mlp_out"


def reference(
    config: dict[str, Any], tensors: dict[str, Tensor], tokens: Tensor, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Logits [batch, pos, vocab], computed in ``dtype``."""
    w = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    n_head, d = config["n_head"], config["d_model"]
    d_head = config.get("d_head") or d // n_head

    def top(x: Tensor, site: str) -> Tensor:
        afrac = config.get("afrac")
        if afrac is None or site not in config.get("afrac_loctypes", SITES).split(","):
            return x
        k = int(afrac * x.shape[-1])
        rank = x.abs().argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return torch.where(rank < k, x, 0)

    def norm(x: Tensor, name: str) -> Tensor:
        if config.get("rms_norm", False):
            return x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt() * w[f"{name}.weight"]
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"]
        return scaled + w.get(f"{name}.bias", torch.zeros(()))

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(()))

    def after(x: Tensor, site: str) -> Tensor:
        return top(x.clamp(min=0) if config.get("residual_activation_type") == "relu" else x, site)

    n, t = tokens.shape
    places = w["transformer.wpe.weight"][:t]
    apart = bool(config.get("d_pos_emb"))
    x = w["transformer.wte.weight"][tokens] + (0 if apart else places)
    for layer in range(config["n_layer"]):
        at = f"transformer.h.{layer}"

        def read(x: Tensor, half: str, at: str = at) -> Tensor:
            h = norm(x, f"{at}.ln_{half}")
            return torch.cat([h, norm(places, f"{at}.ln_p{half}").expand(n, -1, -1)], dim=-1) if apart else h

        q, k, v = linear(top(read(x, "1"), "attn_in"), f"{at}.attn.c_attn").split(n_head * d_head, dim=-1)
        q, k, v = (
            top(part, f"attn_{name}").view(n, t, n_head, d_head).transpose(1, 2)
            for name, part in zip("qkv", (q, k, v), strict=True)
        )
        scores = q @ k.transpose(-2, -1) / d_head**0.5
        scores = scores.masked_fill(torch.ones(t, t).tril() == 0, -torch.inf)
        weight = scores.exp()
        total = weight.sum(-1, keepdim=True)
        if config.get("sink"):
            total = total + w[f"{at}.attn.attn_imp.sink_logit"].exp().view(1, n_head, 1, 1)
        mixed = ((weight / total) @ v).transpose(1, 2).reshape(n, t, n_head * d_head)
        x = after(x + top(linear(mixed, f"{at}.attn.c_proj"), "attn_out"), "resid_post_attn")
        h = linear(top(read(x, "2"), "mlp_in"), f"{at}.mlp.c_fc")
        if config.get("activation_type", "gelu") == "relu":
            h = h.clamp(min=0)
        else:
            h = h * (1 + torch.erf(h / 2**0.5)) / 2
        x = after(x + top(linear(top(h, "mlp_neuron"), f"{at}.mlp.c_proj"), "mlp_out"), "resid_post_mlp")
    logits = norm(x, "transformer.ln_f") @ w["lm_head.weight"].T + w.get("final_logits_bias", torch.zeros(()))
    return logits + (w["bigram_table"][tokens] if config.get("enable_bigram_table") else 0)
