"""perf record, attached to a program that is about to run."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from spfreplay.errors import CannotError

#: s that perf may take to attach, and to write its file at the end
PATIENCE: Final = 30.0
#: pages of buffer per CPU that one may lock who has no privilege, and who has
_PAGES: Final = 128
_MANY_PAGES: Final = 4096


class PerfRun:
    """One ``perf record``; ``path`` is its file once it was stopped.

    :param events: as perf's -e takes them.
    :param privileged: more memory may be locked than any user may.
    :raises CannotError: there is no perf
    """

    def __init__(self, events: Sequence[str], privileged: bool = False) -> None:
        self._privileged = privileged
        perf = shutil.which("perf")
        if perf is None:
            raise CannotError(
                "perf is not installed: without root it is what records faults"
                " (package linux-perf, or linux-tools)"
            )
        self._perf = perf
        self._events = tuple(events)
        self._folder = tempfile.TemporaryDirectory(prefix="spfreplay-")
        self.path = Path(self._folder.name) / "perf.data"
        self._process: subprocess.Popen[bytes] | None = None
        self._control = self._answer = -1

    def follow(self, pid: int) -> None:
        """Attach to ``pid``, recording nothing yet."""
        control, self._control = os.pipe()
        self._answer, answer = os.pipe()
        command = [
            self._perf, "record", "-q", "-o", os.fspath(self.path), "-k", "mono", "-c", "1",
            "-d", "-T", "--sample-cpu", "-m", str(_MANY_PAGES if self._privileged else _PAGES),
            "-D", "-1",
            "--control", f"fd:{control},{answer}", "-p", str(pid),
        ]  # fmt: skip
        for event in self._events:
            command += ["-e", event]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(control, answer),
                start_new_session=True,  # Ctrl-C is for the program
            )
        finally:
            os.close(control)
            os.close(answer)

    def begin(self) -> None:
        """Record from now on.

        :raises CannotError: perf refuses; says why
        """
        with suppress(BrokenPipeError):
            os.write(self._control, b"enable\n")
        ready, _, _ = select.select([self._answer], [], [], PATIENCE)
        if not ready or not os.read(self._answer, 16):
            raise CannotError(f"perf record does not start: {self._complaint()}")

    def drain(self) -> None:
        """Do nothing: perf empties its buffers itself."""

    def stop(self) -> None:
        """Let perf write its file.

        :raises CannotError: it does not
        """
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            _, told = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise CannotError("perf record does not end") from None
        if not self.path.exists() or not self.path.stat().st_size:
            raise CannotError(f"perf record wrote nothing: {_first_line(told)}")

    def close(self) -> None:
        """End perf if it still runs, and remove its file."""
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        if process is not None and process.stderr is not None:
            process.stderr.close()
        for fd in (self._control, self._answer):
            if fd >= 0:
                os.close(fd)
        self._control = self._answer = -1
        self._folder.cleanup()

    def _complaint(self) -> str:
        process = self._process
        if process is None:
            return "it was not asked"
        process.kill()
        _, told = process.communicate()
        return _first_line(told)


def _first_line(text: bytes) -> str:
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines()]
    return next((line for line in lines if line and line != "Error:"), "no reason given")
