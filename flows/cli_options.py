"""Options that several commands of ``sparse-circuits`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelDir = Annotated[Path, typer.Option(metavar="DIR", help="The checkpoint's folder, models/<name>.")]
CutOutOf = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The checkpoint. Default: models/<its model>, beside circuits/.")
]
MadeFor = Annotated[
    str | None, typer.Option(metavar="NAME|FILE", help="The circuit's task. Default: the one noted in the circuit.")
]
TokenizerDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Default: the model's folder, else its data/tokens.")
]
TokensDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Text to draw from. Default: the model's folder or data/tokens.")
]
ParamsFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Default: params.yaml of the model's workspace.")]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Print the address, open nothing.")]
CIRCUIT_HELP = "The circuit's folder, or its circuit.json."


def folder_of(circuit: Path) -> Path:
    """The folder of a circuit that is named by it or by the file in it."""
    return circuit.parent if circuit.name == "circuit.json" else circuit
