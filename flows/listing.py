"""Rows as a table that fits the terminal, as JSON or as CSV, in any order: what ``models`` and ``circuits`` print."""

from __future__ import annotations

import csv
import difflib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.tables import console

Row = Mapping[str, Any]  # the same names in every row; None for what does not exist


class ListingError(ValueError):
    """The rows cannot be shown in the way that was asked for."""


@dataclass(frozen=True)
class Column:
    """A column of the table. The larger ``spare``, the sooner a narrow terminal does without it; 0: never."""

    title: str
    cell: Callable[[Row], str | Text]
    spare: int = 0
    justify: Literal["left", "right"] = "right"

    def width(self, rows: Sequence[Row]) -> int:
        """Of its widest cell; a title may be broken between its words."""
        texts = [*self.title.split(), *(str(self.cell(row)) for row in rows)]
        return max(map(cell_len, texts))


@dataclass(frozen=True)
class Form:
    """How the rows are wanted."""

    as_json: bool = False
    as_csv: bool = False
    sort: str | None = None  # a name in the rows
    reverse: bool = False


def show_rows(rows: Sequence[Row], columns: Sequence[Column], form: Form, *, caption: str) -> None:
    """Print rows, of which there is one at least. Raises ListingError for a form that does not exist."""
    if form.as_json and form.as_csv:
        raise ListingError("--json and --csv are two forms; take one of them")
    found = ordered(rows, form.sort, reverse=form.reverse)
    if form.as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    elif form.as_csv:
        writer = csv.DictWriter(sys.stdout, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    else:
        show_table(found, columns, console(), caption)


def ordered(rows: Sequence[Row], name: str | None, *, reverse: bool) -> list[Row]:
    """The rows sorted by what they have under ``name``, as they are for None; those that have nothing there come last.

    Raises ListingError for a name that no row has.
    """
    if name is None:
        return list(reversed(rows)) if reverse else list(rows)
    if name not in rows[0]:
        near = difflib.get_close_matches(name, rows[0], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(rows[0])}"
        raise ListingError(f"--sort: unknown column {name!r}; {hint}")
    known = [row for row in rows if row[name] is not None]
    return sorted(known, key=lambda row: row[name], reverse=reverse) + [row for row in rows if row[name] is None]


def show_table(rows: Sequence[Row], columns: Sequence[Column], to: Console, caption: str) -> None:
    """Print those columns that fit side by side, and the caption."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    kept = fitting(rows, columns, to.width)
    for column in kept:
        table.add_column(column.title, justify=column.justify, width=column.width(rows), vertical="bottom")
    for row in rows:
        table.add_row(*(column.cell(row) for column in kept))
    to.print(table)
    to.print(Text(caption, style="dim"))


def fitting(rows: Sequence[Row], columns: Sequence[Column], width: int) -> list[Column]:
    """The columns without those that can be spared, as far as needed for ``width`` characters, one between columns."""
    kept = list(columns)
    for column in sorted(columns, key=lambda column: -column.spare):
        if sum(each.width(rows) + 1 for each in kept) <= width + 1 or not column.spare:
            break
        kept.remove(column)
    return kept
