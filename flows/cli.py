"""The console script ``sparse-circuits``: what is not a stage. It asks MLflow for models and circuits and changes nothing."""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from flows import environment
from flows.environment import ServiceError
from pipeline.artifacts import ArtifactError, Workspace
from pipeline.config import ConfigError, Params, load_params
from pipeline.data.tasks import TaskError, TaskSet, find_task, generate, task_names

if TYPE_CHECKING:
    import pandas as pd

EXPECTED = (ConfigError, ArtifactError, ServiceError, TaskError, OSError)
NARROWEST = 100  # columns; where output is not a terminal, tables take what they need
app = typer.Typer(
    help="What a study has found, from MLflow's records; and the tasks it asks about.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def study() -> tuple[Workspace, Params]:
    """The workspace of the current directory and its settings. Raises ConfigError."""
    workspace = environment.workspace()
    return workspace, load_params(workspace.params)


def latest_runs(kind: str, experiment: str, **tags: str) -> pd.DataFrame:
    """MLflow's newest run of each model (``kind`` = model) or of each model's task (``kind`` = circuit), by name.

    Raises ServiceError where the tracking server does not answer or has no such run.
    """
    from sqlalchemy.exc import SQLAlchemyError

    uri = os.environ["MLFLOW_TRACKING_URI"]
    environment.check_tracking(uri)
    import mlflow  # takes seconds to import
    from mlflow.exceptions import MlflowException

    wanted = " and ".join(f"tags.{key} = '{value}'" for key, value in {"kind": kind, "latest": "true", **tags}.items())
    try:
        mlflow.set_tracking_uri(uri)
        found: Any = mlflow.search_runs(experiment_names=[experiment], filter_string=wanted, max_results=50_000)
    except (MlflowException, SQLAlchemyError) as error:
        raise ServiceError(f"MLFLOW_TRACKING_URI={uri}: {str(error).splitlines()[0]}") from error
    return found
