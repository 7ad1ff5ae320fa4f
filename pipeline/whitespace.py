"""White space that can be seen: the one way in which code's blanks and line ends are written out for a reader.

web/elements.js has the same for pages (``visible``).
"""

from __future__ import annotations

import re

RUN = re.compile(" {3,}")  # blanks that are counted
SIGNS = str.maketrans({"\r": "␍", "\t": "⇥", "\n": "⏎"})


def visible(text: str) -> str:
    """Code with its line ends and tabs written out."""
    return text.translate(SIGNS)


def all_visible(text: str) -> str:
    """A token or an answer with its spaces written out too, three or more of them as their number: ``␣×7``."""
    return RUN.sub(lambda run: f"␣×{len(run[0])}", visible(text)).replace(" ", "␣")
