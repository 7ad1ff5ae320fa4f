"""The doors from end to end: a model out and in again, its means, its circuit, and that circuit for other tools."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import datasets
import networkx
import numpy as np
import pytest
import torch
from closing import TASK, TOKENIZER, run, trained

from pipeline import load_model
from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.data.pairs_file import read_pairs
from pipeline.data.shards import write_stream
from pipeline.data.tokenizer import Tokenizer
from pipeline.model.checkpoint import save_model
from pipeline.shape import ModelShape


@pytest.fixture
def own(study, tmp_path, monkeypatch) -> Path:
    """A copy of the workspace, and the folder that commands run in."""
    place = shutil.copytree(study, tmp_path / "study")
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def said(monkeypatch, capsys):
    """Runs a command that has to succeed; what it prints."""

    def say(*arguments: object) -> str:
        status, out, err = run(monkeypatch, capsys, *map(str, arguments))
        assert status == 0, err
        return out

    return say


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs a command that has to refuse in one line and write nothing; what it says."""

    def refuse(*arguments: object) -> str:
        before = sorted(Path.cwd().rglob("*"))
        status, out, err = run(monkeypatch, capsys, *map(str, arguments))
        assert (status, out) == (1, "") and sorted(Path.cwd().rglob("*")) == before
        [line] = err.splitlines()
        return line.removeprefix("error: ")

    return refuse


def closing_batch(split: str) -> PairBatch:
    return read_pairs(Path(TASK), TOKENIZER, n_ctx=32, seed=0).batch("closing", split)


def another_shape(folder: Path) -> None:
    """A model of GPT-2's shape that does the task, as a checkpoint."""
    batches = [closing_batch(split) for split in ("train", "validation")]
    shape = {"n_layer": 1, "d_model": 8, "d_head": 4, "n_ctx": 32, "positions": True, "bigram": False, "norm": "layer"}
    model = trained(ModelShape.model_validate(shape), batches, n_steps=200)
    folder.mkdir()
    save_model(model, folder, {"name": folder.name, "tokenizer": TOKENIZER.hash})


@pytest.fixture(params=["openai", "safetensors", "hf", "gpt2"])
def door(request, own, said) -> tuple[str, Path, Path]:
    """A format, a model of ours that does the task, and a folder in that format of it, without means."""
    first = Path("models/tiny")
    if request.param == "gpt2":
        first = Path("models/gpt2")
        another_shape(first)
    said("export", first, "--format", request.param, "--tokenizer", "data/tokens", "--out", "foreign")
    Path("foreign/means.safetensors").unlink(missing_ok=True)
    return request.param, first, Path("foreign")


def to_a_page(said, model: Path) -> Path:
    """Means, prune, validate, and the page of a model's circuit; the circuit's folder."""
    circuit = Path("circuits") / model.name / "closing"
    said("means", model, "--data", "ids.npy", "--tokens", 2000)
    said("prune", "--model", model, "--task", TASK, "--out", circuit)
    said("validate", "--model", model, "--circuit", circuit, "--task", TASK, "--no-controls")
    said("show", circuit, "--model", model, "--task", TASK, "--no-browser", "--out", "page.html")
    assert "closing" in Path("page.html").read_text()
    return circuit


@pytest.mark.slow
def test_a_foreign_model_goes_all_the_way_to_a_page_and_out_again(own, said, door):
    form, first, foreign = door
    np.save("ids.npy", np.random.default_rng(0).integers(257, size=4000))
    tokens = torch.randint(257, (4, 32), generator=torch.Generator().manual_seed(0))
    expected = load_model(first, "data/tokens").model(tokens)
    said("import", foreign, "--tokenizer", "data/tokens", "--out", "models/came")
    assert load_model("models/came").model(tokens).equal(expected)
    circuit = to_a_page(said, Path("models/came"))
    to_every_tool(said, circuit)
    said("export", "models/came", "--format", form, "--out", "again")
    assert load_model("again", "data/tokens").model(tokens).equal(expected)
    assert (Path("again") / "means.safetensors").is_file()


def to_every_tool(said, circuit: Path) -> None:
    """A circuit in every format of other tools, which have the same nodes."""
    said("export", circuit, "--format", "graphml")
    said("export", circuit, "--format", "node-link")
    said("export", circuit, "--format", "viz")
    nodes = set(Circuit.load(circuit).node_names)
    assert set(networkx.read_graphml(circuit / "circuit.graphml").nodes) == nodes
    assert {node["id"] for node in json.loads((circuit / "graph.json").read_text())["nodes"]} == nodes
    said("import", circuit / "viz_data.pt", "--model", "models/came", "--out", "circuits/came/again")
    assert set(Circuit.load("circuits/came/again").node_names) == nodes
    if load_model("models/came").model.config.norm == "rms":
        said("export", circuit, "--format", "attribution", "--prompt", "x = [1", "--out", "graph.json")
        assert json.loads(Path("graph.json").read_text())["metadata"]["scan"] == "came"


@pytest.mark.slow
def test_a_foreign_folder_is_a_model_as_it_is(own, said):
    said("export", "models/tiny", "--format", "safetensors", "--out", "models/foreign")
    Path("models/foreign/means.safetensors").unlink()
    np.save("ids.npy", np.random.default_rng(0).integers(257, size=4000))
    circuit = to_a_page(said, Path("models/foreign"))
    assert Circuit.load(circuit).answers(load_model("models/foreign"), closing_batch("test")).isfinite().all()


def test_means_that_lie_beside_a_foreign_model_come_along(own, said):
    said("export", "models/tiny", "--format", "safetensors")
    said("import", "models/tiny-safetensors", "--tokenizer", "data/tokens", "--out", "models/came")
    assert load_model("models/came").means.keys() == load_model("models/tiny").means.keys()


def test_packed_tokens_become_a_folder_of_datasets(own, said):
    words = Tokenizer.load(Path("data/tokens"))
    documents = [words.encode("def f(x):\n"), words.encode("π")]
    place = Path("packed")
    shutil.copytree("data/tokens", place)
    n = {}
    for split in ("train", "validation"):
        n[split], _ = write_stream(place / f"{split}.bin", documents, words.eot, words.vocab_size)
    stats = {"dtype": "uint16", "n_tokens": n, "tokenizer_hash": words.hash}
    (place / "stats.json").write_text(json.dumps(stats))
    assert said("export", "packed", "--format", "datasets").strip() == "packed-datasets"
    found = datasets.load_from_disk("packed-datasets")
    assert found["train"]["input_ids"][:] == documents and found["validation"].num_rows == 2


def test_what_cannot_be_done_is_refused_in_one_line(own, refused, pruned, study):
    shutil.copytree(study / "found", "found", dirs_exist_ok=True)
    Path("full").mkdir()
    Path("full/file").touch()
    torch.save({"circuit_data": {"9.mlp.post_act": [1]}}, "viz_data.pt")
    assert "allowed: openai, safetensors, hf" in refused("export", "models/tiny", "--format", "onnx")
    assert "allowed: graphml" in refused("export", "found", "--format", "hf")
    assert "not empty" in refused("export", "models/tiny", "--format", "hf", "--out", "full")
    assert "not empty" in refused("import", "models/tiny", "--out", "full")
    assert "(--model)" in refused("import", "viz_data.pt", "--out", "new")
    assert "unknown site 9.mlp.post_act" in refused("import", "viz_data.pt", "--model", "models/tiny", "--out", "new")
    assert "no such folder" in refused("export", "none", "--format", "graphml")
    assert "name the model (--model)" in refused("export", "found", "--format", "graphml")
    attribution = ("export", "found", "--format", "attribution", "--model", "models/tiny")
    assert "(--prompt)" in refused(*attribution)
    assert "no such file" in refused("means", "models/tiny", "--data", "none.npy")
    assert "is one of ours" in refused("import", "models/tiny", "--out", "new")
