"""``sparse-circuits validate``: attempts to refute one circuit of any checkpoint. No stage, no server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.cli_options import CIRCUIT_HELP, MadeFor, ModelDir, ParamsFile, TokenizerDir, TokensDir, folder_of
from flows.tables import show
from pipeline.artifacts import check_new_file, write_json
from pipeline.rows import ValidationRow

EXAMPLE = "Example: sparse-circuits validate --model models/sparse_d256 --circuit circuits/sparse_d256/bracket_brace"
WORKERS = 2  # processes that share the tests
SAID = {True: "passes", False: "FAILS"}
SAID_OF_CLAIM = {"supported": "supported", "not supported": "NOT SUPPORTED", "not tested": "not tested"}
CAPTION = "losses in nats; chance is 0.693"


def validate(
    model: ModelDir,
    circuit: Annotated[Path, typer.Option(metavar="DIR", help=CIRCUIT_HELP)],
    task: MadeFor = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write everything found, as JSON.")] = None,
    controls: Annotated[bool, typer.Option(help="Search for circuits in random weights and nonsense, too.")] = True,
    tokenizer: TokenizerDir = None,
    tokens: TokensDir = None,
    params: ParamsFile = None,
) -> None:
    """Try to refute a circuit on test pairs: each check with its outcome and its numbers, and which of the six claims
    about the circuit they support."""
    if out is not None:
        check_new_file(out)  # before tests of minutes
    from pipeline.model.device import prepare_cpu
    from pipeline.validate import validate_checkpoint  # takes seconds to import

    prepare_cpu(1)  # a thread for each of the processes
    folder = folder_of(circuit)
    with Console(stderr=True).status("loading") as status:
        found = validate_checkpoint(
            model,
            folder,
            task=task,
            params=params,
            tokenizer=tokenizer,
            tokens=tokens,
            controls=controls,
            workers=WORKERS,
            on_progress=lambda what: status.update(escape(what)),
        )
    show(table_of_checks(found, str(folder)))
    show(table_of_claims(found, str(folder)))
    print(found["verdict"]["line"])
    if "published" in found:
        print(f"the published mechanism: {found['published']['line']}")
    if out is not None:
        write_json(out, found)  # last: what was found is said in any case


def table_of_claims(found: ValidationRow, title: str) -> Table:
    """A table with one row per claim."""
    table = Table("the circuit …", "outcome", "number", "of what", "what was found", title=escape(title))
    for row in found["verdict"]["claims"].values():
        number = "–" if row["number"] is None else f"{row['number']:.3f}"
        table.add_row(row["statement"], SAID_OF_CLAIM[row["outcome"]], number, row["measure"], escape(row["says"]))
    return table


def table_of_checks(found: ValidationRow, title: str) -> Table:
    """A table with one row per check, those of each claim together, stress tests last."""
    from pipeline.report.validation import checks_of  # takes seconds to import

    table = Table("check", "of claim", "outcome", "what was found", title=escape(title), caption=CAPTION)
    order = [*found["verdict"]["claims"], "stress"]
    for test in sorted(checks_of(found), key=lambda test: (order.index(test["claim"]), not test["essential"])):
        extra = ", extra" if test["claim"] != "stress" and not test["essential"] else ""
        unasked = "not tested" if test["value"] is None else "measured"
        outcome = unasked if test["passed"] is None else SAID[test["passed"]]
        table.add_row(test["name"], f"{test['claim']}{extra}".replace("_", " "), outcome, escape(test["says"]))
    return table
