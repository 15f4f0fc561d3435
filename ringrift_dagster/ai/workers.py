"""Processes that play games: results in the order of the tasks, and no process that outlives its parent.

What is played is the caller's function; games in progress are abandoned when `stopped` says so.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import TypeVar

MAX_WORKERS = 64
_AHEAD = 4
"""Tasks in progress for each worker: under way, or waiting for the result of an earlier one to be taken."""

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")
_stop = threading.Event()
"""Set in a worker when the process that takes the results has stopped."""


class WorkerLost(Exception):
    """A worker process ended by itself; results that were taken before are not affected."""


def default_workers() -> int:
    """One process for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has no affinity
    return min(cores, MAX_WORKERS)


def stopped() -> bool:
    """Whether nobody waits for this process's results any more."""
    return _stop.is_set()


@contextmanager
def results(function: Callable[[_Task], _Result], tasks: Sequence[_Task], workers: int) -> Iterator[Iterator[_Result]]:
    """The results of a function for these tasks, in order, computed here or by as many processes as `workers` says.

    Leaving the context gives up the tasks whose results were not taken. For several processes function, tasks and results have to
    be picklable. Raises WorkerLost, and what the function raises.
    """
    if workers == 1 or len(tasks) < 2:
        yield map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    stop, parent_end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, _start_worker, (stop,))
    try:
        yield _in_order(pool, function, tasks, _AHEAD * workers)
    except BrokenProcessPool as error:
        raise WorkerLost("a worker process ended unexpectedly (out of memory?)") from error
    finally:
        parent_end.close()  # games that are still being played are given up
        pool.shutdown(wait=True, cancel_futures=True)
        stop.close()


def _in_order(
    pool: ProcessPoolExecutor, function: Callable[[_Task], _Result], tasks: Sequence[_Task], ahead: int
) -> Iterator[_Result]:
    pending: deque[Future[_Result]] = deque()
    for task in tasks:
        with _no_interrupts():
            pending.append(pool.submit(function, task))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Put Ctrl-C off. Processes started meanwhile never see it: the one that takes the results decides when to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(stop: Connection) -> None:
    threading.Thread(target=_end_with_parent, args=(stop,), daemon=True).start()


def _end_with_parent(stop: Connection) -> None:
    """Stop when the parent closes its end of `stop`, and end when it was killed: nobody else would say so."""
    with suppress(EOFError, OSError):
        stop.recv()
    _stop.set()
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
