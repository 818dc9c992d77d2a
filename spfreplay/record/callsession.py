"""A run whose system calls are recorded by ptrace: where no tracepoint may be used.

A seccomp filter stops threads at the calls that matter, and at no others.  Time
stamps are those of the stops: a call lies between them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from struct import Struct
from typing import Final

from spfreplay.record import catalog as k
from spfreplay.record import ptrace as pt
from spfreplay.record.callfilter import CALLS, CallFilter
from spfreplay.record.ring import RawRecord
from spfreplay.record.session import RunOptions, Session
from spfreplay.record.touches import BUFFERS, touched
from spfreplay.record.tracefs import Tracing
from spfreplay_reference import contract as c

#: a record beyond those of the catalog and of imports: tid, address, whether written
RAW_TOUCH: Final = 64
_SYSCALL_STOP: Final = signal.SIGTRAP | 0x80
_FAULT_SIGNALS: Final = (signal.SIGSEGV, signal.SIGBUS)
_NEWBORN: Final = {
    pt.PTRACE_EVENT_FORK: 0,
    pt.PTRACE_EVENT_VFORK: c.CLONE_VM | c.CLONE_VFORK,
    pt.PTRACE_EVENT_CLONE: 0,
}
_FLAGS: Final = Struct("<Q")
_MATTER: Final = c.CLONE_VM | c.CLONE_VFORK | c.CLONE_THREAD


class CallSession(Session):
    """One run of ``command``; ``records`` are its calls, forks, execs and ends.

    :param touches: record which memory calls touch as well (RAW_TOUCH), where
        faults in kernel mode are not seen.
    """

    def __init__(
        self,
        command: Sequence[str],
        instance: Tracing,
        options: RunOptions,
        note: Callable[[str], None] = lambda text: None,
        touches: bool = True,
    ) -> None:
        super().__init__(command, instance, options, note)
        self.records: list[RawRecord] = []
        #: child -> the CLONE_* that matter, as the call had them
        self.clone_flags: dict[int, int] = {}
        self._touches = touches
        self._filter = CallFilter({*CALLS, *(BUFFERS if touches else ())})
        #: thread -> the call it is in that may touch its memory
        self._touching: dict[int, pt.Call] = {}
        #: thread -> pages that its calls have touched since it last changed its memory
        self._touched: dict[int, set[tuple[int, bool]]] = {}
        self._calls: dict[int, int] = {}  # thread -> CALL_* that it is in
        self._flags: dict[int, int] = {}  # thread -> CLONE_* of the call that it is in

    def _traced(self) -> int:
        return (
            super()._traced()
            | pt.PTRACE_O_TRACECLONE
            | pt.PTRACE_O_TRACESYSGOOD
            | pt.PTRACE_O_TRACESECCOMP
        )

    def _before_exec(self) -> None:
        self._filter.install()

    def _go_on(self, tid: int, sig: int = 0) -> None:
        inside = tid in self._calls or tid in self._touching
        request = pt.PTRACE_SYSCALL if inside else pt.PTRACE_CONT
        pt.ptrace(request, tid, 0, sig)

    def _write(self, code: int, *values: int) -> None:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self.records.append((now, 0, code, values))

    # -- stops ----------------------------------------------------------------

    def _handle(self, pid: int, status: int) -> None:
        if os.WIFSTOPPED(status):
            sig, event = os.WSTOPSIG(status), status >> 16
            with suppress(ProcessLookupError):
                if event == 0 and sig == _SYSCALL_STOP:
                    self._returned(pid)
                    return
                if event == 0 and sig in _FAULT_SIGNALS:
                    self._hit(pid)
        else:
            self._calls.pop(pid, None)
            self._touching.pop(pid, None)
        super()._handle(pid, status)

    def _event(self, pid: int, event: int) -> None:
        if event == pt.PTRACE_EVENT_SECCOMP:
            self._called(pid)
        elif event in _NEWBORN:
            child = pt.event_message(pid)
            flags = _NEWBORN[event] | self._flags.get(pid, 0)
            self.clone_flags[child] = flags & _MATTER
            self._calls.pop(child, None)
            self._touching.pop(child, None)
            self._touched.clear()
            self._write(k.RAW_FORK, pid, child)
        elif event == pt.PTRACE_EVENT_EXEC:
            old = pt.event_message(pid)
            if old != pid:
                self._calls[pid] = self._calls.pop(old, k.CALL_EXECVE)
            self._write(k.RAW_EXEC, pid, pid, old)
        elif event == pt.PTRACE_EVENT_EXIT:
            self._write(k.RAW_TASK_EXIT, pid, pid, 0)
        super()._event(pid, event)

    def _called(self, tid: int) -> None:
        """A thread is about to make a call."""
        number, args = called = pt.call_at(tid)
        if self._touches and number in BUFFERS:
            self._touching[tid] = called
        call = CALLS.get(number, -1)
        if call < 0:
            return
        self._calls[tid] = call
        self._flags.pop(tid, None)
        if call == k.CALL_CLONE:
            self._flags[tid] = args[0]
        elif call == k.CALL_CLONE3:
            self._flags[tid] = _first_word(tid, args[0])
        self._write(k.RAW_ENTER, tid, call, *args)

    def _returned(self, tid: int) -> None:
        """A thread comes back from its call."""
        call = self._calls.pop(tid, -1)
        touching = self._touching.pop(tid, None)
        result = pt.result_at(tid)
        if touching is not None:
            self._touch(tid, touching, result)
        if call >= 0:
            self._write(k.RAW_EXIT, tid, call, result)
            if call <= k.LAST_EXEC_CALL:
                self._touched.clear()  # what is gone may be touched anew
        self._go_on(tid)

    def _touch(self, tid: int, called: pt.Call, result: int) -> None:
        """Write down the pages that a call touched, each once."""
        known = self._touched.setdefault(tid, set())
        for addr, written in touched(*called, result):
            page = addr >> c.PAGE_SHIFT, written
            if page not in known:
                known.add(page)
                self._write(RAW_TOUCH, tid, addr, written)

    def _hit(self, tid: int) -> None:
        """A thread gets a signal: for an access that was not allowed, or sent to it."""
        number, code, addr = pt.signal_at(tid)
        if code <= 0 or addr >> 47:
            return
        place = pt.place_of(tid)
        # Which kind of access it was is not told: see the import's guesses.
        kind = c.X86_PF_INSTR if place >> 12 == addr >> 12 else c.X86_PF_WRITE
        self._write(k.RAW_FAULT_USER, tid, addr, place, c.X86_PF_USER | kind)
        self._write(k.RAW_SIGNAL, tid, number, code)


def _first_word(tid: int, addr: int) -> int:
    """Return the u64 at ``addr`` of a stopped thread: the flags of struct clone_args."""
    with suppress(OSError), open(f"/proc/{tid}/mem", "rb", buffering=0) as memory:
        memory.seek(addr)
        data = memory.read(_FLAGS.size)
        if len(data) == _FLAGS.size:
            return int(_FLAGS.unpack(data)[0])
    return 0
