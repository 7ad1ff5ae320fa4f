"""The console script ``sparse-circuits``: commands that are no stage. They ask MLflow, change nothing; prune writes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from flows import cli_draw, cli_play, cli_prune, cli_show, cli_validate, environment
from flows.environment import ServiceError
from flows.tables import count, nats, show
from pipeline.config import Params, load_params
from pipeline.data.tasks import TaskSet, find_task, generate, task_names

if TYPE_CHECKING:
    from mlflow.entities import RunData

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
    found = latest_runs(params, "model", {})
    circuits = latest_runs(params, "circuit", {}, may_lack=True)
    table = Table("model", "kind", "layers", "width", "L0", "tokens", "validation loss", "tasks solved")
    for run in sorted(found, key=lambda run: (run.metrics["val_loss_nats"], run.params["model"])):
        own = [circuit for circuit in circuits if circuit.params["model"] == run.params["model"]]
        table.add_row(
            *(run.params[key] for key in ("model", "kind", "n_layer", "d_model")),
            *(count(run.params[key]) for key in ("l0", "tokens")),
            nats(run.metrics["val_loss_nats"]),
            f"{sum(circuit.tags.get('solved') == 'true' for circuit in own)} of {len(own)}" if own else "–",
        )
    show(table)


@app.command(epilog="Example: sparse-circuits circuits --model sparse_d256 --task bracket_counting")
def circuits(model: ModelOption = None, task: TaskOption = None) -> None:
    """The newest circuit of every model and task: its size, and the task loss (nats) of the model, of the circuit
    alone, of its nodes alone with all edges between them, and of the model without its nodes or without its edges
    (chance is 0.693); and how many of the six claims about it are supported."""
    params = settings()
    narrowed: dict[str, str] = {}
    if model is not None:
        params.model(model)  # refuses an unknown name
        narrowed["model"] = model
    if task is not None:
        narrowed["task"] = find_task(task).name
    found = latest_runs(params, "circuit", narrowed)
    losses = ("unpruned", "circuit", "nodes_only", "ablated_nodes", "ablated_edges")
    titles = ("the model", "circuit alone", "nodes alone", "without nodes", "without edges")
    table = Table("task", "model", "kind", "L0", "nodes", "edges", *titles, "claims", caption="task losses in nats")
    places = {name: place for place, name in enumerate(task_names())}
    for run in sorted(found, key=lambda run: (places.get(run.params["task"], len(places)), run.params["model"])):
        table.add_row(
            *(run.params[key] for key in ("task", "model", "kind")),
            *map(count, (run.params["l0"], run.metrics.get("n_nodes"), run.metrics.get("n_edges"))),
            *(nats(run.metrics.get(f"{key}_loss")) for key in losses),
            count(run.metrics.get("validation/n_supported")),
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
        # answers as Python would write them, for the sake of their spaces and newlines
        example = (Text(part) for side in pair.sides for part in (side.prompt, repr(side.answer)))
        table.add_row(Text(f"{name}\n{find_task(name).decides}"), *example, Text(state))
    show(table)


def settings() -> Params:
    """The settings of the current directory's workspace. Raises ConfigError."""
    return load_params(environment.workspace().params)


def latest_runs(params: Params, kind: str, tags: Mapping[str, str], *, may_lack: bool = False) -> list[RunData]:
    """MLflow's newest runs of a kind, model or circuit, one of each; ``tags`` narrow them down.

    Raises ServiceError where the tracking server does not answer, and unless they ``may_lack``, where there are none.
    """
    from flows.tracking import FAILURES  # takes seconds to import
    from flows.tracking_store import Store

    store = Store(params.tracking.experiment)
    try:
        found = store.find({"kind": kind, "latest": "true", **tags}) if store.look() else []
    except FAILURES as error:
        why = str(error).strip().splitlines()[0]
        raise ServiceError(
            f"MLFLOW_TRACKING_URI={store.uri}: {why}; start that server, or unset the variable"
        ) from error
    if not found and not may_lack:
        which = "".join(f", {key} {value}" for key, value in tags.items())
        raise ServiceError(
            f"MLflow has no {kind} yet (experiment {params.tracking.experiment} at {store.uri}{which}); make study, or "
            "dvc repro, records them"
        )
    return [run.data for run in found]


def main() -> None:
    """Run the console script; a refusal is one line and status 1."""
    sys.exit(environment.guarded(app))


if __name__ == "__main__":
    main()
