"""Worker processes on this machine, as a ``concurrent.futures`` executor.

Each worker does one call at a time and is fed by a thread of its own over a
pipe of its own, so that a worker that dies (killed, out of memory) takes one
known call with it and nothing else; another is started in its place.  (The
pool of the standard library breaks as a whole and does not say by which call.)

Workers come from a fork server: a process without threads, which has imported
what they need.  A fork of this process would copy locks that other threads
hold, and descriptors that keep the pipes of its siblings open; a spawned
interpreter would import everything again.  Nothing outlives this process,
however it ends: every worker watches it.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

from spfreplay.errors import ModelError

P = ParamSpec("P")
T = TypeVar("T")

#: What the fork server imports before it forks: everything that explores windows.
_PRELOADED: Final = ["spfreplay.orders"]

_CONTEXT: Final = get_context("forkserver")


class WorkerEnded(BrokenExecutor):
    """A worker ended before it answered; the message says how."""


class _Call(NamedTuple):
    future: Future[Any]
    data: bytes  # pickled (function, positional, keywords)


class Processes(Executor):
    """At most ``workers`` processes; each is started when there is work for it."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._lock = threading.Lock()  # guards what follows
        self._feeders: list[threading.Thread] = []
        self._alive: set[_Worker] = set()
        self._closed = False
        self._killed = False
        _CONTEXT.set_forkserver_preload(_PRELOADED)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn`` in a worker; everything that travels must be picklable.

        :raises Exception: what the pickling raises, or RuntimeError after the shutdown
        """
        future: Future[T] = Future()
        data = pickle.dumps((fn, args, kwargs))
        with self._lock:
            if self._closed:
                raise RuntimeError("no call is taken after the shutdown")
            self._calls.put(_Call(future, data))
            if len(self._feeders) < self.workers:
                self._feeders.append(threading.Thread(target=self._feed, daemon=True))
                self._feeders[-1].start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; :param wait: until all that were taken are answered."""
        with self._lock:
            self._closed = True
        if cancel_futures:
            self._cancel()
        for _ in self._feeders:
            self._calls.put(None)
        if wait:
            for feeder in self._feeders:
                feeder.join()

    def kill(self) -> None:
        """Give up everything that is not answered yet, and leave no process behind."""
        with self._lock:
            self._closed = self._killed = True
            for worker in self._alive:
                worker.kill()
        self.shutdown(cancel_futures=True)

    def _cancel(self) -> None:
        while not self._calls.empty():
            call = self._calls.get()
            if call is not None:
                call.future.cancel()

    def _feed(self) -> None:
        """Hand calls to one worker after the other, in a thread."""
        # Ctrl-C belongs to the main thread; the fork server may start from here
        # and must not hear of it either.  Starting the resource tracker, which it
        # needs, would let the signal in again behind itself.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        worker: _Worker | None = None
        while (call := self._calls.get()) is not None:
            if not call.future.set_running_or_notify_cancel():
                continue
            try:
                worker = worker or self._started()
                answer = worker.ask(call.data)
            except (EOFError, OSError):
                how = "could not be started" if worker is None else self._ended(worker)
                worker = None
                call.future.set_exception(WorkerEnded(how))
                continue
            except BaseException as error:  # of unpickling: the caller's affair
                call.future.set_exception(error)
                continue
            answer.settle(call.future)
        if worker is not None:
            self._ended(worker)

    def _started(self) -> _Worker:
        with self._lock:
            if self._killed:
                raise EOFError
            worker = _Worker()
            self._alive.add(worker)
            return worker

    def _ended(self, worker: _Worker) -> str:
        with self._lock:
            self._alive.discard(worker)
            return worker.end()


class _Answer(NamedTuple):
    value: Any = None
    error: BaseException | None = None

    def settle(self, future: Future[Any]) -> None:
        if self.error is None:
            future.set_result(self.value)
        else:
            future.set_exception(self.error)


class _Worker:
    """One process and this end of the pipe to it."""

    def __init__(self) -> None:
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_work, args=(theirs,), daemon=True)
        try:
            self._process.start()
        finally:
            theirs.close()  # so that the pipe ends with the worker

    def ask(self, data: bytes) -> _Answer:
        """:raises EOFError, OSError: the worker is gone"""
        self._pipe.send_bytes(data)
        answer = pickle.loads(self._pipe.recv_bytes())
        assert isinstance(answer, _Answer)
        return answer

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> str:
        """End the process, if it has not ended, and say how it did."""
        self._pipe.close()
        self._process.join(0.2)
        self._process.kill()
        self._process.join()
        code = self._process.exitcode or 0
        if code < 0:
            name = signal.Signals(-code).name
            return f"was killed by {name}" + (" (out of memory?)" if code == -9 else "")
        return f"ended with exit code {code}"


def _work(pipe: Connection[Any, Any]) -> None:
    """Answer calls until nobody asks any more, in the worker."""
    # Ctrl-C goes to the whole group; who started us ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(_answered(pipe.recv_bytes()))


def _end_with_the_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answered(data: bytes) -> bytes:
    try:
        function, args, kwargs = pickle.loads(data)
        return pickle.dumps(_Answer(function(*args, **kwargs)))
    except BaseException as error:
        error.add_note(f"in a worker:\n{traceback.format_exc()}")
        try:
            data = pickle.dumps(_Answer(error=error))
            pickle.loads(data)
        except Exception:  # an exception that does not travel
            told = ModelError(f"{type(error).__name__}: {error}")
            data = pickle.dumps(_Answer(error=told))
        return data
