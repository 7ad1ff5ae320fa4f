"""A seeded generator of simple, repetitive Python: the counterpart of the paper's simple component (§2).

Small models learn from it the regularities of the language that large ones pick up from far more code: which bracket
closes a list, how a set grows, what follows a parameter with a default. Names and strings come from
``IDIOM_WORDS``, which share nothing with what the tasks' prompts use.
"""

from __future__ import annotations

from pipeline.data.idioms.functions import write_document

__all__ = ["write_document"]
