"""Training on real tokens: it learns, ends exactly sparse, repeats bit for bit, and survives an interruption."""

from __future__ import annotations

import json
import math
import threading

import pytest
import torch

from pipeline.model.checkpoint import load_means, load_model
from pipeline.pretrain import kept
from pipeline.pretrain.kept import Kept
from pipeline.pretrain.loop import pretrain, read_ahead


@pytest.fixture
def train(tiny_run, tmp_path):
    def run(into="a", on_log=lambda step, metrics: None, **shared):
        changed = tiny_run | {"shared": tiny_run["shared"].model_copy(update=shared)}
        folder = tmp_path / into / "tiny"
        return folder, pretrain(**changed, folder=folder, scratch=tmp_path / "scratch", on_log=on_log)

    return run


def weights(folder):
    return dict(load_model(folder).named_parameters())


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_loss_falls_below_that_of_the_first_steps(train):
    folder, summary = train(bigram_init="uniform")  # from counts, little is left to learn in 24 steps
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert history[-1]["val_loss"] < history[0]["val_loss"] - 0.1
    assert summary["val_loss_nats"] == history[-1]["val_loss"]


def test_the_checkpoint_has_exactly_the_nonzeros_of_its_density(train):
    folder, summary = train()
    for name, weight in weights(folder).items():
        if name.endswith("c_fc.weight"):
            assert int(torch.count_nonzero(weight)) == round(0.25 * weight.numel()) == summary["l0_by_matrix"][name]
    assert not torch.isnan(torch.cat([value for value in load_means(folder).values()])).any()


def test_the_same_seed_gives_the_same_weights_bit_for_bit(train):
    assert same(weights(train(into="a")[0]), weights(train(into="b")[0]))


def test_an_interrupted_run_ends_equal_to_an_unbroken_one(train, tmp_path):
    class InterruptedRunError(Exception):
        pass

    def stop_late(step, metrics):
        if step == 20:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        train(into="broken", on_log=stop_late)
    assert not (tmp_path / "broken" / "tiny").exists()
    seen = []
    resumed, _ = train(into="broken", on_log=lambda step, metrics: seen.append(step))
    assert seen[0] == 20  # the checkpoint of step 16 was used: 16 steps were not repeated
    unbroken, _ = train(into="whole")
    assert same(weights(resumed), weights(unbroken))
    assert not list((tmp_path / "scratch").rglob("checkpoint.pt"))


@pytest.mark.parametrize("every", [1, 4])
def test_a_run_killed_between_validations_ends_equal_history_and_all(train, tiny_run, monkeypatch, tmp_path, every):
    """With a checkpoint after each step, and killed at every fifth."""

    class KilledError(Exception):
        pass

    monkeypatch.setattr(kept, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(kept, "MAX_SHARE", math.inf)
    tiny_run["compute"] = tiny_run["compute"].model_copy(update={"threads": 1})
    write = Kept.write

    def write_and_die(self, state):
        write(self, state)
        if state["step"] % 5 == 2:
            raise KilledError

    unbroken, _ = train(into="whole", dense_gradient_every=every)
    monkeypatch.setattr(Kept, "write", write_and_die)
    n_killed = 0
    while not (tmp_path / "broken" / "tiny").exists():
        try:
            train(into="broken", dense_gradient_every=every)
        except KilledError:
            n_killed += 1
    assert n_killed == 4  # at 2, 7, 17 and 22: at 12 there is a validation, and no checkpoint is due
    assert same(weights(tmp_path / "broken" / "tiny"), weights(unbroken))
    histories = [(tmp_path / into / "tiny" / "history.jsonl").read_text().splitlines() for into in ("whole", "broken")]
    timeless = [[json.loads(line) | {"tokens_per_second": 0} for line in history] for history in histories]
    assert timeless[0] == timeless[1]


def test_a_batch_that_does_not_divide_is_refused(train):
    with pytest.raises(ValueError, match=r"pretrain\.batch 4 .* 1 processes × pretrain\.accumulate 3; .* of 3"):
        train(accumulate=3)


def test_accumulating_and_recomputing_train_the_same_model_within_rounding(train, tiny_run):
    tiny_run["compute"] = tiny_run["compute"].model_copy(update={"precision": "float32"})
    plain = weights(train(into="plain")[0])
    spared = weights(train(into="spared", accumulate=2, activation_checkpointing=True)[0])
    far = torch.cat([((spared[name] - plain[name]).abs() > 1e-4).flatten() for name in plain])
    assert far.float().mean() < 0.01  # rounding may tip a few masks over; a part left out moves a tenth of the weights


def test_batches_come_in_order_and_are_read_one_ahead_in_another_thread():
    read = []

    def reading(step):
        read.append((step, threading.current_thread() is threading.main_thread()))
        return torch.tensor(step)

    for step, batch in read_ahead(reading, 3, 7):
        assert int(batch) == step and max(step for step, _ in read) <= step + 1
    assert read == [(3, False), (4, False), (5, False), (6, False)]


def test_what_goes_wrong_while_reading_ahead_reaches_the_loop():
    def reading(step):
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        next(read_ahead(reading, 0, 2))
