"""The weights that training starts from."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.model.transformer import Transformer
from pipeline.shape import ModelShape

EMBED_STD = 0.1
HEAD_STD = 0.02
BIGRAM_UNIFORM = 0.02  # the authors' U(0, 0.02)


def new_model(
    shape: ModelShape, vocab_size: int, seed: int, bigram: Float[Tensor, "vocab vocab"] | None
) -> Transformer:
    """A model to train. ``bigram``: log probabilities the bigram table starts from (None: the authors' U(0, 0.02))."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(shape, vocab_size)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, 0.5 * module.in_features**-0.5, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0, EMBED_STD, generator=generator)
        model.lm_head.weight.normal_(0, HEAD_STD, generator=generator)
        if model.bigram_table is None:
            return model
        if bigram is None:
            model.bigram_table.uniform_(0, BIGRAM_UNIFORM, generator=generator)
        else:
            model.bigram_table.copy_(bigram)
    return model
