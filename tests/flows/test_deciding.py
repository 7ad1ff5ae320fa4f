"""A deciding circuit is as strict as its model allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flows.prune import Ended, first_met
from pipeline.circuit import Circuit
from pipeline.prune import Pruned, empty_row

CIRCUIT = Circuit({"0.attn_in": torch.tensor([0])}, {}, {"0.attn_in": torch.zeros(2)}, {"0.attn_in": torch.ones(2)})


def searches(folder: Path, *found: bool) -> tuple[list[Path], Iterator[Ended], list[int]]:
    """Searches that find a circuit or none, and which of them were made."""
    made: list[int] = []
    folders = [folder / str(number) for number in range(len(found))]

    def search(number: int) -> Pruned:
        made.append(number)
        return Pruned(empty_row() | {"n_trials": number}, CIRCUIT if found[number] else None, [])

    def run() -> Iterator[Ended]:
        for number, one in enumerate(folders):
            yield Ended.once(one, lambda number=number: search(number))

    return folders, run(), made


def test_the_strictest_target_that_is_met_counts_and_no_looser_one_is_searched_for(tmp_path):
    folders, run, made = searches(tmp_path, False, True, True)
    assert first_met(run) == Ended(folders[1]) and made == [0, 1]


def test_where_none_is_met_the_last_search_says_so(tmp_path):
    folders, run, _ = searches(tmp_path, False, False)
    assert first_met(run) == Ended(folders[1])
    assert first_met([]) is None


def test_a_search_that_ended_is_not_made_again_after_an_interruption(tmp_path):
    _, run, made = searches(tmp_path, True)
    first = next(run)
    _, run, again = searches(tmp_path, True)
    assert next(run) == first and (made, again) == ([0], [])
    assert first.row == empty_row() | {"n_trials": 0} and first.has_circuit
    first.copy_circuit(tmp_path / "copy")
    assert Circuit.load(tmp_path / "copy").nodes["0.attn_in"].tolist() == [0]


def test_an_interrupted_search_leaves_nothing_that_counts_as_its_end(tmp_path):
    def interrupted() -> Pruned:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Ended.once(tmp_path / "0", interrupted)
    assert not (tmp_path / "0").exists()
