"""How the console script shows numbers and tables."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 160  # columns, where the output is no terminal and COLUMNS does not say how many


def count(value: Any) -> str:
    """A whole number with separators, – for nothing."""
    return "–" if value is None else f"{int(value):,}"


def nats(value: Any) -> str:
    """A loss to three decimal places, – for nothing."""
    return "–" if value is None else f"{float(value):.3f}"


def console() -> Console:
    """Standard output, as wide as the terminal, or wide enough for a pipe."""
    return Console(width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PIPED_WIDTH)


def show(table: Table) -> None:
    """Print a table as wide as the output."""
    console().print(table)
