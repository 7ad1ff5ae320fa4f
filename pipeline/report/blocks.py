"""Parts of the repository's pages that a command writes: ``<!-- name: command -->`` … ``<!-- /name -->``."""

from __future__ import annotations

import re
from collections.abc import Callable


def filled(text: str, command: str, content: Callable[[str], str]) -> str:
    """A page with each of a command's blocks made anew; ``content``: its name → the lines that it has to hold.

    Raises ValueError where the page has no such block.
    """
    block = re.compile(rf"(<!-- (\w+): {re.escape(command)} -->\n).*?(<!-- /\2 -->)", re.DOTALL)
    if not block.search(text):
        raise ValueError(f"the page has no block <!-- name: {command} --> … <!-- /name -->; restore it from git")
    return block.sub(lambda found: found[1] + content(found[2]) + found[3], text)
