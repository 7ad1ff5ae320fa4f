"""The processes of a mapped stage, and what happens when one of them is killed: by the system, for want of memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Self

from prefect.context import FlowRunContext
from prefect.events.worker import EventsWorker
from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner

from flows import interruption

ATTEMPTS = 3  # how often a unit is begun whose worker is killed
EVENTS_SECONDS = 5.0  # how long a worker waits, after a unit, until Prefect's server has what happened to it


class KilledError(ValueError):
    """Units that could not be finished, for their workers were killed each time."""


class Workers(ProcessPoolTaskRunner):
    """Prefect's pool of processes. When one is killed, all units that are not finished are lost with it."""

    def __enter__(self) -> Self:
        """Start the processes. What they are given ends by an error where it would leave them.

        One that is killed while it writes its log keeps the lock of the queue by which logs come: at its own end, this
        process must not wait until it may write there too, which would be for ever.
        """
        super().__enter__()
        if self._subprocess_message_queue is not None:
            self._subprocess_message_queue.cancel_join_thread()
        pool: Any = self._executor
        pool.submit = partial(pool.submit, exit_as_error)
        return self

    def renew(self) -> None:
        """Start new processes in the place of a pool that is broken."""
        self.__exit__(None, None, None)
        self.__enter__()


def begin_worker() -> None:
    """What a worker does first: see that it ends with its parent, and that a silent server does not keep it."""
    interruption.end_with_parent()
    EventsWorker.wait_until_empty = wait_a_while  # type: ignore[method-assign, assignment]


def wait_a_while(events: Any) -> None:
    """Wait until the events of a unit are sent, as Prefect does after each, but not without end: a server that is
    silent makes it wait for minutes a unit. What is not sent then is sent beside the next unit."""
    left = events._queue
    with left.all_tasks_done:
        left.all_tasks_done.wait_for(lambda: not left.unfinished_tasks, EVENTS_SECONDS)


def exit_as_error(call: Callable[[], Any]) -> Any:
    """What a unit's call gives, in its worker. Raises RuntimeError where it would leave the process, as Prefect does
    after an error of its own: Prefect would wait for such a unit for ever."""
    try:
        return call()
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"a worker left its unit ({error!r}); its output says why") from None


def renew_workers() -> None:
    """New processes for the flow run in progress."""
    context = FlowRunContext.get()
    if context is not None and isinstance(context.task_runner, Workers):
        context.task_runner.renew()


def finished(
    submit: Callable[[str], PrefectFuture[Any]],
    names: Iterable[str],
    on_done: Callable[[], object],
    of: str,
    renew: Callable[[], object] = renew_workers,
) -> dict[str, PrefectFuture[Any]]:
    """Name → future of its unit, ended; a unit whose worker was killed is submitted again, the last time alone.

    ``on_done`` is called after each, ``renew`` when workers were lost. Raises KilledError for units that lost theirs
    ``ATTEMPTS`` times.
    """
    done: dict[str, PrefectFuture[Any]] = {}
    waiting = list(names)
    for attempt in range(1, ATTEMPTS + 1):
        groups = [waiting] if attempt < ATTEMPTS else [[name] for name in waiting]
        for group in groups:
            ended = _those_that_end(submit, group, on_done)
            if len(ended) < len(group):
                renew()
            done |= ended
        waiting = [name for name in waiting if name not in done]
        if not waiting:
            return done
        if attempt < ATTEMPTS:
            print(
                f"warning: a worker of {of} was killed, perhaps for want of memory; begun again, {attempt} of "
                f"{ATTEMPTS - 1}: {', '.join(waiting)}",
                file=sys.stderr,
            )
    raise KilledError(
        f"{of}: workers were killed {ATTEMPTS} times while they made {', '.join(waiting)}; what is finished is kept. "
        "If memory was short (dmesg says so), lower compute.workers in params.yaml; the same command goes on from there"
    )


def _those_that_end(
    submit: Callable[[str], PrefectFuture[Any]], names: list[str], on_done: Callable[[], object]
) -> dict[str, PrefectFuture[Any]]:
    """Name → future of those units whose worker was not killed."""
    futures, done = {}, {}
    for name in names:
        with suppress(BrokenExecutor):
            futures[name] = submit(name)
    for name, future in futures.items():
        with suppress(BrokenExecutor):
            future.wait()
            done[name] = future
            on_done()
    return done
