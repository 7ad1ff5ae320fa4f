"""``sparse-circuits prune``: a model trained here in seconds, a task from a file, a circuit that runs; and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from closing import TASK, TOKENIZER, closing_pairs, run
from safetensors.torch import load_file, save_file

from pipeline.ablation import Ablation
from pipeline.artifacts import read_json, write_json
from pipeline.circuit import Circuit
from pipeline.config import load_params
from pipeline.data.pairs import answer_logits
from pipeline.data.pairs_file import read_pairs
from pipeline.data.tasks import find_task, generate
from pipeline.data.tokenizer import PATTERN, Tokenizer
from pipeline.model.checkpoint import load_model, save_means, save_model
from pipeline.model.initial import new_model
from pipeline.model.scoring import mean_loss, score
from pipeline.prune import checkpoint
from pipeline.prune.checkpoint import UnsolvedError, circuit_loss, prune_checkpoint
from pipeline.workspace import LoadedModel

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def own(study, tmp_path) -> Path:
    """A copy of the workspace that a test may damage."""
    return shutil.copytree(study, tmp_path / "study")


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs the command on a workspace, which has to refuse in one line and write nothing; returns what it says."""

    def refuse(root: Path, *options: object, model: str = "models/tiny", task: str | None = None) -> str:
        monkeypatch.chdir(root)
        before = sorted(root.rglob("*"))
        status, out, err = run(
            monkeypatch, capsys, "prune", "--model", model, "--task", task or TASK, "--out", "circuit", *options
        )
        assert (status, out) == (1, "") and sorted(root.rglob("*")) == before
        [line] = err.splitlines()
        return line.removeprefix("error: ")

    return refuse


# It finds a circuit


def test_a_checkpoint_and_a_file_give_a_circuit_that_runs(pruned, study):
    circuit = Circuit.load(study / "found")
    model = load_model(study / "models/tiny")
    batch = read_pairs(study / TASK, TOKENIZER, n_ctx=32, seed=0).batch("closing", "validation")
    loss = circuit_loss(circuit, model, batch)
    assert loss <= 0.15 and loss == pytest.approx(pruned.row["validation_loss"], abs=1e-4)
    masked = circuit(model)(batch.tokens, at=batch.last)
    assert mean_loss(answer_logits(masked, batch), circuit.calibration) == pytest.approx(loss, abs=1e-4)
    assert 0 < circuit.n_nodes < sum(model.widths().values())


def test_the_five_lines_of_the_documentation_run(pruned, own, monkeypatch, capsys):
    text = (ROOT / "docs" / "pairs.md").read_text(encoding="utf-8")
    lines = text.split("```python\n")[2].split("```")[0]
    monkeypatch.chdir(own)
    exec(lines.replace("models/sparse_d256", "models/tiny").replace("pairs.jsonl", TASK), {})
    assert len(lines.strip().splitlines()) <= 6 and f"{pruned.circuit.n_nodes} " in capsys.readouterr().out
    assert Circuit.load(own / "my_circuit").n_edges == pruned.circuit.n_edges


def test_the_folder_says_what_the_circuit_is_of_and_how_it_was_found(pruned, study):
    assert sorted(path.name for path in (study / "found").iterdir()) == [
        "circuit.json", "circuit.safetensors", "summary.json", "trials.json",
    ]  # fmt: skip
    summary, model = read_json(study / "found" / "summary.json"), load_model(study / "models/tiny")
    assert (summary["task"], summary["model"], summary["model_hash"]) == ("closing", "tiny", model.checkpoint)
    assert summary["n_edges"] == pruned.circuit.n_edges and summary["settings"]["ablations"] == ["mean"]
    test = read_pairs(study / TASK, TOKENIZER, n_ctx=32, seed=0).batch("closing", "test")
    assert summary["test_loss"] == pytest.approx(circuit_loss(pruned.circuit, model, test))
    assert summary["unpruned_loss"] == pytest.approx(mean_loss(score(model, test)))
    assert read_json(study / "found" / "trials.json") == pruned.trials
    assert len(pruned.trials) == len(load_params(study / "params.yaml").prune.centres)


def test_the_command_shows_sizes_and_losses_and_gives_the_same_circuit(pruned, own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    status, out, _ = run(monkeypatch, capsys, "prune", "--model", "models/tiny", "--task", TASK, "--out", "new/circuit")
    assert status == 0 and "closing in tiny" in out and "Circuit.load('new/circuit') reads it" in out
    [row] = [line for line in out.splitlines() if line.startswith("│ minimised ")]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    expected = [f"{pruned.row[key]:.3f}" for key in ("validation_loss", "test_loss")]
    assert cells[1:] == [f"{pruned.circuit.n_nodes:,}", f"{pruned.circuit.n_edges:,}", *expected]
    again, before = (read_json(path / "circuit.json") for path in (own / "new/circuit", own / "found"))
    assert again["nodes"] == before["nodes"] and again["edges"] == before["edges"]


@pytest.mark.parametrize("kind", ["zero", "resample"])
def test_what_is_outside_can_be_held_at_something_else(study, kind):
    found = prune_checkpoint(study / "models/tiny", study / TASK, ablation=kind, target_loss=0.4)
    ablated_to = found.circuit.ablation_values
    assert ablated_to.kind is Ablation(kind) and len(ablated_to.draws) == (2 if kind == "resample" else 1)
    assert all(not value.any() for value in ablated_to.first.values()) == (kind == "zero")


def test_masks_of_queries_and_keys_can_be_tied(study):
    circuit = prune_checkpoint(study / "models/tiny", study / TASK, tie_qk=True).circuit
    q, k = (set(circuit.nodes.get(f"0.attn_{name}", torch.zeros(0)).tolist()) for name in "qk")
    assert q == k


def test_settings_and_seed_reach_the_search(study, monkeypatch):
    asked = {}

    def instead(**given):
        asked.update(given)
        raise InterruptedError

    monkeypatch.setattr(checkpoint, "prune_task", instead)
    folder = study / "models/tiny"
    with pytest.raises(InterruptedError):
        prune_checkpoint(folder, study / TASK, out=study / "x", target_loss=0.3, budget=5, tie_qk=True, seed=4)
    first = dict(asked)
    assert (first["config"].target_loss, first["config"].budget, first["config"].tie_qk) == (0.3, 5, True)
    assert first["about"]["seed"] == 4 and first["storage"].parent == study and first["storage"].name.startswith(".x.")
    with pytest.raises(InterruptedError):
        prune_checkpoint(folder, study / TASK, out=study / "x", target_loss=0.3, budget=5, tie_qk=True, seed=5)
    assert asked["seed"] != first["seed"] and asked["storage"] != first["storage"]
    assert torch.equal(asked["batches"]["test"].tokens, first["batches"]["test"].tokens)
    with pytest.raises(InterruptedError):
        prune_checkpoint(folder, study / TASK)
    assert asked["storage"] is None and asked["config"] == load_params(study / "params.yaml").prune


def test_trials_of_a_search_with_a_budget_are_gone_when_it_is_done(own):
    prune_checkpoint(own / "models/tiny", own / TASK, out=own / "circuit", budget=1)
    assert not list(own.glob(".circuit*"))
    assert [trial["source"] for trial in read_json(own / "circuit/trials.json")].count("optuna") == 1


# It finds what belongs together


def test_a_model_folder_may_hold_its_own_tokenizer_and_lie_anywhere(own, monkeypatch, tmp_path):
    folder = tmp_path / "elsewhere"
    shutil.copytree(own / "models/tiny", folder)
    TOKENIZER.save(folder)
    params = load_params(own / "params.yaml")
    assert LoadedModel.open(folder, params).load_task(own / TASK, params).tokenizer.hash == TOKENIZER.hash


def test_a_task_by_name_is_made_in_the_models_tokens(study):
    params = load_params(study / "params.yaml")
    folder = study / "models" / "longer"
    config = params.models["dense_d32"].model_copy(update={"n_ctx": 512})
    model = new_model(config, TOKENIZER.vocab_size, seed=0, bigram=None)
    folder.mkdir()
    save_model(model, folder, {"tokenizer": TOKENIZER.hash})
    save_means({key: torch.zeros(width) for key, width in model.widths().items()}, folder)
    loaded = LoadedModel.open(folder, params).load_task("single_double_quote", params)
    assert loaded.name == "longer" and loaded.batch("train").n_pairs == 8
    pairs = generate("single_double_quote", "test", 8, params.seed)
    assert TOKENIZER.decode(loaded.batch("test").tokens[0, 1:].tolist()).startswith(pairs[0].a.prompt)
    with pytest.raises(UnsolvedError, match=r"longer cannot do single_double_quote: the whole model has a loss of"):
        prune_checkpoint(folder, "single_double_quote", params=params)


# It refuses


def test_a_folder_that_is_not_empty_is_left_alone(own, refused):
    (own / "circuit").mkdir()
    (own / "circuit" / "mine.txt").write_text("kept")
    assert refused(own) == "circuit: is there and not empty; name another folder to write to, or delete it first"


def test_what_is_no_checkpoint_is_refused(own, refused):
    assert refused(own, model="models/none").startswith(
        "models/none: no such folder; allowed: the folder of a checkpoint"
    )
    assert refused(own, model="models").startswith("models: has no config.json; allowed: ")
    write_json(own / "models/tiny/config.json", [])
    assert refused(own).startswith("models/tiny: is no checkpoint; allowed: ")
    write_json(own / "models/tiny/config.json", {"format": 7})
    assert refused(own) == "models/tiny: checkpoint format 7; allowed: 1 and 2"


def test_missing_and_foreign_means_are_refused(own, refused):
    path = own / "models/tiny/means.safetensors"
    means = load_file(path)
    save_file(means | {"0.attn_q": torch.zeros(3)}, path)
    assert refused(own).startswith("models/tiny/means.safetensors: sites of other widths than the model's")
    path.unlink()
    assert refused(own).startswith("models/tiny/means.safetensors: no such file; the means of a model's nodes")
    assert "sparse-circuits means models/tiny --data" in refused(own)


def test_a_tokenizer_that_is_missing_or_anothers_is_refused(own, refused, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    said = refused(own, "--tokenizer", other)
    assert said.startswith(f"no tokenizer: {other}/tokenizer.json: no such file; name the folder")
    Tokenizer(TOKENIZER.ranks | {b"ab": 256}, PATTERN).save(other)
    said = refused(own, "--tokenizer", other)
    assert f"with 258 ids, but models/tiny was trained with {TOKENIZER.hash} and 257 ids; name the folder" in said
    shutil.rmtree(own / "data")
    assert "models/tiny/tokenizer.json and " in refused(own) and "data/tokens/tokenizer.json: no such file" in refused(
        own
    )


def test_resampling_without_the_models_tokens_is_refused(own, refused):
    stats = read_json(own / "data/tokens/stats.json")
    write_json(own / "data/tokens/stats.json", stats | {"tokenizer_hash": "another"})
    assert "in the tokens of tokenizer another, but the model was trained with" in refused(
        own, "--ablation", "resample"
    )
    shutil.rmtree(own / "data/tokens")
    shutil.copytree(own / "models/tiny", own / "models/alone")
    TOKENIZER.save(own / "models/alone")
    assert "stats.json: no such file" in refused(own, "--ablation", "resample", model="models/alone")


def test_what_is_neither_a_task_nor_a_file_is_refused(own, refused):
    form = "allowed: a JSONL file of contrast pairs (docs/pairs.md), or a task's name"
    assert refused(own, task="none.jsonl") == f"none.jsonl: no such file; {form}"
    assert refused(own, task="models") == f"models: is a folder; {form}"
    assert refused(own, task="with_has").startswith("unknown task 'with_has'; did you mean 'with_as'?; or name a JSONL")
    assert refused(own, task="single_double_quote").startswith("task single_double_quote: its longest prompt has ")


def test_a_task_that_these_tokens_cannot_express_is_refused(study):
    params = load_params(study / "params.yaml")
    assert find_task("class_init").varied
    with pytest.raises(ValueError, match=r"class_init is not expressible in this vocabulary: 0% of its pairs"):
        LoadedModel.open(study / "models/tiny", params).load_task("class_init", params).batch("train")


def test_a_wrong_pair_is_refused_with_its_place(own, refused):
    with (own / TASK).open("a") as file:
        file.write('{"a": {"prompt": "<", "answer": ">"}, "b": {"prompt": "<", "answer": "}"}}\n')
    assert refused(own).startswith(f"{TASK}:49: both prompts are '<'; allowed: ")


def test_too_few_pairs_are_refused(own, refused):
    (own / TASK).write_text("".join(json.dumps(pair) + "\n" for pair in closing_pairs(15)), encoding="utf-8")
    assert refused(own).startswith(f"{TASK}: 15 pairs; allowed: at least 16, of which 8 are for training masks, ")


def test_a_task_that_the_model_cannot_do_is_refused_with_both_numbers(own, refused):
    pairs = closing_pairs(32)
    for pair in pairs[::2]:  # answers that nothing in the prompt decides
        pair["a"]["answer"], pair["b"]["answer"] = "}", ">"
    (own / TASK).write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    said = refused(own)
    assert said.startswith("tiny cannot do closing: the whole model has a loss of ")
    assert "nats on validation pairs, the target is 0.15; guessing has 0.693; take a model trained longer" in said


def test_a_target_below_the_models_own_loss_is_refused_with_the_least_allowed(own, refused):
    said = refused(own, "--target-loss", "1e-9")
    assert said.startswith("target loss 1e-09 is below the loss of tiny itself, which is 0.0")
    assert "nats on the validation pairs of closing; allowed: at least 0.0" in said


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--target-loss", "0"), "prune.target_loss: Input should be greater than 0 (got 0.0)"),
        (("--target-loss", "0.7"), "prune.target_loss: 0.7 nats are met by guessing, that is, by no circuit at all"),
        (("--budget", "-1"), "prune.budget: Input should be greater than or equal to 0 (got -1)"),
        (("--params", "none.yaml"), "none.yaml: no such file"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(study, refused, option, said):
    assert said in refused(study, *option)


def test_a_misspelt_setting_is_refused_from_python_too(study):
    with pytest.raises(ValueError, match=r"unknown key prune.target_los; did you mean prune.target_loss\?"):
        prune_checkpoint(study / "models/tiny", study / TASK, target_los=0.1)


def test_without_settings_both_places_are_named(own, refused):
    (own / "params.yaml").unlink()
    assert refused(own).startswith("no settings: neither ") and "name one (--params)" in refused(own)


def test_nothing_is_left_where_no_circuit_is_found_or_writing_fails(own, refused, monkeypatch):
    found = prune_checkpoint(own / "models/tiny", own / TASK)
    nothing = checkpoint.Pruned(found.row, None, [])
    monkeypatch.setattr(checkpoint, "prune_task", lambda **given: nothing)
    assert refused(own).startswith("no circuit of tiny for closing has a loss of at most 0.15 nats on train and ")
    broken = checkpoint.Pruned(found.row | {"validation_loss": float("nan")}, found.circuit, [])
    monkeypatch.setattr(checkpoint, "prune_task", lambda **given: broken)
    assert "not JSON compliant" in refused(own)
