"""The paths that decide in a large circuit, drawn alone in a real browser at first, and the whole on request."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.model.transformer import Transformer
from pipeline.report import bundle as bundles
from pipeline.report.page import build_circuit_page
from tests.browser.chromium import Page
from tests.browser.circuits import FLOW, NAMES, invented
from tests.browser.test_graph import SHOWN, VALUE_PATH, opened, slide

PART = "[...document.querySelectorAll('[aria-label=\"Part of the circuit\"] button')]"
WHOLE, DECIDES = f"{PART}[1].click()", f"{PART}[0].click()"
FILLED = "[...document.querySelectorAll('.cd-node')].filter(e => e.querySelector('.dot').style.fill)"
FILLS = f"{FILLED}.map(e => e.dataset.name)"


@pytest.fixture(scope="module")
def bundle(tiny_model: Callable[..., Transformer]) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(bundles, "CORE_FROM", len(NAMES))
        return invented(tiny_model(sink=True))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, bundle: dict[str, Any]) -> Path:
    path = tmp_path_factory.mktemp("core") / "page.html"
    path.write_text(build_circuit_page(bundle, title="t"), encoding="utf-8")
    return path


@pytest.fixture
def core(page: Page, file: Path) -> Iterator[Page]:
    """The circuit's page, open; it must end without an error or a request."""
    yield opened(page, file)
    assert page.errors == [] and page.requests == []


def test_at_first_what_decides_is_drawn_and_the_whole_circuit_by_a_button(core):
    assert set(core.evaluate(SHOWN)) == set(VALUE_PATH)
    assert core.evaluate("document.querySelector('.ck-told').textContent").startswith(
        "Shown: 3 of 10 nodes, 2 of 7 edges."
    )
    core.evaluate(WHOLE)
    assert set(core.evaluate(SHOWN)) == set(NAMES) and "whole=1" in core.evaluate("location.hash")
    core.evaluate(DECIDES)
    assert set(core.evaluate(SHOWN)) == set(VALUE_PATH) and "whole" not in core.evaluate("location.hash")


def test_a_node_that_is_not_drawn_brings_the_whole_circuit(core):
    core.evaluate(
        "[...document.querySelectorAll('.cp-nodes button')].find(e => e.textContent === '0.mlp_neuron.9').click()"
    )
    assert set(core.evaluate(SHOWN)) == set(NAMES)
    assert core.evaluate("document.querySelector('.cd-node.pinned').dataset.name") == "0.mlp_neuron.9"


def test_the_slider_of_sizes_leaves_what_decides_and_its_button_brings_it_back(core):
    slide(core, ".ck-size input", 0)
    assert "size=2" in core.evaluate("location.hash") and core.evaluate(f"{PART}[1].ariaPressed") == "true"
    slide(core, ".ck-size input", 3)
    assert len(core.evaluate(SHOWN)) == len(NAMES) + 1
    core.evaluate(DECIDES)
    assert set(core.evaluate(SHOWN)) == set(VALUE_PATH) and "size" not in core.evaluate("location.hash")
    assert core.evaluate("document.querySelector('.ck-size input').value") == "2"


def test_the_address_of_the_whole_circuit_opens_it(page, file):
    opened(page, file, "?whole=1")
    assert set(page.evaluate(SHOWN)) == set(NAMES)
    assert page.errors == []


def test_a_walk_through_a_pair_colours_the_nodes_that_are_drawn(core):
    core.evaluate("document.querySelector('.cs-bar .main').click()")
    for _ in range(3):
        core.evaluate("document.querySelector('.cs-bar .main').click()")
    assert set(core.evaluate(FILLS)) <= set(VALUE_PATH) and core.evaluate(FILLS)


def test_what_is_saved_is_what_is_drawn(core):
    core.evaluate("[...document.querySelectorAll('.ck button')].find(e => e.textContent === 'JSON').click()")
    core.wait_for("window.saved.length")
    text = core.evaluate("saved[0].text()")
    saved = json.loads(text)
    assert {node["name"] for node in saved["nodes"]} == set(VALUE_PATH)
    known = {("0.attn_in.2", "0.attn_v.7"): FLOW["carried"][3], ("0.attn_v.7", "0.attn_out.5"): FLOW["carried"][4]}
    assert {(edge["source"], edge["target"]): edge["carried"] for edge in saved["edges"]} == known
    assert all(node["label"]["text"].startswith(str(NAMES.index(node["name"]))) for node in saved["nodes"])
