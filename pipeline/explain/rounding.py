"""Numbers as they are kept: few digits, for a page that holds thousands of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

DIGITS = 3
HUNDREDTHS = 2  # decimals of an attention weight


def rounded(value: float | np.floating[Any]) -> float:
    """A number with three significant digits; whole numbers as int, which is shorter."""
    return plain(float(f"{value:.{DIGITS}g}"))


def together(values: Tensor, most: float) -> Any:
    """Numbers of one kind, nested as the tensor is, to three digits of ``most``, the largest magnitude among them.

    Smaller ones have fewer digits, as in a column of a table: a thousandth of the largest counts as nothing.
    """
    decimals = DIGITS - 1 - math.floor(math.log10(most)) if most > 0 else 0
    return to_decimals(values, decimals)


def to_decimals(values: Tensor, decimals: int) -> Any:
    """Numbers with that many decimals, nested as the tensor is."""

    def each(value: Any) -> Any:
        return [each(part) for part in value] if isinstance(value, list) else plain(round(value, decimals))

    return each(values.tolist())


def plain(value: float) -> float:
    return int(value) if value == int(value) else value
