"""The console script ``sparse-circuits``: commands that are no stage. They ask MLflow, change nothing; prune writes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from flows import cli_draw, cli_play, cli_prune, cli_show, cli_validate, environment
from flows.environment import EXPECTED, ServiceError
from flows.tables import count, nats, show
from pipeline.config import Params, load_params
from pipeline.data.tasks import Pair, TaskSet, find_task, generate, task_names

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    help="Models and circuits of a study, as MLflow recorded them, and the tasks; circuits of any model for any task. "
    "`make study` makes a study.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ModelOption = Annotated[str | None, typer.Option(help="Only this model, by its name in params.yaml.")]
TaskOption = Annotated[str | None, typer.Option(help="Only this task, by its name in `sparse-circuits tasks`.")]


app.command(epilog=cli_prune.EXAMPLE)(cli_prune.prune)
app.command(epilog=cli_validate.EXAMPLE)(cli_validate.validate)
app.command(epilog=cli_draw.EXAMPLE)(cli_draw.draw)
app.command(epilog=cli_show.EXAMPLE)(cli_show.show)
app.command(epilog=cli_play.EXAMPLE)(cli_play.play)


@app.command(epilog="Example: sparse-circuits models")
def models() -> None:
    """The newest run of every model: sizes, validation loss in nats, the tasks it solved."""
    params = settings()
    found, circuits = latest_runs(params, "model"), latest_runs(params, "circuit")
    if found.empty:
        raise ServiceError(nothing(params, "model"))
    table = Table("model", "kind", "layers", "width", "L0", "tokens", "validation loss", "tasks solved")
    for row in sorted(rows(found), key=lambda row: (row["metrics.val_loss_nats"], row["params.model"])):
        own = [circuit for circuit in rows(circuits) if circuit["params.model"] == row["params.model"]]
        table.add_row(
            *(row[f"params.{key}"] for key in ("model", "kind", "n_layer", "d_model")),
            *(count(row[f"params.{key}"]) for key in ("l0", "tokens")),
            nats(row["metrics.val_loss_nats"]),
            f"{sum(circuit.get('tags.solved') == 'true' for circuit in own)} of {len(own)}" if own else "–",
        )
    show(table)


@app.command(epilog="Example: sparse-circuits circuits --model sparse_d256 --task bracket_counting")
def circuits(model: ModelOption = None, task: TaskOption = None) -> None:
    """The newest circuit of every model and task: its size, and the task loss (nats) of the model, of the circuit
    alone, of its nodes alone with all edges between them, and of the model without its nodes or without its edges.
    Chance is 0.693."""
    params = settings()
    narrowed: dict[str, str] = {}
    if model is not None:
        params.model(model)  # refuses an unknown name
        narrowed["model"] = model
    if task is not None:
        narrowed["task"] = find_task(task).name
    found = latest_runs(params, "circuit", **narrowed)
    if found.empty:
        raise ServiceError(nothing(params, "circuit", **narrowed))
    losses = ("unpruned", "circuit", "nodes_only", "ablated_nodes", "ablated_edges")
    titles = ("the model", "circuit alone", "nodes alone", "without nodes", "without edges")
    table = Table("task", "model", "kind", "L0", "nodes", "edges", *titles, caption="task losses in nats")
    places = {name: place for place, name in enumerate(task_names())}
    for row in sorted(rows(found), key=lambda row: (places.get(row["params.task"], len(places)), row["params.model"])):
        table.add_row(
            *(row[f"params.{key}"] for key in ("task", "model", "kind")),
            *(count(row.get(key)) for key in ("params.l0", "metrics.n_nodes", "metrics.n_edges")),
            *(nats(row.get(f"metrics.{key}_loss")) for key in losses),
        )
    show(table)


@app.command(epilog="Example: sparse-circuits tasks")
def tasks() -> None:
    """The twenty tasks with an example pair each: two prompts and their answers. After the stage tasks: whether the
    study's vocabulary can express them."""
    workspace = environment.workspace()
    seed = settings().seed
    encoded = TaskSet.load(workspace.tasks) if workspace.tasks.is_dir() else None
    table = Table("task, and what decides", "prompt a", "answer", "prompt b", "answer", "expressible", show_lines=True)
    for name in task_names():
        [pair] = generate(name, "test", 1, seed)
        state = "unknown until dvc repro tasks" if encoded is None else (encoded.reason(name) or "yes")
        table.add_row(Text(f"{name}\n{find_task(name).decides}"), *example(pair), Text(state))
    show(table)


def example(pair: Pair) -> list[Text]:
    """Prompt and answer of both sides; the answer as Python would write it, for the sake of its spaces and newlines."""
    return [Text(part) for side in pair.sides for part in (side.prompt, repr(side.answer))]


def settings() -> Params:
    """The settings of the current directory's workspace. Raises ConfigError."""
    return load_params(environment.workspace().params)


def latest_runs(params: Params, kind: str, **narrowed: str) -> pd.DataFrame:
    """MLflow's newest runs of a kind, model or circuit, one of each; further tags narrow them down.

    Raises ServiceError where the tracking server does not answer.
    """
    from flows.tracking import FAILURES  # takes seconds to import
    from flows.tracking_store import local_database, probe

    uri = os.environ["MLFLOW_TRACKING_URI"]
    tags = {"kind": kind, "latest": "true", **narrowed}
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    database = local_database(uri)
    if database is not None and not database.is_file():
        raise ServiceError(nothing(params, kind))
    import mlflow

    try:
        probe(uri)
        mlflow.set_tracking_uri(uri)
        experiment = mlflow.get_experiment_by_name(params.tracking.experiment)
        if experiment is None:
            raise ServiceError(nothing(params, kind))
        found: Any = mlflow.search_runs([experiment.experiment_id], filter_string=wanted)
    except FAILURES as error:
        why = str(error).strip().splitlines()[0]
        raise ServiceError(f"MLFLOW_TRACKING_URI={uri}: {why}; start that server, or unset the variable") from error
    return found


def nothing(params: Params, kind: str, **narrowed: str) -> str:
    """The message where MLflow has no such run."""
    which = "".join(f", {key} {value}" for key, value in narrowed.items())
    return (
        f"MLflow has no {kind} yet (experiment {params.tracking.experiment} at {os.environ['MLFLOW_TRACKING_URI']}"
        f"{which}); make study, or dvc repro, records them"
    )


def rows(found: pd.DataFrame) -> list[dict[str, Any]]:
    """Runs as mappings from column to value, without those that MLflow fills up with nothing."""
    return [
        {key: value for key, value in row.items() if value is not None and value == value}  # NaN is not itself
        for row in found.to_dict("records")
    ]


def main() -> None:
    """Run the console script; a refusal is one line and status 1."""
    try:
        app()
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
