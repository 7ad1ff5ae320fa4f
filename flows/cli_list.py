"""``sparse-circuits models`` and ``circuits``: what MLflow recorded of the newest ones, as a table, JSON or CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from flows import environment
from flows.cli_options import AsCsv, AsJson, Reverse, begun, sort_option
from flows.environment import ServiceError
from flows.listing import Column, Form, Row, show_rows
from flows.tables import count, nats
from pipeline.config import ConfigError, Params, load_params
from pipeline.report.chips import NAMES_SAID, SIGNS_SAID, chips
from pipeline.report.solved import is_solved
from pipeline.rows import Claims

if TYPE_CHECKING:
    from mlflow.entities import RunData

CLAIMS = tuple(Claims.__annotations__)
STYLES = {"✓": "green", "✗": "red", "–": "dim"}
LEGEND = (
    "Losses in nats on test pairs (chance is 0.693): of the circuit alone; of the model with its nodes off. "
    "Edges to decide: of the deciding circuit. "
    f"Claims, in this order: {NAMES_SAID}; {SIGNS_SAID}."
)
MODEL_COLUMNS = (
    "model", "kind", "n_layer", "d_model", "n_params", "l0", "tokens", "val_loss_nats", "n_solved", "n_tasks",
    "geomean_edges",
)  # fmt: skip
LOSSES = ("unpruned_loss", "circuit_loss", "nodes_only_loss", "ablated_nodes_loss", "ablated_edges_loss")
SIZES = ("n_nodes", "n_edges")
CIRCUIT_COLUMNS = (
    "task", "model", "kind", "l0", "solved", *SIZES, *(f"deciding_{size}" for size in SIZES), *LOSSES,
    "n_claims_supported", *(f"claim_{name}" for name in CLAIMS),
)  # fmt: skip


def known_models(incomplete: str) -> list[str]:
    """The models of params.yaml whose names begin so."""
    with suppress(ConfigError, OSError):
        return begun(settings().models, incomplete)
    return []


def known_tasks(incomplete: str) -> list[str]:
    """The tasks whose names begin so."""
    from pipeline.data.tasks import task_names  # takes seconds to import

    return begun(task_names(), incomplete)


ModelOption = Annotated[
    str | None, typer.Option(help="Only this model, by its name in params.yaml.", autocompletion=known_models)
]
TaskOption = Annotated[
    str | None,
    typer.Option(help="Only this task, by its name in `sparse-circuits tasks`.", autocompletion=known_tasks),
]


def models(
    sort: Annotated[str | None, sort_option(MODEL_COLUMNS)] = None,
    reverse: Reverse = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """The newest run of every model: sizes, validation loss in nats, the tasks it solved."""
    params = settings()
    found = latest_runs(params, "model", {})
    circuits = [circuit_row(run) for run in latest_runs(params, "circuit", {}, may_lack=True)]
    rows = [model_row(run, [row for row in circuits if row["model"] == run.params["model"]]) for run in found]
    rows.sort(key=lambda row: (row["val_loss_nats"], row["model"]))
    show_rows(rows, SHOWN_OF_MODELS, Form(as_json, as_csv, sort, reverse), caption=MODELS_LEGEND)


def circuits(
    model: ModelOption = None,
    task: TaskOption = None,
    sort: Annotated[str | None, sort_option(CIRCUIT_COLUMNS)] = None,
    reverse: Reverse = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """The newest circuit of every model and task: its size, and the task loss (nats) of the model, of the circuit
    alone, of its nodes alone with all edges between them, and of the model without its nodes or without its edges
    (chance is 0.693); the edges of its deciding circuit; and which of the six claims are supported, about the deciding
    circuit where there is one. A narrow terminal shows fewer columns, JSON and CSV have all."""
    from pipeline.data.tasks import find_task, task_names  # takes seconds to import

    params = settings()
    narrowed: dict[str, str] = {}
    if model is not None:
        params.model(model)  # refuses an unknown name
        narrowed["model"] = model
    if task is not None:
        narrowed["task"] = find_task(task).name
    rows = [circuit_row(run) for run in latest_runs(params, "circuit", narrowed)]
    places = {name: place for place, name in enumerate(task_names())}
    rows.sort(key=lambda row: (places.get(row["task"], len(places)), row["model"]))
    show_rows(rows, SHOWN_OF_CIRCUITS, Form(as_json, as_csv, sort, reverse), caption=LEGEND)


def model_row(run: RunData, circuits: list[Row]) -> Row:
    """A model's run under MODEL_COLUMNS; ``circuits``: the rows of its tasks."""
    facts = {name: run.params.get(name) for name in ("model", "kind")}
    facts |= {name: whole(run.params.get(name)) for name in ("n_layer", "d_model", "n_params", "l0", "tokens")}
    solved = sum(row["solved"] for row in circuits) if circuits else None
    facts |= {"n_solved": solved, "n_tasks": len(circuits) or None}
    facts |= {name: run.metrics.get(name) for name in ("val_loss_nats", "geomean_edges")}
    return {name: facts[name] for name in MODEL_COLUMNS}


def circuit_row(run: RunData) -> Row:
    """A circuit's run under CIRCUIT_COLUMNS."""
    facts: dict[str, Any] = {name: run.params.get(name) for name in ("task", "model", "kind")}
    facts |= {"l0": whole(run.params.get("l0"))} | {name: whole(run.metrics.get(name)) for name in SIZES}
    facts |= {f"deciding_{name}": whole(run.metrics.get(f"deciding/{name}")) for name in SIZES}
    facts |= {name: run.metrics.get(name) for name in LOSSES}
    # A task that cannot be expressed has no run.
    facts["solved"] = is_solved(facts | {"expressible": True}, float(run.params["target_loss"]))
    said = {f"claim_{name}": run.tags.get(f"claim_{name}") for name in CLAIMS}
    outcomes = [outcome for outcome in said.values() if outcome is not None]
    supported = sum(outcome == "supported" for outcome in outcomes) if outcomes else None
    facts |= said | {"n_claims_supported": supported}
    return {name: facts[name] for name in CIRCUIT_COLUMNS}


def whole(value: Any) -> int | None:
    """A count as MLflow keeps it, in params as text and in metrics as a float, as the whole number that it is."""
    return None if value is None else int(value)


def claim_signs(row: Row) -> Text:
    """The six claims of a circuit's row as signs."""
    signs = chips({name: row[f"claim_{name}"] for name in CLAIMS if row[f"claim_{name}"] is not None})
    return Text.assemble(*((sign, STYLES[sign]) for sign in signs.values()))


def cell(name: str, shown: Callable[[Any], str] = str) -> Callable[[Row], str]:
    """What a table shows of one value in a row."""
    return lambda row: shown(row[name])


MODELS_LEGEND = "Loss: validation, in nats. Edges: geometric mean over the circuits of solved tasks, by the report."
SHOWN_OF_MODELS = (
    Column("model", cell("model"), justify="left"),
    Column("kind", cell("kind"), justify="left"),
    Column("layers", cell("n_layer"), spare=2),
    Column("width", cell("d_model")),
    Column("L0", cell("l0", count)),
    Column("tokens", cell("tokens", count), spare=1),
    Column("loss", cell("val_loss_nats", nats)),
    Column("tasks solved", lambda row: f"{row['n_solved']} of {row['n_tasks']}" if row["n_tasks"] else "–"),
    Column("edges", lambda row: "–" if row["geomean_edges"] is None else f"{row['geomean_edges']:.1f}"),
)
SHOWN_OF_CIRCUITS = (
    Column("task", cell("task"), justify="left"),
    Column("model", cell("model"), justify="left"),
    Column("L0", cell("l0", count), spare=6),
    Column("nodes", cell("n_nodes", count), spare=2),
    Column("edges", cell("n_edges", count)),
    Column("edges to decide", cell("deciding_n_edges", count)),
    Column("the model", cell("unpruned_loss", nats), spare=3),
    Column("alone", cell("circuit_loss", nats)),
    Column("nodes alone", cell("nodes_only_loss", nats), spare=5),
    Column("nodes off", cell("ablated_nodes_loss", nats), spare=1),
    Column("edges off", cell("ablated_edges_loss", nats), spare=4),
    Column("claims", claim_signs, justify="left"),
)


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
