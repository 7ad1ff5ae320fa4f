"""The honest peer: sparse pretraining written straight from the paper, with what torch offers and nothing else.

What a careful first version looks like: ``torch.topk`` and a scatter for AbsTopK, ``torch.topk`` over every flattened
matrix after the step, keep-alive by a top-k over its rows, fused Adam, autocast to bfloat16 where the hardware
multiplies it, attention as in nanoGPT with the sink as one more column of scores. Used by benchmarks only.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config import ModelConfig, PretrainConfig


def abs_topk(x: Tensor, k: int) -> Tensor:
    """x with all but the k largest magnitudes of every row zeroed."""
    if k >= x.shape[-1]:
        return x
    index = x.abs().topk(k, dim=-1, sorted=False).indices
    return torch.zeros_like(x).scatter(-1, index, x.gather(-1, index))


class Block(nn.Module):
    """One layer, AbsTopK at its eight sites."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, self.afrac, self.n_head, self.d_head = config.d_model, config.afrac, config.n_head, config.d_head
        self.ln_1, self.ln_2 = nn.RMSNorm(d), nn.RMSNorm(d)
        self.c_attn, self.attn_proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.c_fc, self.mlp_proj = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.sink = nn.Parameter(torch.zeros(config.n_head))

    def sparse(self, x: Tensor) -> Tensor:
        return abs_topk(x, int(self.afrac * x.shape[-1]))

    def forward(self, x: Tensor) -> Tensor:
        batch, n_ctx, _ = x.shape
        q, k, v = (self.sparse(part) for part in self.c_attn(self.sparse(self.ln_1(x))).chunk(3, dim=-1))
        q, k, v = (part.unflatten(-1, (self.n_head, self.d_head)).transpose(1, 2) for part in (q, k, v))
        scores = (q @ k.transpose(-1, -2)) * self.d_head**-0.5
        future = torch.ones(n_ctx, n_ctx, dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
        sink = self.sink.to(scores.dtype).view(1, -1, 1, 1).expand(batch, -1, n_ctx, 1)
        pattern = torch.cat([scores, sink], dim=-1).softmax(dim=-1)[..., :-1].to(v.dtype)
        x = x + self.sparse(self.attn_proj((pattern @ v).transpose(1, 2).flatten(-2)))
        return x + self.sparse(self.mlp_proj(self.sparse(F.gelu(self.c_fc(self.sparse(self.ln_2(x)))))))


class Straightforward(nn.Module):
    """The model, its optimizer and one training step."""

    def __init__(self, config: ModelConfig, shared: PretrainConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.shared = config, shared
        self.wte = nn.Embedding(vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.RMSNorm(config.d_model)
        self.head = nn.Linear(config.d_model, vocab_size, bias=False)
        self.bigram = nn.Parameter(torch.empty(vocab_size, vocab_size).uniform_(0, 0.02))
        self.adam = torch.optim.Adam(self.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=0.1, fused=True)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x)) + self.bigram[tokens]

    def step(self, batch: Tensor, precision: AbstractContextManager[None]) -> float:
        """One optimizer step on ``batch`` [batch, n_ctx + 1]; returns its loss in nats."""
        with precision:
            logits = self(batch[:, :-1])
            loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        gradients = [p.grad for p in self.parameters()]
        rms = (sum(g.square().sum() for g in gradients) / sum(g.numel() for g in gradients)).sqrt()
        for gradient in gradients:
            gradient.div_(rms + 1e-5)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.project()
        return loss.item()

    @torch.no_grad()
    def project(self) -> None:
        """Zero all but the largest weights of every matrix, ``keep_alive`` per neuron among them; then decay."""
        for name, p in self.named_parameters():
            density = self.config.embed_density if name.endswith((".bias", "wte.weight", "head.weight")) else None
            if name.endswith(("c_attn.weight", "c_fc.weight", "proj.weight")):
                density = self.config.block_density
            if density is not None and density < 1:
                magnitude = p.abs()
                if p.ndim == 2 and "blocks" in name and self.shared.keep_alive:
                    axis = 0 if "proj" in name else 1
                    alive = magnitude.topk(self.shared.keep_alive, dim=axis).indices
                    magnitude.scatter_(axis, alive, float("inf"))
                kept = magnitude.flatten().topk(max(1, round(density * p.numel()))).indices
                p.copy_(torch.zeros_like(p).flatten().scatter(0, kept, p.flatten()[kept]).view_as(p))
            if p.ndim >= 2 and name != "bigram":
                p.mul_(1 - 1e-3 * self.shared.weight_decay)
