"""``sparse-circuits show``: the page of one circuit, in the browser. No stage, no server."""

from __future__ import annotations

import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli_options import CIRCUIT_HELP, CutOutOf, MadeFor, NoBrowser, ParamsFile, TokenizerDir, folder_of
from flows.environment import find_root
from pipeline.artifacts import Workspace, check_new_file, whole_file

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
    """Open the page of one circuit: its drawing, and for every node its typical inputs, its values token by token, its
    effect and its edges. The page is one file and needs neither network nor server."""
    if out is not None:
        check_new_file(out)
    from pipeline.circuit import Circuit
    from pipeline.model.device import prepare_cpu
    from pipeline.play.alone import explanation_of, page_alone
    from pipeline.play.load import load_session  # takes seconds to import
    from pipeline.workspace import model_beside, settings_for

    folder = folder_of(circuit)
    place = model or model_beside(Circuit.load(folder))
    settings = settings_for(place, params)
    prepare_cpu(1)
    session, _ = load_session(place, settings, circuits=[folder], task=task, tokenizer=tokenizer)
    path, [name] = out or check_new_file(default_place(folder, session.name)), session.circuits
    with Console(stderr=True).status("looking at the circuit's nodes"):
        explanation = explanation_of(session, name, settings.explain, settings.seed)
        html, said = page_alone(session, name, explanation, prompt or [])
    if explanation is None:
        said.append(f"{session.tokens}: no tokens, so nothing explains the nodes (dvc repro tokenise)")
    for sentence in said:
        print(sentence, file=sys.stderr)
    with whole_file(path) as partial:
        partial.write_text(html, encoding="utf-8")
    print(path)
    if not no_browser:
        webbrowser.open(path.resolve().as_uri())


def default_place(folder: Path, model: str) -> Path:
    """The page's file in the scratch folder of the circuit's workspace, or where it has none, of this machine."""
    root = find_root(folder)
    elsewhere = Path(tempfile.gettempdir()) / "sparse-circuits"
    scratch = Workspace(root).scratch if (root / "dvc.yaml").is_file() else elsewhere
    return scratch / "show" / f"{model}-{folder.resolve().name}.html"
