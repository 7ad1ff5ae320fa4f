"""The page of a session, whole: markup, style, script and the first data, in one file."""

from __future__ import annotations

from importlib.resources import files

from markupsafe import Markup

from pipeline.play.session import Session
from pipeline.report.templating import render

REPORT, PLAY = "pipeline.report", "pipeline.play"
STYLES = (
    (REPORT, "templates/page.css"),
    (REPORT, "web/circuit.css"),
    (REPORT, "web/graph.css"),
    (PLAY, "web/play.css"),
)  # the first: the palette
SCRIPTS = (
    *((REPORT, f"web/{name}.js") for name in ("elements", "scene", "edges", "graph", "view", "words", "drawing")),
    *((PLAY, f"web/{name}.js") for name in ("pieces", "play")),
)


def play_page(session: Session) -> str:
    """HTML that asks nobody but the server it came from; its first data are the model, and its circuits by name."""
    sizes = {name: {"nodes": own.n_nodes, "edges": own.n_edges} for name, own in session.circuits.items()}
    return render(
        "page.html.j2",
        PLAY,
        name=session.name,
        session={"model": session.name, "n_ctx": session.model.config.n_ctx, "circuits": sizes},
        style=together(STYLES),
        script=together(SCRIPTS),
    )


def together(parts: tuple[tuple[str, str], ...]) -> Markup:
    """The text of files of packages, one after the other, as it is."""
    return Markup("\n".join((files(package) / path).read_text(encoding="utf-8") for package, path in parts))
