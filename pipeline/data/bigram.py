"""Smoothed bigram statistics of a token stream: the table models start from, and the losses to beat (§1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from pipeline.artifacts import ArtifactError, existing

BIGRAM_FILE = "bigram.safetensors"
TABLE = "log_probs"
MAX_VOCAB = 1 << 14  # a table of 1 GiB in float32
_CHUNK = 1 << 22  # tokens counted at a time

Ids = npt.NDArray[np.unsignedinteger]


def check_table_fits(vocab_size: int) -> None:
    """Raises ValueError where a dense table of vocab_size × vocab_size would be unreasonably large."""
    if vocab_size > MAX_VOCAB:
        raise ValueError(
            f"tokenise.vocab_size: {vocab_size} makes a bigram table of {4 * vocab_size**2 / 2**30:.1f} GiB; "
            f"allowed: at most {MAX_VOCAB}"
        )


def count_bigrams(tokens: Ids, vocab_size: int) -> npt.NDArray[np.int64]:
    """How often each token (column) follows each token (row): [vocab, vocab], its sum ``len(tokens) - 1``."""
    counts = np.zeros(vocab_size * vocab_size, np.int64)
    for first in tqdm(range(0, max(0, len(tokens) - 1), _CHUNK), desc="bigrams", leave=False):
        chunk = np.asarray(tokens[first : first + _CHUNK + 1], np.int64)
        pairs, n = np.unique(chunk[:-1] * vocab_size + chunk[1:], return_counts=True)
        counts[pairs] += n
    return counts.reshape(vocab_size, vocab_size)


def count_tokens(tokens: Ids, vocab_size: int) -> npt.NDArray[np.int64]:
    """How often each token occurs: [vocab]."""
    counts = np.zeros(vocab_size, np.int64)
    for first in range(0, len(tokens), _CHUNK):
        counts += np.bincount(tokens[first : first + _CHUNK], minlength=vocab_size)
    return counts


def unigram_probs(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Probability of each token, add-one smoothed, so that none is 0: [vocab]."""
    return (counts + 1) / (counts.sum() + len(counts))


def bigram_log_probs(
    counts: npt.NDArray[np.int64], unigram: npt.NDArray[np.float64], smoothing: float
) -> npt.NDArray[np.float32]:
    """log((count(a, b) + s · unigram(b)) / (count(a) + s)) in nats, [current token a, next token b].

    Each row is the logarithm of a probability distribution; a token never seen as the current one has the unigram's.
    """
    table = np.empty(counts.shape, np.float32)
    for row, following in enumerate(counts):  # by row: the float64 table is never in memory
        table[row] = np.log((following + smoothing * unigram) / (following.sum() + smoothing))
    return table


def cross_entropies(
    counts: npt.NDArray[np.int64], unigram: npt.NDArray[np.float64], log_probs: npt.NDArray[np.float32]
) -> tuple[float, float]:
    """Mean loss in nats of the unigram and of the bigram prediction of every next token, given a split's bigram counts.

    Raises ValueError where there is nothing to predict.
    """
    n = int(counts.sum())
    if n == 0:
        raise ValueError("no bigrams to predict: the stream has fewer than 2 tokens; enlarge corpus.n_chars")
    unigram_loss = -float(counts.sum(axis=0) @ np.log(unigram)) / n
    rows = zip(counts, log_probs, strict=True)
    bigram_loss = -sum(float(following @ row.astype(np.float64)) for following, row in rows)
    return unigram_loss, bigram_loss / n


def save_bigram(log_probs: npt.NDArray[np.float32], folder: Path) -> None:
    """Writes ``bigram.safetensors`` with the tensor ``log_probs``."""
    save_file({TABLE: torch.from_numpy(log_probs)}, folder / BIGRAM_FILE)


def load_bigram(folder: Path) -> Float[Tensor, "vocab vocab"]:
    """Smoothed log probabilities in nats, [current token, next token], float32. Raises ArtifactError."""
    path = existing(folder / BIGRAM_FILE, "tokenise")
    try:
        table: Tensor = load_file(path)[TABLE]
    except (SafetensorError, KeyError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); delete it and run the stage tokenise again") from error
    return table
