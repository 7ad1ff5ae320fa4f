"""The corpus: whole files to a split, no duplicates, no task prompts, the same for the same lock and seed."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from pipeline.artifacts import ArtifactError
from pipeline.config import CorpusConfig, FilesSource, HuggingFaceSource, IdiomsSource, InstalledSource, Source
from pipeline.data.corpus import CorpusError, build_corpus
from pipeline.data.sources import SourceError
from pipeline.data.sources.installed import locked_packages, read_lock, standard_library
from pipeline.data.tokenise import read_documents

LINES = {"min_lines": 2, "max_lines": 40}


def files(*globs: str, weight: float = 1.0) -> FilesSource:
    return FilesSource(kind="files", weight=weight, globs=list(globs), column="code", **LINES)


def config(*sources: Source, n_chars: int = 20_000, validation_frac: float = 0.2) -> CorpusConfig:
    return CorpusConfig(n_chars=n_chars, validation_frac=validation_frac, sources=list(sources))


def function(number: int) -> str:
    return f"def f{number}(a):\n    b = a + {number}\n    return b\n"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.lock"
    path.write_text("# the pinned set\npluggy\nhypothesis>=1  # tests\nnosuch==1; python_version < '3'\n")
    return path


@pytest.fixture
def project(tmp_path: Path, lock: Path) -> Path:
    """Ten files of two functions each; the first function of every file is also in the file before."""
    for number in range(10):
        text = "import os\n\n\n" + function(number) + "\n\n" + function(number + 1)
        (tmp_path / f"m{number}.py").write_text(text)
    return tmp_path


def rows(folder: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = pyarrow.parquet.read_table(folder / "corpus.parquet").to_pylist()
    return found


def test_every_function_is_there_once_with_its_own_hash(project: Path, lock: Path) -> None:
    report = build_corpus(config(files("*.py")), 0, lock, [], project / "out")
    found = rows(project / "out")
    assert sorted(row["text"] for row in found) == sorted(function(number) for number in range(11))
    for row in found:
        assert row["sha256"] == hashlib.sha256(" ".join(row["text"].split()).encode()).hexdigest()
    assert report["sources"]["files"]["skipped"] == {"duplicate": 9}
    assert report["n_functions"]["train"] + report["n_functions"]["validation"] == 11
    assert json.loads((project / "out" / "report.json").read_text()) == report


def test_a_file_is_never_divided_between_the_splits(tmp_path: Path, lock: Path) -> None:
    for number in range(12):
        (tmp_path / f"m{number}.py").write_text("\n\n".join(function(100 * number + k) for k in range(5)))
    build_corpus(config(files("*.py"), validation_frac=0.3), 0, lock, [], tmp_path / "out")
    split_of: dict[int, set[str]] = {}
    for row in rows(tmp_path / "out"):
        split_of.setdefault(int(row["text"].split("(")[0][5:]) // 100, set()).add(row["split"])
    assert len(split_of) == 12
    assert all(len(splits) == 1 for splits in split_of.values())
    assert sum(splits == {"validation"} for splits in split_of.values()) == 3  # 3 of 12 fit into 30 %, 4 do not


def test_functions_with_a_task_prompt_are_dropped_and_counted(project: Path, lock: Path) -> None:
    report = build_corpus(config(files("*.py")), 0, lock, ["a + 3\n    return", "not there"], project / "out")
    assert function(3) not in {row["text"] for row in rows(project / "out")}
    assert report["contamination"] == {"n_tails": 2, "n_dropped": 1, "n_found": 0}


def test_jsonl_and_parquet_rows_are_cut_like_files(tmp_path: Path, lock: Path) -> None:
    bad = ["", "{not json", json.dumps({"other": 1}), json.dumps({"code": "def f(:"})]
    good = [json.dumps({"code": function(number)}) for number in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join(good + bad))
    table = pyarrow.table({"code": [function(10), function(11), None]})
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    report = build_corpus(config(files("*.jsonl", "*.parquet")), 0, lock, [], tmp_path / "out")
    wanted = {function(number) for number in (0, 1, 2, 3, 10, 11)}
    assert {row["text"] for row in rows(tmp_path / "out")} == wanted
    assert report["sources"]["files"]["skipped"] == {"not Python": 1, "row without the column": 2, "empty row": 1}


def test_bad_files_are_skipped_and_counted(project: Path, lock: Path) -> None:
    (project / "empty.py").write_text(" \n")
    (project / "binary.py").write_bytes(b"\x00\x01")
    (project / "latin.py").write_bytes("x = 'é'\n".encode("latin-1"))
    (project / "two.py").write_text("print 'x'\n")
    skipped = build_corpus(config(files("*.py")), 0, lock, [], project / "out")["sources"]["files"]["skipped"]
    assert skipped == {"duplicate": 9, "empty file": 1, "binary file": 1, "file not UTF-8": 1, "not Python": 1}


def test_a_dataset_folder_is_streamed_filtered_and_cut(tmp_path: Path, lock: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    values = [{"code": function(n), "language": "Python" if n % 2 else "C"} for n in range(8)]
    (folder / "train.jsonl").write_text(
        "\n".join(json.dumps(value) for value in [*values, {"code": "", "language": "Python"}])
    )
    source = HuggingFaceSource(
        kind="huggingface", weight=1, path=str(folder), name=None, split="train", column="code",
        filter={"language": "Python"}, **LINES,
    )  # fmt: skip
    report = build_corpus(config(source, validation_frac=0.4), 0, lock, [], tmp_path / "out")
    assert {row["text"] for row in rows(tmp_path / "out")} == {function(n) for n in (1, 3, 5, 7)}
    assert report["sources"]["huggingface"]["skipped"] == {"empty row": 1, "row filtered out": 4}
    with pytest.raises(SourceError, match="no column 'text'"):
        build_corpus(config(source.model_copy(update={"column": "text"})), 0, lock, [], tmp_path / "out")
    with pytest.raises(SourceError, match="split 'nosuch'"):
        build_corpus(config(source.model_copy(update={"split": "nosuch"})), 0, lock, [], tmp_path / "out")


def write_rows(folder: Path, kind: str) -> tuple[str, str]:
    """Eight functions in a file of a kind, of text in eight; the library's name of the kind, and the files' glob."""
    found = datasets.Dataset.from_dict({"text": [function(n) for n in range(8)]})
    if kind == "text":
        for n in range(8):
            (folder / f"{n}.txt").write_text(function(n))
        return "text", "*.txt"
    if kind == "arrow":
        found.save_to_disk(str(folder))
        return "arrow", "*.arrow"
    if kind == "parquet":
        found.to_parquet(folder / "a.parquet")
        return "parquet", "*.parquet"
    lines = "".join(json.dumps(row) + "\n" for row in found).encode()
    (folder / f"a.{kind}").write_bytes(gzip.compress(lines) if kind == "jsonl.gz" else lines)
    return "json", f"*.{kind}"


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "arrow", "text"])
def test_files_that_the_library_reads_are_a_source(tmp_path: Path, lock: Path, kind: str, streaming: bool) -> None:
    path, glob = write_rows(tmp_path, kind)
    source = HuggingFaceSource(
        kind="huggingface", weight=1, path=path, name=None, split="train", column="text", filter={},
        data_files=[str(tmp_path / glob)], streaming=streaming, **LINES,
    )  # fmt: skip
    build_corpus(config(source, validation_frac=0.4), 0, lock, [], tmp_path / "out")
    assert {row["text"] for row in rows(tmp_path / "out")} == {function(n) for n in range(8)}


def test_a_name_of_the_hub_without_a_network_is_refused(
    tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    source = HuggingFaceSource(
        kind="huggingface", weight=1, path="org/name", name=None, split="train", column="text", filter={}, **LINES
    )
    with pytest.raises(
        SourceError, match="'org/name'.* cannot be opened: .*; correct .* or check the connection"
    ) as said:
        build_corpus(config(source, validation_frac=0.4), 0, lock, [], tmp_path / "out")
    assert "\n" not in str(said.value) and not (tmp_path / "out").exists()


def test_a_glob_without_files_and_a_foreign_file_are_refused_by_name(project: Path, lock: Path) -> None:
    with pytest.raises(SourceError, match=r"'\*\.rb' matches no file"):
        build_corpus(config(files("*.py", "*.rb")), 0, lock, [], project / "out")
    with pytest.raises(SourceError, match="requirements.lock; allowed: .py"):
        build_corpus(config(files("*.lock")), 0, lock, [], project / "out")
    assert not (project / "out").exists()


def test_a_corpus_of_one_file_has_no_validation_split_and_is_refused(project: Path, lock: Path) -> None:
    with pytest.raises(CorpusError, match="validation split is empty"):
        build_corpus(config(files("m1.py")), 0, lock, [], project / "out")
    assert not (project / "out").exists()


def test_idioms_never_outweigh_real_code(project: Path, lock: Path) -> None:
    mixture = config(files("*.py", weight=0.5), IdiomsSource(kind="idioms", weight=0.5), n_chars=100_000)
    report = build_corpus(mixture, 0, lock, [], project / "out")
    real = sum(len(function(number)) for number in range(11))
    assert report["sources"]["idioms"]["requested_chars"] == real
    longest = max(len(row["text"]) for row in rows(project / "out"))
    assert real <= sum(report["sources"]["idioms"]["n_chars"].values()) + longest
    assert sum(report["sources"]["idioms"]["n_chars"].values()) < real + longest


@pytest.fixture
def installed(lock: Path) -> CorpusConfig:
    real = InstalledSource(kind="installed", weight=0.5, min_lines=3, max_lines=40)
    return config(real, IdiomsSource(kind="idioms", weight=0.5), n_chars=200_000, validation_frac=0.1)


def test_the_same_lock_and_seed_give_the_same_corpus(installed: CorpusConfig, lock: Path, tmp_path: Path) -> None:
    first = build_corpus(installed, 1, lock, [], tmp_path / "a")
    (tmp_path / "elsewhere").mkdir()
    moved = lock.rename(tmp_path / "elsewhere" / "other.lock")
    again = build_corpus(installed, 1, moved, [], tmp_path / "b")
    assert first == again
    assert (tmp_path / "a" / "corpus.parquet").read_bytes() == (tmp_path / "b" / "corpus.parquet").read_bytes()
    assert build_corpus(installed, 2, moved, [], tmp_path / "c")["hash"] != first["hash"]


def test_sources_are_mixed_filled_to_their_budgets_and_both_held_out(
    installed: CorpusConfig, lock: Path, tmp_path: Path
) -> None:
    report = build_corpus(installed, 1, lock, [], tmp_path / "a")
    for source in report["sources"].values():
        assert 100_000 <= sum(source["n_chars"].values()) < 110_000
        assert 0.05 * 100_000 < source["n_chars"]["validation"] <= 0.1 * 110_000
    sources = [row["source"] for row in rows(tmp_path / "a")]
    assert 0.2 < sources[:100].count("idioms") / 100 < 0.8
    assert list(read_documents(tmp_path / "a" / "corpus.parquet", "train")) == [
        row["text"] for row in rows(tmp_path / "a") if row["split"] == "train"
    ]


def test_a_lock_that_does_not_fit_what_is_installed_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    for line, message in [
        ("no-such-package==1", "no-such-package==1, which is not installed; run make"),
        ("pluggy==0.0.1", "is installed; run make"),
        ("pluggy=1", "not a line of the form name==version"),
        ("# nothing", "names no package"),
    ]:
        lock.write_text(line + "\n")
        with pytest.raises(SourceError, match=message):
            locked_packages(lock)
    with pytest.raises(SourceError, match="no such lock file"):
        read_lock(tmp_path / "none.lock")


def test_only_what_the_lock_names_is_read(lock: Path) -> None:
    names = locked_packages(lock)
    assert {name.split("/")[0] for name in names} == {"pluggy", "hypothesis"}
    library = standard_library()
    assert "stdlib/json/decoder.py" in library
    assert not any("site-packages" in name or "/test/" in name for name in library)


def test_a_missing_or_damaged_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="run the stage"):
        list(read_documents(tmp_path / "corpus.parquet", "train"))
    (tmp_path / "corpus.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ArtifactError, match="damaged"):
        list(read_documents(tmp_path / "corpus.parquet", "train"))
