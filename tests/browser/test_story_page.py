"""The sentences of a circuit's page in a real browser: a click lights a sentence's nodes in the drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.model.transformer import Transformer
from pipeline.report.page import build_circuit_page
from tests.browser.chromium import Page
from tests.browser.circuits import NAMES, invented

SURE = {"apart": False, "moved": 0.97, "moved_whole": 0.97, "flips": 0.9, "share": 0.8, "n_prompts": 64, "weak": False}
WEAK = {"apart": False, "moved": 0.41, "moved_whole": 0.41, "flips": 0, "share": 0.1, "n_prompts": 64, "weak": True}
STORY = {
    "gist": "Reads `␣<b>` → writes `]⏎`",
    "limit": "48 % are shorter.",
    "sentences": [
        {"text": "Channels 2 and 5 read `␣<b>`.", "nodes": NAMES[:2], "carriers": [], **SURE},
        {"text": "Head 0.0 copies it.", "nodes": ["0.attn_v.7"], "carriers": ["0.attn_out.5"], **WEAK},
        {"text": "Reads `x`", "nodes": [], "carriers": [], **SURE, "apart": True, "moved": 0.51},
    ],
    "all": {"text": "All at once flip 90 %.", "moved": 1, "moved_whole": 1, "flips": 0.9, "share": 1, "n_prompts": 64},
}
LIT = "[...document.querySelectorAll('.cd-node.lit')].map(e => e.dataset.name)"
FAINT = "[...document.querySelectorAll('.cd-node.faint')].map(e => e.dataset.name)"
PRESSED = "[...document.querySelectorAll('.st-text')].map(e => e.getAttribute('aria-pressed'))"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Transformer]) -> Path:
    """A folder with the page of a circuit that has a story, and of one that has none."""
    folder, bundle = tmp_path_factory.mktemp("story"), invented(tiny_model(sink=True))
    told: dict[str, Any] = bundle | {"explanation": bundle["explanation"] | {"story": STORY}}
    (folder / "told.html").write_text(build_circuit_page(told, title="t"), encoding="utf-8")
    (folder / "untold.html").write_text(build_circuit_page(bundle, title="t"), encoding="utf-8")
    return folder


@pytest.fixture
def told(page: Page, files: Path) -> Iterator[Page]:
    """The page with a story, open; it must end without an error or a request."""
    page.goto(files / "told.html")
    page.wait_for("document.querySelector('.cd-node') && document.querySelector('.st')")
    yield page
    assert page.errors == [] and page.requests == []


def test_the_story_stands_above_the_drawing_with_a_number_for_each_sentence(told):
    assert told.evaluate("document.querySelector('.st-gist').textContent") == "Reads ␣<b> → writes ]⏎"
    assert told.evaluate("[...document.querySelectorAll('.st .chip')].map(e => e.textContent)") == [
        "moves 97 % · 80 %",
        "moves 41 % only · 10 %",
        "moves 51 % * · 80 %",
    ]
    assert told.evaluate("document.querySelector('.st li.weak .chip').classList.contains('dim')")
    top = "document.querySelector({!r}).getBoundingClientRect().top"
    assert told.evaluate(top.format(".st")) < told.evaluate(top.format(".cp-stage"))
    assert told.evaluate("document.querySelector('.st-gist code').textContent") == "␣<b>"  # as text, not as HTML
    notes = told.evaluate("[...document.querySelectorAll('.st > p.dim')].map(e => e.textContent)")
    assert notes[0] == "In the circuit alone, all else at its mean:"
    assert notes[1].startswith("Moves N % · M %: ") and notes[2:] == ["* 48 % are shorter.", "All at once flip 90 %."]


def test_a_click_lights_the_sentences_nodes_and_a_second_one_puts_them_out(told):
    told.click(".st li:nth-child(1) .st-text")
    assert told.evaluate(LIT) == NAMES[:2] and set(told.evaluate(FAINT)) == set(NAMES[2:])
    assert told.evaluate(PRESSED) == ["true", "false", "false"]
    told.click(".st li:nth-child(2) .st-text")
    assert told.evaluate(LIT) == ["0.attn_v.7", "0.attn_out.5"] and told.evaluate(PRESSED) == ["false", "true", "false"]
    told.click(".st li:nth-child(2) .st-text")
    assert told.evaluate(LIT) == told.evaluate(FAINT) == [] and told.evaluate(PRESSED) == ["false", "false", "false"]


def test_a_real_pair_stands_first_with_its_differences_its_last_tokens_and_its_answers(told):
    of = lambda selector: told.evaluate(  # noqa: E731
        f"[...document.querySelectorAll('.st-pair {selector}')].map(e => e.textContent)"
    )
    assert of(".differs") == [" f", " <i>g</i>"] and of(".last") == ["(⏎", "(⏎"] and of("code") == ["]⏎", "]⏎"]
    assert of("pre") == ["def f(⏎ → ]⏎", "def <i>g</i>(⏎ → ]⏎"]
    assert told.evaluate("document.querySelector('.st').firstElementChild.className") == "st-pair"
    assert told.evaluate("document.querySelector('.st-pair .tok.p') !== null")  # the colour of its answer


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [(["for", "i", ",", "x", "in"], ["for", "i", "in"], [2, 1]), (["a", "b"], ["a", "c"], [1, 0]),
     (["a", "a"], ["a", "a", "a"], [2, 0])],
)  # fmt: skip
def test_prompts_are_alike_from_both_ends(told, a, b, same):
    assert told.evaluate(f"CircuitStory.alike({a}, {b})") == same


def test_each_term_is_explained_once(told):
    terms = told.evaluate("[...document.querySelectorAll('.st-legend dt')].map(e => e.textContent)")
    assert len(terms) == len(set(terms))
    assert {"wins by default", "later on", "(1 more elsewhere)", "weak, grey"} <= set(terms)


def test_a_sentence_is_chosen_by_the_keyboard(told):
    told.evaluate("document.querySelector('.st-text').focus()")
    told.key("Enter")
    assert told.evaluate(LIT) == NAMES[:2]


def test_an_explanation_from_before_stories_has_none(page, files):
    page.goto(files / "untold.html")
    page.wait_for("document.querySelector('.cd-node')")
    assert page.evaluate("document.querySelector('.st')") is None and page.errors == []
