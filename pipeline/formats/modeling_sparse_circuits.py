"""A weight-sparse transformer for Hugging Face transformers: this file is copied into exported folders, by itself.

``config.released`` has the keys of beeg_config.json; parameters have the released names. Every option is computed as
https://github.com/openai/circuit_sparsity describes it; there is no cache of keys and values.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class SparseCircuitsConfig(PretrainedConfig):
    """``released``: the keys of beeg_config.json."""

    model_type = "sparse_circuits"

    def __init__(self, released: dict[str, Any] | None = None, **others: Any) -> None:
        self.released = dict(released or {})
        self.vocab_size = self.released.get("vocab_size", 0)
        self.num_hidden_layers = self.released.get("n_layer", 0)
        super().__init__(**others)


def abs_topk(x: Tensor, released: dict[str, Any], site: str) -> Tensor:
    """Every row's largest magnitudes, zeros elsewhere, at a site that the config names; ties to the lower index."""
    k = x.shape[-1] if released["afrac"] is None else int(released["afrac"] * x.shape[-1])
    if k >= x.shape[-1] or site not in released["afrac_loctypes"].split(","):
        return x
    kept = x.abs().argsort(dim=-1, descending=True, stable=True)[..., :k]
    return torch.zeros_like(x).scatter(-1, kept, x.gather(-1, kept))


class SparseNorm(nn.Module):
    """RMSNorm or LayerNorm over the last dimension."""

    def __init__(self, released: dict[str, Any], width: int) -> None:
        super().__init__()
        self.rms = released["rms_norm"]
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if released["ln_bias"] and not self.rms else None

    def forward(self, x: Tensor) -> Tensor:
        if self.rms:
            return F.rms_norm(x, self.weight.shape, self.weight)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class SparseSink(nn.Module):
    """A learned logit per head in the softmax's denominator."""

    def __init__(self, n_head: int) -> None:
        super().__init__()
        self.sink_logit = nn.Parameter(torch.zeros(n_head))


class SparseAttention(nn.Module):
    def __init__(self, released: dict[str, Any], d_head: int, d_in: int) -> None:
        super().__init__()
        self.released, self.n_head, self.d_head = released, released["n_head"], d_head
        width = self.n_head * d_head
        self.c_attn = nn.Linear(d_in, 3 * width, bias=released["bias"])
        self.c_proj = nn.Linear(width, released["d_model"], bias=released["bias"])
        self.attn_imp = SparseSink(self.n_head) if released["sink"] else None

    def forward(self, x: Tensor) -> Tensor:
        parts = self.c_attn(x).chunk(3, dim=-1)
        parts = [abs_topk(part, self.released, f"attn_{name}") for part, name in zip(parts, "qkv", strict=True)]
        q, k, v = (part.unflatten(-1, (self.n_head, self.d_head)).transpose(1, 2) for part in parts)
        scores = q @ k.mT / math.sqrt(self.d_head)
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
        if self.attn_imp is not None:
            sink = self.attn_imp.sink_logit.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            weights = torch.cat([sink, scores], dim=-1).softmax(-1)[..., 1:]
        else:
            weights = scores.softmax(-1)
        mixed = (weights @ v).transpose(1, 2).flatten(-2)
        return abs_topk(self.c_proj(mixed), self.released, "attn_out")


class SparseMLP(nn.Module):
    def __init__(self, released: dict[str, Any], d_mlp: int, d_in: int) -> None:
        super().__init__()
        self.released = released
        self.c_fc = nn.Linear(d_in, d_mlp, bias=released["bias"])
        self.c_proj = nn.Linear(d_mlp, released["d_model"], bias=released["bias"])

    def forward(self, x: Tensor) -> Tensor:
        h = self.c_fc(x)
        h = F.relu(h) if self.released["activation_type"] == "relu" else F.gelu(h)
        return abs_topk(self.c_proj(abs_topk(h, self.released, "mlp_neuron")), self.released, "mlp_out")


class SparseBlock(nn.Module):
    def __init__(self, released: dict[str, Any]) -> None:
        super().__init__()
        self.released, d_model, d_pos = released, released["d_model"], released["d_pos_emb"]
        d_head, d_mlp = released["d_head"] or d_model // released["n_head"], released["d_mlp"] or 4 * d_model
        self.ln_1, self.ln_2 = SparseNorm(released, d_model), SparseNorm(released, d_model)
        if d_pos:
            self.ln_p1, self.ln_p2 = SparseNorm(released, d_pos), SparseNorm(released, d_pos)
        self.attn = SparseAttention(released, d_head, d_model + (d_pos or 0))
        self.mlp = SparseMLP(released, d_mlp, d_model + (d_pos or 0))

    def read(self, x: Tensor, positions: Tensor | None, half: str, site: str) -> Tensor:
        """What a half layer reads: the norm of the stream, beside it the norm of the positions where they are apart."""
        h = getattr(self, f"ln_{half}")(x)
        if positions is not None:
            beside = getattr(self, f"ln_p{half}")(positions)
            h = torch.cat([h, beside.expand(*h.shape[:-1], -1)], dim=-1)
        return abs_topk(h, self.released, site)

    def after(self, x: Tensor, site: str) -> Tensor:
        x = F.relu(x) if self.released["residual_activation_type"] == "relu" else x
        return abs_topk(x, self.released, site)

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        x = self.after(x + self.attn(self.read(x, positions, "1", "attn_in")), "resid_post_attn")
        return self.after(x + self.mlp(self.read(x, positions, "2", "mlp_in")), "resid_post_mlp")


class SparseCircuitsForCausalLM(PreTrainedModel, GenerationMixin):
    """The language model. Logits [batch, pos, vocab] in nats."""

    config_class = SparseCircuitsConfig
    _no_split_modules = ["SparseBlock"]

    def __init__(self, config: SparseCircuitsConfig) -> None:
        super().__init__(config)
        released = config.released
        vocab, d_model = released["vocab_size"], released["d_model"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab, d_model),
                "wpe": nn.Embedding(released["block_size"], released["d_pos_emb"] or d_model),
                "h": nn.ModuleList(SparseBlock(released) for _ in range(released["n_layer"])),
                "ln_f": SparseNorm(released, d_model),
            }
        )
        self.lm_head = nn.Linear(d_model, vocab, bias=False)
        self.final_logits_bias = nn.Parameter(torch.zeros(vocab))
        self.bigram_table = nn.Parameter(torch.zeros(vocab, vocab)) if released["enable_bigram_table"] else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Weights come from the folder."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> CausalLMOutput:
        """``labels``: the tokens themselves, of which the next one is predicted (−100: none). Padding belongs on the
        right, where a causal model does not see it. Raises ValueError for prompts longer than block_size."""
        if input_ids.shape[1] > self.config.released["block_size"]:
            raise ValueError(f"{input_ids.shape[1]} tokens; allowed: {self.config.released['block_size']}")
        if attention_mask is not None and not bool((attention_mask.int().diff(dim=1) <= 0).all()):
            raise ValueError("tokens padded on the left; allowed: padding on the right")
        x, positions = self.transformer["wte"](input_ids), self.transformer["wpe"].weight[: input_ids.shape[1]][None]
        beside = positions if self.config.released["d_pos_emb"] else None
        x = x if beside is not None else x + positions
        for block in self.transformer["h"]:
            x = block(x, beside)
        logits = self.lm_head(self.transformer["ln_f"](x)) + self.final_logits_bias
        if self.bigram_table is not None:
            logits = logits + F.embedding(input_ids, self.bigram_table)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **_: Any) -> dict[str, Any]:
        """All tokens every time: there is no cache."""
        return {"input_ids": input_ids[:, -self.config.released["block_size"] :]}
