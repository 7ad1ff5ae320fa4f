"""Two processes train one model: the same bits on both, exactly sparse, and what one process would have learnt."""

from __future__ import annotations

import copy
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from flows.torchrun import WorkerError, first_error, launch
from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.config import ConfigError, load_params, parse_params
from pipeline.model.initial import new_model
from pipeline.pretrain import loop
from pipeline.pretrain.distributed import ALONE, DriftError, Ranks, check_device, owners, process_group
from pipeline.pretrain.loop import pretrain
from pipeline.pretrain.optimizer import SparseAdam
from pipeline.pretrain.step import train_step

STEPS, BATCH = 12, 8
CPU = torch.device("cpu")


class InterruptedRunError(Exception):
    pass


def steps(ranks, config, shared, accumulate):
    """Loss of every step, and the model after the last: the same batches however many ranks there are."""
    torch.set_num_threads(1)
    model = new_model(config, vocab_size=24, seed=0, bigram=None).train()
    optimizer, trained, losses = SparseAdam(model, config, shared, STEPS, ranks), ranks.trained(model), []
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        batch = torch.randint(0, 24, (BATCH, 1), generator=generator) + torch.arange(33)  # counting up, modulo 24
        loss = train_step(trained, optimizer, ranks.part(batch % 24), step, nullcontext(), accumulate)
        losses.append(float(ranks.mean(loss)))
    return losses, model, optimizer


def drifted(ranks, model):
    """Whether this rank sees it when a weight of rank 1 is −0 where it is 0 elsewhere."""
    ranks.check_identical(model)
    with torch.no_grad():
        model.lm_head.weight[3, 3] = -0.0 if ranks.rank == 1 else 0.0
    try:
        ranks.check_identical(model)
    except DriftError:
        return True
    return False


def interrupted(arguments):
    """Whether training stopped on its way from step 16 to 20, when it had written a checkpoint."""

    def stopping(model, optimizer, batch, step, precision, accumulate):
        if step == 18:
            raise InterruptedRunError
        return train_step(model, optimizer, batch, step, precision, accumulate)

    loop.train_step = stopping
    try:
        pretrain(**arguments)
    except InterruptedRunError:
        return True
    finally:
        loop.train_step = train_step
    return False


def work(rank, port, folder, config, shared, run):
    """What each of the two processes does; what it found goes to <rank>.pt."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in place.items():
            patch.setenv(name, str(value))
        with process_group(CPU) as ranks:
            losses, model, optimizer = steps(ranks, config, shared, accumulate=2)
            found = {"losses": losses, "weights": copy.deepcopy(model.state_dict()), "owners": optimizer.owners}
            found["drifted"] = drifted(ranks, model)
            logged = []
            run |= {"ranks": ranks, "scratch": folder / "scratch", "on_log": lambda step, metrics: logged.append(step)}
            found["summary"] = pretrain(**run, folder=folder / "whole")
            found["interrupted"] = interrupted(run | {"folder": folder / "broken"})
            found["logged"], logged[:] = list(logged), []
            pretrain(**run, folder=folder / "broken")
            found["logged_after"] = logged
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture
def sparse(tiny_config):
    return tiny_config(block_density=0.25, embed_density=0.5, afrac=0.25, sink=True, lr=0.02)


@pytest.fixture
def shared(params):
    return params.pretrain.model_copy(update={"keep_alive": 1, "batch": BATCH})


_found = {}


@pytest.fixture
def two(tmp_path_factory, sparse, shared, tiny_run):
    """What two processes found, started once, and the folder that they wrote into."""
    if not _found:
        folder = tmp_path_factory.mktemp("two")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(work, (port, folder, sparse, shared, tiny_run), nprocs=2)
        _found.update(folder=folder, ranks=[torch.load(folder / f"{rank}.pt") for rank in (0, 1)])
    return _found


@pytest.mark.slow
def test_both_ranks_hold_the_same_weights_bit_for_bit(two):
    first, second = (found["weights"] for found in two["ranks"])
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name].view(torch.int32), second[name].view(torch.int32)) for name in first)


@pytest.mark.slow
def test_every_tensor_has_exactly_its_budget_whoever_owns_it(two, sparse, shared):
    targets = SparseAdam(new_model(sparse, 24, 0, None), sparse, shared, STEPS).targets
    assert set(two["ranks"][0]["owners"]) == {0, 1}
    for target in targets:
        assert int(torch.count_nonzero(two["ranks"][0]["weights"][target.name])) == target.budget(1.0), target.name


@pytest.mark.slow
def test_two_ranks_that_accumulate_learn_what_one_process_learns(two, sparse, shared):
    alone, _, _ = steps(ALONE, sparse, shared, accumulate=1)
    assert alone[-1] < alone[0] - 0.5
    assert two["ranks"][0]["losses"] == two["ranks"][1]["losses"]
    # float32 sums in another order; by and by a weight at the threshold falls on the other side of it
    assert two["ranks"][0]["losses"] == pytest.approx(alone, abs=1e-3)


@pytest.mark.slow
def test_a_single_bit_of_drift_is_seen_on_all_ranks(two):
    assert [found["drifted"] for found in two["ranks"]] == [True, True]


@pytest.mark.slow
def test_the_first_rank_alone_logs_and_all_return_its_summary(two):
    first, second = two["ranks"]
    assert first["summary"] == second["summary"] == read_json(two["folder"] / "whole" / "summary.json")
    assert first["logged"] == [4, 8, 12, 16, 20, 24, 4, 8, 12, 16] and second["logged"] == []


@pytest.mark.slow
def test_an_interrupted_run_of_two_ends_equal_to_an_unbroken_one(two):
    assert [found["interrupted"] for found in two["ranks"]] == [True, True]
    assert two["ranks"][0]["logged_after"] == [20, 24]
    whole, broken = (load_file(two["folder"] / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    assert not list((two["folder"] / "scratch").rglob("checkpoint.pt"))


@pytest.mark.slow
def test_two_processes_validate_as_one_does(two, tiny_run, tmp_path):
    alone = pretrain(**tiny_run, folder=tmp_path / "a", scratch=tmp_path / "s", on_log=lambda step, metrics: None)
    both = two["ranks"][0]["summary"]
    assert both["l0_by_matrix"] == alone["l0_by_matrix"] and both["tokens"] == alone["tokens"]
    assert both["val_loss_nats"] == pytest.approx(alone["val_loss_nats"], abs=0.02)  # bfloat16, where in hardware


def test_ownership_worked_out_by_hand():
    assert owners([5, 3, 3, 2, 1], 2) == [0, 1, 1, 0, 1]  # 7 and 7
    assert owners([1, 1, 9, 1], 3) == [1, 2, 0, 1]


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(1, 9))
def test_every_tensor_has_one_owner_and_loads_differ_by_no_more_than_the_largest(sizes, n):
    owner = owners(sizes, n)
    assert len(owner) == len(sizes) and set(owner) <= set(range(n))
    load = [sum(size for size, at in zip(sizes, owner, strict=True) if at == rank) for rank in range(n)]
    assert max(load) - min(load) <= max(sizes, default=0)


def test_parts_of_a_batch_are_disjoint_and_cover_it():
    batch = torch.arange(24).view(12, 2)
    assert torch.equal(torch.cat([Ranks(rank, 4).part(batch) for rank in range(4)]), batch)


def test_alone_there_is_no_process_group_and_nothing_changes(tiny_model, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    model = tiny_model()
    with process_group(CPU) as ranks:
        assert ranks == ALONE and not torch.distributed.is_initialized()
        assert ranks.trained(model) is model and ranks.part(batch := torch.ones(3, 2)).equal(batch)


def test_a_process_that_torchrun_did_not_start_is_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError, match="WORLD_SIZE is not set: torchrun has to start this"), process_group(CPU):
        pass


def test_more_processes_than_gpus_or_a_device_that_cannot_be_shared_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device(torch.device("cuda"), 2)
    with pytest.raises(ConfigError, match=r"compute\.processes 3: this machine has 2 GPUs"):
        check_device(torch.device("cuda"), 3)
    with pytest.raises(ConfigError, match=r"compute\.processes 2 with compute\.device mps; allowed: cuda or cpu"):
        check_device(torch.device("mps"), 2)


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        (
            "compute",
            "processes",
            3,
            r"pretrain\.batch 16 .* for 3 processes × pretrain\.accumulate 1; .* of 3",
        ),
        ("pretrain", "accumulate", 5, r"for 1 processes × pretrain\.accumulate 5; allowed: a multiple of 5"),
        ("compute", "processes", 0, r"compute\.processes: Input should be greater than or equal to 1 \(got 0\)"),
        ("pretrain", "activation_checkpointing", "often", r"pretrain\.activation_checkpointing: .*boolean"),
    ],
)
def test_settings_that_cannot_be_shared_out_are_refused(section, key, value, words):
    raw = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    raw[section][key] = value
    with pytest.raises(ConfigError, match=words):
        parse_params(raw)


@pytest.fixture
def workspace(tmp_path, tokens, tiny_run, params, monkeypatch):
    """A study's folder with real tokens and a tiny model that two processes train."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / '.mlflow' / 'mlflow.db'}")
    raw = params.model_dump(mode="json")
    raw["models"] = {"tiny": tiny_run["config"].model_dump(mode="json")}
    raw["validate"] |= {"control_models": ["tiny"]}
    raw["compute"]["processes"], raw["pretrain"] = 2, tiny_run["shared"].model_dump(mode="json")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tokens").symlink_to(tokens)
    return Workspace(tmp_path)


@pytest.fixture
def unknown_host(tmp_path, monkeypatch):
    """Programs that this one starts run on a machine whose name nobody can look up, where this may be had."""
    alone = ["unshare", "--uts", "sh", "-c"]
    if subprocess.run([*alone, "hostname nowhere.invalid"], capture_output=True, check=False).returncode:
        pytest.skip("the name of this machine may not be changed for a process")
    program = tmp_path / "python"
    inside = f'hostname nowhere.invalid; exec {sys.executable} "$@"'
    program.write_text(f"#!/bin/sh\nexec {' '.join(alone)} '{inside}' python \"$@\"\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.slow
@pytest.mark.timeout(150)  # where it waits for the name, minutes
def test_torchrun_trains_the_model_that_two_processes_train(workspace, two, unknown_host):
    launch(workspace, load_params(workspace.params), "tiny")
    ours = load_file(workspace.model("tiny") / "model.safetensors")
    theirs = load_file(two["folder"] / "whole" / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_what_a_process_fails_of_is_what_the_stage_says(workspace, capfd):
    (workspace.root / "data" / "tokens").unlink()
    with pytest.raises(WorkerError, match=r"^tiny, trained in 2 processes: .*stats\.json: no such file; run the stage"):
        launch(workspace, load_params(workspace.params), "tiny")
    assert "error: " in capfd.readouterr().err


def test_the_first_error_is_the_earliest_one(tmp_path):
    assert first_error(tmp_path) is None
    for rank, time in ((0, 30), (1, 20)):
        said = {"message": f"ValueError: rank {rank}: odd", "extraInfo": {"timestamp": str(time)}}
        (tmp_path / "attempt_0" / str(rank)).mkdir(parents=True)
        write_json(tmp_path / "attempt_0" / str(rank) / "error.json", {"message": said})
    assert first_error(tmp_path) == "ValueError: rank 1: odd"
