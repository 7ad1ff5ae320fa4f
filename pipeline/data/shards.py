"""The packed token stream of a split: one memory-mapped array, ``<|endoftext|>`` before and after every document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.artifacts import ArtifactError, existing, read_json

SPLITS = ("train", "validation")
STATS_FILE = "stats.json"

DTYPES = {name: np.dtype(name) for name in ("uint16", "uint32")}  # of token ids in a file


def token_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The smallest unsigned type that holds every id: uint16 up to 65,536 ids, else uint32."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def write_stream(path: Path, documents: Iterable[Sequence[int]], eot: int, vocab_size: int) -> tuple[int, int]:
    """Number of tokens and of documents written to ``path``: ``eot``, then each document followed by ``eot``."""
    dtype = token_dtype(vocab_size)
    n_tokens, n_documents = 1, 0
    with path.open("wb") as file:
        file.write(np.array([eot], dtype).tobytes())
        for ids in documents:
            file.write(np.array([*ids, eot], dtype).tobytes())
            n_tokens += len(ids) + 1
            n_documents += 1
    return n_tokens, n_documents


@dataclass(frozen=True)
class TokenStream:
    """All tokens of one split, end to end, on disk until they are read."""

    tokens: npt.NDArray[np.unsignedinteger]  # [n_tokens]
    split: str
    tokenizer_hash: str

    @classmethod
    def open(cls, folder: Path, split: str) -> TokenStream:
        """The stream of a split in the folder of the stage tokenise.

        Raises ValueError for an unknown split, ArtifactError where files are missing or not the ones that
        ``stats.json`` describes.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown; allowed: {', '.join(SPLITS)}")
        stats = read_json(folder / STATS_FILE)
        path = existing(folder / f"{split}.bin", "tokenise")
        try:
            dtype, n_tokens = DTYPES[stats["dtype"]], stats["n_tokens"][split]
            if not isinstance(n_tokens, int) or n_tokens < 1:
                raise ValueError(f"{n_tokens} tokens of {dtype}")
            tokenizer = str(stats["tokenizer_hash"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder / STATS_FILE}: not what tokenise wrote ({error}); run it again") from error
        if path.stat().st_size != n_tokens * dtype.itemsize:
            raise ArtifactError(
                f"{path}: {path.stat().st_size} bytes, but {STATS_FILE} says {n_tokens} tokens of {dtype} "
                f"({n_tokens * dtype.itemsize} bytes); delete it and run the stage tokenise again"
            )
        return cls(np.memmap(path, dtype, mode="r"), split, tokenizer)

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    def window(self, starts: npt.NDArray[np.int64], n_ctx: int) -> Int[Tensor, "window pos"]:
        """The ``n_ctx + 1`` tokens from each start on: ``[:, :-1]`` are inputs, ``[:, 1:]`` their targets.

        Raises IndexError where a window would leave the stream.
        """
        starts = np.asarray(starts, dtype=np.int64)
        if starts.size and (starts.min() < 0 or starts.max() + n_ctx + 1 > self.n_tokens):
            raise IndexError(
                f"windows of {n_ctx + 1} tokens from {starts.min()} to {starts.max()} leave the {self.split} stream "
                f"of {self.n_tokens} tokens"
            )
        positions = starts[:, None] + np.arange(n_ctx + 1)
        return torch.from_numpy(self.tokens[positions].astype(np.int64))  # [window, n_ctx + 1]
