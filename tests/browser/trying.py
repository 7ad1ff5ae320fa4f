"""How a circuit's page is tried: a prompt typed, a node clicked, a change made; and what it then shows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.browser.chromium import Page

NODE, EDGE = "1.mlp_out.7", "0.attn_v.5->0.attn_out.7"
READY = "document.querySelectorAll('.ct-row').length > 8"


def write(page: Page, text: str) -> None:
    page.click(".ct textarea")
    page.evaluate("document.querySelector('.ct textarea').select()")
    page.type(text)
    page.wait_for(f"document.querySelectorAll('.ct-tokens')[0].children.length === {len(text) + 1}")


def click_node(page: Page, name: str) -> None:
    """A click on a node of the drawing, wherever it is."""
    page.evaluate(f"document.querySelector(\".cd-node[data-name='{name}']\").dispatchEvent("
                  "new MouseEvent('click', {bubbles: true}))")  # fmt: skip


def act(page: Page, name: str, kind: str) -> None:
    select = f".ct-act select[data-focus='{name}']"
    page.wait_for(f"document.querySelector({json.dumps(select)})")
    page.evaluate(f"(e => {{ e.value = '{kind}'; e.dispatchEvent(new Event('change')); }})"
                  f"(document.querySelector({json.dumps(select)}))")  # fmt: skip


def reload(page: Page, n_changed: int) -> None:
    """Loads the page anew, at its address, and waits for as many changed parts."""
    page.evaluate("window.before = true")
    page.call("Page.reload")
    changed = f"document.querySelectorAll('.ct-act.changed').length === {n_changed}"
    page.wait_for(f"!window.before && {READY} && {changed}", 60)


def switch_off_in_the_whole_model(page: Page, name: str) -> None:
    page.click(".cc-choice[aria-label='Values and changes in'] button:nth-child(2)")
    click_node(page, name)
    act(page, name, "off")
    page.wait_for("document.querySelectorAll('.ct-act.changed').length === 1")


def bars(page: Page, which: int) -> dict[str, float]:
    """Text → probability in percent of the model's (0) or the circuit's (1) likeliest tokens."""
    rows = f"[...document.querySelectorAll('.ct-choice')[{which}].querySelectorAll('.ct-row')]"
    width = "parseFloat(row.querySelector('.ct-track span').style.width)"
    return dict(page.evaluate(f"{rows}.map(row => [row.querySelector('code').title, {width}])"))


def expected(reply: dict[str, Any], which: str) -> dict[str, Any]:
    signs = {"\n": "⏎", "\r": "␍", "\t": "⇥", " ": "␣"}
    texts = [("".join(signs.get(c, c) for c in text), row) for _, text, *row in reply[which]["tokens"]]
    return {text: pytest.approx(100 * row[-1], abs=0.1) for text, row in texts}
