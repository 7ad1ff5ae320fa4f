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
from closing import TASK, run

from pipeline import load_model
from pipeline.circuit import Circuit
from pipeline.data.shards import write_stream
from pipeline.data.tokenizer import Tokenizer


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


@pytest.mark.slow
def test_a_foreign_model_goes_all_the_way_to_a_page_and_a_graph(own, said, tmp_path):
    said("export", "models/tiny", "--format", "openai", "--out", tmp_path / "foreign")
    (tmp_path / "foreign/means.safetensors").unlink()
    said("import", tmp_path / "foreign", "--tokenizer", "data/tokens", "--out", "models/came")
    tokens = torch.randint(257, (4, 32), generator=torch.Generator().manual_seed(0))
    first, came = load_model("models/tiny"), load_model("models/came")
    assert came.model(tokens).equal(first.model(tokens))
    np.save("ids.npy", np.random.default_rng(0).integers(257, size=4000))
    said("means", "models/came", "--data", "ids.npy", "--tokens", 2000)
    said("prune", "--model", "models/came", "--task", TASK, "--out", "circuits/came/closing")
    said("validate", "--model", "models/came", "--circuit", "circuits/came/closing", "--task", TASK, "--no-controls")
    said("show", "circuits/came/closing", "--task", TASK, "--no-browser", "--out", "page.html")
    assert "closing" in Path("page.html").read_text()
    said("export", "circuits/came/closing", "--format", "graphml")
    said("export", "circuits/came/closing", "--format", "viz")
    said("export", "circuits/came/closing", "--format", "attribution", "--prompt", "x = [1", "--out", "graph.json")
    circuit = Circuit.load("circuits/came/closing")
    graph = networkx.read_graphml("circuits/came/closing/circuit.graphml")
    assert set(graph.nodes) == set(circuit.node_names)
    said("import", "circuits/came/closing/viz_data.pt", "--model", "models/came", "--out", "circuits/came/again")
    assert Circuit.load("circuits/came/again").node_names == circuit.node_names
    assert json.loads(Path("graph.json").read_text())["metadata"]["scan"] == "came"


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
    said = refused("import", "viz_data.pt", "--model", "models/tiny", "--out", "new")
    assert "has no circuit_data" in said or "unknown site 9.mlp.post_act" in said
    attribution = ("export", "found", "--format", "attribution", "--model", "models/tiny")
    assert "(--prompt)" in refused(*attribution)
    assert "no such file" in refused("means", "models/tiny", "--data", "none.npy")
    assert "is one of ours" in refused("import", "models/tiny", "--out", "new")
