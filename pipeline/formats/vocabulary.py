"""Tokenizers of other projects, read into ours and written from it.

Read: ``encoder.json`` with ``vocab.bpe`` (or ``vocab.json`` with ``merges.txt``), a tiktoken file of ranks, a
``tokenizer.json`` of the tokenizers library. All three spell a byte-level BPE: the 256 bytes, merges in the order of
their ids, ``<|endoftext|>`` last. What spells anything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import write_json
from pipeline.data.tokenizer import (
    END_OF_TEXT,
    N_BYTES,
    PATTERN,
    SETTINGS_FILE,
    Tokenizer,
    TokenizerError,
    byte_of_character,
    is_complete,
    parse_ranks,
)
from pipeline.formats.errors import FormatError, as_written, read_json, refuse

# Where merges may not cross: of GPT-2, and of the encodings that tiktoken knows by name.
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"gpt2": GPT2, "cl100k": CL100K, "ours": PATTERN}
PAIRS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))


def find_tokenizer(folder: Path, pattern: str = "gpt2") -> Tokenizer | None:
    """The tokenizer of a folder, in any of the formats; None where it has none. Raises FormatError, ArtifactError."""
    with as_written(folder):
        return _found_in(folder, pattern)


def _found_in(folder: Path, pattern: str) -> Tokenizer | None:
    if (folder / SETTINGS_FILE).is_file():
        described = read_json(folder / SETTINGS_FILE)
        ours = isinstance(described, dict) and "pattern" in described
        return Tokenizer.load(folder) if ours else from_hugging_face(folder / SETTINGS_FILE)
    for pair in PAIRS:
        there = [name for name in pair if (folder / name).is_file()]
        if there == [*pair]:
            return from_encoder(folder / pair[0], folder / pair[1], pattern)
        refuse(folder, (f"half a tokenizer, {name} alone" for name in there), f"allowed: {' and '.join(pair)}")
    ranks = sorted(folder.glob("*.tiktoken"))
    return from_tiktoken(ranks[0], pattern) if ranks else None


def read_tokenizer(path: Path, pattern: str = "gpt2") -> Tokenizer:
    """The tokenizer in a folder or a file. ``pattern``: of files that hold none: a key of ``PATTERNS``, or a regex.

    Raises FormatError where there is none that can be read.
    """
    if path.is_file():
        if path.suffix == ".tiktoken":
            with as_written(path):
                return from_tiktoken(path, pattern)
        path = path.parent
    found = find_tokenizer(path, pattern) if path.is_dir() else None
    if found is None:
        raise FormatError(
            f"{path}: no tokenizer; allowed: {SETTINGS_FILE}, encoder.json with vocab.bpe, a .tiktoken file"
        )
    return found


def from_encoder(encoder: Path, merges: Path, pattern: str = "gpt2") -> Tokenizer:
    """The tokenizer of GPT-2's two files: token → id, and merges in order after a line of the version."""
    ids = read_json(encoder)
    if not isinstance(ids, dict) or not all(isinstance(i, int) for i in ids.values()):
        raise FormatError(f"{encoder}: not token → id")
    lines = merges.read_text(encoding="utf-8").split("\n")
    pairs = [line.split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    refuse(merges, (f"line {' '.join(pair)!r} is no pair" for pair in pairs if len(pair) != 2), "two tokens a line")
    return _byte_level(ids, [(a, b) for a, b in pairs], PATTERNS.get(pattern, pattern), encoder)


def from_tiktoken(path: Path, pattern: str) -> Tokenizer:
    """The tokenizer of a file of tiktoken's: base64 of a token and its rank, a line each; the file holds no pattern."""
    try:
        ranks = parse_ranks(path.read_bytes())
    except ValueError as error:
        raise FormatError(f"{path}, {error}") from error
    return _of_ranks(ranks, PATTERNS.get(pattern, pattern), path)


def from_hugging_face(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json. Raises FormatError for one that is no byte-level BPE, naming what it is."""
    described = read_json(path)
    model = described.get("model") if isinstance(described, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else None
        raise FormatError(f"{path}: a tokenizer of type {kind!r}; allowed: byte-level BPE")
    reasons = {
        f"model {model.get('type')!r}": model.get("type") != "BPE",
        "byte_fallback": bool(model.get("byte_fallback")),
        "a normalizer": described.get("normalizer") is not None,
        "ignore_merges": bool(model.get("ignore_merges")),
    }
    refuse(path, (name for name, there in reasons.items() if there), "allowed: byte-level BPE without a normalizer")
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model.get("merges", ())]
    special = {added["content"]: added["id"] for added in described.get("added_tokens", ())}
    ids = {token: i for token, i in model["vocab"].items() if token not in special} | special
    return _byte_level(ids, merges, _pattern_in(described.get("pre_tokenizer"), path), path)


def _pattern_in(pre: Any, path: Path) -> str:
    """The pattern of a byte-level pre-tokenizer, by itself or behind a split."""
    steps = pre.get("pretokenizers", [pre]) if isinstance(pre, dict) else []
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True) and not steps[0].get("add_prefix_space"):
        return GPT2
    if kinds == ["Split", "ByteLevel"] and steps[0].get("behavior") == "Isolated" and not steps[0].get("invert"):
        regex = steps[0].get("pattern", {}).get("Regex")
        if regex and not steps[1].get("use_regex", True) and not steps[1].get("add_prefix_space"):
            return str(regex)
    raise FormatError(
        f"{path}: pre-tokenizer {' + '.join(map(str, kinds)) or None}; allowed: ByteLevel without a space put in "
        "front, by itself or behind one isolating Split by a regex"
    )


def _byte_level(ids: Mapping[str, int], merges: Sequence[tuple[str, ...]], pattern: str, path: Path) -> Tokenizer:
    """The tokenizer of tokens in byte-level spelling. Raises FormatError where ids do not follow the merges."""
    byte_of = byte_of_character()
    if END_OF_TEXT not in ids:
        raise FormatError(f"{path}: has no {END_OF_TEXT}, which documents begin with; allowed: it is the last id")
    tokens = {token: i for token, i in ids.items() if token != END_OF_TEXT}
    odd = [repr(token) for token in tokens if not token or not set(token) <= byte_of.keys()]
    refuse(path, (f"{token} is no byte-level token" for token in odd[:3]), f"allowed: one special token, {END_OF_TEXT}")
    ranks = {bytes(byte_of[character] for character in token): i for token, i in tokens.items()}
    joined = [tokens.get("".join(pair), -1) for pair in merges]
    if joined != sorted(joined) or len(joined) != len(ranks) - N_BYTES or -1 in joined:
        raise FormatError(f"{path}: ids do not follow the order of the {len(joined)} merges: no list of ranks")
    if ids[END_OF_TEXT] != len(ranks):
        raise FormatError(f"{path}: {END_OF_TEXT} has id {ids[END_OF_TEXT]}; allowed: the last, {len(ranks)}")
    return _of_ranks(ranks, pattern, path)


def _of_ranks(ranks: dict[bytes, int], pattern: str, path: Path) -> Tokenizer:
    if not is_complete(ranks):
        raise FormatError(f"{path}: {len(ranks)} ranks that are not 0, 1, 2, … for all bytes and their merges")
    tokenizer = Tokenizer(ranks, pattern)
    try:
        tokenizer.check()
    except TokenizerError as error:
        raise FormatError(f"{path}: the pattern {pattern!r} cannot be used ({error})") from error
    return tokenizer


def characters_of(token: bytes) -> str:
    """A token in byte-level spelling."""
    return "".join(_CHARACTER[byte] for byte in token)


_CHARACTER = {byte: character for character, byte in byte_of_character().items()}


def merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The pair that makes each token, in the order of ranks: the two that are left when all earlier merges are done.

    Raises FormatError for a token that its merges cannot make.
    """
    found = []
    for token, rank in sorted(tokenizer.ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = _joined([bytes([byte]) for byte in token], tokenizer.ranks, rank)
            if len(parts) != 2:
                raise FormatError(f"token {token!r} is not made of two earlier ones; this format needs merges")
            found.append((characters_of(parts[0]), characters_of(parts[1])))
    return found


def _joined(parts: list[bytes], ranks: Mapping[bytes, int], below: int) -> list[bytes]:
    """Parts of a token after all merges of rank ``below`` that are lower."""
    while len(parts) > 2:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], below))
        if ranks.get(parts[best] + parts[best + 1], below) >= below:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


def write_encoder(tokenizer: Tokenizer, folder: Path) -> None:
    """``encoder.json`` and ``vocab.bpe``, GPT-2's two files; the pattern is not part of them."""
    ids = {characters_of(token): rank for token, rank in tokenizer.ranks.items()} | {END_OF_TEXT: tokenizer.eot}
    write_json(folder / "encoder.json", ids, compact=True)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges_of(tokenizer))]
    (folder / "vocab.bpe").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_hugging_face(tokenizer: Tokenizer, folder: Path) -> None:
    """``tokenizer.json`` of the tokenizers library, and the settings beside it that transformers reads."""
    split = {"type": "Split", "pattern": {"Regex": tokenizer.pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    special: dict[str, Any] = {"id": tokenizer.eot, "content": END_OF_TEXT, "special": True, "normalized": False}
    special |= {"single_word": False, "lstrip": False, "rstrip": False}
    vocab = {characters_of(token): rank for token, rank in tokenizer.ranks.items()} | {END_OF_TEXT: tokenizer.eot}
    model: dict[str, Any] = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    described = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model | {"vocab": vocab, "merges": [list(pair) for pair in merges_of(tokenizer)]},
    }
    write_json(folder / SETTINGS_FILE, described, compact=True)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    write_json(folder / "tokenizer_config.json", settings | {"unk_token": END_OF_TEXT})
