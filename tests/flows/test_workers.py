"""Processes that are killed while they work: real ones, in a pool without a flow (test_interruption.py has a flow)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import uuid
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from prefect.futures import PrefectConcurrentFuture

from flows.workers import ATTEMPTS, KilledError, finished


def unit(folder: Path, name: str, n_kills: int) -> str:
    """A unit that kills its process the first ``n_kills`` times."""
    (folder / f"{name}.{uuid.uuid4().hex}").touch()
    if len(list(folder.glob(f"{name}.*"))) <= n_kills:
        os.kill(os.getpid(), signal.SIGKILL)
    return name


class Pool:
    """Two processes that make units; ``kills``: how often one kills its process."""

    def __init__(self, folder: Path, **kills: int) -> None:
        self.folder, self.kills, self.done = folder, kills, 0
        self.renew()

    def renew(self) -> None:
        self.executor = ProcessPoolExecutor(2, multiprocessing.get_context("fork"))

    def submit(self, name: str) -> PrefectConcurrentFuture[str]:
        made = self.executor.submit(unit, self.folder, name, self.kills.get(name, 0))
        return PrefectConcurrentFuture(uuid.uuid4(), made)  # type: ignore[arg-type]

    def count(self) -> None:
        self.done += 1

    def finish(self, names: str) -> list[str]:
        return list(finished(self.submit, names, self.count, "prune", self.renew))

    def begun(self, name: str) -> int:
        return len(list(self.folder.glob(f"{name}.*")))


@pytest.mark.parametrize("n_kills", range(1, ATTEMPTS))
def test_a_unit_whose_worker_was_killed_is_made_again(
    tmp_path: Path, n_kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = Pool(tmp_path, b=n_kills)
    assert sorted(pool.finish("abcd")) == ["a", "b", "c", "d"]
    assert (pool.done, pool.begun("b")) == (4, n_kills + 1)
    warned = capsys.readouterr().err
    assert warned.count("a worker of prune was killed, perhaps for want of memory; begun again") == n_kills


def test_a_unit_that_always_kills_its_worker_is_named_and_all_others_are_made(tmp_path: Path) -> None:
    pool = Pool(tmp_path, a=1000)
    with pytest.raises(KilledError, match=rf"prune: workers were killed {ATTEMPTS} times while they made a; what"):
        pool.finish("abcdef")
    assert (pool.done, pool.begun("a")) == (5, ATTEMPTS)


def test_workers_that_died_before_anything_was_submitted_are_replaced(tmp_path: Path) -> None:
    pool = Pool(tmp_path, x=1)
    with pytest.raises(Exception, match="terminated abruptly"):
        pool.submit("x").wait()
    assert pool.finish("ab") == ["a", "b"]


def test_nothing_to_make_is_no_work(tmp_path: Path) -> None:
    assert Pool(tmp_path).finish("") == []


def test_a_worker_that_is_killed_while_it_writes_its_log_does_not_keep_the_stage_from_ending() -> None:
    """Its lock stays taken: here by this very process, which then has to write there as it leaves."""
    program = "from flows.workers import Workers\nwith Workers(1) as workers:\n    "
    program += "workers._subprocess_message_queue._wlock.acquire()"
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0


LEAVES = """
import sys
from flows.workers import Workers

if __name__ == "__main__":
    with Workers(1) as workers:
        future = workers._executor.submit(sys.exit)
        try:
            future.result()
        except RuntimeError as error:
            print(error)
"""


def test_a_worker_that_leaves_is_an_error(tmp_path: Path) -> None:
    """For Prefect it is none, and it would wait for that unit for ever."""
    (tmp_path / "program.py").write_text(LEAVES, encoding="utf-8")
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120)
    assert "a worker left its unit (SystemExit" in done.stdout, done.stderr
