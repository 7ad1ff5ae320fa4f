"""``sparse-circuits show``: the page of one circuit, in the browser. No stage, no server."""

from __future__ import annotations

import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.cli_options import CIRCUIT_HELP, CutOutOf, MadeFor, NoBrowser, ParamsFile, TokenizerDir, beside, folder_of
from flows.environment import find_root
from pipeline.artifacts import Workspace, read_json, whole_file
from pipeline.config import Params
from pipeline.rows import Explanation

if TYPE_CHECKING:
    from pipeline.play.session import Session

EXAMPLE = "Example: sparse-circuits show circuits/sparse_d256/bracket_counting --prompt 'rows = [[1, 2'"


def show(
    circuit: Annotated[Path, typer.Argument(metavar="CIRCUIT", help=CIRCUIT_HELP)],
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Code to see the nodes' values on. May be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Default: in the workspace's .scratch/show.")
    ] = None,
    no_browser: NoBrowser = False,
    model: CutOutOf = None,
    task: MadeFor = None,
    tokenizer: TokenizerDir = None,
    params: ParamsFile = None,
) -> None:
    """Open the page of one circuit: its drawing, and for every node what it responds to, its values token by token, its
    effect and its edges. The page is one file and needs neither network nor server."""
    from pipeline.circuit import Circuit
    from pipeline.model.device import prepare_cpu
    from pipeline.play.load import load_session  # takes seconds to import
    from pipeline.workspace import settings_for

    folder = folder_of(circuit)
    place = model or beside(folder, Circuit.load(folder))
    settings = settings_for(place, params)
    prepare_cpu(1)
    session, _ = load_session(place, settings, circuits=[folder], task=task, tokenizer=tokenizer)
    path = out or default_place(folder, session.name)
    with Console(stderr=True).status("looking at the circuit's nodes"):
        html = page_of(session, place, settings, prompt or [])
    with whole_file(path) as partial:
        partial.write_text(html, encoding="utf-8")
    print(path)
    if not no_browser:
        webbrowser.open(path.resolve().as_uri())


def default_place(folder: Path, model: str) -> Path:
    """The page's file in the scratch folder of the circuit's workspace, or where it has none, of this machine."""
    root = find_root(folder)
    scratch = (
        Workspace(root).scratch if (root / "dvc.yaml").is_file() else Path(tempfile.gettempdir()) / "sparse-circuits"
    )
    return scratch / "show" / f"{model}-{folder.resolve().name}.html"


def page_of(session: Session, place: Path, settings: Params, prompts: list[str]) -> str:
    """HTML of the session's only circuit."""
    from pipeline.play.alone import page_alone

    [name] = session.circuits
    summary = place / "summary.json"
    facts = read_json(summary) if summary.is_file() else {}
    explanation = explanation_of(session, name, place, settings)
    html, said = page_alone(session, name, facts=facts, explanation=explanation, texts=prompts)
    for sentence in said:
        print(sentence, file=sys.stderr)
    return html


def explanation_of(session: Session, name: str, place: Path, settings: Params) -> Explanation | None:
    """The study's explanation of this circuit, or a new one; None where the model's tokens are missing."""
    from pipeline.data.shards import STATS_FILE, TokenStream
    from pipeline.play.alone import explained, fits
    from pipeline.workspace import root_of

    stored = Workspace(root_of(place)).explanations(place.resolve().name)
    if stored.is_file():
        explanation = read_json(stored)
        if fits(explanation, session.circuits[name], name):
            return explanation
    places = [place, Workspace(root_of(place)).tokens]
    tokens = next((folder for folder in places if (folder / STATS_FILE).is_file()), None)
    if tokens is None:
        print(f"{places[-1]}: no tokens, so nothing explains the nodes (dvc repro tokenise)", file=sys.stderr)
        return None
    return explained(session, name, TokenStream.open(tokens, "validation"), settings.explain, settings.seed)
