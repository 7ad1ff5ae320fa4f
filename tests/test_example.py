"""The model and the circuits that the repository ships belong together, and do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.artifacts import Workspace
from pipeline.circuit import Circuit
from pipeline.config import load_params
from pipeline.prune.checkpoint import circuit_loss
from pipeline.workspace import LoadedModel

ROOT = Path(__file__).parent.parent
EXAMPLE = Workspace(ROOT / "example")


def circuits() -> list[Path]:
    return sorted(file.parent for file in (EXAMPLE.root / "circuits").glob("*/*/circuit.json"))


def test_a_fresh_clone_has_a_model_with_circuits_in_a_few_megabytes():
    assert len(circuits()) >= 10
    assert sum(path.stat().st_size for path in EXAMPLE.root.rglob("*") if path.is_file()) < 8e6


@pytest.mark.parametrize("folder", circuits(), ids=lambda folder: folder.name)
def test_a_shipped_circuit_has_the_loss_that_it_says_in_the_model_beside_it(folder):
    params = load_params(EXAMPLE.params)
    loaded = LoadedModel.open(EXAMPLE.model(folder.parent.name), params).load_task(folder.name, params)
    circuit = Circuit.load(folder)
    circuit.check_model(loaded.model)
    assert circuit.about["task_hash"] == loaded.about["task_hash"]
    loss = circuit_loss(circuit, loaded.model, loaded.batch("validation").first(params.prune.validation_pairs))
    assert loss == pytest.approx(circuit.about["validation_loss"], abs=1e-5)
    assert loss < params.prune.target_loss + 0.01
