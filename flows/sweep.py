"""``python -m flows.sweep [TRIAL ...]``: trains the trial models of flows/sweep.yaml on the study's tokens, says how
well each does, and writes docs/training.md's table. No stage.

A trial is a model's settings and changes to ``pretrain``, over those of its ``like``. One that results/sweep.json has
already with the same settings is not made again; an interrupted one goes on. ``--table`` only writes the table anew.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from flows import mapped
from flows.stage import guarded, load_study
from flows.torchrun import trainer
from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.config import ConfigError, Params, parse_params
from pipeline.model.checkpoint import load_model
from pipeline.model.scoring import mean_loss, score
from pipeline.report.training import filled

TRIALS = Path(__file__).with_name("sweep.yaml")
TABLE = Path("docs/training.md")


def main(arguments: list[str] | None = None) -> int:
    """Make the trials that are asked for, by default all. Raises ConfigError for a trial that is none."""
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description=__doc__)
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help="of flows/sweep.yaml; none: all of them")
    parser.add_argument("--table", action="store_true", help="train nothing, write the table of what is there")
    asked = parser.parse_args(arguments)
    workspace, params = load_study()
    trials = yaml.safe_load(TRIALS.read_text(encoding="utf-8"))
    if unknown := set(asked.trials) - set(trials):
        raise ConfigError(f"no trial {sorted(unknown)[0]!r}; flows/sweep.yaml has {', '.join(trials)}")
    record = workspace.results / "sweep.json"
    rows: dict[str, Any] = read_json(record) if record.is_file() else {}
    for name in [] if asked.table else asked.trials or trials:
        settings = settings_of(trials, name)
        if rows.get(name, {}).get("settings") != settings:
            rows[name] = {"settings": settings} | made(workspace, changed(params, name, settings), name)
            write_json(record, {name: rows[name] for name in trials if name in rows})
    page = workspace.root / TABLE
    summary = read_json(workspace.results / "summary.json")
    page.write_text(filled(page.read_text(encoding="utf-8"), rows, summary), encoding="utf-8")
    return 0


def settings_of(trials: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """``model`` and ``pretrain`` of a trial, over those of the trial that it is ``like``."""
    trial = trials[name] or {}
    base = settings_of(trials, trial["like"]) if "like" in trial else {"model": {}, "pretrain": {}}
    return {part: base[part] | (trial.get(part) or {}) for part in ("model", "pretrain")}


def changed(params: Params, name: str, settings: dict[str, dict[str, Any]]) -> Params:
    """The study's settings with a trial's model in place of its models. Raises ConfigError."""
    values = params.model_dump(mode="json")
    values["pretrain"] |= settings["pretrain"]
    values["models"] = {name: settings["model"]}
    values["validate"]["control_models"], values["report"]["example_model"] = [], name
    return parse_params(values, origin=f"flows/sweep.yaml: {name}")


def made(workspace: Workspace, params: Params, name: str) -> dict[str, Any]:
    """A trained trial's validation loss in nats, L0, tokens and seconds, and the tasks whose unpruned loss on
    validation pairs meets the target."""
    folder = workspace.scratch / "sweep" / name
    summary = trainer(workspace, params, name)(folder=folder)
    kept = {key: summary[key] for key in ("val_loss_nats", "l0", "tokens", "train_seconds")}
    print(f"{name}: validation loss {kept['val_loss_nats']:.3f} nats, L0 {kept['l0']:,}")
    return kept | {"solved": solved(workspace, folder, params.prune.target_loss)}


def solved(workspace: Workspace, folder: Path, target_loss: float) -> list[str]:
    """The tasks that a model does, unpruned, on validation pairs."""
    model, pairs = load_model(folder, "cpu"), mapped.loaded_tasks(workspace.tasks)
    names = filter(pairs.expressible, pairs.names)
    return [name for name in names if mean_loss(score(model, pairs.batch(name, "validation"))) <= target_loss]


if __name__ == "__main__":
    sys.exit(guarded(main))
