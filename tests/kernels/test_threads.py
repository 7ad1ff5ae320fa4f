"""Work shared out over threads: every part once, on borders that the caller may rely on."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kernels import place_for_kernels
from pipeline.kernels.threads import in_shares


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 300), st.integers(1, 70), st.integers(1, 90), st.integers(1, 4))
def test_every_index_is_in_exactly_one_share_and_shares_begin_at_multiples(n, multiple, least, threads):
    torch.set_num_threads(threads)
    shares = []
    in_shares(lambda start, stop: shares.append((start, stop)), n, multiple, least)
    assert sorted(i for start, stop in shares for i in range(start, stop)) == list(range(n))
    assert all(start % multiple == 0 for start, _ in shares)
    assert all(stop - start >= min(least, n) for start, stop in shares if stop < n)


def test_what_one_share_raises_reaches_the_caller():
    torch.set_num_threads(2)

    def work(start, stop):
        if start:
            raise ValueError("the second share")

    with pytest.raises(ValueError, match="second share"):
        in_shares(work, 100)


def test_where_code_and_home_may_only_be_read_kernels_are_kept_in_a_folder_of_this_user(tmp_path, monkeypatch):
    assert place_for_kernels() is None  # beside the code
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert place_for_kernels() is None  # in the home
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    place = Path(place_for_kernels())
    assert place.parent == tmp_path and place.stat().st_mode & 0o777 == 0o700
    assert place_for_kernels() == str(place)
    place.rmdir()
    place.symlink_to(tmp_path)  # somebody else's doing
    assert place_for_kernels() != str(place)
