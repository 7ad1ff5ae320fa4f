"""Claims that are known to be true, because their circuits were planted, and the same circuits with something wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pipeline.circuit import Circuit
from pipeline.circuit.masked import Masked
from pipeline.data.pairs import answer_logits
from pipeline.model.scoring import calibrate
from pipeline.planted import Algorithm, Planted, plant
from pipeline.validate.circuit_under_test import CircuitUnderTest

TARGET = 0.15
SPLITS = {"train": 48, "validation": 48, "test": 48}


def make_circuit(planted: Planted, nodes=None, edges=None) -> Circuit:
    """The planted circuit, or another of the same model, calibrated on train pairs."""
    nodes = planted.nodes if nodes is None else nodes
    edges = planted.edges if edges is None else edges
    batch = planted.batch("train", SPLITS["train"])
    masked = Masked(planted.model, nodes, edges, planted.means)
    calibration = calibrate(answer_logits(masked(batch.tokens, at=batch.last), batch), 16, 3.0)
    order = {key: torch.zeros_like(mean) for key, mean in planted.means.items()}
    for key, indices in nodes.items():
        order[key][indices] = 1
    return Circuit(nodes, edges, planted.means, order, calibration=calibration, about={"task": planted.name})


@pytest.fixture
def settings(params):
    """Settings of validation that take seconds on a planted model."""
    fewer = {"n_bootstrap": 200, "few_pairs": 24, "permutations": 300}
    whole = {"seeds": 5, "n_random": 20, "points": 8, "adversary_steps": 8}  # whatever the study's are
    return params.validate.model_copy(update=fewer | whole)


@pytest.fixture
def circuit_of() -> Callable[..., Circuit]:
    """``circuit_of(planted)``; with ``nodes`` or ``edges``, another circuit of the same model."""
    return make_circuit


@pytest.fixture
def claim_of(settings) -> Callable[..., CircuitUnderTest]:
    """``claim_of(planted)``: that the planted circuit does the task; with ``circuit``, that another one does."""

    def build(planted: Planted, circuit: Circuit | None = None) -> CircuitUnderTest:
        batches = {split: planted.batch(split, n) for split, n in SPLITS.items()}
        return CircuitUnderTest(
            planted.model, circuit or make_circuit(planted), batches, planted.corpus(2048), settings, 0, TARGET
        )

    return build


@pytest.fixture
def quote() -> Planted:
    return plant(Algorithm.QUOTE, d_model=64, seed=0)


@pytest.fixture
def induction() -> Planted:
    return plant(Algorithm.INDUCTION, d_model=64, seed=0)
