"""``sparse-circuits prune``: a circuit of any checkpoint for any task, in a folder of its own. No stage, no server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.cli_options import ModelDir, ParamsFile, TokenizerDir, TokensDir
from flows.tables import count, nats, show
from pipeline.ablation import Ablation
from pipeline.artifacts import check_new_folder
from pipeline.rows import Sizes

if TYPE_CHECKING:
    from pipeline.prune import Pruned

EXAMPLE = "Example: sparse-circuits prune --model models/sparse_d256 --task pairs.jsonl --out my_circuit"


def prune(
    model: ModelDir,
    task: Annotated[str, typer.Option(metavar="NAME|FILE", help="A task's name, or JSONL of pairs: docs/pairs.md.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the circuit.")],
    target_loss: Annotated[
        float | None, typer.Option(help="Nats on validation pairs. Default: prune.target_loss.")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Trials beyond the centres. Default: prune.budget.")] = None,
    tie_qk: Annotated[bool | None, typer.Option(help="One mask for channel i of query and key, or two.")] = None,
    ablation: Annotated[
        list[Ablation] | None,
        typer.Option(help="What the complement is ablated to; several: under each. Default: prune.ablations."),
    ] = None,
    most_scale: Annotated[
        float | None, typer.Option(help="That calibration may multiply answer logits by. Default: prune.most_scale.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search. Default: seed.")] = None,
    tokenizer: TokenizerDir = None,
    tokens: TokensDir = None,
    params: ParamsFile = None,
) -> None:
    """Find the smallest circuit of a model for a task, and write it to a new folder.

    The task is one of the twenty by name, or your own contrast pairs. Defaults are those of params.yaml.
    """
    check_new_folder(out)  # before a search of hours
    from pipeline.model.device import prepare_cpu
    from pipeline.prune.checkpoint import prune_checkpoint  # takes seconds to import

    prepare_cpu(1)
    with Console(stderr=True).status("loading") as status:
        pruned = prune_checkpoint(
            model,
            task,
            out=out,
            params=params,
            seed=seed,
            tokenizer=tokenizer,
            tokens=tokens,
            on_progress=lambda what: status.update(escape(what)),
            target_loss=target_loss,
            budget=budget,
            tie_qk=tie_qk,
            ablations=ablation or None,
            most_scale=most_scale,
        )
    show(table_of(pruned))
    print(f"{out}: the circuit; pipeline.circuit.Circuit.load({str(out)!r}) reads it")


def table_of(pruned: Pruned) -> Table:
    """Sizes and losses of the model, of the circuit before minimisation, and of the circuit."""
    row, about = pruned.row, pruned.circuit.about if pruned.circuit else {}
    found = row["discretised"] or Sizes(n_nodes=None, n_edges=None, validation_loss=None)
    table = Table(
        *("", "nodes", "edges", "validation loss", "test loss"),
        title=escape(f"{about.get('task')} in {about.get('model')}"),
        caption="losses in nats; guessing has 0.693",
    )
    table.add_row("the model", "", "", nats(row["unpruned_validation_loss"]), nats(row["unpruned_loss"]))
    for name, of, test in (("discretised", found, None), ("minimised", row, row.get("test_loss"))):
        table.add_row(name, count(of["n_nodes"]), count(of["n_edges"]), nats(of["validation_loss"]), nats(test))
    return table
