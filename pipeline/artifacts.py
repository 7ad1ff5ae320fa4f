"""Every file that crosses a stage border: where it lies, and how it is written whole or not at all.

Paths are relative to a *workspace* (the folder that holds dvc.yaml). Formats have one home each: corpora and tokens in
``pipeline.data``, checkpoints in ``pipeline.model.checkpoint``, circuits in ``pipeline.circuit``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.refusal import RefusalError

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # of a disk, that it can take no more
NO_MEMORY = (  # in errors; the last is what oneDNN says
    "can't allocate memory",
    "out of memory",
    "not enough memory",
    "Cannot allocate memory",
    "could not create a primitive",
)
MAX_UNPACKED = 1000  # times its size, that a file may take in memory
DECIDING = "deciding"  # the folder in a circuit's with the deciding circuit of the same task


class ArtifactError(RefusalError, RuntimeError):
    """A file of an earlier stage is missing, damaged or belongs to something else."""


@dataclass(frozen=True)
class Workspace:
    """The layout of a study's folder."""

    root: Path

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def corpus(self) -> Path:
        """corpus.parquet, report.json"""
        return self.root / "data" / "corpus"

    @property
    def tokens(self) -> Path:
        """tokenizer.tiktoken, tokenizer.json, train.bin, validation.bin, bigram.safetensors, stats.json"""
        return self.root / "data" / "tokens"

    @property
    def tasks(self) -> Path:
        """pairs.parquet, report.json"""
        return self.root / "data" / "tasks"

    @property
    def generalisation(self) -> Path:
        """pairs.parquet, report.json"""
        return self.root / "data" / "generalisation"

    def model(self, name: str) -> Path:
        """model.safetensors, config.json, means.safetensors, history.jsonl, summary.json"""
        return self.root / "models" / name

    def circuits(self, name: str) -> Path:
        """summary.json and a folder a solved task: circuit.json, circuit.safetensors, and DECIDING with the same"""
        return self.root / "circuits" / name

    def ablations(self, name: str) -> Path:
        return self.root / "ablations" / f"{name}.json"

    def validations(self, name: str) -> Path:
        return self.root / "validations" / f"{name}.json"

    def explanations(self, name: str) -> Path:
        return self.root / "explanations" / f"{name}.json"

    @property
    def example(self) -> Path:
        """A small workspace of its own: one model and its circuits, committed for a first look."""
        return self.root / "example"

    @property
    def results(self) -> Path:
        """summary.json, index.html, frontier.svg, …"""
        return self.root / "results"

    @property
    def scratch(self) -> Path:
        """Files from which an interrupted stage goes on; never an output, safe to delete."""
        return self.root / ".scratch"


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A fresh temporary folder beside ``path`` that takes its place when the block ends well, and vanishes if not.

    Raises OSError, which names ``path``, where the disk takes no more.
    """
    with _disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _forget_partial(path)
        partial, before = _partial(path), _before(path)
        partial.mkdir()
    try:
        with _disk_named(path):
            yield partial
            for file in sorted(partial.rglob("*")):
                _settle(file)
            _remove(before)
            if path.exists():
                path.rename(before)
            partial.rename(path)
            _sync(path.parent)
            _remove(before)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file name beside ``path`` that takes its place, atomically, when the block ends well.

    Raises OSError, which names ``path``, where the disk takes no more.
    """
    partial = _partial(path)
    try:
        with _disk_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _forget_partial(path)
            yield partial
            _settle(partial)
            os.replace(partial, path)
            _sync(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def _disk_named(path: Path) -> Iterator[None]:
    """Errors of a disk that takes no more become an OSError that says what could not be written, and why."""
    try:
        yield
    except Exception as error:
        if why := disk_refusal(error):
            raise OSError(f"{path}: cannot be written ({why}); make room there, then give the command again") from error
        raise


def memory_ended(error: BaseException, path: Path | None = None) -> bool:
    """Whether an error, of whichever library, is one of memory that ends, and the file at ``path`` is not to blame.

    It is to blame where far more is asked for than it can hold, as a damaged one does.
    """
    if not isinstance(error, MemoryError) and not any(words in str(error) for words in NO_MEMORY):
        return False
    wanted = re.search(r"(?:allocate|size) (\d+)", str(error))
    return wanted is None or path is None or int(wanted[1]) <= MAX_UNPACKED * path.stat().st_size


def disk_refusal(error: Exception) -> str | None:
    """The system's words where an error is one of a full or read-only disk, in whichever library's type; else None."""
    if isinstance(error, OSError):
        number = error.errno
    else:  # safetensors' and Arrow's errors have it in their text
        found = re.search(r"os error (\d+)|errno (\d+)", str(error))
        number = int(found[1] or found[2]) if found else None
    return os.strerror(number) if number in REFUSALS else None


def _partial(path: Path) -> Path:
    """Where this process makes what is to lie at ``path``; another process has another place."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _before(path: Path) -> Path:
    """Where what lies at ``path`` is put aside while another takes its place."""
    return path.with_name(f".{path.name}.before.partial")


def _forget_partial(path: Path) -> None:
    """Remove what processes that were killed left half made beside ``path``."""
    begin, end = f".{path.name}.", ".partial"
    for other in path.parent.iterdir():
        owner = other.name[len(begin) : -len(end)]
        if other.name.startswith(begin) and other.name.endswith(end) and owner.isdecimal() and not _runs(int(owner)):
            _remove(other)


def _runs(pid: int) -> bool:
    """Whether there is a process of that number; not this one, which is about to begin."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return pid != os.getpid()


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _settle(path: Path) -> None:
    """Have a new file on the disk, readable for whom the umask allows: safetensors writes for its owner alone."""
    if path.is_file() and not path.is_symlink():
        path.chmod(0o666 & ~_UMASK)
        _sync(path)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk; nothing where the file system cannot."""
    with suppress(OSError):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _umask() -> int:
    """The umask of this process, which can only be read by setting it."""
    found = os.umask(0o077)
    os.umask(found)
    return found


_UMASK = _umask()


def check_new_folder(path: Path) -> Path:
    """The path, where a new folder can be written there. Raises an OSError that says why not, before any work."""
    if path.is_symlink():
        raise FileExistsError(f"{path}: is a link; name a new folder to write to")
    if path.exists():
        if path.resolve() == Path.cwd().resolve():
            raise FileExistsError(f"{path}: is the current folder; name a new one to write to")
        if not path.is_dir() or any(path.iterdir()):
            raise FileExistsError(
                f"{path}: is there and not empty; name another folder to write to, or delete it first"
            )
    _check_writable(path)
    if path.exists():
        _check_replaceable(path)
    return path


def check_new_file(path: Path) -> Path:
    """The path, where a file can be written there. Raises an OSError that says why not, before any work."""
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file to write to")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        what = "a link" if path.is_symlink() else "a pipe or a device"
        raise FileExistsError(f"{path}: is {what}; name a new file to write to")
    _check_writable(path)
    return path


def _check_writable(path: Path) -> None:
    """Raises an OSError where nothing can be made in the folder that ``path`` is to lie in, by trying, and where the
    file system takes no such name."""
    there = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        for name in (*path.absolute().relative_to(there).parts, _before(path).name, _partial(path).name):
            with suppress(FileNotFoundError):
                (there / name).lstat()  # which fails for a name that is too long
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise type(error)(f"{path}: cannot be written in {there} ({error.strerror}); name another place") from None


def _check_replaceable(folder: Path) -> None:
    """Raises an OSError where an empty folder cannot be put aside, by trying: one where a disk is mounted, or somebody
    else's."""
    try:
        folder.rename(_before(folder))
        _before(folder).rename(folder)
    except OSError as error:
        raise type(error)(f"{folder}: cannot be replaced ({error.strerror}); name a new folder to write to") from None


def write_json(path: Path, value: Any, *, compact: bool = False) -> None:
    """``value`` as JSON, indented or on one line, written atomically. NaN and infinity are refused (ValueError)."""
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    with whole_file(path) as partial:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, **layout)
        partial.write_text(text + "\n", encoding="utf-8")


def existing(path: Path, stage: str = "") -> Path:
    """The path of a file that a stage made. Raises ArtifactError where there is no such file, or it may not be read."""
    if not path.is_file():
        command = f"dvc repro {stage}".strip()
        raise ArtifactError(f"{path}: no such file; run the stage that makes it ({command})")
    return readable(path)


def readable(path: Path) -> Path:
    """The path. Raises ArtifactError for a file that may not be read, which libraries call missing or damaged."""
    try:
        path.open("rb").close()
    except PermissionError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error
    return path


def read_json(path: Path) -> Any:
    """The value in a JSON file of an earlier stage. Raises ArtifactError where it is missing or damaged."""
    try:
        return json.loads(existing(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); delete it and run its stage again") from error


def file_hash(*paths: Path) -> str:
    """Short sha256 over the bytes of files, in the order given: the identity of an artifact."""
    digest = hashlib.sha256()
    for path in paths:
        with existing(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
