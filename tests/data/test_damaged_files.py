"""One bad file or row of a source is counted and passed over; a source that gives nothing is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import FilesSource
from pipeline.data.corpus import CorpusError, build_corpus
from pipeline.data.sources.document import SourceError
from pipeline.data.sources.files import FileFunctions

FUNCTION = "def f{0}(x):\n    y = x + {0}\n    return y\n"


def source(folder: Path, *globs: str) -> FileFunctions:
    settings = FilesSource(kind="files", weight=1.0, min_lines=2, max_lines=60, globs=list(globs), column="content")
    return FileFunctions(settings, folder, seed=0)


def texts(found: FileFunctions) -> list[str]:
    return sorted(document.text for document in found.documents(set()))


def write_rows(path: Path, *rows: object) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def good(n: int, folder: Path) -> None:
    for i in range(n):
        (folder / f"good{i}.py").write_text(FUNCTION.format(i), encoding="utf-8")


def test_a_byte_order_mark_costs_no_row(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", *({"content": FUNCTION.format(i)} for i in range(5)))
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.jsonl").read_bytes())
    assert len(texts(source(tmp_path, "*.jsonl"))) == 5


def test_a_chain_of_a_thousand_branches_is_counted_and_the_others_are_kept(tmp_path: Path) -> None:
    good(4, tmp_path)
    branches = "".join(f"elif x == {i}:\n    y = {i}\n" for i in range(1, 1000))
    (tmp_path / "dispatch.py").write_text("if x == 0:\n    y = 0\n" + branches, encoding="utf-8")
    found = source(tmp_path, "*.py")
    assert len(texts(found)) == 4 and found.tally.skipped["nested too deep"] + found.tally.skipped["not Python"] <= 1


def test_rows_that_are_no_text_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "[" * 100_000
        + "\n"
        + json.dumps({"content": FUNCTION.format(1)})
        + "\n"
        + '{"content": 3}\n'
        + '{"content": "\\ud800"}\n',
        encoding="utf-8",
    )
    found = source(tmp_path, "*.jsonl")
    assert len(texts(found)) == 1
    assert dict(found.tally.skipped) == {"row without the column": 2, "row not UTF-8": 1}


def test_a_wrong_column_is_refused_by_name_with_those_that_there_are(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", {"code": FUNCTION.format(1)}, {"code": FUNCTION.format(2)})
    with pytest.raises(SourceError, match="rows.jsonl: no column 'content'; its rows have: code"):
        texts(source(tmp_path, "*.jsonl"))


def test_a_column_of_another_kind_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": [{"text": "a"}]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="column content is a struct, text wanted"):
        texts(source(tmp_path, "*.parquet"))
    pq.write_table(pa.table({"content": pa.array([b"a"], pa.binary())}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="of type binary, text wanted"):
        texts(source(tmp_path, "*.parquet"))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_every_kind_of_text_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array([FUNCTION.format(i) for i in range(3)], pa.string()).cast(kind)
    pq.write_table(pa.table({"content": column}), tmp_path / "a.parquet")
    assert len(texts(source(tmp_path, "*.parquet"))) == 3


def test_a_row_that_is_not_utf8_is_counted(tmp_path: Path) -> None:
    raw = pa.array([FUNCTION.format(i).encode() for i in range(5)] + [b"\xff\xfe"], pa.binary())
    column = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    pq.write_table(pa.table({"content": column}), tmp_path / "a.parquet")
    found = source(tmp_path, "*.parquet")
    assert len(texts(found)) == 5 and found.tally.skipped["row not UTF-8"] == 1


def test_a_damaged_page_is_counted_and_the_other_files_are_kept(tmp_path: Path) -> None:
    good(4, tmp_path)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"content": [FUNCTION.format(i) for i in range(2000)]}), path, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[4:1000] = bytes(996)
    path.write_bytes(bytes(content))
    found = source(tmp_path, "*.parquet", "*.py")
    assert len(texts(found)) >= 4 and found.tally.skipped["unreadable file"] == 1


def test_a_file_is_read_once_whatever_links_lead_to_it(tmp_path: Path) -> None:
    good(2, tmp_path)
    (tmp_path / "sub").mkdir()
    for link in ("here", "there", "sub/up"):
        (tmp_path / link).symlink_to(tmp_path)
    (tmp_path / "good0_again.py").symlink_to(tmp_path / "good0.py")
    assert len(texts(source(tmp_path, "**/*.py"))) == 2


@pytest.mark.parametrize("name", ["[a]", "a?b", "100%20", "-a", " a b", "ä"])
def test_the_folder_of_the_project_is_no_pattern(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    good(2, tmp_path / name)
    assert len(texts(source(tmp_path / name, "*.py"))) == len(texts(source(tmp_path / name, "**/*.py"))) == 2
    assert len(texts(source(tmp_path, str(tmp_path / "*" / "*.py")))) == 2


def test_a_file_whose_name_is_not_utf8_is_counted(tmp_path: Path) -> None:
    good(2, tmp_path)
    with open(os.fsencode(tmp_path) + b"/\xff.py", "w", encoding="utf-8") as file:
        file.write(FUNCTION.format(9))
    found = source(tmp_path, "*.py")
    assert len(texts(found)) == 2 and found.tally.skipped["file name not UTF-8"] == 1


def test_a_source_that_gives_nothing_beside_one_that_works_is_refused(tmp_path: Path, params) -> None:
    good(20, tmp_path)
    write_rows(tmp_path / "a.jsonl", {"content": "no code"}, {"content": "none here either"})
    shape = {"kind": "files", "weight": 0.5, "min_lines": 2, "max_lines": 60, "column": "content"}
    sources = [shape | {"globs": [str(tmp_path / glob)]} for glob in ("*.py", "*.jsonl")]
    config = type(params.corpus).model_validate({"n_chars": 500, "validation_frac": 0.3, "sources": sources})
    with pytest.raises(CorpusError, match="corpus source files-2: gives no function"):
        build_corpus(config, 0, tmp_path / "lock", ["@@@"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
