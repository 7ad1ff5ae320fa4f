"""One headless Chromium for all browser tests, and a fresh page for each; skipped where there is no Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.play.session import Session
from tests.browser.chromium import Page, chromium, executable
from tests.play.playing import make_circuit, make_model, make_session


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the running Chromium."""
    if executable() is None:
        pytest.skip("there is no chromium on this machine (apt-get install chromium)")
    with chromium(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
def page(browser: str) -> Iterator[Page]:
    """A new tab of 1280 × 900 pixels."""
    opened = Page(browser)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def session() -> Session:
    """A tiny model with one circuit, to be played with."""
    model = make_model()
    return make_session(model, make_circuit(model))
