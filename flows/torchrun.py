"""Training in several processes: how the stage pretrain starts them, and what each of them does.

``launch`` has torchrun start ``python -m flows.torchrun --model NAME`` in each process; to run that on several
machines, see pipeline/pretrain/distributed.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import get_error_handler, record

from flows import environment
from pipeline.artifacts import ArtifactError, Workspace
from pipeline.config import Params, load_params
from pipeline.model.device import pick_device
from pipeline.pretrain.distributed import Ranks, check_device, process_group
from pipeline.pretrain.loop import pretrain
from pipeline.rows import ModelRow

INTERRUPTED_SECONDS = 3.0


class WorkerError(ValueError):
    """One of the processes that train a model together failed, and with it all."""


def trainer(workspace: Workspace, params: Params, model: str) -> partial[ModelRow]:
    """Trains models/<model> from data/tokens by the study's settings, and tells nobody; keywords of ``pretrain`` change
    that."""
    return partial(
        pretrain,
        name=model,
        config=params.model(model),
        shared=params.pretrain,
        compute=params.compute,
        seed=params.training_seed(model),
        tokens=workspace.tokens,
        folder=workspace.model(model),
        scratch=workspace.scratch,
        on_log=lambda step, metrics: None,
    )


def train(workspace: Workspace, params: Params, model: str, ranks: Ranks) -> ModelRow:
    """The summary of models/<model>, made from data/tokens; the first rank tells MLflow of it."""
    trained = partial(trainer(workspace, params, model), ranks=ranks)
    if not ranks.is_first:
        return trained()
    from flows.tracking import Tracker  # takes seconds to import

    with Tracker(params, model) as tracker:
        summary = trained(on_log=tracker.log_step)
        tracker.log_model(summary, workspace.model(model))
    return summary


def launch(workspace: Workspace, params: Params, model: str) -> None:
    """Train a model in ``compute.processes`` processes. Raises WorkerError with what the first one to fail said."""
    processes, threads = params.compute.processes, params.compute.threads
    check_device(pick_device(params.compute), processes)
    with tempfile.TemporaryDirectory(prefix="torchrun-") as logs:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command += ["--local-addr", "127.0.0.1"]  # else they ask for this machine's name, which none may know: minutes
        command += ["--log-dir", logs, "-m", __name__, "--model", model]
        status = _wait(command, workspace.root, os.environ | {"OMP_NUM_THREADS": str(threads)})
        if status:
            why = first_error(Path(logs)) or f"torchrun ended with status {status}; the output above says why"
            raise WorkerError(f"{model}, trained in {processes} processes: {why}")


def _wait(command: list[str], folder: Path, variables: dict[str, str]) -> int:
    """Exit status of a command; whatever ends this process ends that one first, and torchrun ends its own."""
    with subprocess.Popen(command, cwd=folder, env=variables) as process:
        try:
            return process.wait()
        except BaseException:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(INTERRUPTED_SECONDS)  # Ctrl-C reaches torchrun too; a second signal would cut it short
            process.terminate()
            process.wait()
            raise


def first_error(logs: Path) -> str | None:
    """The message of the first failed process in torchrun's folder of logs; None where there is none."""
    said = [json.loads(path.read_text(encoding="utf-8"))["message"] for path in sorted(logs.rglob("error.json"))]
    told = [one for one in said if isinstance(one, dict)]
    if not told:
        return None
    return min(told, key=lambda one: int(one["extraInfo"]["timestamp"]))["message"]


@record
def main() -> None:
    """Run one of the processes. Any error goes to torchrun's error file, one that a user can mend also to stderr."""
    parser = argparse.ArgumentParser(prog="torchrun -m flows.torchrun", description=__doc__)
    parser.add_argument("--model", required=True, help="a key of params.yaml: models")
    model = parser.parse_args().model
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own way would wait for ranks that are gone
    try:
        workspace = environment.workspace()
        params = load_params(workspace.params)
        with process_group(pick_device(params.compute)) as ranks:
            train(workspace, params, model, ranks)
    except (ValueError, ArtifactError, OSError) as error:
        get_error_handler().record_exception(error)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
