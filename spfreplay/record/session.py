"""Run a command under tracing and ptrace: raw pages, snapshots, map polls.

Processes are seized (no stops for signals of their threads): they stop at
exec and at exit, where their address space is read.  Threads run untraced.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from spfreplay.errors import CannotError
from spfreplay.record import ptrace as pt
from spfreplay.record.memoryfiles import look_at_memory
from spfreplay.record.procfs import MapLine, Snapshot, parse_maps, read_snapshot, read_text
from spfreplay.record.tracefs import Drainer, Tracing

#: How long (s) the other threads of an exiting process may take to die.
EXIT_PATIENCE: Final = 1.0
#: How long (s) a thread may show no sign of dying before it counts as going on.
SIGN_PATIENCE: Final = 0.05
#: How long (s) after Ctrl-C the program may take to end by itself.
GRACE: Final = 2.0
_SYS_EXIT: Final = "60"  # x86-64
_PF_EXITING: Final = 0x4
_SIGKILL_BIT: Final = 1 << (signal.SIGKILL - 1)
_TRACED: Final = (
    pt.PTRACE_O_TRACEEXEC | pt.PTRACE_O_TRACEEXIT | pt.PTRACE_O_TRACEFORK
    | pt.PTRACE_O_TRACEVFORK | pt.PTRACE_O_EXITKILL
)  # fmt: skip
_STOPS: Final = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


class MapPoll(NamedTuple):
    """The file-backed lines of a running process's maps, read around ``t``."""

    t: int
    pid: int
    lines: list[MapLine]


@dataclass(slots=True)
class Run:
    """What running the command left besides the pages of the instance."""

    t0: int = 0
    end: int = 0
    status: int = -1  # exit code, or -signal
    interrupted: bool = False
    root: int = 0
    snapshots: list[Snapshot] = field(default_factory=list)
    polls: list[MapPoll] = field(default_factory=list)
    #: pid -> how it came about: root, fork, vfork
    processes: dict[int, str] = field(default_factory=dict)
    missed: int = 0  # exits that left no checkpoint


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run: ``every`` is in seconds, 0 = no mid-run checkpoints."""

    every: float = 0.0
    pin_cpus: bool = False
    follow_threads: bool = False


class _Watcher(Drainer):
    """Drains, polls maps, and calls for mid-run checkpoints."""

    def __init__(self, instance: Tracing, session: Session) -> None:
        super().__init__(instance)
        self._session = session
        self._next_poll = time.monotonic() + 0.05
        self._step = 0.1
        self._next_stop = time.monotonic() + session.options.every

    def tick(self) -> None:
        now = time.monotonic()
        session = self._session
        if session.options.pin_cpus:
            session.pin_threads()
        if now >= self._next_poll:
            self._next_poll = now + self._step
            self._step = min(self._step * 1.5, 1.0)
            for pid in tuple(session.live):
                with suppress(OSError):
                    lines = [
                        one for one in parse_maps(read_text(f"/proc/{pid}/maps")) if one.backed
                    ]
                    t = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
                    session.run.polls.append(MapPoll(t, pid, lines))
        if session.options.every and now >= self._next_stop:
            self._next_stop = now + session.options.every
            session.request_checkpoints()


class Session:
    """One run of ``command``; ``run_to_end`` returns what was seen."""

    def __init__(
        self,
        command: Sequence[str],
        instance: Tracing,
        options: RunOptions,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.command = list(command)
        self.options = options
        self.run = Run()
        self.live: set[int] = set()
        self._instance = instance
        self._note = note
        self._known: set[tuple[int, int, int]] = set()
        self._asked: set[int] = set()
        self._executed: set[int] = set()
        self._pinned: set[int] = set()
        self._cpus = sorted(os.sched_getaffinity(0))
        self._turn = 1
        self._gone: set[int] = set()
        self._ended: set[int] = set()  # threads that stopped at their end
        self._closed: set[int] = set()  # processes that have an exit checkpoint
        self._leaderless: set[int] = set()  # processes whose first thread has ended
        self._interrupts = 0
        self._waiting = False
        self._deadline = 0.0

    def run_to_end(self) -> Run:
        """Run the command until its last process has ended.

        :raises CannotError: the command cannot be started, or not be traced.
        """
        child, go, failed = self._fork()
        watcher = _Watcher(self._instance, self)
        started = False
        try:
            self._seize(child)
            self._instance.follow(child)
            self.run.t0 = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            self._instance.begin()
            watcher.start()
            started = True
            os.write(go, b"x")
            self._wait_all()
            self.run.end = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        finally:
            os.close(go)
            self._kill_all()
            self._reap(child)
            if started:
                watcher.stop()
            text = os.read(failed, 16)
            os.close(failed)
        if text:
            reason = os.strerror(int(text))
            raise CannotError(f"cannot run {self.command[0]}: {reason}")
        return self.run

    def _fork(self) -> tuple[int, int, int]:
        """Fork the child; it waits for a byte before it execs."""
        wait_r, wait_w = os.pipe()
        fail_r, fail_w = os.pipe()
        child = os.fork()
        if child == 0:
            self._become(wait_r, wait_w, fail_w)
        os.close(wait_r)
        os.close(fail_w)
        self.run.root = child
        return child, wait_w, fail_r

    def _become(self, wait_r: int, wait_w: int, fail_w: int) -> None:
        """Become the command.  Context: the forked child; never returns."""
        try:
            os.close(wait_w)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            if self.options.pin_cpus:
                os.sched_setaffinity(0, {self._cpus[0]})
            if os.read(wait_r, 1) == b"x":
                self._before_exec()
                os.execvp(self.command[0], self.command)
        except OSError as error:
            os.write(fail_w, str(error.errno or errno.ENOENT).encode())
        finally:
            os._exit(127)

    def _before_exec(self) -> None:
        """Prepare the child.  Context: the forked child, followed by now."""

    def _seize(self, child: int) -> None:
        flags = self._traced()
        try:
            pt.ptrace(pt.PTRACE_SEIZE, child, 0, flags)
        except OSError as error:
            raise CannotError(
                f"ptrace is refused ({error.strerror}): checkpoints need PTRACE_SEIZE; "
                "see /proc/sys/kernel/yama/ptrace_scope, and run as root"
            ) from error
        self.live.add(child)
        self.run.processes[child] = "root"

    def _traced(self) -> int:
        """Return the PTRACE_O_* to ask for."""
        follow = self.options.pin_cpus or self.options.follow_threads
        return _TRACED | (pt.PTRACE_O_TRACECLONE if follow else 0)

    def _wait_all(self) -> None:
        """Serve stops until no tracee is left; Ctrl-C ends the program first."""
        previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, self._interrupt)
        try:
            while self._wait_one():
                pass
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: object) -> None:
        # Only a wait may be broken off: a tracee whose stop is half served
        # would never go on.
        self._interrupts += 1
        if self._waiting:
            raise KeyboardInterrupt

    def _wait_one(self) -> bool:
        """Serve one stop; False when all is over."""
        # Children that are not ours to trace may stay: they are nobody's end.
        if not self.live and self.run.root in self._gone:
            return False
        try:
            self._waiting = True
            if self._interrupts and not self.run.interrupted:
                raise KeyboardInterrupt
            flags = pt.WALL | (os.WNOHANG if self.run.interrupted else 0)
            pid, status = os.waitpid(-1, flags)
            self._waiting = False
        except ChildProcessError:
            return False
        except KeyboardInterrupt:
            self._waiting = False
            if self.run.interrupted:
                self._kill_all()
            self.run.interrupted = True
            self._deadline = time.monotonic() + GRACE
            with suppress(ProcessLookupError):
                os.kill(self.run.root, signal.SIGINT)
            return True
        finally:
            self._waiting = False
        if pid:
            self._handle(pid, status)
        elif time.monotonic() > self._deadline:
            self._kill_all()
            self._deadline = time.monotonic() + GRACE
        else:
            time.sleep(0.005)
        return True

    def _kill_all(self) -> None:
        """End what still runs: after Ctrl-C, or when recording broke down."""
        for pid in tuple(self.live):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _reap(self, child: int) -> None:
        """Let killed tracees pass their exit stop and be gone."""
        while True:
            try:
                pid, status = os.waitpid(-1 if self.live else child, pt.WALL)
            except ChildProcessError:
                return
            if os.WIFSTOPPED(status):
                with suppress(OSError):
                    pt.ptrace(pt.PTRACE_CONT, pid)  # whatever it was doing
            else:
                self.live.discard(pid)

    # -- stops ---------------------------------------------------------------

    def _handle(self, pid: int, status: int) -> None:
        if not os.WIFSTOPPED(status):
            self.live.discard(pid)
            self._gone.add(pid)
            if pid == self.run.root:
                self.run.status = os.waitstatus_to_exitcode(status)
            return
        sig, event = os.WSTOPSIG(status), status >> 16
        # A stopped tracee may still be killed: it is then gone from /proc.
        with suppress(ProcessLookupError, FileNotFoundError):
            if event == 0:
                self._go_on(pid, sig)
            elif event == pt.PTRACE_EVENT_STOP and sig in _STOPS:
                self._stopped(pid)
            else:
                self._event(pid, event)

    def _event(self, pid: int, event: int) -> None:
        if event in (pt.PTRACE_EVENT_FORK, pt.PTRACE_EVENT_VFORK):
            child = pt.event_message(pid)
            for known in (self._ended, self._closed, self._leaderless):
                known.discard(child)  # a number used again
            self.run.processes[child] = "fork" if event == pt.PTRACE_EVENT_FORK else "vfork"
            if child not in self._gone:
                self.live.add(child)
        elif event == pt.PTRACE_EVENT_EXEC:
            self._executed.add(pid)
            # In a thread's exec its process lost the first thread, and has one again.
            self._leaderless.discard(pid)
            self._gone.discard(pid)
            self._ended.discard(pid)
            self.live.add(pid)
            self._snapshot(pid, pid, "exec")
        elif event == pt.PTRACE_EVENT_EXIT:
            self._exiting(pid)
        elif (
            event == pt.PTRACE_EVENT_STOP
            and pid not in self.run.processes
            and (leader := self._leader_of(pid)) != pid
        ):
            self._place(pid)
            if not self.options.follow_threads and leader not in self._leaderless:
                pt.ptrace(pt.PTRACE_DETACH, pid)
                return
        self._go_on(pid)

    def _go_on(self, tid: int, sig: int = 0) -> None:
        """Let a stopped thread run, with a signal if one is due."""
        pt.ptrace(pt.PTRACE_CONT, tid, 0, sig)

    @staticmethod
    def _leader_of(tid: int) -> int:
        for row in read_text(f"/proc/{tid}/status").splitlines():
            if row.startswith("Tgid:"):
                return int(row[5:])
        return tid

    def _place(self, tid: int) -> None:
        """Give a new thread the next CPU in turn."""
        if not self.options.pin_cpus or tid in self._pinned:
            return
        self._pinned.add(tid)
        cpu = self._cpus[self._turn % len(self._cpus)]
        self._turn += 1
        with suppress(OSError):
            os.sched_setaffinity(tid, {cpu})

    def pin_threads(self) -> None:
        """Place threads that other threads made: those come unannounced."""
        for pid in tuple(self.live):
            with suppress(OSError):
                for name in os.listdir(f"/proc/{pid}/task"):
                    if int(name) != pid:
                        self._place(int(name))

    # -- checkpoints ---------------------------------------------------------

    def request_checkpoints(self) -> None:
        """Ask every process to stop for a mid-run checkpoint."""
        for pid in tuple(self.live - self._leaderless):
            if pid in self._executed or self.run.processes.get(pid) == "fork":
                self._asked.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)

    def _stopped(self, pid: int) -> None:
        """A group stop: ours (checkpoint, go on) or the user's (stay stopped)."""
        if pid not in self._asked:
            leader = self._leader_of(pid)
            if leader in self._leaderless & self._asked:
                self._asked.discard(leader)  # it left after we had asked
                os.kill(leader, signal.SIGCONT)
            pt.ptrace(pt.PTRACE_LISTEN, pid)
            return
        self._asked.discard(pid)
        deadline = time.monotonic() + EXIT_PATIENCE
        while not self._tasks_in(pid, "Tt") and time.monotonic() < deadline:
            time.sleep(0.0002)
        if self._tasks_in(pid, "Tt"):
            self._snapshot(pid, pid, "stop")
        else:
            self.run.missed += 1
        os.kill(pid, signal.SIGCONT)
        self._go_on(pid)

    def _exiting(self, tid: int) -> None:
        """A thread is about to exit; its address space is still there.

        The checkpoint is taken at the end of the first thread, the others being
        dead, or at that of the last if the first one left before it.
        """
        pid = self._leader_of(tid)
        if self.run.processes.get(pid) == "vfork" and pid not in self._executed:
            return  # still its parent's address space, which may be in use
        self._ended.add(tid)
        deadline = time.monotonic() + EXIT_PATIENCE
        if tid != pid:
            if pid in self._leaderless and self._is_last(pid, tid, deadline):
                self._snapshot(tid, pid, "exit")
            return
        signless = 0.0
        while living := self._living(pid, pid):
            self._serve_threads(living)
            now = time.monotonic()
            dying = all(self._dying(pid, one) for one in living)
            signless = 0.0 if dying else signless or now
            if not dying and pid not in self._leaderless:
                self._leaderless.add(pid)
                self._adopt(tid, living)
            if now > deadline or (signless and now > signless + SIGN_PATIENCE):
                return
            time.sleep(0.0005)
        if pid not in self._closed:
            self._snapshot(pid, pid, "exit")

    def _is_last(self, pid: int, tid: int, deadline: float) -> bool:
        """Tell whether ``tid`` is the last thread, having waited for dying ones."""
        while living := self._living(pid, tid):
            if time.monotonic() > deadline:
                return False
            if not all(self._dying(pid, one) for one in living):
                return False
            time.sleep(0.0005)
        return True

    def _serve_threads(self, tids: list[int]) -> None:
        """Let traced threads go on that stopped at their own end meanwhile."""
        for tid in tids:
            with suppress(ChildProcessError):
                pid, status = os.waitpid(tid, pt.WALL | os.WNOHANG)
                if pid:
                    self._handle(pid, status)

    def _adopt(self, leader: int, tids: list[int]) -> None:
        """Trace the threads that go on without their first one, for the last's exit.

        That is where main ends by pthread_exit.  Where another thread execs, the
        first one is killed, and to seize that other one would wait for its exec,
        which waits for us: such a program is lost unless threads are followed.
        """
        if not self._in_exit(leader):
            self.run.missed += not self.options.follow_threads
            return
        for tid in tids:
            with suppress(OSError):  # already traced, or gone
                pt.ptrace(pt.PTRACE_SEIZE, tid, 0, self._traced() | pt.PTRACE_O_TRACECLONE)

    @staticmethod
    def _in_exit(tid: int) -> bool:
        """Tell whether a stopped thread ends because it called exit itself."""
        with suppress(OSError):
            return read_text(f"/proc/{tid}/syscall").split()[0] == _SYS_EXIT
        return False

    def _living(self, pid: int, but: int) -> list[int]:
        """Return the threads of ``pid`` except ``but`` that are not dead."""
        tids = [int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != but]
        return [tid for tid in tids if self._state(pid, tid)[0] not in "ZX"]

    @staticmethod
    def _state(pid: int, tid: int) -> tuple[str, int]:
        """Return state and PF_ flags of a thread; X if it is gone."""
        try:
            row = read_text(f"/proc/{pid}/task/{tid}/stat")
        except OSError:
            return "X", 0
        fields = row.rsplit(")", 1)[1].split()
        return fields[0], int(fields[6])

    def _dying(self, pid: int, tid: int) -> bool:
        """Tell whether a thread has SIGKILL pending or is past it (exit_group)."""
        state, flags = self._state(pid, tid)
        if tid in self._ended or state in "ZX" or flags & _PF_EXITING:
            return True
        with suppress(OSError):
            for row in read_text(f"/proc/{pid}/task/{tid}/status").splitlines():
                if row.startswith("SigPnd:") and int(row[7:], 16) & _SIGKILL_BIT:
                    return True
        return False

    def _tasks_in(self, pid: int, states: str) -> bool:
        """True if all tasks of ``pid`` but the leader are in ``states``, or dead."""
        return all(self._state(pid, tid)[0] in states for tid in self._living(pid, pid))

    def _snapshot(self, tid: int, pid: int, reason: str) -> None:
        """Read the address space of ``pid`` through its thread ``tid``."""
        try:
            snapshot = read_snapshot(pid, reason, self._known, tid)
            if reason != "exec":
                snapshot.memory = look_at_memory(tid, snapshot.lines)
            self.run.snapshots.append(snapshot)
        except OSError as error:
            self.run.missed += 1
            self._note(f"no {reason} checkpoint of process {pid}: {error.strerror}")
        else:
            if reason == "exit":
                self._closed.add(pid)
