"""What workers do in the tests of executors: functions that they can import."""

import os
import signal
import time
from pathlib import Path

from spfreplay.errors import TraceError


def square(number):
    return number * number


def slowest_first(number):
    """Items are done in another order than they come."""
    time.sleep(0.05 if number == 0 else 0)
    return number


def process(_):
    return os.getpid()


def refuse(number):
    if number == 3:
        raise TraceError("a.txt", "1:1", "expected a trace")
    return number


class Secret(Exception):
    """An exception that cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__("short")


def secret(_):
    raise Secret(1, 2)


def dies_once(item):
    """End the worker, but the first time only: ``item`` is a file and a number."""
    mark, number = item
    if not Path(mark).exists():
        Path(mark).write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies(number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def says_who_and_waits(folder):
    (Path(folder) / str(os.getpid())).write_text("")
    time.sleep(600)


def leaves_a_mark(item):
    """Tell who does it; takes a moment, so that all workers get something to do."""
    folder, number = item
    (Path(folder) / f"{number}-{os.getpid()}").write_text("")
    time.sleep(0.05)
    return number
