"""The small local server of a session: its page, and JSON for it. For the person at this machine only.

It answers nobody who does not call it by localhost and its own port (a page of another site whose name leads here
would), takes JSON only, of a bounded size, and gives other sites' pages no leave to read what it says (no CORS).
"""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.play.changes import Act, PartChange
from pipeline.play.served import model_bundle, play_page, served_bundle
from pipeline.play.session import Inside, Session
from pipeline.play.switches import PlayError

HOST = "127.0.0.1"
BODY_BYTES = 2 << 20  # every edge of a circuit of 20,000 by name, and a long text
TEXT_LENGTH = 200_000  # characters; a model reads some hundred tokens
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

ShortText = Annotated[str, Field(max_length=200)]
AskedChange = Annotated[tuple[ShortText, Annotated[Act, Field(strict=False)], float | None], Field(strict=False)]
AskedHead = Annotated[tuple[int, int], Field(strict=False)]


class RunRequest(BaseModel):
    """The body of ``POST /run``: the arguments of ``Session.run``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Annotated[str, Field(max_length=TEXT_LENGTH)]
    circuit: ShortText | None = None
    off_nodes: list[ShortText] = []
    off_edges: list[ShortText] = []
    inside: Annotated[Inside, Field(strict=False)] = Inside.CIRCUIT
    at: int | None = None
    node: ShortText | None = None
    effects: bool = False
    answers: list[int] = []
    changes: list[AskedChange] = []
    head: AskedHead | None = None
    other: Annotated[str, Field(max_length=TEXT_LENGTH)] | None = None


def application(session: Session, port: int) -> ASGIApp:
    """The server's application. It has to listen on ``HOST`` and ``port`` only."""

    def page(request: Request) -> Response:
        return HTMLResponse(play_page(session), headers=HEADERS)

    def circuit(request: Request) -> Response:
        name = request.path_params["name"]
        return JSONResponse(served_bundle(session, name) if name else model_bundle(session), headers=HEADERS)

    async def answer(request: Request) -> Response:  # one at a time: the model has one processor
        asked = dict(await read(request))
        asked["changes"] = [PartChange(name, act, value or 0.0) for name, act, value in asked["changes"]]
        return JSONResponse(session.run(**asked), headers=HEADERS)

    routes = [
        Route("/", page),
        Route("/circuit/{name:path}", circuit),
        Route("/run", answer, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={PlayError: refused, HTTPException: refused})
    return LocalOnly(app, port)


async def read(request: Request) -> RunRequest:
    """The body of a request. Raises PlayError for one that is no such JSON, HTTPException for one that is too large."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "allowed: Content-Type application/json")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise HTTPException(413, f"allowed: a body of at most {BODY_BYTES:,} bytes")
    try:
        return RunRequest.model_validate(json.loads(body))
    except ValidationError as error:
        found = error.errors()[0]
        raise PlayError(f"{'.'.join(map(str, found['loc'])) or 'request'}: {found['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise PlayError(f"not JSON: {error}") from error


def refused(request: Request, error: Exception) -> Response:
    """A plain message for the person who asked."""
    said, status = (error.detail, error.status_code) if isinstance(error, HTTPException) else (str(error), 400)
    return JSONResponse({"error": said}, status, HEADERS)


class LocalOnly:
    """Passes on requests that call this server by localhost and its port; refuses all others."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app, self.names = app, {f"{name}:{port}" for name in (HOST, "localhost")}
        self.origins = {f"http://{name}" for name in self.names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self.allows(Headers(scope=scope)):
            refusal = PlainTextResponse(f"this server is for {' and '.join(sorted(self.names))} only", 403)
            await refusal(scope, receive, send)
        elif scope["type"] != "websocket":
            await self.app(scope, receive, send)

    def allows(self, headers: Headers) -> bool:
        """Whether the request is addressed to this server and does not come from another site's page."""
        origin = headers.get("origin")
        return headers.getlist("host") in [[name] for name in self.names] and (origin is None or origin in self.origins)
