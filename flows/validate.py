"""Stage validate: attempts to refute each circuit of one model, on test pairs (§6)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from prefect import task

from flows import mapped
from flows.stage import load_study, main, stage_flow
from flows.tracking import Tracker
from pipeline.artifacts import ArtifactError, file_hash, write_json
from pipeline.config import ConfigError, PruneConfig, ValidateConfig
from pipeline.data.generalisation import GeneralisationSet
from pipeline.data.tasks import TaskError, find_task
from pipeline.data.tokenizer import Tokenizer
from pipeline.data.words import SPLITS
from pipeline.model.checkpoint import model_hash
from pipeline.model.device import pick_device
from pipeline.rows import ValidationRow
from pipeline.seeds import seed_of
from pipeline.validate import CircuitUnderTest, residual_kurtosis, validate_circuit, windows_of


@stage_flow
def validate(model: str) -> None:
    """Write validations/<model>.json from the model, its circuits, data/tasks, data/generalisation and data/tokens."""
    workspace, params = load_study()
    check_controls(params.validate)
    tasks = mapped.checked_tasks(workspace, model)
    generalisation = GeneralisationSet.load(workspace.generalisation)
    if generalisation.tokenizer_hash != tasks.tokenizer_hash:
        raise ArtifactError(
            f"{workspace.generalisation}: in other tokens than data/tasks; run dvc repro, which makes both"
        )
    generalisation.check_tasks(tasks, workspace.generalisation)
    shared = {"prune": params.prune.model_dump(mode="json"), "tokens_hash": file_hash(workspace.tokens / "stats.json")}
    inputs = {
        name: values | shared | {"generalisation_hash": generalisation.hash(name)}
        for name, values in mapped.inputs_by_circuit(workspace, params, "validate", model).items()
    }
    rows = mapped.run_units(validate_unit, inputs)
    checkpoint = model_hash(workspace.model(model))
    loaded = mapped.loaded_model(workspace.model(model), checkpoint, str(pick_device(params.compute)))
    kurtosis = residual_kurtosis(
        loaded,
        [windows_of(workspace.tokens, loaded, params.seed)],
        n_bootstrap=params.validate.n_bootstrap,
        seed=params.seed,
    )
    path = workspace.validations(model)
    found = {"model": model, "model_hash": checkpoint, "residual_kurtosis": kurtosis, "tasks": rows}
    write_json(path, found)
    with Tracker(params, model) as tracker:
        tracker.log_validations(workspace.model(model), workspace.circuits(model), path)
    verdicts = {name: row["verdict"] for name, row in rows.items()}
    mapped.show_tasks("validations", model, verdicts, ["line"], f"Claims that the circuits of {model} support")
    tested = [verdict for verdict in verdicts.values() if verdict["n_tested"]]
    supported = sorted(found["n_supported"] for found in tested)
    print(f"{model}: {len(tested)} circuits tested, claims that each supports: {', '.join(map(str, supported)) or '–'}")


@task(name="validate", **mapped.UNIT)
def validate_unit(task: str, inputs: dict[str, Any]) -> ValidationRow:
    """The results of every test of one circuit."""
    workspace, model = mapped.unit_model(inputs)
    pairs, generalisation = mapped.loaded_tasks(workspace.tasks), GeneralisationSet.load(workspace.generalisation)
    config = ValidateConfig.model_validate(inputs["settings"])
    prune = PruneConfig.model_validate(inputs["prune"])
    paper = CircuitUnderTest(
        model=model,
        circuit=mapped.unit_circuit(workspace, task, inputs),
        batches={split: pairs.batch(task, split).to(model.device) for split in SPLITS},
        windows=windows_of(workspace.tokens, model, inputs["seed"]),
        config=config,
        seed=seed_of(inputs["seed"], "validate", inputs["model"], task),
        target=prune.target_loss,
    )
    thorough, deciding = inputs["model"] in config.control_models, mapped.deciding_circuit(workspace, task, inputs)
    test = partial(
        validate_circuit,
        generalisation={
            family: generalisation.batch(task, family).to(model.device) for family in generalisation.families(task)
        },
        tokenizer=Tokenizer.load(workspace.tokens),
        with_controls=thorough and task in config.control_tasks,
        stress=thorough,
    )
    if deciding is None:
        return test(paper, prune=prune)
    # The claims are the deciding circuit's: of the other, its search is not repeated but where all is asked for.
    once = paper if thorough else replace(paper, config=config.model_copy(update={"seeds": 0}))
    row = test(once, prune=prune)
    row["deciding"] = test(replace(paper, circuit=deciding), prune=prune.for_deciding()[0])
    return row


def check_controls(config: ValidateConfig) -> None:
    """Raises ConfigError where a task of the controls is none."""
    for name in config.control_tasks:
        try:
            find_task(name)
        except TaskError as error:
            raise ConfigError(f"params.yaml: validate.control_tasks: {error}") from None


if __name__ == "__main__":
    main(validate, per_model=True, mapped=True)
