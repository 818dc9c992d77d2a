"""A Dask cluster as an executor: the optional package distributed.

Tasks of a worker that dies are given to another one by the cluster itself.  A
cluster must run the sources that we run, or its results would be those of
another program: every task carries the digest of ours and is refused by a
worker that has others.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from spfreplay.errors import CannotError
from spfreplay.executors import WorkerDied

if TYPE_CHECKING:
    from distributed import Client

P = ParamSpec("P")
T = TypeVar("T")

#: How long we wait for the scheduler, for a first worker of its, or for another one
#: when there is none any more.
_PATIENCE: Final = 10.0  # seconds

_ADDRESS: Final = re.compile(r"(\w+://)?(\[[^\]]+\]|[^:/\[\]\s]+):\d{1,5}")

#: Workers of a cluster may have several threads, and an engine is none for two at a time.
_ONE_AT_A_TIME: Final = threading.Lock()


@contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """Yield the cluster whose scheduler listens at ``address``.

    :raises CannotError: distributed is not installed, or no scheduler answers there,
        or it has no workers
    """
    client = _client(address)
    try:
        pool = _Cluster(client)
        try:
            yield pool
        finally:
            pool.shutdown(wait=False)
    finally:
        with suppress(OSError, TimeoutError):  # gone before us
            client.close()


def _client(address: str) -> Client:
    try:
        from distributed import Client
    except ImportError:
        raise CannotError(
            "a Dask cluster needs the package distributed: pip install 'spfreplay[dask]'"
        ) from None
    # We say ourselves what went wrong, in a line.
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
    # Such a client takes 20 s to find out that it cannot be closed, either.
    if not _ADDRESS.fullmatch(address):
        raise CannotError(f"{address}: no address of a Dask scheduler: expected HOST:PORT")
    try:
        client = Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        why = str(error) or type(error).__name__
        raise CannotError(f"{address}: no Dask scheduler answers there: {why}") from error
    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except TimeoutError:
        client.close()
        raise CannotError(f"{address}: the cluster has no worker") from None
    return client


class _Cluster(Executor):
    """``Client.get_executor``, whose tasks check who does them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inner = client.get_executor(pure=False)
        self._seen = time.monotonic()  # when there was a worker

    @property
    def workers(self) -> int:
        """Return how many tasks the cluster does at the same time, now."""
        return sum(self._threads().values())

    def look(self) -> None:
        """See that somebody works.

        :raises CannotError: nobody has for a while
        """
        now = time.monotonic()
        if self._threads():
            self._seen = now
        elif now - self._seen > _PATIENCE:
            raise CannotError("the workers of the cluster are gone")

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn`` in the cluster."""
        theirs: Future[T] = self._inner.submit(_there, sources(), fn, args, kwargs)
        ours: Future[T] = Future()
        ours.add_done_callback(lambda _: theirs.cancel() if ours.cancelled() else None)
        theirs.add_done_callback(lambda _: _follow(ours, theirs))
        return ours

    def _threads(self) -> dict[str, int]:
        """Return the threads of each worker."""
        try:
            threads: dict[str, int] = self._client.nthreads()
        except (OSError, RuntimeError) as error:
            raise CannotError("the scheduler of the cluster is gone") from error
        return threads

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; :param wait: until all that were taken are answered."""
        self._inner.shutdown(wait=wait and not cancel_futures)


def _follow(ours: Future[T], theirs: Future[T]) -> None:
    """Settle ``ours`` as ``theirs`` is; a task that the cluster lost has lost its worker."""
    with suppress(InvalidStateError):  # cancelled meanwhile
        if theirs.cancelled():
            ours.set_exception(BrokenExecutor("was lost with the cluster"))
        elif (error := theirs.exception()) is None:
            ours.set_result(theirs.result())
        elif type(error).__name__ == "KilledWorker":
            told = "workers of the cluster died, one after the other, with the same task"
            ours.set_exception(WorkerDied(told))
        else:
            ours.set_exception(error)


@cache
def sources() -> str:
    """Return a digest of the sources that this process runs, protocols elsewhere included."""
    import spfreplay
    import spfreplay_reference
    from spfreplay.protocols.registry import PATH_VARIABLE

    digest = sha256()
    elsewhere = filter(None, os.environ.get(PATH_VARIABLE, "").split(os.pathsep))
    for folder in (spfreplay.__path__[0], spfreplay_reference.__path__[0], *elsewhere):
        root = Path(folder)
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _there(expected: str, fn: Callable[..., T], args: Any, kwargs: Any) -> T:
    """Call ``fn``, in a worker of the cluster."""
    if sources() != expected:
        raise CannotError("a worker of the cluster runs other sources of spfreplay than we do")
    with _ONE_AT_A_TIME:
        return fn(*args, **kwargs)
