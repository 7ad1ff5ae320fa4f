"""One headless Chromium for all browser tests, and a fresh page for each; skipped where there is no Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.chromium import Page, chromium, executable


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
