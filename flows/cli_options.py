"""Options that several commands of ``sparse-circuits`` share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

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
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: a list with an object a row, all columns.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV: all columns.")]
Reverse = Annotated[bool, typer.Option("--reverse", help="The other way round; what has no value stays last.")]
CIRCUIT_HELP = "The circuit's folder, or its circuit.json."


def sort_option(names: Sequence[str]) -> Any:
    """The option --sort of a listing whose rows have these names."""
    return typer.Option(
        metavar="COLUMN", help=f"One of {', '.join(names)}.", autocompletion=lambda incomplete: begun(names, incomplete)
    )


def begun(names: Iterable[str], incomplete: str) -> list[str]:
    """What the shell offers for a word that is not typed to its end."""
    return [name for name in names if name.startswith(incomplete)]


def folder_of(circuit: Path) -> Path:
    """The folder of a circuit that is named by it or by the file in it."""
    return circuit.parent if circuit.name == "circuit.json" else circuit
