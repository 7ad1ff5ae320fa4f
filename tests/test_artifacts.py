"""Files are whole or not there, whoever is killed; and a place to write to is tried before the work."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.artifacts import (
    ArtifactError,
    check_new_file,
    check_new_folder,
    read_json,
    whole_file,
    whole_folder,
    write_json,
)

ROOT = Path(__file__).parent.parent
needs_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_process_that_is_killed_leaves_the_old_one_and_the_next_tidies_up(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "made"
    write_json(path if kind == "file" else path / "a.json", 1)
    code = (
        f"import os, pathlib\nfrom pipeline.artifacts import *\n"
        f"with whole_{kind}(pathlib.Path({str(path)!r})) as partial:\n"
        f"    (partial if {kind == 'file'} else partial / 'b').write_text('2')\n    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    assert read_json(path if kind == "file" else path / "a.json") == 1 and len(hidden(tmp_path)) == 1
    write_json(path, 3) if kind == "file" else write_json(path / "a.json", 3)
    if kind == "folder":
        with whole_folder(path) as partial:
            write_json(partial / "a.json", 3)
    assert read_json(path if kind == "file" else path / "a.json") == 3 and hidden(tmp_path) == []


def test_two_that_write_at_once_do_not_touch_each_others_half(tmp_path: Path) -> None:
    code = "from pathlib import Path\nfrom pipeline.artifacts import whole_folder\n"
    code += f"with whole_folder(Path({str(tmp_path / 'made')!r})) as partial:\n    (partial / 'other').write_text('')\n"
    with whole_folder(tmp_path / "made") as partial:
        (partial / "ours").write_text("")
        subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert (partial / "ours").exists()
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["ours"] and hidden(tmp_path) == []


def test_whoever_the_umask_allows_can_read_what_is_written(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "made") as partial:
        (partial / "weights").touch(0o600)
    with whole_file(tmp_path / "file") as partial:
        partial.touch(0o600)
    umask = os.umask(0)
    os.umask(umask)
    for path in (tmp_path / "made/weights", tmp_path / "file"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("kind", ["link", "dangling link", "file", "folder of somebody", "current folder"])
def test_a_new_folder_is_none_of_these(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    if "link" in kind:
        out.symlink_to(empty if kind == "link" else tmp_path / "nowhere")
    elif kind == "file":
        out.touch()
    elif kind == "folder of somebody":
        write_json(out / "a.json", 1)
    else:
        out = Path()
    with pytest.raises(FileExistsError, match="name a"):
        check_new_folder(out)


def test_new_and_empty_folders_and_new_files_are_taken_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in ("empty", "new", "below/new"):
        assert check_new_folder(tmp_path / out) == tmp_path / out
        check_new_file(tmp_path / out / "file")
    with pytest.raises(IsADirectoryError):
        check_new_file(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written"):
        check_new_folder(tmp_path / "file" / "out")


@pytest.mark.parametrize("check", [check_new_folder, check_new_file])
@pytest.mark.parametrize("name", ["n" * 250, "n" * 300, f"{'n' * 300}/out"])
def test_a_name_that_the_disk_does_not_take_is_refused_before_the_work(tmp_path: Path, check, name: str) -> None:
    with pytest.raises(OSError, match="File name too long"):
        check(tmp_path / name)


def test_a_file_is_no_link_pipe_or_device(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling", "pipe", "/dev/null"):
        with pytest.raises(FileExistsError, match="is a (link|pipe or a device); name a new file"):
            check_new_file(tmp_path / name)
    check_new_file(tmp_path / "file")


def test_an_empty_folder_that_cannot_be_put_aside_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "volume").mkdir()

    def busy(*_: object) -> None:  # as a folder is where a disk is mounted
        raise OSError(errno.EBUSY, "Device or resource busy")

    check_new_folder(tmp_path / "volume")
    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(OSError, match=r"volume: cannot be replaced \(Device or resource busy\)"):
        check_new_folder(tmp_path / "volume")


@needs_user
def test_a_folder_that_may_only_be_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    for check in (check_new_folder, check_new_file):
        with pytest.raises(PermissionError, match="cannot be written"):
            check(tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000], ids=["empty", "cut", "bytes", "deep"])
def test_a_damaged_file_is_a_line_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="a.json: damaged"):
        read_json(tmp_path / "a.json")


@needs_user
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    (tmp_path / "a.json").chmod(0)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_json(tmp_path / "a.json")
