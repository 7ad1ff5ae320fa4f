"""What a crash leaves of a checkpoint is passed over for the one before; a training that diverges says so in a line."""

from __future__ import annotations

import pytest
import torch

from pipeline.data.batches import CorpusTooSmallError
from pipeline.data.shards import TokenStream
from pipeline.model.checkpoint import load_model
from pipeline.pretrain.loop import pretrain
from pipeline.pretrain.schedule import anneal_progress


class StoppedError(Exception):
    pass


@pytest.fixture
def train(tiny_run, tmp_path):
    def run(into, stop_at=None, **changed):
        seen = []

        def on_log(step, metrics):
            seen.append(step)
            if step == stop_at:
                raise StoppedError

        folder = tmp_path / into / "tiny"
        try:
            pretrain(**(tiny_run | changed), folder=folder, scratch=tmp_path / into / "scratch", on_log=on_log)
        except StoppedError:
            pass
        return folder, seen

    return run


@pytest.mark.parametrize("damage", ["empty", "cut", "zeros at its end", "one bit"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_the_end_is_the_same(
    train, tmp_path, damage, capsys
):
    train("broken", stop_at=20)
    [checkpoint] = (tmp_path / "broken/scratch").rglob("checkpoint.pt")
    content = bytearray(checkpoint.read_bytes())
    if damage == "one bit":
        content[len(content) // 2] ^= 1
    elif damage == "zeros at its end":
        content[-256:] = bytes(256)
    checkpoint.write_bytes(bytes(content[: {"empty": 0, "cut": len(content) // 2}.get(damage, len(content))]))
    resumed, seen = train("broken")
    said = capsys.readouterr().err
    if seen[0] != 20:  # the bit may lie where nothing is read
        assert seen[0] == 12 and f"{checkpoint} is damaged" in said
    assert damage == "one bit" or seen[0] == 12
    whole, _ = train("whole")
    found, wanted = (dict(load_model(folder).named_parameters()) for folder in (resumed, whole))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not list((tmp_path / "broken/scratch").rglob("*checkpoint.pt"))


def test_where_both_are_damaged_it_begins_again(train, tmp_path):
    train("broken", stop_at=20)
    for path in (tmp_path / "broken/scratch").rglob("*checkpoint.pt"):
        path.write_bytes(b"")
    _, seen = train("broken")
    assert seen[0] == 4


@pytest.mark.parametrize("lr", [300.0, 1e6])
def test_a_training_that_diverges_says_so(train, tiny_run, lr):
    config = tiny_run["config"].model_copy(update={"lr": lr, "block_density": 1.0, "embed_density": 1.0, "afrac": 1.0})
    with pytest.raises(ValueError, match=r"the loss is not finite at step .*lower models\.tiny\.lr"):
        train("diverges", config=config)


def test_a_sparse_training_that_diverges_says_so(train, tiny_run):
    with pytest.raises(ValueError, match=r"the loss is not finite at step .*lower models\.tiny\.lr"):
        train("diverges", config=tiny_run["config"].model_copy(update={"lr": 1e308}))


@pytest.mark.parametrize(("changed", "n_tokens"), [({"anneal_start": 1.0, "anneal_end": 1.0}, 3072), ({}, 5)])
def test_a_training_that_would_end_before_its_model_is_sparse_is_refused(train, tiny_run, changed, n_tokens):
    shared = tiny_run["shared"].model_copy(update=changed)
    with pytest.raises(ValueError, match=r"steps comes before annealing ends.*lower pretrain\.anneal_end"):
        train("whole", shared=shared, config=tiny_run["config"].model_copy(update={"tokens": n_tokens}))


def test_too_short_a_text_for_validation_is_said_before_the_first_step(train, tiny_run):
    n_ctx = TokenStream.open(tiny_run["tokens"], "validation").n_tokens  # a window has one more
    config = tiny_run["config"].model_copy(update={"n_ctx": n_ctx})
    with pytest.raises(CorpusTooSmallError, match="the validation stream"):
        train("short", config=config, shared=tiny_run["shared"].model_copy(update={"batch": 1}))


def test_annealing_can_be_all_at_once(params):
    shared = type(params.pretrain).model_validate(
        params.pretrain.model_dump() | {"anneal_start": 0.5, "anneal_end": 0.5}
    )
    assert [anneal_progress(step, 10, shared) for step in (0, 4, 5, 9)] == [0.0, 0.0, 1.0, 1.0]
