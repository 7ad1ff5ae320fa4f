"""A session of a small random model that reads bytes, and of a circuit of it that was put together by hand."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.circuit import Circuit
from pipeline.config import ModelConfig
from pipeline.data.tasks import TaskSet
from pipeline.data.tokenizer import PATTERN, Tokenizer
from pipeline.model.initial import new_model
from pipeline.model.transformer import Transformer
from pipeline.play.session import Session
from pipeline.workspace import LoadedModel, LoadedTask
from tests.randomised import randomised

TOKENIZER = Tokenizer({bytes([value]): value for value in range(256)}, PATTERN)
ANSWERS = [ord(">"), ord("}")]
NODES = {
    "0.attn_in": [1, 4, 9],
    "0.attn_q": [2, 3],
    "0.attn_k": [2, 3],
    "0.attn_v": [5],
    "0.attn_out": [4, 7],
    "1.mlp_in": [4, 7],
    "1.mlp_neuron": [11, 30],
    "1.mlp_out": [0, 7],
}
EDGES = {
    "0.attn_in->attn_q": [[1, 2], [4, 2], [9, 3]],
    "0.attn_in->attn_k": [[4, 2], [9, 2], [9, 3]],
    "0.attn_in->attn_v": [[1, 5], [4, 5]],
    "0.attn_v->attn_out": [[5, 4], [5, 7]],
    "1.mlp_in->mlp_neuron": [[4, 11], [7, 11], [7, 30]],
    "1.mlp_neuron->mlp_out": [[11, 0], [11, 7], [30, 7]],
}


def make_model() -> Transformer:
    """Two layers of width 16 with sinks and positions, all parameters nontrivial, AbsTopK off."""
    config = ModelConfig.model_validate(
        dict(n_layer=2, d_model=16, d_head=4, n_ctx=32, afrac=1.0, block_density=1.0, embed_density=1.0, sink=True,
             positions=True, lr=0.01, tokens=4096)
    )  # fmt: skip
    model = new_model(config, vocab_size=257, seed=0, bigram=None)
    return randomised(model, 1)


def make_circuit(model: Transformer) -> Circuit:
    """Sixteen nodes and sixteen edges, the complement ablated to random values, calibrated."""
    generator = torch.Generator().manual_seed(2)
    means = {key: torch.randn(width, generator=generator) for key, width in model.widths().items()}
    return Circuit(
        nodes={key: torch.tensor(indices) for key, indices in NODES.items()},
        edges={key: torch.tensor(pairs) for key, pairs in EDGES.items()},
        means=means,
        scores={},
        calibration=(1.5, -0.25),
        about={"task": "closing"},
    )


def make_session(model: Transformer, circuit: Circuit) -> Session:
    """The model with the circuit ``closing``, and one pair of its prompts."""
    row = {"a_prompt": "<ab", "b_prompt": "{ab", "a_answer_token": ANSWERS[0], "b_answer_token": ANSWERS[1]}
    row |= {f"{side}_tokens": [TOKENIZER.eot, *row[f"{side}_prompt"].encode()] for side in "ab"}
    about = {"expressible": True, "reason": None, "n_tokens_max": 4}
    tasks = TaskSet({"tokenizer": TOKENIZER.hash, "tasks": {"closing": about}}, {"closing": [row | {"split": "test"}]})
    loaded = LoadedModel(Path("models/tiny"), "tiny", model, dict(circuit.means), TOKENIZER)
    task = LoadedTask(**vars(loaded), tasks=tasks, task="closing")
    return Session(**vars(loaded), circuits={"closing": circuit}, tasks={"closing": task})
