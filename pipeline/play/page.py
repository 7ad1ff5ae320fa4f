"""The page of a session, whole: markup, style, script and the first data, in one file."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.play.session import Session
from pipeline.report.templating import script_json

REPORT, PLAY = "pipeline.report", "pipeline.play"
STYLES = ((REPORT, "templates/page.css"), (REPORT, "web/circuit.css"), (PLAY, "web/play.css"))  # the first: the palette
SCRIPTS = ((REPORT, "web/elements.js"), (REPORT, "web/drawing.js"), (PLAY, "web/play.js"))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("pipeline.play", "web"), autoescape=True, trim_blocks=True, undefined=StrictUndefined
    )


def play_page(session: Session) -> str:
    """HTML that asks nobody but the server it came from."""
    page = _environment().get_template("page.html.j2")
    about = script_json(known(session))
    return page.render(name=session.name, session=about, style=together(STYLES), script=together(SCRIPTS))


def together(parts: tuple[tuple[str, str], ...]) -> Markup:
    """The text of files of packages, one after the other, as it is."""
    return Markup("\n".join((files(package) / path).read_text(encoding="utf-8") for package, path in parts))


def known(session: Session) -> dict[str, Any]:
    """The first data of the page: the model, and its circuits by name."""
    return {
        "model": session.name,
        "n_ctx": session.model.config.n_ctx,
        "circuits": {
            name: {"nodes": circuit.n_nodes, "edges": circuit.n_edges} for name, circuit in session.circuits.items()
        },
    }
