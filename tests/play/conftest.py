"""A small session, and how its model is given a text."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pipeline.circuit import Circuit
from pipeline.model.transformer import Transformer
from pipeline.play.session import Session
from tests.play.playing import TOKENIZER, make_circuit, make_model, make_session


@pytest.fixture(scope="session")
def model() -> Transformer:
    return make_model()


@pytest.fixture(scope="session")
def circuit(model: Transformer) -> Circuit:
    return make_circuit(model)


@pytest.fixture(scope="session")
def session(model: Transformer, circuit: Circuit) -> Session:
    return make_session(model, circuit)


@pytest.fixture(scope="session")
def tokens_of() -> Callable[[str], torch.Tensor]:
    """Text → tokens [1, pos] as the model is given them."""
    return lambda text: torch.tensor([[TOKENIZER.eot, *text.encode()]])
