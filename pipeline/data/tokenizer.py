"""The byte-level BPE tokenizer: trained by the tokenizers library, kept and used as a ``tiktoken.Encoding``.

Every text can be encoded (the 256 bytes are tokens 0 to 255, in the order of their values; merges follow in the order
in which they were learnt; ``<|endoftext|>`` is the last id) and is given back exactly. Ranks are saved in tiktoken's
own file format, so that other programs can load them without this project.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tiktoken
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as TrainingTokenizer

from pipeline.artifacts import ArtifactError, existing, read_json, whole_file, write_json
from pipeline.refusal import RefusalError

END_OF_TEXT = "<|endoftext|>"
N_BYTES = 256
RANKS_FILE = "tokenizer.tiktoken"
SETTINGS_FILE = "tokenizer.json"
MAX_WHITE_SPACE = 500_000
PROBE = "def f_1(x):\r\n\treturn '\u00e9\u4e2d' + 12.5  # \u3000\x00\U0001f600\n"  # every kind of character

# Where merges may not cross. The cl100k family without its English contractions: a word takes one character that is no
# letter before it (".add", "=None", " return", "_len"), punctuation takes the newlines after it ("):\n", "]]\n"), and
# indentation of n spaces is n - 1 spaces, then a word with one. Only what both regex engines understand alike.
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class TokenizerError(RefusalError, ValueError):
    """A vocabulary that cannot be made; the message names its size and what is allowed."""


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back. Equal tokenizers have equal ``hash``."""

    ranks: dict[bytes, int]
    pattern: str

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """The tokenizer of ``vocab_size`` ids (bytes, merges, ``<|endoftext|>``) learnt from texts.

        Deterministic. Raises TokenizerError where ``vocab_size`` is too small for the bytes, or the texts have too few
        repeated pieces to reach it.
        """
        if vocab_size < N_BYTES + 1:
            raise TokenizerError(
                f"tokenise.vocab_size: {vocab_size} is too small; allowed: at least {N_BYTES + 1} "
                f"(256 bytes and {END_OF_TEXT})"
            )
        ranks = ranks_of(learn_merges(texts, vocab_size - 1))
        if len(ranks) + 1 < vocab_size:
            raise TokenizerError(
                f"tokenise.vocab_size: {vocab_size} cannot be reached, the corpus gives only {len(ranks) + 1} ids; "
                f"lower vocab_size to at most {len(ranks) + 1} or enlarge the corpus (corpus.n_chars)"
            )
        return cls(ranks, PATTERN)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer saved in a folder. Raises ArtifactError where it is missing, damaged or not what was saved."""
        settings = read_json(folder / SETTINGS_FILE)
        path = folder / RANKS_FILE
        ranks = _read_ranks(path)
        if not isinstance(settings, dict) or not isinstance(settings.get("pattern", ""), str):
            raise ArtifactError(f"{folder / SETTINGS_FILE}: not the settings of a tokenizer; run tokenise again")
        missing = {"pattern", "vocab_size", "hash"} - set(settings)
        if missing:
            raise ArtifactError(f"{folder / SETTINGS_FILE}: lacks {', '.join(sorted(missing))}; run tokenise again")
        tokenizer = cls(ranks, settings["pattern"])
        if (tokenizer.vocab_size, tokenizer.hash) != (settings["vocab_size"], settings["hash"]):
            raise ArtifactError(
                f"{path}: {tokenizer.vocab_size} ids with hash {tokenizer.hash}, but {SETTINGS_FILE} says "
                f"{settings['vocab_size']} with hash {settings['hash']}; run the stage tokenise again"
            )
        try:
            tokenizer.check()
        except TokenizerError as error:
            raise ArtifactError(f"{folder / SETTINGS_FILE}: {error}") from error
        return tokenizer

    def check(self) -> None:
        """Raises TokenizerError for a pattern that is no regular expression, or that does not take all of a text."""
        try:
            again = self.decode(self.encode(PROBE))
        except TokenizerError:
            raise
        except ValueError as error:
            raise TokenizerError(f"the pattern is no regular expression: {error}") from error
        if again != PROBE:
            raise TokenizerError(f"the pattern leaves out characters: {PROBE!r} comes back as {again!r}")

    def save(self, folder: Path) -> None:
        """Writes ``tokenizer.tiktoken`` (ranks) and ``tokenizer.json`` (pattern, size, special tokens, hash)."""
        with whole_file(folder / RANKS_FILE) as partial:
            partial.write_bytes(_ranks_as_lines(self.ranks))
        settings = {
            "pattern": self.pattern,
            "vocab_size": self.vocab_size,
            "special_tokens": {END_OF_TEXT: self.eot},
            "hash": self.hash,
        }
        write_json(folder / SETTINGS_FILE, settings)

    @property
    def vocab_size(self) -> int:
        return len(self.ranks) + 1

    @property
    def eot(self) -> int:
        """The id of ``<|endoftext|>``, the last one."""
        return len(self.ranks)

    @cached_property
    def hash(self) -> str:
        """Short sha256 of everything that decides how text becomes ids."""
        digest = hashlib.sha256(_ranks_as_lines(self.ranks))
        digest.update(f"{self.pattern}\n{END_OF_TEXT} {self.eot}\n".encode(errors="surrogatepass"))
        return digest.hexdigest()[:16]

    @cached_property
    def encoding(self) -> tiktoken.Encoding:
        return tiktoken.Encoding(
            name=f"sparse-circuits-{self.hash}",
            pat_str=self.pattern,
            mergeable_ranks=self.ranks,
            special_tokens={END_OF_TEXT: self.eot},
            explicit_n_vocab=self.vocab_size,
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens: ``<|endoftext|>`` written in a text is plain characters.

        Raises TokenizerError for a run of white space, or another text, that the regex engine cannot split.
        """
        _check_white_space(text)
        with _panic_refused():
            return self.encoding.encode_ordinary(text)

    def encode_batch(self, texts: list[str], threads: int) -> list[list[int]]:
        """Token ids of each text, as ``encode`` gives them, by several threads."""
        for text in texts:
            _check_white_space(text)
        with _panic_refused():
            return self.encoding.encode_ordinary_batch(texts, num_threads=threads)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; bytes that are not UTF-8 (half a character) become U+FFFD. Raises KeyError."""
        return self.encoding.decode(ids)


def _check_white_space(text: str) -> None:
    """Raises TokenizerError where tiktoken's regex engine would run out of its stack (1,000,000) and panic."""
    if len(text) >= MAX_WHITE_SPACE and re.search(rf"(?<!\s)\s{{{MAX_WHITE_SPACE}}}", text):
        raise TokenizerError(
            f"a text of {len(text)} characters has {MAX_WHITE_SPACE} or more characters of white space in a row; "
            f"allowed: fewer; leave that text out of the corpus"
        )


@contextmanager
def _panic_refused() -> Iterator[None]:
    """Turn a panic of tiktoken's, which is no Exception and would end the process, into a TokenizerError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(
            f"the tokenizer's pattern cannot take this text apart ({error}); allowed: a pattern that matches some "
            "character each time, and does not have to go back far"
        ) from None


def learn_merges(texts: Iterable[str], n_ranks: int) -> TrainingTokenizer:
    """A tokenizer of the tokenizers library with up to ``n_ranks`` tokens: 256 bytes, then merges as learnt."""
    trainer = trainers.BpeTrainer(
        vocab_size=n_ranks,
        min_frequency=2,  # what occurs once is no pattern
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    learner = TrainingTokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner.train_from_iterator(texts, trainer=trainer)
    return learner


def ranks_of(learner: TrainingTokenizer) -> dict[bytes, int]:
    """The byte strings of a trained tokenizer and their ranks: the bytes by value, then merges in the order learnt.

    tiktoken joins the pair of lowest rank first, which is the order of the merges.
    """
    byte_of = byte_of_character()
    learnt = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    tokens = [bytes(byte_of[character] for character in token) for token, _ in learnt]
    ordered = [bytes([value]) for value in range(N_BYTES)] + [token for token in tokens if len(token) > 1]
    return {token: rank for rank, token in enumerate(ordered)}


def byte_of_character() -> dict[str, int]:
    """The byte behind each of the 256 characters in which byte-level BPE spells bytes.

    Bytes that print in Latin-1 stand for themselves; the others are, in order, the characters from U+0100 on.
    """
    printing = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [value for value in range(N_BYTES) if value not in printing]
    return {chr(value): value for value in printing} | {chr(N_BYTES + i): value for i, value in enumerate(hidden)}


def _ranks_as_lines(ranks: dict[bytes, int]) -> bytes:
    """tiktoken's file format: a line a token, base64 of its bytes, a space, its rank."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(token) + b" " + str(rank).encode() + b"\n" for token, rank in ordered)


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Ranks in a file of tiktoken's format, every rank once from 0 on. Raises ArtifactError."""
    content = existing(path, "tokenise").read_bytes()
    try:
        ranks = parse_ranks(content)
    except ValueError as error:
        raise ArtifactError(f"{path}, {error}; run tokenise again") from error
    if not is_complete(ranks):
        raise ArtifactError(f"{path}: {len(ranks)} ranks that are not 0, 1, 2, … for all bytes; run tokenise again")
    return ranks


def parse_ranks(content: bytes) -> dict[bytes, int]:
    """Token → rank, as tiktoken's file format has them. Raises ValueError that names the line.

    tiktoken's own reader is not used: it keeps a cache by path, and would give back a file's former content.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:  # binascii's too
            raise ValueError(f"line {number}: not 'base64 rank' ({error})") from error
    return ranks


def is_complete(ranks: Mapping[bytes, int]) -> bool:
    """Whether ranks are 0, 1, 2, … and every byte has one."""
    return sorted(ranks.values()) == list(range(len(ranks))) and all(bytes([i]) in ranks for i in range(N_BYTES))
