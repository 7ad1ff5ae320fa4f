"""Samples of nodes are values that the model really had, at places of the tokens that were given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.ablation import Ablation
from pipeline.artifacts import ArtifactError, write_json
from pipeline.circuit.ablation_values import node_samples
from pipeline.circuit.make_ablations import ablations_for
from pipeline.config import load_params
from pipeline.data.batches import CorpusTooSmallError
from pipeline.model.record import record


@pytest.fixture
def case(tiny_model):
    model = tiny_model(afrac=0.5, sink=True)
    tokens = torch.randint(24, (5, 8), generator=torch.Generator().manual_seed(0))
    return model, [tokens[:2], tokens[2:]]


def places(model, batches, samples) -> list[int]:
    """For every draw, the one place whose values at all sites are the draw's."""
    values = record(model, torch.cat(batches))[1]
    found = []
    for i in range(len(next(iter(samples.values())))):
        same = [torch.isclose(values[key].flatten(0, 1), samples[key][i], atol=1e-5).all(1) for key in samples]
        [place] = torch.stack(same).all(0).nonzero().flatten().tolist()
        found.append(place)
    return found


def test_a_draw_is_one_place_of_the_batches_at_all_sites(case):
    model, batches = case
    samples = node_samples(model, batches, 6, seed=1)
    assert {key: tuple(value.shape) for key, value in samples.items()} == {k: (6, w) for k, w in model.widths().items()}
    assert len(set(places(model, batches, samples))) == 6


def test_every_place_can_be_drawn_and_none_twice(case):
    model, batches = case
    assert sorted(places(model, batches, node_samples(model, batches, 40, seed=2))) == list(range(40))
    with pytest.raises(ValueError, match="41 draws of resampled values wanted, the batches have 40 tokens"):
        node_samples(model, batches, 41, seed=2)


def test_draws_follow_from_the_seed(case):
    model, batches = case
    drawn = [places(model, batches, node_samples(model, batches, 5, seed)) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.fixture
def packed(tmp_path):
    """Writes a folder of packed tokens, 0, 1, … 23, 0, …; returns it."""

    def write(n: int):
        (np.arange(n) % 24).astype(np.uint16).tofile(tmp_path / "train.bin")
        write_json(tmp_path / "stats.json", {"dtype": "uint16", "n_tokens": {"train": n}, "tokenizer_hash": "h"})
        return tmp_path

    return write


def ablated_to(model, kind, folder, tokenizer="h", seed=0):
    means = {key: torch.ones(width) for key, width in model.widths().items()}
    config = load_params("params.yaml").prune.model_copy(update={"ablations": [kind], "draws": 3})
    return ablations_for(config, model, means, None, folder, tokenizer, seed)[0]


def test_nodes_are_held_at_means_zero_or_draws(case, packed):
    model, _ = case
    folder = packed(200)
    assert all((value == 1).all() for value in ablated_to(model, Ablation.MEAN, folder).first.values())
    assert all((value == 0).all() for value in ablated_to(model, Ablation.ZERO, folder).first.values())
    once, again, other = (ablated_to(model, Ablation.RESAMPLE, folder, seed=seed) for seed in (0, 0, 1))
    assert len(once.draws) == 3 and list(once.first) == list(model.widths())
    assert all(torch.equal(once.first[key], again.first[key]) for key in once.first)
    assert not torch.equal(once.first["0.attn_v"], other.first["0.attn_v"])


def test_other_tokens_or_too_few_are_refused(case, packed):
    model, _ = case
    with pytest.raises(ArtifactError, match="tokenizer h, but the model was trained with another; name the folder"):
        ablated_to(model, Ablation.RESAMPLE, packed(200), tokenizer="another")
    with pytest.raises(CorpusTooSmallError, match="train stream has 32 tokens; resampling needs one window of 33"):
        ablated_to(model, Ablation.RESAMPLE, packed(32))
    assert len(ablated_to(model, Ablation.RESAMPLE, packed(33)).draws) == 3
