"""``sparse-circuits draw``: the picture of one circuit as vector graphics, for a paper. No stage, no server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_options import CIRCUIT_HELP, CutOutOf, MadeFor, ParamsFile, TokenizerDir, beside, folder_of

EXAMPLE = "Example: sparse-circuits draw circuits/sparse_d256/bracket_counting -o figure.pdf"
KINDS = (".svg", ".pdf")


def draw(
    circuit: Annotated[Path, typer.Argument(metavar="CIRCUIT", help=CIRCUIT_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="figure.svg or figure.pdf.")],
    model: CutOutOf = None,
    task: MadeFor = None,
    tokenizer: TokenizerDir = None,
    params: ParamsFile = None,
) -> None:
    """Draw a circuit: rows are sites, vertical lines residual channels; edges by sign and strength of their weight."""
    if out.suffix not in KINDS:
        raise ValueError(f"{out}: cannot write {out.suffix or 'a file without ending'}; allowed: {', '.join(KINDS)}")
    folder = folder_of(circuit)
    svg = picture(folder, model, task, tokenizer, params)
    if out.suffix == ".svg":
        out.write_text(svg, encoding="utf-8")
    else:
        import vl_convert

        out.write_bytes(vl_convert.svg_to_pdf(on_paper(svg)))
    print(out)


def on_paper(svg: str) -> str:
    """The same picture in its light colours, without what only browsers know: variables and media queries of CSS, and
    fonts that the root element hands down."""
    light = re.sub(r"@media[^{]*\{.*?\}\}", "", svg).replace(".circuit text{", ".circuit text{font:10px sans-serif;", 1)
    values = dict(re.findall(r"--(\w+):([^;}]+)", light))
    return re.sub(r"var\(--(\w+)\)", lambda found: values[found[1]], light)


def picture(folder: Path, model: Path | None, task: str | None, tokenizer: Path | None, params: Path | None) -> str:
    """SVG text of a saved circuit. Raises as ``Circuit.load`` and ``LoadedTask.load`` do, and WrongModelError."""
    from pipeline.circuit import Circuit
    from pipeline.report.bundle import token_texts
    from pipeline.report.write import drawn  # takes seconds to import
    from pipeline.workspace import LoadedTask, settings_for

    circuit = Circuit.load(folder)
    place = model or beside(folder, circuit)
    name = task or str(circuit.about.get("task"))
    loaded = LoadedTask.load(place, name, settings_for(place, params), tokenizer)
    circuit.check_model(loaded.model)
    batch = loaded.tasks.batch(loaded.task, "test")
    return drawn(circuit, loaded.model.cpu(), batch, token_texts(loaded.words), f"{loaded.task} in {loaded.name}")
