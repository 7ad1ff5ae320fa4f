"""Whatever is in a file, its reader takes it or refuses it by its own error, in a line of bounded length, and soon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from fuzzing import changed, damaged, fuzzed

from pipeline.artifacts import ArtifactError, read_json
from pipeline.config import ConfigError, load_params, parse_params
from pipeline.data.pairs_file import PairsFileError, read_pairs
from pipeline.data.tokenizer import PATTERN, Tokenizer
from pipeline.play.server import RunRequest

TOKENIZER = Tokenizer({bytes([value]): value for value in range(256)}, PATTERN)
PARAMS = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
YAML = yaml.safe_dump({key: PARAMS[key] for key in ("profile", "seed", "compute", "tasks")}).encode()
PAIRS = [{"a": {"prompt": f"f({i}", "answer": ")"}, "b": {"prompt": f"f[{i}", "answer": "]"}} for i in range(16)]
LINES = "".join(json.dumps(pair) + "\n" for pair in PAIRS).encode()
LINE_LENGTH = 4000  # of a message; every wrong key has one


def short(error: Exception) -> bool:
    return all(len(line) <= LINE_LENGTH for line in str(error).splitlines())


@fuzzed(value=changed(PARAMS))
def test_settings_are_taken_or_refused_by_key(value: Any) -> None:
    try:
        parse_params(value)
    except ConfigError as error:
        assert short(error)


@fuzzed(content=damaged(YAML))
def test_a_file_of_settings_is_refused_by_name(content: bytes, place: Path) -> None:
    place.write_bytes(content)
    try:
        load_params(place)
    except ConfigError as error:
        assert str(place) in str(error) and short(error)


@fuzzed(value=changed(PAIRS))
def test_pairs_are_taken_or_refused_by_line(value: Any, place: Path) -> None:
    rows = value if isinstance(value, list) else [value]
    check_pairs(place, "".join(json.dumps(row) + "\n" for row in rows).encode())


@fuzzed(content=damaged(LINES))
def test_a_damaged_file_of_pairs_is_taken_or_refused_by_line(content: bytes, place: Path) -> None:
    check_pairs(place, content)


def check_pairs(place: Path, content: bytes) -> None:
    place.write_bytes(content)
    try:
        tasks = read_pairs(place, TOKENIZER, n_ctx=32, seed=0)
    except PairsFileError as error:
        assert str(place) in str(error) and short(error)
    else:
        rows = [row for rows in tasks.rows.values() for row in rows]
        prompts = {row[f"{side}_prompt"] for row in rows for side in "ab"}
        assert len(prompts) == 2 * len(rows) >= 32  # each once


@fuzzed(content=damaged(json.dumps(PAIRS).encode()))
def test_json_is_taken_or_called_damaged(content: bytes, place: Path) -> None:
    place.write_bytes(content)
    try:
        read_json(place)
    except ArtifactError as error:
        assert str(place) in str(error) and short(error)


@fuzzed(value=changed({"text": "a", "changes": [["0.attn_q.1", "off", 1.0]], "head": [0, 0], "at": 1}))
def test_a_request_is_taken_or_refused(value: Any) -> None:
    try:
        RunRequest.model_validate(value)
    except ValueError:
        pass
