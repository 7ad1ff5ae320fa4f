"""``sparse-circuits play``: what it serves, where it listens, whom it asks to open the page; and refusals."""

from __future__ import annotations

import shutil
import socket

import pytest
from closing import TASK, run
from starlette.testclient import TestClient

from flows import cli_play
from pipeline.artifacts import write_json
from pipeline.circuit import Circuit


@pytest.fixture
def played(study, pruned, monkeypatch, capsys):
    """``played(*arguments)``: status, output, errors and the client of what would have been served; asks no browser."""
    monkeypatch.chdir(study)
    opened, served = [], []
    monkeypatch.setattr(cli_play.webbrowser, "open", opened.append)

    def serve(app, listener):
        address = listener.getsockname()
        served.append((address, TestClient(app, base_url=f"http://localhost:{address[1]}")))

    monkeypatch.setattr(cli_play, "serve", serve)

    def command(*arguments):
        opened.clear()
        served.clear()
        status, out, error = run(monkeypatch, capsys, "play", *arguments)
        return status, out, error, opened, served

    return command


def test_it_listens_on_this_machine_only_and_the_browser_opens_its_page(played):
    status, out, _, opened, [((host, port), client)] = played("models/tiny", "--port", 0)
    assert status == 0 and host == "127.0.0.1"
    assert opened == [f"http://127.0.0.1:{port}/"] and opened[0] in out
    assert client.get("/").status_code == 200


def test_no_browser_opens_none(played):
    status, out, _, opened, served = played("models/tiny", "--port", 0, "--no-browser")
    assert status == 0 and "http://127.0.0.1:" in out and not opened and served


def test_a_circuit_is_played_with_the_pairs_of_its_file(played):
    _, _, _, _, [(_, client)] = played("models/tiny", "--circuit", "found/circuit.json", "--task", TASK, "--port", 0)
    described = client.get("/circuit/closing").json()["run"]
    assert described["answers"] == [ord(">"), ord("}")] and described["why_none"] is None
    asked = {"text": described["prompts"][0][0], "circuit": "closing", "answers": described["answers"]}
    reply = client.post("/run", json=asked).json()
    assert reply["circuit"]["first"][0] > 0.5


def test_without_its_file_a_circuit_is_played_and_says_why_it_has_no_examples(played):
    _, _, _, _, [(_, client)] = played("models/tiny", "--circuit", "found", "--port", 0)
    described = client.get("/circuit/closing").json()["run"]
    assert described["pairs"] == [] and "closing" in described["why_none"]


def test_the_models_own_circuits_are_found_and_those_of_another_checkpoint_left_out(played, study):
    own = study / "circuits/tiny"
    shutil.copytree(study / "found", own / "closing")
    shutil.copytree(study / "found", own / "old")
    text = (own / "old/circuit.json").read_text(encoding="utf-8")
    described = text.replace('"model_hash": "', '"model_hash": "x')
    (own / "old/circuit.json").write_text(described, encoding="utf-8")
    try:
        status, out, error, _, [(_, client)] = played("models/tiny", "--port", 0)
    finally:
        shutil.rmtree(study / "circuits")
    assert status == 0 and "1 circuit" in out
    assert "old is left out" in error and "belongs to checkpoint x" in error
    assert client.get("/circuit/closing").status_code == 200


def test_labels_of_the_stage_explain_are_shown_where_they_are_of_this_checkpoint(played, study):
    circuit = Circuit.load(study / "found")
    node, path = circuit.node_names[0], study / "explanations/tiny.json"
    label = {"text": "2 at `'`, 0 at `␣`", "role": "embeds", "score": 1.0, "measure": "AUC", "weak": False}
    contexts = {"top": [], "bottom": [], "random": [], "label": None}
    found = {"model": "tiny", "tokens": [], "nodes": dict.fromkeys(circuit.node_names, contexts)}
    labels = {name: {"task_label": label if name == node else None} for name in circuit.node_names}
    found["circuits"] = {"closing": {"nodes": labels, "prompts": [], "heads": []}}
    for model_hash, said in ((circuit.about["model_hash"], label), ("another", None)):
        write_json(path, found | {"model_hash": model_hash})
        try:
            _, _, _, _, [(_, client)] = played("models/tiny", "--circuit", "found", "--port", 0)
        finally:
            shutil.rmtree(path.parent)
        explanation = client.get("/circuit/closing").json()["explanation"]
        assert (explanation and explanation["nodes"][0]["task_label"]) == said


def test_a_model_without_circuits_is_played(played):
    status, out, _, _, [(_, client)] = played("models/tiny", "--port", 0)
    assert status == 0 and "0 circuits" in out
    assert client.post("/run", json={"text": "<ab"}).json()["model"]["tokens"]


def test_a_port_that_is_taken_and_a_missing_model_are_refused(played):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        status, _, error, opened, served = played("models/tiny", "--port", port)
    assert status == 1 and f"port {port} of 127.0.0.1" in error and "--port" in error and not opened and not served
    status, _, error, _, served = played("models/none")
    assert status == 1 and "no such folder; allowed: the folder of a checkpoint" in error and not served
    status, _, error, _, _ = played("models/tiny", "--circuit", "nowhere")
    assert status == 1 and "circuit.json" in error
