"""A model packed for the page: what is rounded, what is not, and which models have room. What the page makes of it is
tested in a browser (tests/browser/test_engine.py)."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import torch

from pipeline.ablation import Ablation
from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import AblationValues
from pipeline.data.pairs import PairBatch
from pipeline.data.tokenizer import PATTERN, Tokenizer
from pipeline.model.transformer import Transformer
from pipeline.report.packed import AROUND, those_that_fit
from pipeline.report.packed_model import BIGRAM_STEP, model_bytes, pack_model, planes
from pipeline.report.runnable import run_part

TOKENIZER = Tokenizer({bytes([value]): value for value in range(256)}, PATTERN)


def arrays_of(packed: bytes) -> dict[str, dict[str, np.ndarray]]:
    """Name → form → array of every tensor."""
    at = 4 + int.from_bytes(packed[:4], "little")
    header, found = json.loads(packed[4:at]), {}
    for tensor in header["tensors"]:
        found[tensor["name"]] = forms = {}
        for form, kind, n in tensor["arrays"]:
            size = n * int(kind[1])
            forms[form] = np.frombuffer(packed[at : at + size], np.uint8).reshape(-1, n).T.copy().view(f"<{kind}")[:, 0]
            at += size
    assert at == len(packed)
    return found


def test_weights_keep_every_bit_and_zeros_take_no_room(tiny_model: Callable[..., Transformer]) -> None:
    model = tiny_model()
    matrix = model.transformer["h"][0].mlp.c_fc.weight
    with torch.no_grad():
        matrix[torch.rand(matrix.shape, generator=torch.Generator().manual_seed(0)) < 0.9] = 0
    found = arrays_of(model_bytes(model, {"0.attn_in": torch.ones(16)}, TOKENIZER))
    sparse, dense = found["transformer.h.0.mlp.c_fc.weight"], found["lm_head.weight"]["dense"]
    assert np.array_equal(dense, model.lm_head.weight.numpy().ravel())
    assert np.array_equal(sparse["values"], matrix[matrix != 0].numpy())
    assert np.array_equal(np.cumsum(sparse["gaps"].astype(np.int64)) - 1, np.flatnonzero(matrix.numpy()))
    assert found["mean.0.attn_in"]["dense"].dtype == np.float16  # ones lose nothing in 16 bits
    assert dense.dtype == np.float32


def test_the_bigram_table_is_rounded_by_at_most_half_a_step(tiny_model: Callable[..., Transformer]) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.bigram_table.mul_(20)
    found = arrays_of(model_bytes(model, {}, TOKENIZER))["bigram_table"]
    folded = found["steps"].astype(np.int64)
    left = np.where(folded % 2, -(folded + 1) // 2, folded // 2).reshape(24, 24)
    table = BIGRAM_STEP * (left + found["row"][:, None] + found["column"])
    assert np.abs(table - model.bigram_table.numpy()).max() <= BIGRAM_STEP / 2 + 1e-6


def test_equal_models_give_equal_text_and_bytes_lie_in_planes(tiny_model: Callable[..., Transformer]) -> None:
    assert pack_model(tiny_model(), {}, TOKENIZER) == pack_model(tiny_model(), {}, TOKENIZER)
    assert planes(np.array([0x0102, 0x0304], "<u2")) == bytes([2, 4, 1, 3])


def test_of_models_those_that_come_first_have_room_first() -> None:
    packed = {"wide": "x" * 50, "wider": "x" * 90, "small": "x" * 20}
    assert set(those_that_fit(packed, 75 + 2 * AROUND)) == {"wide", "small"}


def test_a_circuits_ablation_values_are_left_out_where_they_are_the_models_means() -> None:
    means = {"0.attn_in": torch.tensor([1.0, 2.0])}
    circuit = Circuit({}, {}, means, {}, calibration=(1.5, 0.25))
    batch = PairBatch.of([[9, 1, 2], [9, 1, 3]], [[4, 5], [5, 4]])
    found = run_part(circuit, means, batch)
    assert found["ablated_to"] is None and found["calibration"] == [1.5, 0.25] and found["answers"] == [4, 5]
    assert found["pairs"] == [[[[1, 2], 4], [[1, 3], 5]]]
    zero = Circuit({}, {}, means, {}, (AblationValues.of(Ablation.ZERO, means),))
    assert run_part(zero, means, batch)["ablated_to"] == {"0.attn_in": [0, 0]}
