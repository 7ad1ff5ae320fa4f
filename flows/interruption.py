"""How a program ends before its work is done: at a signal, or when the program that started it is gone.

Ctrl-C, SIGTERM and a closed terminal are the same: what was started here is told, the main thread gets a
KeyboardInterrupt, and whatever is left some seconds later is killed. Every artifact is written whole or not at all, so
nothing is lost by it. A program that was started by DVC ends when that is killed, and a worker when its stage is: an
orphan would go on writing beside its successor.
"""

from __future__ import annotations

import contextvars
import multiprocessing
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import psutil

GRACE_SECONDS = 5.0  # for a stage to end by itself
GRACE_OF_STARTER_SECONDS = 8.0  # for a program that waits for stages
WORDS_SECONDS = 1.5  # for the last words of a program that does not end by itself
POLL_SECONDS = 1.0
INTERRUPTED = 130  # exit status, the shell's for Ctrl-C
STARTERS = ("dvc", "make", "flows", "prefect")  # programs without which a stage has nobody to work for

_leaving = threading.Event()
_last_words: list[Callable[[], object]] = []
_handlers: list[Callable[[int, types.FrameType | None], None]] = []  # that were installed


def install(seconds: float = GRACE_SECONDS) -> None:
    """From now on this process ends within ``seconds`` of SIGINT, SIGTERM or SIGHUP, or of its starter's death."""
    owner = os.getpid()

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        if os.getpid() != owner:  # a fork, which has nothing to tidy up
            os._exit(INTERRUPTED)
        if leave(seconds):
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, interrupt)
    if not _handlers and (starters := starters_of_this()):
        _watch(lambda: all(map(alive, starters)), lambda: os.kill(owner, signal.SIGTERM))
    _handlers.append(interrupt)


def keep() -> None:
    """Handle SIGTERM as ``install`` said, in a flow run, where Prefect would wait for all workers first."""
    if _handlers and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _handlers[-1])


def leave(seconds: float) -> bool:
    """Tell the processes that this one started, and have all killed that are left after ``seconds``.

    False where this process is leaving already.
    """
    if _leaving.is_set():
        return False
    _leaving.set()
    timer = threading.Timer(seconds, _kill_all)
    timer.daemon = True
    timer.start()
    tell_children()
    return True


def at_the_end(words: Callable[[], object]) -> None:
    """Have ``words`` called, for a short time, before this process kills itself."""
    _last_words.append(partial(contextvars.copy_context().run, words))  # Prefect's settings are of a context


def end_with_parent() -> None:
    """For a worker: this process, and every process split off from it, ends when the one that started it does, also
    where that was while this one began."""
    starter = multiprocessing.parent_process()
    _watch_parent(starter.pid if starter is not None else None)
    os.register_at_fork(after_in_child=_watch_parent)


def _watch_parent(pid: int | None = None) -> None:
    parent = os.getppid() if pid is None else pid
    _watch(lambda: os.getppid() == parent, lambda: os._exit(INTERRUPTED))


def starters_of_this() -> list[psutil.Process]:
    """The programs that this process works for: DVC and what started that, up to the first of another kind."""
    found: list[psutil.Process] = []
    with suppress(psutil.Error):
        parents = psutil.Process().parents()
        places = [i for i, parent in enumerate(parents) if _names(parent, STARTERS)]
        found = parents[: places[-1] + 1] if places else []
    return found


def _names(process: psutil.Process, names: Sequence[str]) -> bool:
    """Whether the first words of a process' command name one of these programs or packages."""
    with suppress(psutil.Error):
        words = [os.path.basename(word).split(".")[0] for word in process.cmdline()[:3]]
        return any(name in words for name in names)
    return False


def alive(process: psutil.Process) -> bool:
    """Whether a process runs, and is still the same."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def own_children() -> list[psutil.Process]:
    """The processes that this one started, and theirs; not servers, which have a session of their own."""
    found = []
    with suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error, OSError):
                if os.getsid(child.pid) == os.getsid(0):
                    found.append(child)
    return found


def tell_children() -> None:
    """Interrupt the stages that this process started, and end its workers: their units are made again.

    DVC waits for its stage; torchrun is ended by the stage that started it, a second signal would cut it short.
    """
    for child in own_children():
        with suppress(psutil.Error):
            words = " ".join(child.cmdline())
            if "multiprocessing.spawn" in words:
                child.terminate()
            elif "flows." in words and "torch" not in words:
                child.send_signal(signal.SIGINT)


def _kill_all() -> None:
    """End this process and all that it started, now."""
    for words in _last_words:
        speaker = threading.Thread(target=words, daemon=True)
        speaker.start()
        speaker.join(WORDS_SECONDS)
    for child in own_children():
        with suppress(psutil.Error):
            child.kill()
    os._exit(INTERRUPTED)


def _watch(well: Callable[[], bool], then: Callable[[], object]) -> None:
    """Call ``then``, once, when ``well`` is no longer true."""

    def watch() -> None:
        while well():
            time.sleep(POLL_SECONDS)
        then()

    threading.Thread(target=watch, name="orphan watch", daemon=True).start()
