"""A model's own seed: its initial weights and its batches follow from it; without one nothing changes, to the bit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flows import torchrun
from pipeline.artifacts import Workspace
from pipeline.config import ConfigError, Params, parse_params
from pipeline.pretrain import loop
from pipeline.pretrain.distributed import ALONE

AGAIN = "again"


@pytest.fixture
def two_seeds(params, tiny_run) -> Params:
    """The study with two models that differ in their seed alone, and one of another rate."""
    tiny = tiny_run["config"].model_dump(mode="json")
    models = {"tiny": tiny, AGAIN: tiny | {"seed": 1}, "other": tiny | {"lr": 0.5}}
    names = {"control_models": ["tiny"]}
    raw = params.model_dump(mode="json")
    return parse_params(raw | {"models": models, "validate": raw["validate"] | names, "pretrain": shared(tiny_run)})


def shared(tiny_run: dict[str, Any]) -> dict[str, Any]:
    return tiny_run["shared"].model_dump(mode="json")


@pytest.fixture
def start(monkeypatch, tmp_path, tiny_run):
    """(settings, model) → the run that the stage pretrain would begin, called by one name, and its arguments."""

    def begin(params: Params, model: str) -> tuple[loop.TrainingRun, dict[str, Any]]:
        given: dict[str, Any] = {}
        monkeypatch.setattr(torchrun, "pretrain", lambda **arguments: given.update(arguments))
        torchrun.train(Workspace(tmp_path), params, model, SimpleNamespace(is_first=False))
        device = torch.device("cpu")
        run = loop._start("tiny", given["config"], given["shared"], given["seed"], tiny_run["tokens"], device, ALONE)
        return run, given

    return begin


def test_two_models_that_differ_in_their_seed_alone_differ_in_initial_weights_and_batches(start, two_seeds):
    (first, _), (again, _) = start(two_seeds, "tiny"), start(two_seeds, AGAIN)
    name = "transformer.wte.weight"
    assert not torch.equal(first.model.state_dict()[name], again.model.state_dict()[name])
    assert not torch.equal(first.batches.at(0), again.batches.at(0))


def test_a_models_own_seed_trains_it_as_that_seed_of_the_study_would(start, two_seeds):
    own, _ = start(two_seeds, AGAIN)
    of_study, _ = start(two_seeds.model_copy(update={"seed": 1}), "tiny")
    assert all(torch.equal(own.model.state_dict()[key], value) for key, value in of_study.model.state_dict().items())
    assert torch.equal(own.batches.at(0), of_study.batches.at(0))


def test_a_model_without_a_seed_has_the_studys_and_dumps_as_before_there_was_one(start, two_seeds):
    _, given = start(two_seeds, "tiny")
    assert given["seed"] == two_seeds.seed
    assert "seed" not in given["config"].model_dump() and '"seed"' not in given["config"].model_dump_json()
    assert two_seeds.models[AGAIN].model_dump()["seed"] == 1


def test_models_that_differ_in_name_and_seed_alone_are_of_one_architecture(two_seeds, params):
    assert two_seeds.seeds_of_one_architecture() == [["tiny", AGAIN]]
    with pytest.raises(ConfigError, match="unknown model 'nobody'"):
        params.training_seed("nobody")
