"""The only forward pass: a GPT-2 style, pre-norm, decoder-only transformer with AbsTopK at every site (METHOD §1).

Training, mean caching, pruning, ablation and pictures all call ``Transformer.forward``. What they change, they change by
two arguments: ``intervene`` sees the value at every site, after AbsTopK, and returns the value to go on with; ``cuts``
holds the source of single edges at its mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.model.abstopk import abs_topk
from pipeline.sites import Site, site_key

Intervene = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Cut:
    """Edges of one matrix that carry their source's mean instead of its value (METHOD §5).

    ``keep`` is 1 where the edge is live and 0 where it is cut; ``mean`` is the source site's mean.
    """

    keep: Float[Tensor, "out in"]
    mean: Float[Tensor, " in"]


Cuts = Mapping[str, Cut]


def linear(layer: nn.Linear, x: Tensor, cut: Cut | None, mass: Tensor | None = None) -> Tensor:
    """``layer(x)`` with the cut edges fed by their source's mean.

    ``mass`` [batch, pos, in] scales the mean per source: attention's total weight on real tokens, below 1 with a sink.
    """
    if cut is None:
        return F.linear(x, layer.weight, layer.bias)
    live = F.linear(x, layer.weight * cut.keep, layer.bias)
    held = cut.mean if mass is None else cut.mean * mass
    return live + F.linear(held, layer.weight * (1 - cut.keep))


class Attention(nn.Module):
    """Causal multi-head attention with an optional learned sink logit per head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.n_head * config.d_head
        self.n_head, self.d_head = config.n_head, config.d_head
        self.c_attn = nn.Linear(config.d_model, 3 * width)
        self.c_proj = nn.Linear(width, config.d_model)
        self.sink_logit = nn.Parameter(torch.zeros(config.n_head)) if config.sink else None

    def split_heads(self, x: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch head pos d_head"]:
        return x.unflatten(-1, (self.n_head, self.d_head)).transpose(1, 2)

    def pattern(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        """Attention weights of q and k [batch, pos, width]; rows add up to 1, or to less with a sink."""
        scores = self.split_heads(q) @ self.split_heads(k).transpose(-1, -2)  # [batch, head, query, key]
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = (scores.float() * self.d_head**-0.5).masked_fill(future, -torch.inf)
        if self.sink_logit is None:
            return scores.softmax(-1)
        total = torch.logaddexp(scores.logsumexp(-1, keepdim=True), self.sink_logit[:, None, None].float())
        return (scores - total).exp()

    def mix(self, pattern: Tensor, v: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos width"]:
        """Values averaged by the pattern, heads side by side again."""
        return (pattern.to(v.dtype) @ self.split_heads(v)).transpose(1, 2).flatten(-2)

    def mass(self, pattern: Tensor) -> Float[Tensor, "batch pos width"]:
        """Each value channel's total weight on real tokens: what a constant value is multiplied by."""
        return pattern.sum(-1).transpose(1, 2).repeat_interleave(self.d_head, dim=-1)


class MLP(nn.Module):
    """Two linear maps with a nonlinearity between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.d_model, config.d_mlp)
        self.c_proj = nn.Linear(config.d_mlp, config.d_model)


class Block(nn.Module):
    """One layer: attention and MLP, each reading from and adding to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.afrac = layer, config.afrac
        self.ln_1 = nn.RMSNorm(config.d_model)
        self.attn = Attention(config)
        self.ln_2 = nn.RMSNorm(config.d_model)
        self.mlp = MLP(config)

    def at(self, site: Site, x: Tensor, intervene: Intervene | None) -> Tensor:
        """The value at a site: AbsTopK, then whatever the intervention makes of it."""
        x = abs_topk(x, int(self.afrac * x.shape[-1]))
        return x if intervene is None else intervene(site_key(self.layer, site), x)

    def attend(self, x: Tensor, intervene: Intervene | None, cuts: Cuts) -> Tensor:
        h = self.at(Site.ATTN_IN, self.ln_1(x), intervene)
        q, k, v = linear(self.attn.c_attn, h, cuts.get(f"{self.layer}.attn.c_attn")).chunk(3, dim=-1)
        q, k = self.at(Site.ATTN_Q, q, intervene), self.at(Site.ATTN_K, k, intervene)
        v = self.at(Site.ATTN_V, v, intervene)
        pattern = self.attn.pattern(q, k)
        cut = cuts.get(f"{self.layer}.attn.c_proj")
        mass = self.attn.mass(pattern) if cut is not None else None
        return self.at(Site.ATTN_OUT, linear(self.attn.c_proj, self.attn.mix(pattern, v), cut, mass), intervene)

    def think(self, x: Tensor, intervene: Intervene | None, cuts: Cuts) -> Tensor:
        h = self.at(Site.MLP_IN, self.ln_2(x), intervene)
        h = F.gelu(linear(self.mlp.c_fc, h, cuts.get(f"{self.layer}.mlp.c_fc")))
        h = self.at(Site.MLP_NEURON, h, intervene)
        return self.at(Site.MLP_OUT, linear(self.mlp.c_proj, h, cuts.get(f"{self.layer}.mlp.c_proj")), intervene)

    def forward(self, x: Tensor, intervene: Intervene | None, cuts: Cuts) -> Tensor:
        x = x + self.attend(x, intervene, cuts)
        return x + self.think(x, intervene, cuts)


class Transformer(nn.Module):
    """The model. Parameters carry the released checkpoints' names (CHECKPOINT_FORMAT.md)."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        wte = nn.Embedding(vocab_size, config.d_model)
        blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.transformer = nn.ModuleDict({"wte": wte, "h": blocks, "ln_f": nn.RMSNorm(config.d_model)})
        if config.positions:
            self.transformer["wpe"] = nn.Embedding(config.n_ctx, config.d_model)
        self.lm_head = nn.Linear(config.d_model, vocab_size, bias=False)
        self.bigram_table = nn.Parameter(torch.empty(vocab_size, vocab_size).uniform_(0, 0.02))

    @property
    def device(self) -> torch.device:
        return self.bigram_table.device

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        x = self.transformer["wte"](tokens)
        if "wpe" in self.transformer:
            x = x + self.transformer["wpe"].weight[: tokens.shape[1]]
        return x

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        at: Int[Tensor, " batch"] | None = None,
        intervene: Intervene | None = None,
        cuts: Cuts | None = None,
    ) -> Tensor:
        """Logits [batch, pos, vocab] in nats, or [batch, vocab] at one position per prompt where ``at`` is given.

        ``intervene(site_key, value)`` returns the value to use at each site; ``cuts`` maps ``"0.mlp.c_fc"`` and its like
        to the edges held at their mean. Raises ValueError for prompts longer than the model's n_ctx.
        """
        if tokens.shape[1] > self.config.n_ctx:
            raise ValueError(f"prompt of {tokens.shape[1]} tokens; this model reads at most n_ctx {self.config.n_ctx}")
        x = self.embed(tokens)
        for block in self.transformer["h"]:
            x = block(x, intervene, cuts or {})
        if at is not None:
            rows = torch.arange(len(tokens), device=tokens.device)
            x, tokens = x[rows, at], tokens[rows, at]
        return self.lm_head(self.transformer["ln_f"](x)) + F.embedding(tokens, self.bigram_table)
