"""Templates of pages: Jinja2 files in their packages, with one set of rules for how numbers are written."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.whitespace import all_visible


def nats(value: float | None) -> str:
    """``0.087``; an en dash where there is nothing."""
    return "–" if value is None else f"{value:.3f}"


def count(value: float | None) -> str:
    """``1,481``; one decimal under ten where it is not whole; an en dash where there is nothing."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 10 or float(value).is_integer() else f"{value:.1f}"


def ratio(value: float | None) -> str:
    """``16.2``; two decimals under ten; an en dash where there is nothing."""
    return "–" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def percent(value: float | None) -> str:
    """``97 %``; an en dash where there is nothing."""
    return "–" if value is None else f"{100 * value:.0f} %"


def plain(value: float | None) -> str:
    """``4.5``; an en dash where there is nothing."""
    return "–" if value is None else f"{value:g}"


def words(name: str) -> str:
    """``integrated gradients`` for ``integrated_gradients``."""
    return name.replace("_", " ")


def breakable(name: str) -> Markup:
    """HTML of a name that may be broken after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def code(text: str) -> Markup:
    """HTML of a sentence in which `backticks` mark code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def script_json(value: Any) -> Markup:
    """JSON that can stand inside a script element, whatever texts are in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


@cache
def _environment(package: str) -> Environment:
    loader = PackageLoader(package)
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    filters = (nats, count, ratio, percent, plain, words, all_visible, code, breakable, script_json)
    environment.filters |= {each.__name__: each for each in filters}
    return environment


def render(template: str, package: str = "pipeline.report", **values: Any) -> str:
    """The text of a template in the folder ``templates`` of a package. Raises UndefinedError for a value that is not
    given."""
    return _environment(package).get_template(template).render(**values)
