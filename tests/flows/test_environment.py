"""Servers that are none, of another program, of another folder; proxies; and what is never printed."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flows import environment, services
from flows.environment import ServiceError, check_prefect, redacted
from flows.smoke import workspace_environment
from flows.tracking_store import probe

ROOT = Path(__file__).parent.parent.parent
Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """``serve(path=body, …)``: the address of a server that answers so; ``raw``: bytes instead of HTTP."""
    stops: list[Callable[[], object]] = []

    def start(answers: dict[str, bytes]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = answers.get(self.path)
                self.send_response(404 if body is None else 200)
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *words: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stops.extend([server.shutdown, server.server_close])
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for stop in stops:
        stop()


@pytest.fixture
def speaks_something_else() -> Iterator[str]:
    """A server that answers every request with a line that is not HTTP."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999/api", "http://127.0.0.1:port/api", "nonsense", "http://[", "file:///etc/hosts"]
)
def test_a_wrong_address_is_a_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(ServiceError, match="PREFECT_API_URL=.* does not answer.*unset PREFECT_API_URL"):
        check_prefect()


def test_a_server_of_another_protocol_is_a_line(speaks_something_else: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", speaks_something_else)
    with pytest.raises(ServiceError, match="does not answer"):
        check_prefect()


@pytest.mark.parametrize("said", [b"OK", b"<html>", b'{"status": "up"}', b""])
def test_another_programs_server_is_a_line(said: bytes, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", serve({"/api/health": said}) + "/api")
    with pytest.raises(ServiceError, match="is no Prefect server"):
        check_prefect()


def test_a_server_of_another_major_version_is_refused_and_the_same_is_taken(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, taken in (("2.20.1", False), ("3.0.0", True)):
        answers = {"/api/health": b"true", "/api/admin/version": json.dumps(version).encode()}
        monkeypatch.setenv("PREFECT_API_URL", serve(answers) + "/api")
        if taken:
            check_prefect()
        else:
            with pytest.raises(ServiceError, match="version 2.20.1"):
                check_prefect()


def test_local_calls_do_not_go_through_a_proxy(serve: Serve) -> None:
    here, proxy = serve({"/health": b"true"}), serve({})
    code = f"import flows\nfrom flows import environment\nassert environment.answers({here!r} + '/health', timeout=5)"
    for extra in ({}, {"no_proxy": "example.org"}):
        variables = (
            workspace_environment() | {"PYTHONPATH": str(ROOT), "HTTP_PROXY": proxy, "http_proxy": proxy} | extra
        )
        subprocess.run([sys.executable, "-c", code], env=variables, check=True)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://ann:secret@host:4200/api", "http://***@host:4200/api"),
        ("postgresql+psycopg2://ann:s:e@c@host/db failed", "postgresql+psycopg2://***@host/db failed"),
        ("https://host/?token=secret&x=1", "https://host/?token=***&x=1"),
        ("nothing@to.hide and https://host/a@b", "nothing@to.hide and https://host/a@b"),
    ],
)
def test_credentials_are_left_out(text: str, left: str) -> None:
    assert redacted(text) == left


def test_errors_are_printed_without_credentials(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://ann:secret@127.0.0.1:1/api")
    assert environment.guarded(lambda: check_prefect() or 0) == 1
    said = capsys.readouterr().err
    assert "secret" not in said and "ann" not in said and "127.0.0.1:1" in said


def test_a_server_that_wants_a_password_is_found(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    address = serve({"/api/health": b"true"}).replace("http://", "http://ann:secret@")
    monkeypatch.setenv("PREFECT_API_URL", address + "/api")
    check_prefect()
    probe(address)  # 404 is an answer


@pytest.fixture
def noted(tmp_path: Path, serve: Serve) -> services.Service:
    """A server that is well and noted in a workspace: this process."""
    service = services.services_of(tmp_path / "first")[0]
    service.record.parent.mkdir(parents=True)
    url, created = serve({"/health": b"true"}), psutil.Process().create_time()
    note = {"url": url, "pid": os.getpid(), "created": created, "root": str(tmp_path / "first")}
    service.record.write_text(json.dumps(note), encoding="utf-8")
    return service


def test_a_copied_workspace_neither_uses_nor_stops_the_first_ones_server(
    tmp_path: Path, noted: services.Service
) -> None:
    assert environment.running(noted.record)
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    copied = services.services_of(tmp_path / "second")[0]
    assert environment.running(copied.record) is None
    assert services.stop(copied) is False
    assert environment.running(noted.record)


def test_a_note_of_a_process_that_ended_is_not_believed_though_somebody_answers_there(noted: services.Service) -> None:
    note = json.loads(noted.record.read_text(encoding="utf-8"))
    noted.record.write_text(json.dumps(note | {"created": note["created"] - 100}), encoding="utf-8")
    assert environment.running(noted.record) is None


def test_a_server_is_ours_only_where_we_listen(serve: Serve) -> None:
    port = int(serve({}).rsplit(":", 1)[1])
    assert services.listens(psutil.Process(), port)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert not services.listens(psutil.Process(other.pid), port)
        other.communicate(b"\n")


def test_a_checkout_whose_environment_is_anothers_says_so(tmp_path: Path) -> None:
    assert environment.other_code(tmp_path) is None  # a workspace without code
    assert environment.other_code(ROOT) is None
    (tmp_path / "flows").mkdir()
    shutil.copy(ROOT / "flows/environment.py", tmp_path / "flows")
    assert "make install in" in (environment.other_code(tmp_path) or "")


@pytest.mark.parametrize("name", ["here", "a folder with blanks"])
def test_make_makes_the_environment_again_where_the_folder_was_moved(tmp_path: Path, name: str) -> None:
    first, moved = tmp_path / name, tmp_path / f"{name} moved"
    programs = first / ".venv" / "bin"
    programs.mkdir(parents=True)
    for file in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / file, first)
    (programs / "dvc").write_text(f"#!{programs}/python\n", encoding="utf-8")
    (first / ".venv" / ".installed").touch()

    def planned(folder: Path) -> str:
        command = ["make", "-n", "install", f"PYTHON={sys.executable}"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout

    assert "pip install" not in planned(first)
    first.rename(moved)
    assert "venv --clear" in planned(moved) and "pip install" in planned(moved)
