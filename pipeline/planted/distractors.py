"""The random rest of a planted model: other heads, other neurons, other channels, other tokens' logits.

Distractors read all channels, the planted ones too, and are busy on the task's prompts; on other inputs they change the
logits by nats. They write no planted channel, planted nodes read none of theirs, and the answers' logits get the same
from them. So they reach the difference of two answers only as a common factor, by the norms: no set of them can do a
part of the planted circuit's work, or spoil it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.model.transformer import Block, Transformer
from pipeline.planted.layout import ResidualLayout
from pipeline.planted.recipe import PlantedNode, Recipe
from pipeline.sites import EDGE_KINDS, Site

DENSITY = 0.25  # nonzero fraction of distractor weights
WRITE = 0.3  # standard deviation of distractors' writes to a residual channel, whose own is 1
QK, VALUE, NEURON = 1.5, 1.0, 1.5  # standard deviations of the values that they compute from the stream
BIAS = 0.1  # standard deviation of the bias of those values
QUIET = -0.5  # mean bias of a distractor neuron
UNEMBED, BIGRAM = 0.25, 0.3  # standard deviations of weights, of nats
BUSY = 8  # one in so many channels of a token's embedding is nonzero, besides the planted ones


def fill(model: Transformer, recipe: Recipe, layout: ResidualLayout, generator: torch.Generator) -> None:
    """Distractors in every parameter that is not planted."""
    for layer, block in enumerate(model.transformer["h"]):
        _fill_block(block, generator)
        _clear_block(block, recipe, layout, layer)
    model.transformer["wte"].weight.copy_(embedding(recipe, layout, model.config.d_model, generator))
    model.lm_head.weight.copy_(UNEMBED * torch.randn(model.lm_head.weight.shape, generator=generator))
    assert model.bigram_table is not None
    model.bigram_table.copy_(BIGRAM * torch.randn(model.bigram_table.shape, generator=generator))
    answers = torch.tensor([layout.tokens[name] for name in recipe.answers])
    model.lm_head.weight[answers] = model.lm_head.weight[answers[0]].clone()
    model.lm_head.weight[answers[:, None], torch.tensor(list(layout.channels.values()))] = 0
    model.bigram_table[:, answers] = model.bigram_table[:, answers[:1]].clone()


def _fill_block(block: Block, generator: torch.Generator) -> None:
    q, k, v = block.attn.c_attn.weight.chunk(3)
    parts = ((q, QK), (k, QK), (v, VALUE), (block.attn.c_proj.weight, WRITE * 2), (block.mlp.c_fc.weight, NEURON))
    for weight, std in (*parts, (block.mlp.c_proj.weight, WRITE)):
        some = torch.rand(weight.shape, generator=generator) < DENSITY
        normal = torch.randn(weight.shape, generator=generator)
        weight.copy_(std * normal * some / (DENSITY * weight.shape[1]) ** 0.5)
    for layer in (block.attn.c_attn, block.mlp.c_fc):
        layer.bias.copy_(BIAS * torch.randn(layer.bias.shape, generator=generator))
    for layer in (block.attn.c_proj, block.mlp.c_proj):
        layer.bias.zero_()
    block.mlp.c_fc.bias.add_(QUIET)


def _clear_block(block: Block, recipe: Recipe, layout: ResidualLayout, layer: int) -> None:
    """No distractor writes a planted channel; planted nodes, their heads' queries and their keys are none."""
    channels = torch.tensor(list(layout.channels.values()))
    for part in (block.attn.c_proj, block.mlp.c_proj):
        part.weight[channels] = 0
    if layer not in layout.layers:
        return
    planted = layout.layers.index(layer)
    start = layout.heads[planted] * block.attn.d_head
    for rows in (block.attn.c_attn.weight, block.attn.c_attn.bias):
        for part_rows in rows.chunk(3)[:2]:
            part_rows[start : start + block.attn.d_head] = 0
    for node in recipe.nodes:
        if node.part == planted and (node.site.in_head or node.site is Site.MLP_NEURON):
            for rows in reads(block, node):
                rows[layout.index(node)] = 0


def reads(block: Block, node: PlantedNode) -> tuple[Tensor, Tensor]:
    """Weight [target, source] and bias [target] of the linear map that makes the node's site."""
    kind = next(kind for kind in EDGE_KINDS if kind.target is node.site)
    layer = block.get_submodule(kind.weight)
    rows = kind.rows(len(layer.weight))
    return layer.weight[rows], layer.bias[rows]


def embedding(
    recipe: Recipe, layout: ResidualLayout, d_model: int, generator: torch.Generator
) -> Float[Tensor, "vocab d_model"]:
    """Planted codes, and random entries elsewhere: every token, with its position's clock, has norm² ``d_model``."""
    others = [i for i in range(d_model) if i not in set(layout.channels.values())]
    clock = sum(values[0] ** 2 for values in recipe.clock.values())
    looks: dict[str, Tensor] = {}
    wte = torch.zeros(len(recipe.tokens), d_model)
    for name, token in recipe.tokens.items():
        look = token.look or name
        if look not in looks:
            looks[look] = torch.zeros(d_model)
            busy = torch.randperm(len(others), generator=generator)[: d_model // BUSY].tolist()
            signs = torch.randint(0, 2, (len(busy),), generator=generator) * 2 - 1
            looks[look][[others[i] for i in busy]] = signs * (0.5 + torch.rand(len(busy), generator=generator))
        left = d_model - clock - sum(value**2 for value in token.embedding.values())
        row = looks[look] * (left**0.5 / looks[look].norm())
        for channel, value in token.embedding.items():
            row[layout.channels[channel]] = value
        wte[layout.tokens[name]] = row
    return wte
