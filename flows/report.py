"""Stage report: results/ from the artifacts of the other stages, with its provenance."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows import mapped, one_go
from flows.server_gone import tell
from flows.stage import load_study, main, stage_flow
from flows.study import needed_for, stage_graph
from flows.tracking import log_study
from pipeline.artifacts import Workspace, file_hash, read_json
from pipeline.config import Params
from pipeline.data.tasks import TaskSet
from pipeline.data.tokenizer import Tokenizer
from pipeline.model.device import pick_device, training_precision
from pipeline.report.bundle import token_texts
from pipeline.report.chips import SIGNS_SAID, chips
from pipeline.report.solved import all_solved
from pipeline.report.write import write_report
from pipeline.rows import Summary
from pipeline.validate.limits import MARGIN


@stage_flow
def report() -> None:
    """Write results/."""
    workspace, params = load_study()
    tokenizer = Tokenizer.load(workspace.tokens)
    summary = write_report(
        workspace,
        params.models,
        task_set=TaskSet.load(workspace.tasks),
        texts=token_texts(tokenizer),
        tokenizer=tokenizer,
        statistics=read_json(workspace.tokens / "stats.json"),
        params=params,
        margin=MARGIN,
        provenance=provenance(workspace, params),
        folder=workspace.results,
    )
    said = headline(summary)
    study = f"{said}\n\n{table(summary)}"
    tell(lambda: create_markdown_artifact(study, key="study", description=f"Study, profile {params.profile}"))
    mapped.show_table(
        "claims", "", claims_table(summary), "The six claims about every task's deciding circuit: " + SIGNS_SAID
    )
    page = workspace.results / "index.html"  # browsers may not follow a link from Prefect's UI, so its path is said too
    where, about = page.as_uri(), f"The report: {page}"
    tell(lambda: create_link_artifact(where, "results/index.html", key="report", description=about))
    log_study(params, summary, workspace.results)
    print(said)
    print(f"report: {page}")


def provenance(workspace: Workspace, params: Params) -> dict[str, Any]:
    """Code, settings, machine and time of the results: the entry ``provenance`` of results/summary.json."""
    return {
        "git": git_state(workspace.root),
        "profile": params.profile,
        "seed": params.seed,
        "params_hash": file_hash(workspace.params),
        **{f"{name}_hash": file_hash(path) for name, path in origins(workspace).items() if path.is_file()},
        "machine": machine() | {"precision": precision(params)},
        "seconds": seconds(workspace, params),
    }


def origins(workspace: Workspace) -> dict[str, Path]:
    """The files that, with the settings, all else follows from: the locked packages and the corpus read from them."""
    return {"lock": workspace.root / "requirements.lock", "corpus": workspace.corpus / "corpus.parquet"}


def git_state(root: Path) -> dict[str, Any] | None:
    """The commit, and whether tracked code or settings differ from it; None outside a git checkout."""
    try:
        commit = git_says(root, "rev-parse", "HEAD")
        # The study itself writes dvc.lock and results: these do not count as changes.
        changes = git_says(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock", ":!results")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def git_says(root: Path, *arguments: str) -> str:
    """What a git command says in a checkout. Raises OSError without git, CalledProcessError where it fails."""
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def machine() -> dict[str, Any]:
    """The processor, its usable cores, and the versions that numbers depend on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"cpu": processor(), "cores": cores, "gpu": gpu, "system": platform.system(), **versions}


def precision(params: Params) -> str:
    """What training multiplies matrices in on this machine: as params.yaml says, for auto as its hardware can."""
    context = training_precision(params.compute, pick_device(params.compute))
    return "bfloat16" if isinstance(context, torch.autocast) else "float32"


def processor() -> str:
    """The processor's name, or its kind where the system does not tell."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def seconds(workspace: Workspace, params: Params) -> dict[str, Any]:
    """``total``: wall time from the beginning of the run that made all of this in one go, else None; and per stage, as
    its own summaries say, model → seconds of work: of training, and of all units of pruning and validation."""
    return {"total": total_seconds(workspace)} | {
        "pretrain": {
            name: read_json(workspace.model(name) / "summary.json")["train_seconds"] for name in params.models
        },
        "prune": {name: pruning_seconds(workspace, name) for name in params.models},
        "validate": {name: validation_seconds(workspace, name) for name in params.models},
    }


def total_seconds(workspace: Workspace) -> float | None:
    """Wall time until now of the run that made all that the report reads; None where it was not made in one go."""
    if one_go.current_run() is None:
        return None
    return one_go.seconds_in_one_go(workspace, needed_for("report", stage_graph(workspace.root)))


def pruning_seconds(workspace: Workspace, model: str) -> float:
    """Seconds in which the circuits of a model were sought."""
    rows = read_json(workspace.circuits(model) / "summary.json")["tasks"].values()
    return sum(row["seconds"] for row in rows if row["seconds"] is not None)


def validation_seconds(workspace: Workspace, model: str) -> float | None:
    """Seconds in which the circuits of a model, the deciding ones among them, were tested; None where none was."""
    path = workspace.validations(model)
    if not path.is_file():
        return None
    rows = list(read_json(path)["tasks"].values())
    rows += [row["deciding"] for row in rows if row.get("deciding")]
    return math.fsum(value for row in rows for value in row["seconds"].values())


def headline(summary: Summary) -> str:
    """The study's answer in a sentence."""
    frontier = summary["frontier"]
    ratio = frontier["ratio_dense_to_sparse_edges_at_matched_loss"]
    if ratio is None:
        return "No task is solved by both a sparse and a dense model, so their circuits cannot be compared."
    n = len(frontier["tasks_compared"])
    return f"At matched pretraining loss, dense circuits have {ratio:.2f} times the edges of sparse ones ({n} tasks)."


def table(summary: Summary) -> str:
    """The models as a Markdown table."""
    lines = [
        "| model | kind | L0 | validation loss | solved | edges (geometric mean) | before minimisation |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for model in summary["models"]:
        after, before = (
            "–" if model[key] is None else f"{model[key]:.1f}" for key in ("geomean_edges", "geomean_edges_discretised")
        )
        solved = f"{model['val_loss_nats']:.3f} | {model['n_solved']}"
        lines.append(f"| {model['name']} | {model['kind']} | {model['l0']:,} | {solved} | {after} | {before} |")
    return "\n".join(lines)


def claims_table(summary: Summary) -> list[dict[str, Any]]:
    """A row for every circuit of a solved task: its size, its deciding circuit's, the claims about the latter as signs;
    about the paper's circuit where there is no deciding one."""
    return [
        {"task": name, "model": model["name"], "edges": task["n_edges"]}
        | {"edges of the deciding circuit": (task["circuits"]["deciding"] or {}).get("n_edges")}
        | chips(task["claims"] or {})
        for model, name, task in all_solved(summary["models"])
    ]


if __name__ == "__main__":
    main(report, per_model=False)
