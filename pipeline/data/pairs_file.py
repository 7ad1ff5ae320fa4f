"""Contrast pairs that a researcher wrote: a JSONL file of strings, checked and turned into one model's tokens.

A line is a pair, ``{"a": {"prompt": "…", "answer": "…"}, "b": {"prompt": "…", "answer": "…"}}``; docs/pairs.md says
more. A file becomes a ``TaskSet`` with one task, as the study's own tasks are, so that all that takes those takes it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.artifacts import ArtifactError
from pipeline.data.tasks import Pair, Side, TaskSet
from pipeline.data.tasks.encode import SCHEMA, EncodedPair, Unfit, encode_side, row_of
from pipeline.data.tokenizer import END_OF_TEXT, Tokenizer
from pipeline.refusal import RefusalError
from pipeline.seeds import seed_of

FORM = '{"a": {"prompt": "…", "answer": "…"}, "b": {"prompt": "…", "answer": "…"}}'
LEAST_PAIRS = 16  # which leaves 4, that is 8 prompts, to choose a circuit by and as many to test it on
SHOWN_CHARS = 40  # of a text in a message
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class PairsFileError(RefusalError, ValueError):
    """A file of contrast pairs that cannot be used; the message has file, line, value and what is allowed."""


def read_pairs(path: Path, tokenizer: Tokenizer, *, n_ctx: int, seed: int, name: str | None = None) -> TaskSet:
    """The file's pairs as the only task of a set; half train, a quarter validation, the rest test.

    ``name``: the task's (None: the file's). The split is a shuffle that depends on ``seed`` alone. No prompt is in two
    pairs, so that none of train is in test. Prompts begin after ``<|endoftext|>``. Raises PairsFileError for a pair
    that cannot be used, and where there are fewer than ``LEAST_PAIRS``; ArtifactError where there is no such file.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; write one pair a line: {FORM}")
    encoded: list[EncodedPair] = []
    line_of: dict[str, int] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        pair = _pair(where, line)
        _check_contrast(where, pair)
        _check_new(where, number, pair, line_of)
        encoded.append(_encode(where, len(encoded), pair, tokenizer, n_ctx))
    if len(encoded) < LEAST_PAIRS:
        raise PairsFileError(
            f"{path}: {len(encoded)} pairs; allowed: at least {LEAST_PAIRS}, of which {LEAST_PAIRS // 2} are for "
            f"training masks, {LEAST_PAIRS // 4} for choosing the circuit and {LEAST_PAIRS // 4} for testing it; "
            f"add {LEAST_PAIRS - len(encoded)}"
        )
    return _task_set(name or path.stem, encoded, tokenizer, seed)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of every line that is not blank. Lines end at newlines only, as in JSONL."""
    for number, line in enumerate(path.read_bytes().removeprefix(BYTE_ORDER_MARK).split(b"\n"), start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise PairsFileError(f"{path}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
        if text.strip():
            yield number, text


def _pair(where: str, line: str) -> Pair:
    """The pair in one line."""
    try:
        value = json.loads(line, object_pairs_hook=_without_repeats)
    except RepeatedKeyError as error:
        raise PairsFileError(f"{where}: key {error} is given twice; allowed: {FORM}") from None
    except (ValueError, RecursionError) as error:
        raise PairsFileError(f"{where}: not JSON ({error}); allowed: one pair a line, {FORM}") from error
    a, b = _fields(where, value, ("a", "b"))
    return Pair(_side(f"{where}: a", a), _side(f"{where}: b", b))


class RepeatedKeyError(Exception):
    """A JSON object gives one key twice, of which Python's reader would silently keep the last."""


def _without_repeats(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values. Raises RepeatedKeyError."""
    found: dict[str, Any] = {}
    for key, value in items:
        if key in found:
            raise RepeatedKeyError(repr(key))
        found[key] = value
    return found


def _side(where: str, value: Any) -> Side:
    """One prompt and its answer, both not empty."""
    fields = dict(zip(("prompt", "answer"), _fields(where, value, ("prompt", "answer")), strict=True))
    for name, text in fields.items():
        if not isinstance(text, str):
            raise PairsFileError(f"{where}.{name}: {_shown(text)} is not a string; allowed: text in double quotes")
        if not text:
            raise PairsFileError(f"{where}.{name} is empty; allowed: {'one token' if name == 'answer' else 'any text'}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise PairsFileError(f"{where}.{name}: {_shown(text)} has half a character; allowed: whole ones")
    return Side(fields["prompt"], fields["answer"], after="")


def _fields(where: str, value: Any, names: tuple[str, ...]) -> list[Any]:
    """The values of an object that has exactly these keys."""
    if not isinstance(value, dict):
        raise PairsFileError(f"{where}: {_shown(value)} is not an object; allowed: {FORM}")
    missing, extra = [name for name in names if name not in value], [name for name in value if name not in names]
    if missing or extra:
        wrong = [f"key {name!r} is missing" for name in missing] + [f"key {name!r} is unknown" for name in extra]
        raise PairsFileError(f"{where}: {' and '.join(wrong)}; allowed: {FORM}")
    return [value[name] for name in names]


def _check_contrast(where: str, pair: Pair) -> None:
    """Raises PairsFileError for equal prompts or equal answers."""
    for part, allowed in (
        ("prompt", "two prompts that differ in what decides the answer; change one"),
        ("answer", "two different tokens; change one, or leave the pair out"),
    ):
        a, b = (getattr(side, part) for side in pair.sides)
        if a == b:
            raise PairsFileError(f"{where}: both {part}s are {_shown(a)}; allowed: {allowed}")


def _check_new(where: str, number: int, pair: Pair, line_of: dict[str, int]) -> None:
    """Note the pair's prompts in ``line_of``. Raises PairsFileError where an earlier pair has one of them."""
    for name, side in zip("ab", pair.sides, strict=True):
        if side.prompt in line_of:
            raise PairsFileError(
                f"{where}: {name}.prompt {_shown(side.prompt)} is in line {line_of[side.prompt]} too; allowed: every "
                "prompt once, or a test pair could be one of training; delete one of the two lines"
            )
    line_of |= {side.prompt: number for side in pair.sides}


def _encode(where: str, index: int, pair: Pair, tokenizer: Tokenizer, n_ctx: int) -> EncodedPair:
    """The pair in tokens."""
    a, b = (_encode_side(f"{where}: {name}", side, tokenizer) for name, side in zip("ab", pair.sides, strict=True))
    for name, (tokens, _) in (("a", a), ("b", b)):
        if len(tokens) > n_ctx:
            raise PairsFileError(
                f"{where}: {name}.prompt has {len(tokens)} tokens, {END_OF_TEXT} in front among them; allowed: at most "
                f"the model's n_ctx, {n_ctx}; shorten it"
            )
    return EncodedPair(index, pair, (a[0], b[0]), (a[1], b[1]))


def _encode_side(where: str, side: Side, tokenizer: Tokenizer) -> tuple[list[int], int]:
    """Tokens of the prompt and the token of the answer. Raises PairsFileError where the answer is not one token."""
    encoded = encode_side(side, tokenizer)
    if isinstance(encoded, Unfit):
        raise PairsFileError(
            f"{where}: {encoded.reason}, between {_shown(side.prompt)} and {_shown(side.answer)}; allowed: a token "
            "that ends where the prompt ends; move the border so that the whole token is in the prompt or is the answer"
        )
    tokens, answer = encoded
    after = tokenizer.encode(side.text)[len(tokens) - 1 :]  # tokens has <|endoftext|> in front
    if len(after) > 1:
        raise PairsFileError(
            f"{where}.answer {_shown(side.answer)} is {len(after)} tokens after its prompt: "
            f"{', '.join(_token_shown(token, tokenizer) for token in after)}; allowed: one; take another word, or its "
            f"first token if that tells the answers apart"
        )
    return tokens, answer


def _task_set(name: str, encoded: list[EncodedPair], tokenizer: Tokenizer, seed: int) -> TaskSet:
    """The pairs, split, as a task of that name."""
    shuffled = random.Random(seed_of(seed, "pairs_file")).sample(encoded, len(encoded))
    n = len(encoded) // 4
    parts = {"train": shuffled[2 * n :], "validation": shuffled[:n], "test": shuffled[n : 2 * n]}
    rows = [row_of(SCHEMA, name, split, item, *item.answers) for split, part in parts.items() for item in part]
    about = {
        "expressible": True,
        "reason": None,
        "n_pairs": {split: len(part) for split, part in parts.items()},
        "n_tokens_max": max(len(tokens) for item in encoded for tokens in item.tokens),
    }
    return TaskSet({"tokenizer": tokenizer.hash, "seed": seed, "tasks": {name: about}}, {name: rows})


def _token_shown(token: int, tokenizer: Tokenizer) -> str:
    """A token as Python writes its text, or its bytes where these are part of a character."""
    raw = tokenizer.encoding.decode_single_token_bytes(token)
    try:
        return repr(raw.decode())
    except UnicodeDecodeError:
        return repr(raw)


def _shown(value: Any) -> str:
    """A value as Python writes it, of a long text the end: that is where the answer follows."""
    if isinstance(value, str) and len(value) > SHOWN_CHARS:
        return f"'…{repr(value[-SHOWN_CHARS:])[1:-1]}'"
    text = repr(value)
    return text if len(text) <= 3 * SHOWN_CHARS else f"{text[: 3 * SHOWN_CHARS]}…"
