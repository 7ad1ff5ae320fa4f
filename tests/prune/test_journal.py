"""A search goes on from whatever a crash left of its journal and its rankings."""

from __future__ import annotations

import json

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from safetensors.torch import save_file

from pipeline.prune.tune import JOURNAL, mend, scored, whole_lines


@pytest.fixture
def searched(tmp_path):
    """A folder with a batch of two finished trials and one trial that runs."""
    storage = JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL)))
    study = optuna.create_study(storage=storage, study_name="prune")
    for number in range(2):
        save_file({"scores": torch.zeros(3)}, tmp_path / f"scores-{number}.safetensors")
        study.tell(study.ask(), float(number))
    study.set_user_attr("ended", 1)
    study.ask()
    return tmp_path


def trials(folder):
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    return optuna.load_study(storage=storage, study_name="prune").trials


def without_the_running_one(journal: bytes) -> bytes:
    return b"".join(journal.splitlines(keepends=True)[:-1])


@pytest.mark.parametrize("end", [b'{"op_code": 4, "wor', bytes(256), b"\n", b"[1]\n", b'{"a": 1}'])
def test_a_torn_end_is_cut_off_with_a_warning(searched, end, capsys):
    whole = (searched / JOURNAL).read_bytes()
    (searched / JOURNAL).write_bytes(whole + end)
    mend(searched)
    assert (searched / JOURNAL).read_bytes() == without_the_running_one(whole)
    assert "torn end" in capsys.readouterr().err
    assert len(trials(searched)) == 2


def test_a_journal_cut_anywhere_can_be_read(searched):
    whole = (searched / JOURNAL).read_bytes()
    first = whole.index(b"\n") + 1
    for at in range(first, len(whole), 7):
        assert all(isinstance(json.loads(line), dict) for line in whole_lines(whole[:at]).splitlines())
        (searched / JOURNAL).write_bytes(whole[:at])
        mend(searched)
        assert len(trials(searched)) in (0, 2)


def test_a_batch_in_hand_is_forgotten_in_silence(searched, capsys):
    whole = (searched / JOURNAL).read_bytes()
    mend(searched)
    kept = (searched / JOURNAL).read_bytes()
    assert kept == without_the_running_one(whole) and scored(kept) == [0, 1]
    mend(searched)
    assert (searched / JOURNAL).read_bytes() == kept and capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [None, b"", b"\0" * 64])
def test_without_a_ranking_the_search_begins_again(searched, content, capsys):
    path = searched / "scores-1.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    mend(searched)
    assert list(searched.iterdir()) == []
    assert "trial 1 is missing or damaged; the search begins again" in capsys.readouterr().err


def test_where_there_was_no_search_there_is_nothing_to_mend(tmp_path):
    mend(tmp_path)
    assert list(tmp_path.iterdir()) == []
