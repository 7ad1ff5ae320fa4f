"""A Prefect server that goes away while a stage runs: the stage is finished without it, and says so once.

What a stage makes does not depend on the server; its run in Prefect's pages stays as it was last told.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import httpx
import psutil
from prefect import State
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from flows import environment, interruption
from flows.environment import ServiceError

# Prefect's loggers: of the thread that tries to send what waits, which says each time that it cannot,
SENDER = "prefect.events.clients"
RUNS = "prefect.flow_runs"  # and of a flow run, to which it is an error that the server does not hear of its end

T = TypeVar("T")
_noticed = False
_ended: list[State[Any]] = []  # how the work of this process' flow ended, before Prefect was told


def tell(action: Callable[[], T]) -> T | None:
    """What Prefect says to ``action``, which only shows something; None where its server does not answer, or did not
    before."""
    if _noticed:
        return None
    try:
        return action()
    except httpx.HTTPError as error:
        notice(error)
        return None


def ends(state: State[Any]) -> State[Any]:
    """The state in which a flow's work ends, kept in case that Prefect cannot be told."""
    _ended.append(state)
    tell(_health)
    if _noticed:
        logging.getLogger(RUNS).setLevel(logging.CRITICAL)
    return state


def _health() -> None:
    with get_client(sync_client=True) as client:
        if (wrong := client.api_healthcheck()) is not None:
            raise wrong


def state_without_it(error: httpx.HTTPError) -> State[Any]:
    """How the work ended of which Prefect could not be told. Raises ServiceError where it did not end."""
    if not _ended:
        raise ServiceError(
            f"the Prefect server ({_url()}) does not answer any more ({error}); {environment.KEPT}"
        ) from error
    notice(error)
    return _ended[-1]


def notice(error: Exception) -> None:
    """Warn that the server is gone, once, and be silent about what cannot be sent to it."""
    global _noticed
    if not _noticed:
        print(
            f"warning: the Prefect server ({_url()}) does not answer any more ({environment.redacted(str(error))}); "
            "the stage goes on, its run there stays incomplete",
            file=sys.stderr,
        )
    _noticed = True
    logging.getLogger(SENDER).setLevel(logging.CRITICAL)


def leave(status: int) -> None:
    """End this process with ``status``; where the server is gone at once, without trying to send what waits for it."""
    if _noticed:
        for child in interruption.own_children():
            with suppress(psutil.Error):
                child.kill()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _url() -> str:
    return environment.redacted(str(PREFECT_API_URL.value()))
