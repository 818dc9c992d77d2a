"""Judge one program in a process of its own, so that nothing it does gets out."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import pickle
import select
import signal
import traceback
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from spfreplay.oracle.compare import Difference
from spfreplay.oracle.judge import Check, Factory, How, Judged, Session
from spfreplay.oracle.limits import drop_privileges
from spfreplay.oracle.programs import Op, Profile

_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None)
DEFAULT: Final = How()


def run(
    engines: Mapping[str, Factory],
    profile: Profile,
    base: int,
    ops: Sequence[Op],
    how: How = DEFAULT,
) -> Judged:
    """Judge one program; ``check="strict"`` compares everything after every operation.

    The death of the process, or no end within ``how.timeout`` seconds, is a
    difference, too.
    """
    progress = mmap.mmap(-1, 4096)
    result = os.memfd_create("result")
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            if how.unprivileged:
                drop_privileges()
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            answer = _run(engines, profile, base, ops, how.check, progress)
            os.write(result, pickle.dumps(answer))
        finally:
            os._exit(0)
    handle = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    try:
        ended = poll.poll(how.timeout * 1000)
    finally:
        # The processes that the program forked are in its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(handle)
        data = os.pread(result, 1 << 26, 0)
        os.close(result)
    if data:
        judged: Judged = pickle.loads(data)
        return judged
    step = int.from_bytes(progress[:4], "little")
    end = f"wait status {status:#x}" if ended else f"no end after {how.timeout:g} s"
    name = next(iter(engines))
    return Judged(Difference(name, "died", (end,)), step, step, array("q"), Counter())


def _run(
    engines: Mapping[str, Factory],
    profile: Profile,
    base: int,
    ops: Sequence[Op],
    check: Check,
    progress: mmap.mmap,
) -> Judged:
    """Do the program in this process."""
    session = None
    step = 0
    try:
        gc.disable()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        session = Session(engines, profile, base, len(ops), check)
        for step, op in enumerate(ops):
            progress[:4] = step.to_bytes(4, "little")
            found = session.step(step, op)
            if found:
                return Judged(found, step, session.checked, session.answers, session.outcomes)
        return Judged(None, step, session.checked, session.answers, session.outcomes)
    except Exception:
        lines = tuple(traceback.format_exc().splitlines()[-6:])
        found = Difference(next(iter(engines)), "failed", lines)
        if session is None:
            return Judged(found, step, 0, array("q"), Counter())
        return Judged(found, step, session.checked, session.answers, session.outcomes)
