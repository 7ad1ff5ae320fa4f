"""The algorithms that can be planted, and their recipes."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from pipeline.planted.induction import induction
from pipeline.planted.lists import lists
from pipeline.planted.quote import quote
from pipeline.planted.recipe import Recipe


class Algorithm(StrEnum):
    """What a planted circuit does."""

    QUOTE = "quote"  # close the quote that was opened: one attention head that looks for it
    LISTS = "lists"  # close a nested or a flat list: one head that averages, one neuron that compares
    INDUCTION = "induction"  # copy the token after the previous occurrence of the last: two heads in two layers


RECIPES: dict[Algorithm, Callable[[int], Recipe]] = {
    Algorithm.QUOTE: quote,
    Algorithm.LISTS: lists,
    Algorithm.INDUCTION: induction,
}
