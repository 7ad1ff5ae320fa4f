"""``sparse-circuits draw``: the picture of one circuit as vector graphics, for a paper. No stage, no server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_options import CIRCUIT_HELP, CutOutOf, MadeFor, ParamsFile, TokenizerDir, folder_of
from pipeline.artifacts import check_new_file

EXAMPLE = "Example: sparse-circuits draw circuits/sparse_d256/bracket_counting -o figure.pdf"


def draw(
    circuit: Annotated[Path, typer.Argument(metavar="CIRCUIT", help=CIRCUIT_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="figure.svg, figure.pdf or figure.png.")],
    model: CutOutOf = None,
    task: MadeFor = None,
    tokenizer: TokenizerDir = None,
    params: ParamsFile = None,
) -> None:
    """Draw a circuit: rows are sites, vertical lines residual channels; edges by sign and strength of their weight."""
    check_new_file(out)
    from pipeline import Circuit, load_model  # takes seconds to import
    from pipeline.workspace import model_beside, settings_for

    found = Circuit.load(folder_of(circuit))
    loaded = load_model(model or model_beside(found), tokenizer)
    made_for = loaded.load_task_of(found, task, settings_for(loaded.folder, params))
    found.draw(out, made_for)
    print(out)
