"""The page's own engine in a real browser: tokens, logits, values, circuits and changes are those of Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.circuit import Circuit
from pipeline.circuit.heads import attention_patterns
from pipeline.circuit.masked import Masked
from pipeline.config import load_params
from pipeline.data.tokenizer import Tokenizer
from pipeline.model.initial import new_model
from pipeline.model.record import record
from pipeline.model.transformer import Transformer
from pipeline.play.changes import Act, PartChange
from pipeline.play.load import load_session
from pipeline.play.session import Session
from pipeline.play.switches import Switches
from pipeline.report.packed_model import pack_model
from pipeline.report.page import WEB, engine
from tests.browser.chromium import Page
from tests.play.playing import TOKENIZER, make_circuit, make_model, make_session

ROOT = Path(__file__).parents[2]
WITHIN = 1e-3  # of logits, in nats
TEXTS = ["f", "<ab", "{a(b)", "f(<q}] = [1, 2", "x" * 40]
ODD = ["", " ", "\n", "\r\n\r\n  x", "\t\tx", "a  b", "\x85x", "\ufeffdef", "\u3000\u3000f", "naïve", "x²", "٣٤٥٦",
       "ﬁ", "日本語", "😀😀", "e\u0301", "\x00", "\x1c\x1d", "'''",
       "»«", "1234567", "a\u200bb", "ǅ", "  \n  \n x"]  # fmt: skip
CHANGES = {
    "node off": [("0.attn_in.4", Act.OFF, 0.0)],
    "node scaled": [("1.mlp_neuron.11", Act.SCALE, -2.5)],
    "node set": [("0.attn_v.5", Act.SET, 3.0), ("0.attn_k.2", Act.SET, -1.0)],
    "node swapped": [("0.attn_out.7", Act.SWAP, 0.0), ("1.mlp_in.4", Act.SWAP, 0.0)],
    "edge off": [("0.attn_v.5->0.attn_out.4", Act.OFF, 0.0), ("1.mlp_in.4->1.mlp_neuron.11", Act.OFF, 0.0)],
    "edge scaled": [("0.attn_v.5->0.attn_out.7", Act.SCALE, 3.0), ("0.attn_in.4->0.attn_q.2", Act.SCALE, 0.5)],
    "edge set": [("0.attn_v.5->0.attn_out.7", Act.SET, -4.0), ("1.mlp_neuron.11->1.mlp_out.0", Act.SET, 2.0)],
    "edge swapped": [("0.attn_v.5->0.attn_out.7", Act.SWAP, 0.0), ("0.attn_in.9->0.attn_k.3", Act.SWAP, 0.0)],
}


def sparse_model(model: Transformer) -> Transformer:
    """A model of the same widths with AbsTopK and mostly zero weights, without sinks and positions."""
    shape = model.config.model_copy(update={"afrac": 0.25, "sink": False, "positions": False})
    other = new_model(shape, vocab_size=257, seed=5, bigram=None)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.add_(0.6 * torch.randn(parameter.shape, generator=generator))
            if parameter.ndim == 2 and name != "bigram_table":
                parameter.mul_(torch.rand(parameter.shape, generator=generator) < 0.3)
    return other.freeze()


@pytest.fixture(scope="module", params=["dense", "sparse"])
def session(request: pytest.FixtureRequest) -> Session:
    model = make_model() if request.param == "dense" else sparse_model(make_model())
    return make_session(model, make_circuit(model))


def engine_page(folder: Path, model: Transformer, means: dict[str, torch.Tensor], tokenizer: Tokenizer) -> Path:
    """A page of the engine's scripts and one packed model."""
    scripts = [*engine(), (WEB / "packed.js").read_text(encoding="utf-8")]
    packed = f'<script type="application/octet-stream" id="model">{pack_model(model, means, tokenizer)}</script>'
    path = folder / "engine.html"
    path.write_text("<!doctype html><meta charset=utf-8><link rel=icon href=data:,>" + packed
                    + "".join(f"<script>{script}</script>" for script in scripts), encoding="utf-8")  # fmt: skip
    return path


def described(circuit: Circuit, name: str) -> dict[str, Any]:
    """A circuit as the engine wants it, but for the map of its ablation values."""
    ablated_to = {key: value.tolist() for key, value in circuit.constant_ablation.first.items()}
    return {"name": name, "nodes": circuit.node_names, "edges": circuit.edge_names, "ablatedTo": ablated_to,
            "calibration": circuit.calibration}  # fmt: skip


START = """
    (async () => {
        window.model = EngineWeights.read(await Packed.bytes("model"));
        window.session = EngineSession.of(model);
        window.circuit = %s;
        const arrays = Object.entries(circuit.ablatedTo).map(([key, values]) => [key, Float64Array.from(values)]);
        circuit.ablatedTo = new Map(arrays);
    })()
"""


@pytest.fixture
def engined(page: Page, session: Session, tmp_path: Path) -> Iterator[Page]:
    """A page with ``model``, ``session`` and ``circuit``; it must end without an error, and ask nobody."""
    page.goto(engine_page(tmp_path, session.model, dict(session.means), TOKENIZER))
    page.evaluate(START % json.dumps(described(session.circuit("closing"), "closing")))
    yield page
    assert page.errors == [] and page.requests == []


def test_logits_and_the_values_at_every_site_are_pythons(engined: Page, session: Session) -> None:
    for text in TEXTS:
        tokens, _ = session.encode(text)
        with torch.no_grad():
            logits, values = record(session.model, torch.tensor([tokens]))
        found = engined.evaluate(f"""(() => {{
            const tokens = {json.dumps(tokens)}, run = EngineForward.run(model, tokens);
            const values = Object.fromEntries([...run.values].map(([key, rows]) => [key, [...rows]]));
            return {{ values, logits: tokens.map((_, place) => [...run.logits(place)]) }};
        }})()""")
        assert (torch.tensor(found["logits"]) - logits[0]).abs().max() < WITHIN
        assert set(found["values"]) == set(values)
        for key, value in values.items():
            assert found["values"][key] == pytest.approx(value.flatten().tolist(), abs=1e-4), key


def test_a_circuit_with_another_value_for_each_token_is_pythons(engined: Page, session: Session) -> None:
    """The complement ablated to values that differ by token, as those of the pair's other prompt do."""
    circuit, (tokens, _) = session.circuit("closing"), session.encode("f(<q")
    generator = torch.Generator().manual_seed(3)
    widths = session.model.widths().items()
    values = {key: torch.randn(len(tokens), width, generator=generator) for key, width in widths}
    logits = Masked(session.model, circuit.nodes, circuit.edges, values)(torch.tensor([tokens]))[0]
    found = engined.evaluate(f"""(() => {{
        const tokens = {json.dumps(tokens)}, flat = {json.dumps({k: v.flatten().tolist() for k, v in values.items()})};
        const ablatedTo = new Map(Object.entries(flat).map(([key, rows]) => [key, Float64Array.from(rows)]));
        const run = EngineForward.run(model, tokens, EngineChanges.of(model, tokens.length, {{ circuit, ablatedTo }}));
        return tokens.map((_, place) => [...run.logits(place)]);
    }})()""")
    assert (torch.tensor(found) - logits).abs().max() < WITHIN


def same(found: Any, expected: Any, where: str = "reply") -> None:
    """Equal JSON, numbers within 1e-3 and four digits; the order of tokens that are as likely does not count."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), where
        for key in expected:
            same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)) and where.endswith("el.tokens"):
        assert {row[0]: row[2:] for row in found} == {row[0]: pytest.approx(row[2:], abs=1e-3) for row in expected}
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            same(one, other, f"{where}[{i}]")
    else:
        number = isinstance(expected, float)
        assert found == (pytest.approx(expected, abs=1e-3, rel=1e-3) if number else expected), where


def asked_of(engined: Page, **body: Any) -> dict[str, Any]:
    which = "circuit" if body.pop("circuit", None) else "null"
    return engined.evaluate(f"session.run({which}, {json.dumps(body)})")


@pytest.mark.parametrize("inside", ["circuit", "model"])
def test_the_engine_answers_what_the_server_answers(engined: Page, session: Session, inside: str) -> None:
    for text in TEXTS:
        body = {"text": text, "circuit": "closing", "inside": inside, "answers": [62, 125], "node": "0.attn_v.5"}
        body["head"] = [0, 0]
        same(asked_of(engined, **body), session.run(**body))
    off = body | {"off_nodes": ["1.mlp_out.7"], "off_edges": ["0.attn_in.4->0.attn_v.5"], "at": 3, "effects": True}
    same(asked_of(engined, **off), session.run(**off))
    same(asked_of(engined, text="f(<q"), session.run("f(<q"))


def test_a_text_that_grows_or_is_edited_is_answered_as_one_typed_at_once(engined: Page, session: Session) -> None:
    """What an earlier text began with is not computed again."""
    for text in ("f", "f(", "f(<", "f(<q", "f[<q", "f[", "f[<q)", "f[<q)"):
        body = {"text": text, "circuit": "closing", "answers": [62, 125], "node": "1.mlp_out.7"}
        same(asked_of(engined, **body), session.run(**body))
    rows = f"session.patterns(circuit, {json.dumps(body)})[0]"
    found = engined.evaluate(f"[0, 1, 2, 3, 4, 5].map(query => {rows}.weight(1, query, 1))")
    with torch.no_grad():
        changes = Switches.of(session.circuit("closing")).changes(session.model, alone=True)
        values = record(session.model, torch.tensor([session.encode("f[<q)")[0]]), **changes)[1]
    sink = session.model.transformer["h"][0].attn.sink_logit
    patterns = attention_patterns(values["0.attn_q"], values["0.attn_k"], sink, session.model.config.n_head)
    assert found == pytest.approx(patterns[0, 1, :, 1 + (sink is not None)].tolist(), abs=1e-5)


@pytest.mark.parametrize("inside", ["circuit", "model"])
@pytest.mark.parametrize("what", CHANGES)
def test_changed_nodes_and_edges_do_what_they_do_in_python(
    engined: Page, session: Session, what: str, inside: str
) -> None:
    for text, other in (("<ab", "{ab"), ("f(<q)", "f(x, {q)"), ("a<b", "c")):
        body = {"text": text, "circuit": "closing", "inside": inside, "other": other, "answers": [62, 125]}
        expected = session.run(**body, changes=[PartChange(*change) for change in CHANGES[what]])
        found = asked_of(engined, **body, changes=CHANGES[what])
        same(found, expected)
        moved = expected["circuit" if inside == "circuit" else "model"]["first"]
        idle = text == "a<b" or session.model.config.afrac < 1  # zeros and missing weights carry nothing
        assert idle or moved[0] != moved[1]


def test_what_cannot_be_asked_is_said(engined: Page, session: Session) -> None:
    for body in ({"text": ""}, {"text": "a", "circuit": "closing", "off_nodes": ["0.attn_in.0"]},
                 {"text": "a", "circuit": "closing", "head": [2, 0]},
                 {"text": "a", "circuit": "closing", "answers": [1, 999]}):  # fmt: skip
        with pytest.raises(ValueError) as refused:
            session.run(**body)
        with pytest.raises(AssertionError, match=r"Error: ") as error:
            asked_of(engined, **body)
        assert str(refused.value) in str(error.value)


@pytest.fixture(scope="module")
def example() -> Session:
    """The widest model of the study with its circuits, as this repository brings it along."""
    folder = ROOT / "example"
    session, _ = load_session(folder / "models/sparse_d1024", load_params(folder / "params.yaml"))
    return replace(session, explanation=None)


def test_python_files_and_odd_characters_have_the_same_tokens(page: Page, example: Session, tmp_path: Path) -> None:
    sources = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("pipeline/**/*.py"))]
    lines = [line for source in sources for line in source.splitlines(keepends=True)]
    snippets = [*lines, *sources[:20], *ODD, *("".join(ODD[i:]) for i in range(len(ODD)))]
    tokenizer = example.tokenizer
    page.goto(engine_page(tmp_path, make_model(), {}, tokenizer))
    page.evaluate('Packed.bytes("model").then(bytes => { window.tokenizer = EngineWeights.read(bytes).tokenizer; })')
    found = page.evaluate(f"{json.dumps(snippets)}.map(text => tokenizer.encode(text))")
    assert len(snippets) > 5000
    assert [text for text, ids in zip(snippets, found, strict=True) if ids != tokenizer.encode(text)] == []
    texts = page.evaluate(f"Array.from({{ length: {tokenizer.vocab_size} }}, (_, id) => tokenizer.text(id))")
    assert texts == [example.token(id) for id in range(tokenizer.vocab_size)]
    assert page.errors == [] and page.requests == []


TASKS = ("bracket_counting", "single_double_quote", "with_as")


def test_the_widest_models_logits_and_circuits_are_pythons(page: Page, example: Session, tmp_path: Path) -> None:
    """Where two sizes are the same within float32's rounding, AbsTopK may keep another entry: not in these prompts."""
    page.goto(engine_page(tmp_path, example.model, dict(example.means), example.tokenizer))
    for name in TASKS:
        page.evaluate(START % json.dumps(described(example.circuit(name), name)))
        for pair in example.tasks[name].batch("test").first(1).tokens.tolist():
            body = {"text": example.tokenizer.decode(pair[1:]), "circuit": name, "answers": [1, 2]}
            same(asked_of(page, **body), example.run(**body))
            tokens, _ = example.encode(body["text"])
            with torch.no_grad():
                logits = example.model(torch.tensor([tokens]))[0]
            found = page.evaluate(f"(run => {tokens}.map((_, place) => [...run.logits(place)]))"
                                  f"(EngineForward.run(model, {tokens}))")  # fmt: skip
            assert (torch.tensor(found) - logits).abs().max() < WITHIN
    assert page.errors == [] and page.requests == []
