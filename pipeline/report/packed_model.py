"""A model with its tokenizer and means in few bytes, to be run by the page itself (web/engine/).

The bytes are a header as JSON, after its length (4 bytes, little-endian), and arrays one after the other, each as
planes: the first byte of every number, then the second of each, which compresses better. What an AbsTopK follows keeps
every bit, because a rounded weight changes which entries are kept; only the bigram table, which is added to the logits
at the end, is rounded, by at most half of ``BIGRAM_STEP``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pipeline.data.tokenizer import END_OF_TEXT, Tokenizer
from pipeline.kernels.simd import EPS
from pipeline.model.transformer import Transformer
from pipeline.report.packed import pack_bytes
from pipeline.sites import EDGE_KINDS, SITES

Array = npt.NDArray[Any]

BIGRAM = "bigram_table"
BIGRAM_STEP = 2.0**-10  # nats
FEW = 1 / 3  # fraction of nonzeros below which only these are kept
MEAN = "mean."  # what the names of means begin with


def pack_model(model: Transformer, means: Mapping[str, Tensor], tokenizer: Tokenizer) -> str:
    """A model for the page: gzip in base64, of ``model_bytes``. Equal inputs give equal text."""
    return pack_bytes(model_bytes(model, means, tokenizer))


def model_bytes(model: Transformer, means: Mapping[str, Tensor], tokenizer: Tokenizer) -> bytes:
    """All that a forward pass needs, and the tokenizer; ``means``: site key → mean of every node [width]."""
    named = {name: parameter.detach() for name, parameter in model.named_parameters()}
    named |= {f"{MEAN}{key}": mean for key, mean in means.items()}
    packed = {name: list(_arrays(name, tensor.float().cpu().numpy())) for name, tensor in named.items()}
    header = {
        "shape": model.config.shape.model_dump() | {"vocab_size": model.vocab_size, "n_head": model.config.n_head},
        "eps": EPS,
        "sites": [site.value for site in SITES],
        "edge_kinds": [[kind.source.value, kind.target.value, kind.weight, kind.part] for kind in EDGE_KINDS],
        "bigram_step": BIGRAM_STEP,
        "tokenizer": described(tokenizer),
        "tensors": [
            {"name": name, "shape": list(named[name].shape), "arrays": [[form, kind(a), len(a)] for form, a in arrays]}
            for name, arrays in packed.items()
        ],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    arrays = [planes(array) for parts in packed.values() for _, array in parts]
    return b"".join([len(text).to_bytes(4, "little"), text, *arrays])


def described(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer as JSON: its pattern, the bytes of every token by rank (a character a byte), and the last token."""
    ordered = sorted(tokenizer.ranks.items(), key=lambda item: item[1])
    tokens = [token.decode("latin-1") for token, _ in ordered]
    return {"pattern": tokenizer.pattern, "tokens": tokens, "end_of_text": END_OF_TEXT}


def _arrays(name: str, values: Array) -> Iterator[tuple[str, Array]]:
    """A tensor as arrays, each with its form: what ``web/engine/weights.js`` makes of it.

    ``dense``: all values. ``gaps`` and ``values``: of the nonzeros, each one's distance in flat order from the one
    before (the first: from −1), and its value. ``row``, ``column`` and ``steps``: the bigram table in steps, less these
    two offsets, folded (0, −1, 1, −2, …).
    """
    index = np.flatnonzero(values)
    if name == BIGRAM:
        yield from _in_steps(values)
    elif len(index) < FEW * values.size:
        yield "gaps", np.diff(index, prepend=-1).astype("<u4")
        yield "values", _short(values.ravel()[index])
    else:
        yield "dense", _short(values.ravel())


def _in_steps(table: Array) -> Iterator[tuple[str, Array]]:
    steps = np.round(table / BIGRAM_STEP).astype(np.int64)
    column = np.round(np.median(steps, axis=0, keepdims=True)).astype(np.int64)
    row = np.round(np.median(steps - column, axis=1, keepdims=True)).astype(np.int64)
    left = (steps - column - row).ravel()
    yield "row", row.ravel().astype("<i4")
    yield "column", column.ravel().astype("<i4")
    yield "steps", np.where(left < 0, -2 * left - 1, 2 * left).astype("<u4")


def _short(values: Array) -> Array:
    """The values in 16 bits where that loses nothing, else in 32."""
    half = values.astype("<f2")
    return half if np.array_equal(half.astype(np.float32), values) else values.astype("<f4")


def kind(array: Array) -> str:
    """``f4``, ``u4`` and the like."""
    return f"{array.dtype.kind}{array.dtype.itemsize}"


def planes(array: Array) -> bytes:
    """The bytes of an array, the first byte of every number first."""
    return array.view(np.uint8).reshape(len(array), array.dtype.itemsize).T.tobytes()
