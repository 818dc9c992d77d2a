"""Deal numbered jobs to forked workers; results come in order of their number."""

from __future__ import annotations

import os
import pickle
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

_LENGTH = struct.Struct("<Q")


def spread(job: Callable[[int], T | None], count: int, workers: int) -> Iterator[T]:
    """Yield ``job(0)``, ``job(1)`` … in that order, until one is None.

    :param workers: processes to do it in; with 1 it is this one
    """
    if workers == 1:
        for number in range(count):
            result = job(number)
            if result is None:
                return
            yield result
        return
    pipes: list[int] = []
    pids: list[int] = []
    try:
        for first in range(workers):
            pid, pipe = _start(job, range(first, count, workers), pipes)
            pids.append(pid)
            pipes.append(pipe)
        for number in range(count):
            received = _receive(pipes[number % workers])
            if received is None:
                return
            yield received
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for pipe in pipes:
            os.close(pipe)


def _start(
    job: Callable[[int], T | None], numbers: range, others: list[int]
) -> tuple[int, int]:
    mine, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            for pipe in (mine, *others):
                os.close(pipe)
            _work(job, numbers, theirs)
        finally:
            os._exit(0)
    os.close(theirs)
    return pid, mine


def _work(job: Callable[[int], T | None], numbers: range, pipe: int) -> None:
    """Do the jobs ``numbers``, in the worker."""
    # Ctrl-C goes to the whole group; who started us ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(pipe, "wb") as out:
        for number in numbers:
            data = pickle.dumps(job(number))
            out.write(_LENGTH.pack(len(data)) + data)
            out.flush()


def _receive(pipe: int) -> Any:
    """Return the next result; a worker that ended has none any more."""
    header = _read(pipe, _LENGTH.size)
    return pickle.loads(_read(pipe, *_LENGTH.unpack(header))) if header else None


def _read(pipe: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(pipe, size - len(data))
        if not part:
            return b""
        data += part
    return data
