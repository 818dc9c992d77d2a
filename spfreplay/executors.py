"""Who does the work: this process, processes on this machine, a Dask cluster.

All three are ``concurrent.futures`` executors, and :func:`in_order` and
:func:`as_done` work with any other.  Functions, items and results travel
between processes: they must be picklable, and a function must be importable by
name.  A Dask cluster executes what it is sent, and so does whoever can write to
its port: it belongs into a network that you trust.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Generic, ParamSpec, TypeVar

from spfreplay.errors import CannotError

P = ParamSpec("P")
Item = TypeVar("Item")
T = TypeVar("T")

#: How often an item is tried whose worker dies.
MOST_TRIES: Final = 3

_LOOK: Final = 2.0  # seconds


class WorkerDied(CannotError):
    """An item took down every worker that it was given to."""


class Here(Executor):
    """Does everything in this process, when it is submitted."""

    workers: Final = 1

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn``; only KeyboardInterrupt and its like come out at once."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def executor(jobs: int, dask: str = "") -> Iterator[Executor]:
    """Yield who does the work; whatever is not done when you leave is given up.

    Leave it by an exception (Ctrl-C) or not: no process stays behind on this
    machine; a cluster is told to forget what is waiting.

    :param jobs: processes on this machine; 1 is this one.
    :param dask: address of the scheduler of a cluster, which is used in their place.
    :raises CannotError: there is no such cluster, or distributed is not installed
    """
    if dask:
        from spfreplay.cluster import cluster

        with cluster(dask) as pool:
            yield pool
    elif jobs <= 1:
        yield Here()
    else:
        from spfreplay.processes import Processes

        processes = Processes(jobs)
        try:
            yield processes
        finally:
            processes.kill()


def in_order(
    pool: Executor,
    function: Callable[[Item], T],
    items: Iterable[Item],
    ahead: int | None = None,
) -> Iterator[T]:
    """Yield ``function(item)`` for each of ``items``, in their order.

    ``items`` is asked for the next one when there is room for it: it may end when a
    deadline is over, and may depend on the results so far.

    :param ahead: items that are submitted before the first is done; None: two for
        each worker.
    :raises WorkerDied: the same item took down :data:`MOST_TRIES` workers
    """
    work = _Work(pool, function, items, ahead)
    try:
        while work.fill():
            first = work.running[0]
            while not work.settled(first):
                _wait(pool, [first.future])
            yield work.take(first)
    finally:
        work.forget()


def as_done(
    pool: Executor,
    function: Callable[[Item], T],
    items: Iterable[Item],
    ahead: int | None = None,
) -> Iterator[tuple[Item, T]]:
    """Yield (item, ``function(item)``) as they come; else like :func:`in_order`."""
    work = _Work(pool, function, items, ahead)
    try:
        while work.fill():
            _wait(pool, [each.future for each in work.running])
            for each in [each for each in work.running if work.settled(each)]:
                yield each.item, work.take(each)
    finally:
        work.forget()


def workers() -> int:
    """Return how many processes can run at the same time here."""
    return len(os.sched_getaffinity(0))


@dataclass(slots=True, eq=False)
class _Running(Generic[Item, T]):
    item: Item
    future: Future[T]
    tries: int = 1


class _Work(Generic[Item, T]):
    """The items that are submitted, and those that still wait for it."""

    def __init__(
        self,
        pool: Executor,
        function: Callable[[Item], T],
        items: Iterable[Item],
        ahead: int | None,
    ) -> None:
        self._pool = pool
        self._function = function
        self._items = iter(items)
        # Where submitting is doing, nothing is done before it is wanted.
        self._ahead = 1 if isinstance(pool, Here) else (ahead or 2 * _width(pool))
        self.running: list[_Running[Item, T]] = []

    def fill(self) -> bool:
        """Submit what there is room for; is anything running?"""
        while len(self.running) < self._ahead:
            for item in self._items:
                self.running.append(_Running(item, self._pool.submit(self._function, item)))
                break
            else:
                break
        return bool(self.running)

    def settled(self, each: _Running[Item, T]) -> bool:
        """Is there an answer?  Without one, for its worker died, it is tried again.

        :raises WorkerDied: too often
        """
        if not each.future.done():
            return False
        how = _death(each.future)
        if not how:
            return True
        if each.tries == MOST_TRIES:
            raise WorkerDied(f"a worker {how}, {MOST_TRIES} times with the same task")
        try:
            each.future = self._pool.submit(self._function, each.item)
        except BrokenExecutor as error:  # a pool that does not mend itself
            raise WorkerDied(f"the worker processes are gone: {error}") from error
        each.tries += 1
        return False

    def take(self, each: _Running[Item, T]) -> T:
        self.running.remove(each)
        return each.future.result()

    def forget(self) -> None:
        for each in self.running:
            each.future.cancel()


def _wait(pool: Executor, futures: Sequence[Future[T]]) -> None:
    """Wait until one is done, and have an eye on ``pool`` meanwhile, if it can tell."""
    look = getattr(pool, "look", lambda: None)
    while not wait(futures, timeout=_LOOK, return_when=FIRST_COMPLETED).done:
        look()


def _width(pool: Executor) -> int:
    """Return how many calls ``pool`` does at the same time."""
    known = getattr(pool, "workers", None) or getattr(pool, "_max_workers", None)
    return known if isinstance(known, int) and known > 0 else workers()


def _death(future: Future[T]) -> str:
    """Return how the worker of ``future`` ended; "" if it answered."""
    if future.cancelled():
        return "was lost"
    error = future.exception()
    return (str(error) or "died") if isinstance(error, BrokenExecutor) else ""
