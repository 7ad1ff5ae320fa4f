"""``sparse-circuits show``: one circuit's page as a file, its own prompts in it, and who opens it; and refusals."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from closing import TASK, run

from flows import cli_show
from pipeline.artifacts import Workspace, write_json
from pipeline.circuit import Circuit
from pipeline.config import load_params
from pipeline.play.alone import explanation_of, validation_of
from pipeline.play.load import load_session
from pipeline.prune.checkpoint import circuit_loss
from pipeline.report.packed import unpack

OF = ("--model", "models/tiny", "--task", TASK)
VERDICT = {
    "line": "supports <5>",
    "claims": {
        "not_artefact": {
            "outcome": "not supported",
            "statement": "is <real>",
            "says": "1 % <b>",
            "number": 0.25,
            "measure": "share",
        }
    },
}
CHECK = {
    "name": "found_again", "claim": "not_artefact", "essential": True,
    "passed": False, "value": 0.25, "limit": 0.5, "says": "1 % <b>",
}  # fmt: skip
BUNDLE = re.compile(r'<script[^>]*id="bundle-tiny-closing"[^>]*>([^<]+)</script>')


@pytest.fixture
def shown(study, pruned, monkeypatch, capsys):
    """``shown(*arguments)``: exit status, output, errors and what the browser was asked to open."""
    monkeypatch.chdir(study)
    opened = []
    monkeypatch.setattr(cli_show.webbrowser, "open", opened.append)

    def command(*arguments):
        opened.clear()
        status, out, error = run(monkeypatch, capsys, "show", *arguments)
        return status, out, error, opened

    return command


@pytest.fixture
def session(study):
    return load_session(
        study / "models/tiny", load_params(study / "params.yaml"), circuits=[study / "found"], task=str(study / TASK)
    )[0]


def bundle_of(path):
    """The one bundle of a page."""
    [packed] = BUNDLE.findall(path.read_text(encoding="utf-8"))
    return json.loads(unpack(packed.strip()))


def values_of(bundle, name):
    """A node's entry in the bundle's explanation."""
    drawing = bundle["drawing"]
    names = [
        f"{drawing['sites'][s]}.{i}" for s, i in zip(drawing["nodes"]["site"], drawing["nodes"]["index"], strict=True)
    ]
    return bundle["explanation"]["nodes"][names.index(name)]


def test_a_circuits_page_is_written_and_opened(shown, tmp_path, study, session):
    page = tmp_path / "page.html"
    status, out, _, opened = shown("found/circuit.json", *OF, "-o", page)
    assert status == 0 and str(page) in out and opened == [page.as_uri()]
    bundle, circuit = bundle_of(page), Circuit.load(study / "found")
    assert len(bundle["drawing"]["nodes"]["x"]) == bundle["row"]["n_nodes"] == circuit.n_nodes
    loss = circuit_loss(circuit, session.model, session.tasks["closing"].batch("test"))
    assert bundle["row"]["circuit_loss"] == pytest.approx(loss, abs=1e-5)
    assert {prompt["side"] for prompt in bundle["explanation"]["prompts"]} == {"a", "b"}
    assert values_of(bundle, circuit.node_names[0])["top"]


def test_a_prompt_of_ones_own_is_added_with_the_values_that_play_shows(shown, tmp_path, session):
    page = tmp_path / "page.html"
    status, _, error, opened = shown(
        "found", *OF, "--prompt", "<xyz", "--prompt", "{" + "q" * 40, "-o", page, "--no-browser"
    )
    assert status == 0 and not opened
    assert "prompt 2 is too long for this model's 32 tokens: 10 are left out" in error
    bundle = bundle_of(page)
    table, (own, long) = bundle["explanation"]["tokens"], bundle["explanation"]["prompts"][-2:]
    assert [table[token] for token in own["tokens"]] == ["<|endoftext|>", *"<xyz"] and own["answer"] is None
    assert len(long["tokens"]) == 32
    for node in session.circuits["closing"].node_names:
        for which in ("circuit", "model"):
            expected = session.run("<xyz", "closing", inside=which, node=node)["series"]["now"]
            largest = max(abs(x) for row in values_of(bundle, node)[which] for x in row)
            assert values_of(bundle, node)[which][-2] == pytest.approx(expected, abs=0.01 * largest + 1e-9)


def test_what_the_study_found_is_taken_where_it_is_of_this_circuit(shown, study, tmp_path, session, monkeypatch):
    params = load_params(study / "params.yaml")
    made = explanation_of(session, "closing", params.explain, params.seed)
    node = session.circuits["closing"].node_names[0]
    made["nodes"][node]["mean"] = 12.5
    path = study / "explanations/tiny.json"
    path.parent.mkdir()
    try:
        write_json(path, made)
        shown("found", *OF, "-o", tmp_path / "a.html", "--no-browser")
        del made["circuits"]["closing"]["nodes"][node]
        write_json(path, made)
        shown("found", *OF, "-o", tmp_path / "b.html", "--no-browser")
    finally:
        path.unlink()
        path.parent.rmdir()
    assert values_of(bundle_of(tmp_path / "a.html"), node)["mean"] == 12.5
    assert values_of(bundle_of(tmp_path / "b.html"), node)["mean"] != 12.5


def test_the_verdict_is_shown_of_the_studys_own_circuit_of_this_very_model(shown, study, tmp_path):
    place, task = Workspace(tmp_path / "other"), str(study / TASK)
    shutil.copytree(study / "models", tmp_path / "other/models")
    shutil.copytree(study / "data", tmp_path / "other/data")
    shutil.copytree(study / "found", place.circuits("tiny") / "closing")
    model, params = place.model("tiny"), load_params(study / "params.yaml")

    def line_of(circuit, **changes):
        session = load_session(model, params, circuits=[circuit], task=task)[0]
        row = {
            "model_hash": session.model.checkpoint,
            "tasks": {"closing": {"verdict": VERDICT, "stability": {"tests": [CHECK]}}},
        }
        write_json(place.validations("tiny"), row | changes)
        found = validation_of(session, "closing")
        return found and found["verdict"]["line"]

    own = place.circuits("tiny") / "closing"
    assert line_of(own) == "supports <5>"
    assert line_of(study / "found") is line_of(own, model_hash="another") is line_of(own, tasks={}) is None
    line_of(own)
    page = tmp_path / "page.html"
    shown(own, "--model", model, "--task", task, "--params", study / "params.yaml", "-o", page)
    text = page.read_text(encoding="utf-8")
    assert "<b>Verdict:</b> supports &lt;5&gt;." in text
    assert 'class="no" title="not supported: 1 % &lt;b&gt;">✗</span> <b>not artefact</b>: is &lt;real&gt;' in text
    assert "found again 0.250 (at least 0.500)" in text and "1 % &lt;b&gt;</td>" in text


def test_without_a_place_it_goes_to_the_workspaces_scratch_or_this_machines(shown, study, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, out, _, _ = shown("found", *OF, "--no-browser")
    assert (tmp_path / "sparse-circuits/show/tiny-found.html").is_file() and str(tmp_path) in out
    (study / "dvc.yaml").touch()
    try:
        _, out, _, _ = shown("found", *OF, "--no-browser")
    finally:
        (study / "dvc.yaml").unlink()
    assert (study / ".scratch/show/tiny-found.html").is_file() and ".scratch" in out


def test_an_unknown_task_a_missing_circuit_and_an_empty_prompt_are_refused(shown, tmp_path):
    page = tmp_path / "page.html"
    status, _, error, opened = shown("found", "--model", "models/tiny", "-o", page)
    assert status == 1 and "closing" in error and "--task" in error and not opened
    status, _, error, _ = shown("found", "--model", "models/tiny", "--task", "nope", "-o", page)
    assert status == 1 and "nope: no circuit was made for it; they were made for closing" in error
    status, _, error, _ = shown("none", *OF, "-o", page)
    assert status == 1 and "circuit.json" in error
    status, _, error, _ = shown("found", *OF, "--prompt", "", "-o", page)
    assert status == 1 and "empty" in error
    assert not page.exists()
