"""Small real things that many tests start from."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from jaxtyping import install_import_hook

# Types and shapes of arguments and results are checked at every call of these; with SHAPES=all also of those whose
# functions are called so often that tests of pruning take twice the time.
CHECKED = ["ablate", "explain", "play", "pretrain", "stats"]
CHECKED += ["circuit", "model", "prune"] if os.environ.get("SHAPES") == "all" else []
TYPES = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"  # an int is a float
install_import_hook([f"pipeline.{name}" for name in CHECKED], TYPES)

from pipeline.artifacts import Workspace
from pipeline.config import ModelConfig, Params, load_params
from pipeline.model.initial import new_model
from pipeline.model.transformer import Transformer
from tests.randomised import randomised

TINY = {
    "n_layer": 2,
    "d_model": 16,
    "d_head": 4,
    "n_ctx": 32,
    "afrac": 1.0,
    "block_density": 1.0,
    "embed_density": 1.0,
    "sink": False,
    "positions": False,
    "lr": 0.01,
    "tokens": 4096,
}


@pytest.fixture(scope="session")
def params() -> Params:
    """The laptop profile, as committed."""
    return load_params("params.yaml")


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., ModelConfig]:
    """A model configuration of a few thousand weights; keyword arguments override."""
    return lambda **changes: ModelConfig.model_validate(TINY | changes)


@pytest.fixture(scope="session")
def tiny_model(tiny_config: Callable[..., ModelConfig]) -> Callable[..., Transformer]:
    """A random frozen model with a vocabulary of 24, all its parameters (biases, sinks, gains too) nontrivial."""

    def build(seed: int = 0, **changes: object) -> Transformer:
        model = new_model(tiny_config(**changes), vocab_size=24, seed=seed, bigram=None)
        return randomised(model, seed + 1)

    return build


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A whole smoke study, run as ``make smoke`` runs it."""
    into = tmp_path_factory.mktemp("smoke") / "w"
    command = [sys.executable, "-m", "flows.smoke", "--into", str(into)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (into / "said.txt").write_text(done.stdout, encoding="utf-8")
    return Workspace(into)


@pytest.fixture(autouse=True)
def processor_as_it_was() -> Iterator[None]:
    """Undo what training sets for a whole process: denormals flushed to zero, and the number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)
