"""The stage tokenise: from a corpus of texts to a tokenizer, packed token streams and their bigram statistics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from pipeline.artifacts import ArtifactError, whole_folder, write_json
from pipeline.config import TokeniseConfig
from pipeline.data.bigram import (
    bigram_log_probs,
    check_table_fits,
    count_bigrams,
    count_tokens,
    cross_entropies,
    save_bigram,
    unigram_probs,
)
from pipeline.data.corpus_table import read_corpus
from pipeline.data.shards import SPLITS, STATS_FILE, token_dtype, write_stream
from pipeline.data.tokenizer import Tokenizer

# Merges are learnt from at most this many characters, spread evenly over the training documents: the first few thousand
# merges no longer change with more, while training time and memory do.
TRAINING_CHARS = 10_000_000


def tokenise_corpus(corpus: Path, config: TokeniseConfig, folder: Path) -> dict[str, Any]:
    """The content of ``stats.json``; writes ``folder`` whole: tokenizer, token streams, bigram table, statistics.

    ``corpus`` is a Parquet file with the columns text and split. Losses are in nats a token on the validation split,
    by statistics of the training split; bytes_per_token is of the validation split, ``<|endoftext|>`` counted.
    Raises ArtifactError for a missing or foreign corpus, TokenizerError for a vocabulary that cannot be reached.
    """
    check_table_fits(config.vocab_size)
    n_chars = {split: _count_characters(corpus, split) for split in SPLITS}
    tokenizer = given_tokenizer(config) or Tokenizer.train(
        tqdm(_training_sample(corpus, n_chars["train"]), desc="BPE"), config.vocab_size
    )
    with whole_folder(folder) as partial:
        tokenizer.save(partial)
        sizes = {split: _encode_split(corpus, split, tokenizer, partial / f"{split}.bin") for split in SPLITS}
        unigram_loss, bigram_loss = _bigram_statistics(partial, config)
        n_tokens = {split: size[0] for split, size in sizes.items()}
        stats = {
            "dtype": np.dtype(token_dtype(config.vocab_size)).name,
            "vocab_size": config.vocab_size,
            "n_tokens": n_tokens,
            "n_documents": {split: size[1] for split, size in sizes.items()},
            "bytes_per_token": sizes["validation"][2] / n_tokens["validation"],
            "unigram_loss_nats": unigram_loss,
            "bigram_loss_nats": bigram_loss,
            "tokenizer_hash": tokenizer.hash,
        }
        write_json(partial / STATS_FILE, stats)
    return stats


def given_tokenizer(config: TokeniseConfig) -> Tokenizer | None:
    """The tokenizer that the settings name; None where one is to be learnt. Raises ArtifactError for one that is
    missing, damaged, or of another size than the settings say."""
    if config.tokenizer is None:
        return None
    found = Tokenizer.load(Path(config.tokenizer))
    if found.vocab_size != config.vocab_size:
        raise ArtifactError(
            f"{config.tokenizer}: a tokenizer of {found.vocab_size} ids, but tokenise.vocab_size is "
            f"{config.vocab_size}; set that to {found.vocab_size}"
        )
    return found


def read_documents(corpus: Path, split: str) -> Iterator[str]:
    """The texts of a split, in the order of the corpus, a few thousand in memory at a time. Raises ArtifactError."""
    for texts in _texts(corpus, split):
        yield from texts.to_pylist()


def _texts(corpus: Path, split: str) -> Iterator[pa.Array]:
    return (rows.filter(pc.equal(rows["split"], split))["text"] for rows in read_corpus(corpus, "text", "split"))


def _count_characters(corpus: Path, split: str) -> int:
    """Characters in a split. Raises ArtifactError where there are none."""
    n = sum(pc.sum(pc.utf8_length(texts)).as_py() or 0 for texts in _texts(corpus, split))
    if n == 0:
        raise ArtifactError(f"{corpus}: the split {split} has no text; enlarge corpus.n_chars or validation_frac")
    return n


def _training_sample(corpus: Path, n_chars: int) -> Iterator[str]:
    """Training documents of TRAINING_CHARS characters in all, evenly spread; all of them where there are no more."""
    fraction = min(1.0, TRAINING_CHARS / n_chars)
    seen = taken = 0
    for text in read_documents(corpus, "train"):
        seen += len(text)
        if taken + len(text) <= fraction * seen + 1:  # + 1: the rounding of fraction · seen
            taken += len(text)
            yield text


def _encode_split(corpus: Path, split: str, tokenizer: Tokenizer, path: Path) -> tuple[int, int, int]:
    """Tokens, documents and UTF-8 bytes of text of a split, after writing its stream."""
    n_bytes = 0

    def encoded() -> Iterator[list[int]]:
        nonlocal n_bytes
        for batch in tqdm(_texts(corpus, split), desc=f"tokenise {split}", unit="batch"):
            texts = batch.to_pylist()
            n_bytes += sum(len(text.encode()) for text in texts)
            yield from tokenizer.encode_batch(texts, threads=os.cpu_count() or 1)

    n_tokens, n_documents = write_stream(path, encoded(), tokenizer.eot, tokenizer.vocab_size)
    return n_tokens, n_documents, n_bytes


def _bigram_statistics(folder: Path, config: TokeniseConfig) -> tuple[float, float]:
    """Unigram and bigram loss on the validation split, in nats, after writing the training split's bigram table."""
    dtype = token_dtype(config.vocab_size)
    train, validation = (np.memmap(folder / f"{split}.bin", dtype, mode="r") for split in SPLITS)
    unigram = unigram_probs(count_tokens(train, config.vocab_size))
    log_probs = bigram_log_probs(count_bigrams(train, config.vocab_size), unigram, config.bigram_smoothing)
    save_bigram(log_probs, folder)
    return cross_entropies(count_bigrams(validation, config.vocab_size), unigram, log_probs)
