"""The validation split of the corpus, in tokens: what natural contexts are mined from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, islice
from pathlib import Path

from pipeline.data.corpus_table import read_corpus
from pipeline.data.generalisation.place import Place
from pipeline.data.generalisation.python_code import PythonCode
from pipeline.data.tokenizer import Tokenizer

MOST_DOCUMENTS = 20_000  # the corpus is in random order
GENERATED = "idioms"  # the source whose text is not real code


@dataclass(frozen=True)
class TokenisedFunction:
    """A function of the corpus in a model's tokens."""

    text: bytes
    tokens: list[int]
    ends: list[int]  # in bytes, of each token

    @classmethod
    def of(cls, text: str, tokenizer: Tokenizer) -> TokenisedFunction:
        tokens = tokenizer.encode(text)
        pieces = map(tokenizer.encoding.decode_single_token_bytes, tokens)
        return cls(text.encode(), tokens, list(accumulate(map(len, pieces))))

    def before(self, at: int, start: int = 0) -> str:
        """The text from token ``start`` up to, not including, token ``at``; a character may be cut at either end."""
        return self.text[self.begin(start) : self.begin(at)].decode(errors="replace")

    def window(self, at: int, most: int) -> int | None:
        """The first of the ``most`` tokens before ``at`` that begins a line with nothing open; None if none does."""
        starts = range(max(at - most, 0), at)
        return next((i for i in starts if self.begin(i) in self.code.free_starts), None)

    def place(self, at: int, start: int = 0) -> Place:
        """The place of token ``at``, in a prompt that begins with token ``start``."""
        return Place(self.code, self.begin(at), self.begin(start))

    @cached_property
    def code(self) -> PythonCode:
        return PythonCode(self.text)

    def begin(self, token: int) -> int:
        """Where a token begins, in bytes."""
        return self.ends[token - 1] if token else 0


def real_documents(corpus: Path, tokenizer: Tokenizer) -> list[TokenisedFunction]:
    """The first ``MOST_DOCUMENTS`` documents of the validation split that are real code. Raises ArtifactError."""
    rows = (row for batch in read_corpus(corpus, "text", "source", "split") for row in batch.to_pylist())
    real = (row["text"] for row in rows if row["split"] == "validation" and row["source"] != GENERATED)
    return [TokenisedFunction.of(text, tokenizer) for text in islice(real, MOST_DOCUMENTS)]
