"""``sparse-circuits play``: the page of a model's circuits, whose prompts a local server answers."""

from __future__ import annotations

import socket
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_options import CIRCUIT_HELP, MadeFor, NoBrowser, ParamsFile, TokenizerDir, folder_of
from flows.services import free_port

if TYPE_CHECKING:
    from starlette.types import ASGIApp

EXAMPLE = "Example: sparse-circuits play models/sparse_d256"
PORT = 8710
BACKLOG = 64


def play(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The checkpoint's folder, models/<name>.")],
    circuit: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help=f"{CIRCUIT_HELP} May be repeated. Default: all of circuits/<its name>."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help=f"On 127.0.0.1. Default: {PORT}, or any that is free.")
    ] = None,
    no_browser: NoBrowser = False,
    task: MadeFor = None,
    tokenizer: TokenizerDir = None,
    params: ParamsFile = None,
) -> None:
    """Type code on the pages of a model's circuits: the next token by model and circuit, the nodes' values, and nodes
    and edges switched off, scaled, set or swapped with another prompt's. This machine answers, and nobody else can
    reach it; Ctrl+C ends it."""
    from pipeline.model.device import prepare_cpu
    from pipeline.play.load import load_session  # takes seconds to import
    from pipeline.play.server import application
    from pipeline.workspace import settings_for

    prepare_cpu(1)
    settings, circuits = settings_for(model, params), [folder_of(path) for path in circuit or ()]
    session, left_out = load_session(model, settings, circuits=circuits, task=task, tokenizer=tokenizer)
    for sentence in left_out:
        print(sentence, file=sys.stderr)
    session.run("x")  # kernels are compiled now, not at the first key
    with listening(port) as listener:
        number = listener.getsockname()[1]
        n = len(session.circuits)
        url = f"http://127.0.0.1:{number}/"
        print(f"{url}  {session.name} with {n} circuit{'s' * (n != 1)}; Ctrl+C ends it", flush=True)
        if not no_browser:
            webbrowser.open(url)
        serve(application(session, number), listener)


def listening(port: int | None) -> socket.socket:
    """A socket of this machine that takes connections. Raises OSError where the port that was asked for is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", free_port(PORT) if port is None else port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"port {port} of 127.0.0.1: {error.strerror}; take another one (--port), or leave it out"
        ) from None
    listener.listen(BACKLOG)
    return listener


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answer until Ctrl+C."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", lifespan="off", ws="none", server_header=False)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
