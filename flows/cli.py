"""The console script ``sparse-circuits``: commands that are no stage and change none of a study's files."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from flows import (
    cli_draw,
    cli_formats,
    cli_list,
    cli_play,
    cli_prune,
    cli_show,
    cli_track,
    cli_validate,
    cli_verify,
    environment,
    interruption,
)
from flows.tables import show

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(epilog=cli_prune.EXAMPLE)(cli_prune.prune)
app.command(epilog=cli_validate.EXAMPLE)(cli_validate.validate)
app.command(epilog=cli_draw.EXAMPLE)(cli_draw.draw)
app.command(epilog=cli_show.EXAMPLE)(cli_show.show)
app.command(epilog=cli_play.EXAMPLE)(cli_play.play)
app.command("import", epilog=cli_formats.IMPORT_EXAMPLE)(cli_formats.import_)
app.command(epilog=cli_formats.EXPORT_EXAMPLE)(cli_formats.export)
app.command(epilog=cli_formats.MEANS_EXAMPLE)(cli_formats.means)
app.command(epilog=cli_track.EXAMPLE)(cli_track.track)
app.command(epilog=cli_verify.EXAMPLE)(cli_verify.verify)
app.command(epilog="Example: sparse-circuits models --sort l0 --json")(cli_list.models)
app.command(epilog="Example: sparse-circuits circuits --task bracket_counting --sort n_edges")(cli_list.circuits)


def print_version(wanted: bool) -> None:
    """Print the installed version and leave, where it is asked for."""
    if wanted:
        print(f"sparse-circuits {importlib.metadata.version('sparse-circuits')}")
        raise typer.Exit


@app.callback()
def sparse_circuits(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Models and circuits of a study, as MLflow recorded them, and the tasks; circuits of any model for any task.
    `make study` makes a study."""


@app.command(epilog="Example: sparse-circuits tasks")
def tasks() -> None:
    """The twenty tasks with an example pair each: two prompts and their answers. After the stage tasks: whether the
    study's vocabulary can express them."""
    from pipeline.data.tasks import TaskSet, find_task, generate, task_names  # takes seconds to import

    workspace = environment.workspace()
    seed = cli_list.settings().seed
    encoded = TaskSet.load(workspace.tasks) if workspace.tasks.is_dir() else None
    table = Table("task, and what decides", "prompt a", "answer", "prompt b", "answer", "expressible", show_lines=True)
    for name in task_names():
        [pair] = generate(name, "test", 1, seed)
        state = "unknown until dvc repro tasks" if encoded is None else (encoded.reason(name) or "yes")
        # answers as Python would write them, for the sake of their spaces and newlines
        example = (Text(part) for side in pair.sides for part in (side.prompt, repr(side.answer)))
        table.add_row(Text(f"{name}\n{find_task(name).decides}"), *example, Text(state))
    show(table)


def main() -> None:
    """Run the console script; a refusal is one line and status 1."""
    interruption.install()
    sys.exit(environment.guarded(app))


if __name__ == "__main__":
    main()
