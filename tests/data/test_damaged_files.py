"""One bad file or row of a source is counted and passed over; a source that gives nothing is refused by name."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import FilesSource, HuggingFaceSource
from pipeline.data.corpus import CorpusError, build_corpus
from pipeline.data.sources.document import SourceError
from pipeline.data.sources.files import FileFunctions
from pipeline.data.sources.huggingface import HuggingFaceFunctions

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


@pytest.mark.parametrize(
    "damaged", [b'{"content": "\xff"}', b'{"content": "\0"}', bytes(100), b"[" * 100_000, b'{"content": ' + b"1" * 9999]
)
def test_one_damaged_row_costs_no_other_row(tmp_path: Path, damaged: bytes) -> None:
    write_rows(tmp_path / "a.jsonl", *({"content": FUNCTION.format(i)} for i in range(5)))
    (tmp_path / "a.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes() + damaged)
    found = source(tmp_path, "*.jsonl")
    assert len(texts(found)) == 5 and found.tally.skipped.total() == 1
    assert [*found.tally.damaged.values()] == [["a.jsonl:6"]]


def test_marks_of_files_that_were_put_together_cost_no_row(tmp_path: Path) -> None:
    rows = (json.dumps({"content": FUNCTION.format(i)}).encode() for i in range(5))
    (tmp_path / "a.jsonl").write_bytes(b"\r\n".join(b"\xef\xbb\xbf" + row for row in rows))
    assert len(texts(source(tmp_path, "*.jsonl"))) == 5


@pytest.mark.parametrize(
    ("value", "kind"), [({"a": 1}, "a struct"), (["a"], "a list"), (3, "a number"), (None, "null")]
)
def test_a_column_of_rows_that_holds_no_text_is_refused(tmp_path: Path, value: object, kind: str) -> None:
    write_rows(tmp_path / "a.jsonl", {"content": value})
    with pytest.raises(SourceError, match=f"a.jsonl: column content is {kind}, text wanted"):
        texts(source(tmp_path, "*.jsonl"))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["content"] * 2)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="two columns 'content'"):
        texts(source(tmp_path, "*.parquet"))


def test_links_to_themselves_pipes_devices_and_folders_are_no_files(tmp_path: Path) -> None:
    good(2, tmp_path)
    for link, target in {"a": "b", "b": "a", "loop.py": "loop.py", "none.py": "gone", "zero.py": "/dev/zero"}.items():
        (tmp_path / link).symlink_to(target)
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "folder.py").mkdir()
    for pattern in ("*.py", "**/*.py"):
        assert len(texts(source(tmp_path, pattern))) == 2


def test_folders_may_lie_deeper_than_calls_can(tmp_path: Path) -> None:
    good(1, tmp_path)
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(sys.getrecursionlimit()):
        os.mkdir("a", dir_fd=at)
        below = os.open("a", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    with open(os.open("b.py", os.O_WRONLY | os.O_CREAT, dir_fd=at), "w", encoding="utf-8") as file:
        file.write(FUNCTION.format(7))
    os.close(at)
    try:
        assert len(texts(source(tmp_path, "**/*.py"))) == 2
    finally:
        subprocess.run(["rm", "-r", tmp_path / "a"], check=True)  # Python's own way calls itself for each of them


def test_folders_and_files_that_may_not_be_read_are_counted(tmp_path: Path, monkeypatch) -> None:
    good(2, tmp_path)
    (tmp_path / "closed").mkdir()
    listed, read = os.listdir, Path.read_bytes

    def refusing(path: Path) -> object:  # root may read all
        if Path(path).name in ("closed", "good1.py"):
            raise PermissionError(13, "Permission denied")
        return listed(path) if Path(path).is_dir() else read(path)

    monkeypatch.setattr(os, "listdir", refusing)
    monkeypatch.setattr(Path, "read_bytes", refusing)
    found = source(tmp_path, "**/*.py")
    assert len(texts(found)) == 1
    assert found.tally.damaged == {"unreadable folder": [str(tmp_path / "closed")], "unreadable file": ["good1.py"]}


@pytest.mark.parametrize("name", ["good0.py", "rows.jsonl"])
def test_a_file_is_not_called_unreadable_where_memory_ends(tmp_path: Path, monkeypatch, name: str) -> None:
    good(2, tmp_path)
    write_rows(tmp_path / "rows.jsonl", {"content": FUNCTION.format(2)})
    opened = Path.open

    def refusing(path: Path, *args, **kwargs):
        if path.name == name:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refusing)
    monkeypatch.setattr(Path, "read_bytes", lambda path: refusing(path, "rb").read())
    with pytest.raises(OSError, match="Cannot allocate memory"):
        texts(source(tmp_path, "*.*"))


CONFIG = {"n_chars": 500, "validation_frac": 0.3}
SHAPE = {"kind": "files", "weight": 1.0, "min_lines": 2, "max_lines": 60, "column": "content"}


def build(params, folder: Path) -> dict:
    sources = [SHAPE | {"globs": [str(folder / "*.*")]}]
    config = type(params.corpus).model_validate(CONFIG | {"sources": sources})
    return build_corpus(config, 0, folder / "lock", ["@@@"], folder / "out")


def test_what_is_damaged_is_named_and_the_stage_goes_on(tmp_path: Path, params, capsys) -> None:
    good(6, tmp_path)
    (tmp_path / "bad.py").write_bytes(b"\xff")
    write_rows(tmp_path / "a.jsonl", {"content": FUNCTION.format(7)}, {"content": "def f(:"}, 3)
    report = build(params, tmp_path)["sources"]["files"]
    names = {"file not UTF-8": ["bad.py"], "not Python": ["a.jsonl:1"], "row without the column": ["a.jsonl:3"]}
    assert {reason: [name.rpartition("/")[2] for name in found] for reason, found in report["damaged"].items()} == names
    said = capsys.readouterr().err
    assert "warning: corpus source files: left out" in said and "bad.py" in said and "a.jsonl:3" in said


def test_a_source_most_of_which_is_damaged_is_refused_where_it_falls_short(tmp_path: Path, params) -> None:
    good(3, tmp_path)
    for i in range(4):
        (tmp_path / f"bad{i}.py").write_bytes(b"\xff")
    with pytest.raises(CorpusError, match=r"4 files and rows cannot be read, only 3 can: 4 file not UTF-8 \(.*bad"):
        build(params, tmp_path)
    good(20, tmp_path)
    assert build(params, tmp_path)["n_functions"]["train"] >= 10


@pytest.mark.parametrize("content", [b"", b"\xff", b'{"content": "def f', b'{"content": {"a": 1}}'])
def test_a_dataset_that_cannot_be_read_on_is_refused_by_row(tmp_path: Path, content: bytes, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "a.jsonl").write_bytes(content)
    shape = {"kind": "huggingface", "weight": 1.0, "min_lines": 2, "max_lines": 60, "column": "content"}
    where = {"path": "json", "name": None, "split": "train", "filter": {}, "data_files": [str(tmp_path / "a.jsonl")]}
    with pytest.raises(SourceError, match="cannot be (read after row 0|opened)|column content is of type dict"):
        list(HuggingFaceFunctions(HuggingFaceSource.model_validate(shape | where)).documents(set()))
