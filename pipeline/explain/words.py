"""How labels and sentences name tokens, heads, shares and lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from pipeline.explain.task_values import Head
from pipeline.sites import split_node_name
from pipeline.whitespace import all_visible

MOST_NAMED = 4  # of a list in a sentence
GroupedT = TypeVar("GroupedT")


def quoted(text: str) -> str:
    """A token's text between back quotes, white space visible."""
    return f"`{all_visible(text)}`"


def either(names: Sequence[str]) -> str:
    """``a``, ``a or b``, ``a or b or c``: no comma, which after a token would read as one."""
    return " or ".join(names)


def ended(text: str) -> str:
    """A sentence with its full stop, where it does not end with a token, of which the stop would seem a part."""
    return text if text.endswith("`") else f"{text}."


def together(names: Sequence[str]) -> str:
    """``a, b and c``, ``a, b, c and 2 more``."""
    some = (
        list(names) if len(names) <= MOST_NAMED else [*names[: MOST_NAMED - 1], f"{len(names) - MOST_NAMED + 1} more"]
    )
    return " and ".join([", ".join(some[:-1]), some[-1]] if some[1:] else some)


def grouped(items: Iterable[GroupedT], key: Callable[[GroupedT], str]) -> Mapping[str, list[GroupedT]]:
    """Items by key, both in the order in which they come."""
    found: dict[str, list[GroupedT]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def spoken(head: Head) -> str:
    """``0.8``: layer and number."""
    return f"{head[0]}.{head[1]}"


def heads_in_words(heads: Sequence[Head]) -> str:
    """``head 0.8``, ``heads 0.8 and 0.9``."""
    return f"head{'s' * (len(heads) > 1)} {together([spoken(head) for head in heads])}"


def channels(names: Sequence[str]) -> str:
    """``channels 834, 860, 707 and 5 more``, of node names."""
    return numbered("channel", names)


def numbered(kind: str, names: Sequence[str]) -> str:
    """``neurons 834, 860, 707 and 5 more``; a channel that several nodes read or write once."""
    numbers = list(dict.fromkeys(str(split_node_name(name)[1]) for name in names))
    return f"{kind}{'s' * (len(numbers) > 1)} {together(numbers)}"


def verb(names: Sequence[str], plural: str, singular: str | None = None) -> str:
    """The verb of one node or of several; ``singular``: where that is not the plural with an s."""
    return plural if len({split_node_name(name)[1] for name in names}) > 1 else singular or f"{plural}s"


def percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"  # no line ends before the sign
