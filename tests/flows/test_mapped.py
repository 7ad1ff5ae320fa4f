"""What the mapped stages refuse, and what the identity of a unit depends on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from flows import mapped
from pipeline.artifacts import ArtifactError, Workspace, write_json
from pipeline.config import Params

MODEL = {
    "n_layer": 1, "d_model": 16, "d_head": 16, "n_ctx": 32, "afrac": 1, "block_density": 1, "embed_density": 1,
    "sink": False, "positions": False, "lr": 0.01, "tokens": 1,
}  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A model of 32 positions trained with tokenizer t1, and tasks in t1 whose longest prompt has 20 tokens."""
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"tokenizer": "t1", "model": {"n_ctx": 32}})
    (folder / "model.safetensors").write_bytes(b"weights")
    _tasks_are(monkeypatch, tokenizer_hash="t1", n_tokens_max=20)
    return Workspace(tmp_path)


def _tasks_are(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:
    monkeypatch.setattr(mapped.TaskSet, "load", lambda folder: SimpleNamespace(**facts))


def test_tasks_that_fit_the_model_are_taken(workspace: Workspace) -> None:
    assert mapped.checked_tasks(workspace, "small").n_tokens_max == 20


def test_tasks_in_another_tokenizer_are_refused(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    _tasks_are(monkeypatch, tokenizer_hash="t2", n_tokens_max=20)
    with pytest.raises(ArtifactError, match="tokenizer t2.*trained with t1.*dvc repro"):
        mapped.checked_tasks(workspace, "small")


def test_prompts_longer_than_the_context_are_refused(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    _tasks_are(monkeypatch, tokenizer_hash="t1", n_tokens_max=33)
    with pytest.raises(ArtifactError, match=r"models\.small\.n_ctx 32 .*33 tokens; allowed: at least 33"):
        mapped.checked_tasks(workspace, "small")


def test_units_depend_on_settings_seed_and_checkpoint_but_not_on_workers(workspace: Workspace, params: Params) -> None:
    def inputs(changed: Params) -> dict[str, Any]:
        return mapped.shared_inputs(workspace, changed, "prune", "small")

    def with_prune(**changes: Any) -> Params:
        return params.model_copy(update={"prune": params.prune.model_copy(update=changes)})

    first = inputs(params)
    more = params.compute.model_copy(update={"workers": params.compute.workers + 1})
    assert inputs(params.model_copy(update={"compute": more})) == first
    assert inputs(with_prune(steps=params.prune.steps + 1)) != first
    assert inputs(params.model_copy(update={"seed": params.seed + 1})) != first
    (workspace.model("small") / "model.safetensors").write_bytes(b"other weights")
    assert inputs(params) != first


def test_code_hash_is_that_of_the_files_that_dvc_yaml_names_for_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pipeline" / "prune").mkdir(parents=True)
    for name in ("__init__.py", "prune/search.py", "seeds.py", "other.py"):
        (tmp_path / "pipeline" / name).write_text("# code")
    stages = {"prune": {"do": {"deps": ["data/tokens", "flows/prune.py", "pipeline/prune", "pipeline/seeds.py"]}}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    monkeypatch.setattr(mapped.pipeline, "__file__", str(tmp_path / "pipeline" / "__init__.py"))
    first = mapped.code_hash("prune")
    (tmp_path / "pipeline/other.py").write_text("# other code")
    assert mapped.code_hash("prune") == first
    (tmp_path / "pipeline/prune/search.py").write_text("# other code")
    assert mapped.code_hash("prune") != first
    (tmp_path / "pipeline/seeds.py").unlink()
    with pytest.raises(ArtifactError, match="seeds.py"):
        mapped.code_hash("prune")


@pytest.mark.parametrize("stage", ["prune", "ablate", "validate", "explain"])
def test_every_mapped_stage_has_code(stage: str) -> None:
    assert len(mapped.code_hash(stage)) == 16


def test_artifact_keys_are_what_prefect_takes() -> None:
    assert mapped.artifact_key("circuits", "sparse_d256.Half") == "circuits-sparse-d256-half"


def test_tables_have_four_digits_and_leave_counts_and_words_alone() -> None:
    assert [mapped.rounded(value) for value in (0.123456, 1234567.0, 12345, True, "a", None)] == [
        0.1235, 1235000.0, 12345, True, "a", None,
    ]  # fmt: skip


def test_a_table_of_verdicts_has_a_column_a_claim_and_prunes_solved_is_a_circuit_found() -> None:
    claims = {"alone": {"outcome": "supported"}, "decides": {"outcome": "not supported"}}
    rows = {"quotes": {"claims": claims, "line": "supports 1"}, "empty": {"claims": {}, "line": "nothing to test"}}
    quotes, empty = mapped.task_table(rows, ["line"])
    assert list(quotes) == list(empty) == [
        "task", "alone", "decides", "needed", "mechanism", "elsewhere", "not artefact", "line",
    ]  # fmt: skip
    assert "".join(list(quotes.values())[1:7]) == "✓✗––––" and quotes["line"] == "supports 1"
    assert mapped.task_table({"t": {"solved": True, "n_edges": 3}}, ["solved"]) == [
        {"task": "t", "circuit found": True}
    ]


def test_a_damaged_checkpoint_is_refused_before_any_unit_starts(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, params: Params
) -> None:
    write_json(workspace.model("small") / "config.json", {"format": 1, "model": MODEL, "vocab_size": 300})
    inputs = mapped.shared_inputs(workspace, params, "prune", "small")
    monkeypatch.setattr(mapped.environment, "workspace", lambda: workspace)
    started: list[str] = []
    unit = SimpleNamespace(name="prune", submit=lambda task, values: started.append(task))
    unit.with_options = lambda **options: unit
    with pytest.raises(ArtifactError, match="model.safetensors: damaged"):
        mapped.run_units(cast("Any", unit), {"var_swap": inputs, "with_as": inputs})
    assert started == []
