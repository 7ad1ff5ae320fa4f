"""Means of the nodes of any model over text or tokens (§4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from pipeline.config import FilesSource, HuggingFaceSource, Params, Source
from pipeline.data.batches import CorpusTooSmallError, validation_batches
from pipeline.data.shards import STATS_FILE, TokenStream, token_dtype
from pipeline.data.sources import open_source
from pipeline.data.tokenizer import Tokenizer
from pipeline.formats.errors import FormatError
from pipeline.formats.rows import BUILDERS, local_texts
from pipeline.formats.tensors import reading
from pipeline.model.means import node_means
from pipeline.model.transformer import Transformer

LOCK = Path(__file__).parents[2] / "requirements.lock"  # which packages the source ``installed`` reads
TOKEN_FILES = (".npy", ".bin")
TEXT_FILES = (".py", ".jsonl", ".parquet", ".txt")
BATCH = 16  # windows of one forward pass
ALL = {"weight": 1.0, "min_lines": 1, "max_lines": 10**6, "column": "text"}  # every function of a text


def make_means(model: Transformer, tokenizer: Tokenizer, data: str, params: Params, n_tokens: int) -> dict[str, Tensor]:
    """The means of a model's nodes over ``n_tokens`` tokens of ``data``, or over all where that has fewer.

    ``data``: a folder of packed tokens (the stage tokenise), a file of ids (.npy, or .bin as tokenise writes it), files
    of text (a glob of .py, .jsonl, .parquet, .txt), the kind of a source in ``params``, or the name of a dataset on the
    hub. Raises FormatError for data of another kind, SourceError for a source that cannot be read, CorpusTooSmallError
    for less than a window.
    """
    stream = token_stream(model, tokenizer, data, params, n_tokens)
    windows = validation_batches(stream, BATCH, model.config.n_ctx, n_tokens)
    return node_means(model, (window[:, :-1] for window in windows))


def token_stream(model: Transformer, tokenizer: Tokenizer, data: str, params: Params, n_tokens: int) -> TokenStream:
    """The tokens of ``data``, as ``make_means`` takes them; of text, as many as are asked for."""
    path = Path(data)
    if (path / STATS_FILE).is_file():
        stream = TokenStream.open(path, "train")
        if stream.tokenizer_hash != tokenizer.hash:
            raise FormatError(
                f"{path}: in the tokens of tokenizer {stream.tokenizer_hash}, but the model has {tokenizer.hash}; give "
                "text, or tokens of that tokenizer"
            )
        return stream
    if path.suffix in TOKEN_FILES:
        return TokenStream(_ids(path, model.vocab_size), "train", tokenizer.hash)
    wanted = n_tokens + model.config.n_ctx + 1
    ids = np.fromiter(islice(_encoded(_texts(data, params), tokenizer), wanted), np.int64)
    if len(ids) <= model.config.n_ctx:
        raise CorpusTooSmallError(f"{data}: {len(ids)} tokens; allowed: at least n_ctx + 1, {model.config.n_ctx + 1}")
    return TokenStream(ids.astype(token_dtype(model.vocab_size)), "train", tokenizer.hash)


def _ids(path: Path, vocab_size: int) -> Int[np.ndarray, " token"]:
    """The ids in a file. Raises FormatError for a file that is missing, no list of ids, or of another vocabulary."""
    if not path.is_file():
        raise FormatError(f"{path}: no such file")
    with reading(path):
        dtype = token_dtype(vocab_size)
        ids = np.load(path, mmap_mode="r", allow_pickle=False) if path.suffix == ".npy" else np.memmap(path, dtype, "r")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise FormatError(f"{path}: {list(ids.shape)} of {ids.dtype}; allowed: a list of token ids")
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= vocab_size):
        raise FormatError(f"{path}: ids up to {ids.max()}; the model has {vocab_size}")
    return ids.astype(dtype)


def _encoded(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[int]:
    """Tokens of texts as training sees them: ``<|endoftext|>`` before and after every document."""
    yield tokenizer.eot
    for text in texts:
        yield from tokenizer.encode(text)
        yield tokenizer.eot


def _texts(data: str, params: Params) -> Iterator[str]:
    """The texts of files, of a source of ``params`` by its kind, or of a dataset of the hub."""
    if Path(data).suffix == ".txt":
        yield from _plain(Path(data))
        return
    if Path(data).suffix in BUILDERS:
        yield from local_texts(Path(data))
        return
    lock = LOCK if Path(data).is_absolute() else Path("requirements.lock")  # relative globs lie beside it
    for document in open_source(source_of(data, params), params.seed, lock).documents(frozenset()):
        yield document.text


def _plain(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise FormatError(f"{path}: no such file")
    with reading(path):
        yield path.read_text(encoding="utf-8")


def source_of(data: str, params: Params) -> Source:
    """The settings of a source: one of ``params`` by its kind, files by a glob, or a dataset's name on the hub."""
    for source in params.corpus.sources:
        if source.kind == data:
            return source
    if Path(data).suffix in TEXT_FILES:
        return FilesSource.model_validate(ALL | {"kind": "files", "globs": [data]})
    if data in ("installed", "idioms"):
        raise FormatError(f"{data}: no source of that kind in the settings (corpus.sources)")
    hub: dict[str, Any] = {"kind": "huggingface", "path": data, "name": None, "split": "train", "filter": {}}
    return HuggingFaceSource.model_validate(ALL | hub)
