"""Laws of token streams and batches: what is written is read, and a step's batch depends on its number alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts import ArtifactError, write_json
from pipeline.data.batches import CorpusTooSmallError, TrainingBatches, validation_batches
from pipeline.data.shards import TokenStream, token_dtype, write_stream

EOT = 9


def counting_stream(n_tokens: int) -> TokenStream:
    """A stream in which every token is its own position, so that a window shows where it was cut."""
    return TokenStream(np.arange(n_tokens, dtype=np.uint32), "train", "hash")


def write_folder(folder: Path, vocab_size: int) -> None:
    sizes = {
        "train": write_stream(folder / "train.bin", [[1, 2], [], [3]], EOT, vocab_size)[0],
        "validation": write_stream(folder / "validation.bin", [[4]], EOT, vocab_size)[0],
    }
    dtype = np.dtype(token_dtype(vocab_size)).name
    write_json(folder / "stats.json", {"dtype": dtype, "n_tokens": sizes, "tokenizer_hash": "abc"})


@pytest.mark.parametrize(("vocab_size", "width"), [(10, 2), (65_536, 2), (65_537, 4)])
def test_documents_are_between_ends_of_text(tmp_path: Path, vocab_size: int, width: int) -> None:
    write_folder(tmp_path, vocab_size)
    train, validation = TokenStream.open(tmp_path, "train"), TokenStream.open(tmp_path, "validation")
    assert train.tokens.tolist() == [EOT, 1, 2, EOT, EOT, 3, EOT]
    assert validation.tokens.tolist() == [EOT, 4, EOT]
    assert (train.n_tokens, train.tokenizer_hash, train.tokens.itemsize) == (7, "abc", width)
    assert (tmp_path / "train.bin").stat().st_size == 7 * width


def test_windows_hold_one_token_more_than_the_context() -> None:
    window = counting_stream(10).window(np.array([0, 6]), 3)
    assert window.dtype == torch.int64
    assert window.tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]
    with pytest.raises(IndexError, match="windows of 4 tokens from 7 to 7 leave the train stream of 10 tokens"):
        counting_stream(10).window(np.array([7]), 3)
    with pytest.raises(IndexError):
        counting_stream(10).window(np.array([-1]), 3)


def test_a_stream_that_is_not_what_its_statistics_say_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, 10)
    with pytest.raises(ValueError, match="allowed: train, validation"):
        TokenStream.open(tmp_path, "test")
    (tmp_path / "train.bin").write_bytes(b"\0" * 13)
    with pytest.raises(ArtifactError, match="13 bytes, but stats.json says 7 tokens of uint16"):
        TokenStream.open(tmp_path, "train")
    (tmp_path / "train.bin").unlink()
    with pytest.raises(ArtifactError, match="no such file"):
        TokenStream.open(tmp_path, "train")


def test_an_epoch_is_a_permutation_of_windows_that_do_not_overlap() -> None:
    batches = TrainingBatches(counting_stream(1003), batch=4, n_ctx=9, seed=1)  # (1003 - 9) // 10 windows
    assert (batches.n_windows, batches.steps_per_epoch) == (99, 24)
    orders, offsets = [], []
    for epoch in range(6):
        epoch_batches = [batches.at(step) for step in range(24 * epoch, 24 * epoch + 24)]
        windows = torch.cat(epoch_batches)  # [96, 10]
        assert windows.shape == (96, 10)
        assert torch.equal(windows, windows[:, :1] + torch.arange(10))  # stretches of the stream
        assert windows.unique().numel() == 960  # no token twice
        assert (windows[:, 0] % 10).unique().numel() == 1  # one offset an epoch
        offsets.append(int(windows[0, 0] % 10))
        orders.append((windows[:, 0] // 10).tolist())
    assert len(set(offsets)) > 1
    assert all(first != second for first, second in zip(orders, orders[1:], strict=False))
    assert orders[0] != sorted(orders[0])


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    stream = counting_stream(5000)
    in_order = TrainingBatches(stream, batch=8, n_ctx=15, seed=3)
    seen = [in_order.at(step) for step in range(100)]
    resumed = TrainingBatches(stream, batch=8, n_ctx=15, seed=3)
    for step in (99, 3, 57, 0):
        assert torch.equal(resumed.at(step), seen[step])
    other = TrainingBatches(stream, batch=8, n_ctx=15, seed=4)
    assert not torch.equal(other.at(0), seen[0])
    with pytest.raises(ValueError, match="step -1"):
        resumed.at(-1)


def test_a_stream_below_one_batch_is_refused_with_the_size_it_needs() -> None:
    TrainingBatches(counting_stream(4 * 10 + 9), batch=4, n_ctx=9, seed=0)
    with pytest.raises(CorpusTooSmallError, match="has 48 tokens; one batch of 4 windows of 10 tokens needs 49"):
        TrainingBatches(counting_stream(48), batch=4, n_ctx=9, seed=0)


def test_validation_windows_are_spread_over_the_stream() -> None:
    stream = counting_stream(100)
    batches = list(validation_batches(stream, batch=3, n_ctx=4, n_tokens=16))  # 4 windows of 5
    assert [len(batch) for batch in batches] == [3, 1]
    assert torch.cat(batches)[:, 0].tolist() == [0, 25, 50, 75]


@pytest.mark.parametrize("n_tokens_in_stream", [5, 23, 100, 101])
def test_validation_takes_what_there_is_without_overlap(n_tokens_in_stream: int) -> None:
    stream = counting_stream(n_tokens_in_stream)
    windows = torch.cat(list(validation_batches(stream, batch=3, n_ctx=4, n_tokens=10**6)))
    assert len(windows) == n_tokens_in_stream // 5
    assert windows.unique().numel() == windows.numel()


def test_validation_without_a_window_is_refused() -> None:
    with pytest.raises(CorpusTooSmallError, match="has 4 tokens; one window needs 5"):
        validation_batches(counting_stream(4), batch=3, n_ctx=4, n_tokens=100)
