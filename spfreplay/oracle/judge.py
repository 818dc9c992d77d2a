"""Run one program on the kernel and on engines side by side; compare.

After every operation: its result, the lines of maps, presence and kind of
every page, huge mappings, the exclusive bit of anonymous pages, whether a
touch faulted and whether it changed the frame; now and then VmFlags and the
content of every page.
"""

from __future__ import annotations

import errno
import os
import socket
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from spfreplay.engines import Engine
from spfreplay.oracle import kernel as live
from spfreplay.oracle.compare import (
    Difference,
    Extent,
    Side,
    differences,
    expected_word,
    side_states,
)
from spfreplay.oracle.heap import move_break
from spfreplay.oracle.limits import crowd, impose
from spfreplay.oracle.programs import SLOTS, Op, Profile, heap_of
from spfreplay.oracle.subject import DIRECT, EXECUTE, WRITE, Local, Remote
from spfreplay.oracle.touch import SIGNALS
from spfreplay_reference import contract as c

Factory = Callable[[c.KernelProfile, Sequence[c.FileFacts]], Engine]
Check = Literal["every", "end", "strict"]


class How(NamedTuple):
    """How programs are run: what is compared when, by whom, for how long (seconds)."""

    check: Check = "every"
    unprivileged: bool = False  # as nobody; takes root
    timeout: float = 120.0


class Every(NamedTuple):
    """How often what is compared: every so many operations."""

    pages: int = 16  # all of them, wherever the operation was
    maps: int = 16  # after a touch, and of processes that did nothing
    flags: int = 50
    contents: int = 50

    @classmethod
    def so_that(cls, pages: int) -> Every:
        """Return what keeps the cost per operation alike for ranges of any size."""
        scale = max(1, pages >> 9)
        return cls(pages=16 * scale, contents=50 * scale)


STRICT: Final = Every(1, 1, 1, 1)
#: Pages of a long range that are asked of the engines after each operation, at most.
_SPREAD: Final = 6
_ABSURD: Final = 1 << 40  # bytes
#: What a bad touch ends in if it is direct, as in ``SIGNALS``; else in EFAULT.
BAD: Final = {c.OUT_SEGV_MAPERR: -11001, c.OUT_SEGV_ACCERR: -11002, c.OUT_SIGBUS: -7002}
SILENT: Final = frozenset({c.OUT_NONE, *BAD})
#: Whether a touch of a present page must (True) or must not (False) get it a new frame.
#: Not OUT_REUSE: the kernel copies where a per-CPU batch still holds a reference.
NEW_FRAME: Final = {
    c.OUT_NONE: False,
    c.OUT_ACCESS: False,
    c.OUT_COPY: True,
    c.OUT_THP_COPY: True,
}
CALLS: Final = {
    "mmap": (live.SYS_MMAP, c.OP_MMAP),
    "munmap": (live.SYS_MUNMAP, c.OP_MUNMAP),
    "mprotect": (live.SYS_MPROTECT, c.OP_MPROTECT),
    "mremap": (live.SYS_MREMAP, c.OP_MREMAP),
    "brk": (live.SYS_BRK, c.OP_BRK),
    "madvise": (live.SYS_MADVISE, c.OP_MADVISE),
    "mlock": (live.SYS_MLOCK, c.OP_MLOCK),
    "munlock": (live.SYS_MUNLOCK, c.OP_MUNLOCK),
    "mlockall": (live.SYS_MLOCKALL, c.OP_MLOCKALL),
    "munlockall": (live.SYS_MUNLOCKALL, c.OP_MUNLOCKALL),
}
TOUCHES: Final = {
    "store": (WRITE, c.X86_PF_WRITE),
    "load": (0, 0),
    "run": (EXECUTE, c.X86_PF_INSTR),
}


def signed(value: int) -> int:
    """Return the 64-bit pattern as the columns of a trace hold it."""
    value &= live.U64
    return value - (1 << 64) if value >> 63 else value


def errno_text(ret: int) -> str:
    """Print what a call returned, or what a touch came to."""
    if ret in SIGNALS:
        return SIGNALS[ret]
    return f"{ret:#x}" if ret >= 0 else f"-{errno.errorcode.get(-ret, '?')} ({ret})"


class Judged(NamedTuple):
    """What became of a program: ``answers[i]`` is the kernel's, RET_UNKNOWN = not done.

    ``step`` is the operation of the difference, counted from 0.
    """

    found: Difference | None
    step: int
    checked: int
    answers: array[int]
    outcomes: Counter[str]


class Session:
    """A program being judged, inside its own process.

    :param engines: what to compare the kernel with, by name; all must agree
    :raises OSError: the kernel refuses what is needed to look at it
    """

    def __init__(
        self,
        engines: Mapping[str, Factory],
        profile: Profile,
        base: int,
        count: int,
        check: Check = "every",
    ) -> None:
        self.every = STRICT if check == "strict" else Every.so_that(profile.pages)
        self.last = count - 1
        self.at_end = check == "end"
        self.stack = profile.stack  # touches change mappings
        self.values = live.Values(count + 2)
        self.files = live.Files(large=profile.large) if profile.files else None
        heap = heap_of(profile, base)
        if heap:
            move_break(heap)
        self.span = (base, base + profile.pages * c.PAGE_SIZE)
        facts = self.files.facts if self.files else ()
        kernel = impose(profile)
        self.limited = kernel.memlock_limit != -1
        self.engines = {name: make(kernel, facts) for name, make in engines.items()}
        self.first = next(iter(self.engines.values()))
        for engine in self.engines.values():
            engine.exec(0, c.MM_NONE, 100, 1, c.InitialImage((), (), heap, heap))
        self.links = [
            socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(SLOTS)
        ]
        self.subjects: dict[int, Local | Remote] = {0: Local(self.values)}
        self.sides = {0: Side(0, 1, os.getpid(), self.span)}
        self.frames = os.geteuid() == 0
        self.next_mm = 2
        self.checked = 0
        self.answers = array("q")
        self.outcomes: Counter[str] = Counter()
        if profile.crowded:
            crowd()

    # -- operations ---------------------------------------------------------
    def step(self, number: int, op: Op) -> Difference | None:
        """Do one operation on all sides; return the first disagreement or None."""
        self.answers.append(c.RET_UNKNOWN)
        side = self.sides.get(op.who)
        found = None
        if side is None:
            pass
        elif op.name in TOUCHES:
            found = self._touch(number, side, op)
        elif op.name == "fork":
            found = self._fork(number, side, op)
        elif op.name == "exit":
            if op.who:
                self._exit(number, side)
        else:
            found = self._call(number, side, op)
        found = found or self._compare(number, op)
        if found:
            return found._replace(sides=side_states(self.sides, self.engines))
        return None

    def _call(self, number: int, side: Side, op: Op) -> Difference | None:
        if self._is_left_out(side.mm, op):
            return None
        syscall, code = CALLS[op.name]
        args = list(op.args)
        model = [signed(a) for a in args]
        if op.name == "mmap":
            file = args[4]
            args[4] = (
                self.files.descriptor(file, *args[2:4]) if self.files and file >= 0 else -1
            )
            args[5] <<= 12
        elif op.name == "mprotect":
            args.pop()
        elif op.name == "mlock" and args[2]:
            syscall = live.SYS_MLOCK2
        subject = self.subjects[op.who]
        ret = subject.call(syscall, *args)
        start, end = self.span
        chosen = op.name in ("mmap", "mremap") and ret >= 0 and not start <= ret < end
        if chosen and op.name == "mmap":
            # A hint that could not be followed; where else is not judged.
            subject.call(live.SYS_MUNMAP, ret, args[1])
            return None
        self.answers[-1] = ret
        found = self._ask(number, code, side.mm, op.who, model, ret)
        if chosen:
            length = op.args[2]
            subject.call(live.SYS_MUNMAP, ret, length)
            self._ask(number, c.OP_MUNMAP, side.mm, op.who, [ret, signed(length)], 0)
        return found

    def _ask(
        self, number: int, code: int, mm: int, who: int, args: Sequence[int], ret: int
    ) -> Difference | None:
        """Have every engine do a call whose result is ``ret``."""
        a0, a1, a2, a3, a4, a5, *_ = (*args, 0, 0, 0, 0, 0, 0)
        found = None
        for name, engine in self.engines.items():
            answer = engine.call(number, code, mm, 100 + who, a0, a1, a2, a3, a4, a5, ret)
            if answer != ret and found is None:
                found = Difference.of(name, "result", errno_text(ret), errno_text(answer))
        return found

    def _is_left_out(self, mm: int, op: Op) -> bool:
        """Tell whether no engine can know what this call does."""
        if op.name == "mlockall" and self.limited:
            return True  # all of the interpreter's memory counts
        if op.name != "madvise" or op.args[2] != c.MADV_REMOVE:
            return False
        # What readahead brings back into the page cache is not modelled.
        addr, end = op.args[0], op.args[0] + op.args[1] + c.PAGE_SIZE
        return any(
            r.file in (0, live.LARGE_FILE) and addr < r.end and end > r.start
            for r in self.first.regions(mm)
        )

    def _touch(self, number: int, side: Side, op: Op) -> Difference | None:
        addr, direct = op.args
        how, error_code = TOUCHES[op.name]
        if direct or how & EXECUTE:
            how, error_code = how | DIRECT, error_code | c.X86_PF_USER
        before = side.frame(addr) if self.frames else 0
        ret, word, faults = self.subjects[op.who].touch(how, addr, number + 1)
        self.answers[-1] = ret
        after = side.tables.frame(addr) if before and faults and ret == 0 else before
        for name, engine in self.engines.items():
            answer = engine.access(number, side.mm, 100 + op.who, addr, error_code)
            outcome = answer & c.OUTCOME_MASK
            text = c.OUTCOME_NAMES[outcome]
            if engine is self.first:
                self.outcomes[text] += 1
            bad = BAD.get(outcome, 0)
            if ret != (bad if how & DIRECT else -errno.EFAULT if bad else 0):
                return Difference.of(name, "result", errno_text(ret), text)
            if ret:
                continue
            if (faults == 0) != (outcome in SILENT):
                return Difference.of(name, "faulted", f"took {faults} faults", text)
            moved = before != after
            if before and NEW_FRAME.get(outcome, moved) != moved:
                return Difference.of(name, "frame", f"{'new' if moved else 'same'} frame", text)
            if how & (WRITE | EXECUTE) == 0:
                expected = expected_word(self.files, engine.page(side.mm, addr >> 12))
                if word != expected:
                    kernel = f"loaded {word:#x}"
                    return Difference.of(name, "content", kernel, f"has {expected:#x}")
        return None

    def _fork(self, number: int, side: Side, op: Op) -> Difference | None:
        (slot,) = op.args
        if slot in self.sides or slot == 0:
            return None
        mine, theirs = self.links[slot]
        pid = self.subjects[op.who].fork(theirs)
        self.answers[-1] = pid
        mm, self.next_mm = self.next_mm, self.next_mm + 1
        self.subjects[slot] = Remote(mine, pid)
        self.sides[slot] = Side(slot, mm, pid, self.span)
        for name, engine in self.engines.items():
            answer = engine.call(
                number, c.OP_FORK, side.mm, 100 + op.who, 100 + slot, mm, 0, 0, 0, 0, pid
            )
            if answer < 0:
                return Difference.of(name, "result", f"forked {pid}", errno_text(answer))
        return None

    def _exit(self, number: int, side: Side) -> None:
        subject = self.subjects.pop(side.slot)
        assert isinstance(subject, Remote)
        subject.exit()
        self.answers[-1] = 0
        self.sides.pop(side.slot).tables.close()
        self._ask(number, c.OP_EXIT, side.mm, side.slot, [1], 0)

    def _compare(self, number: int, op: Op) -> Difference | None:
        """Compare all processes.

        Of the pages those that the operation was about and those that the kernel
        changed, and now and then all of them: what only an engine changed elsewhere
        comes out a few operations later.
        """
        at_end = number == self.last
        if self.at_end and not at_end:
            self.checked += 1
            return None
        called = op.name not in TOUCHES
        near = _pages_of(op)
        now_and_then = number % self.every.maps == 0 or at_end
        flags = number % self.every.flags == 0 or at_end
        contents = number % self.every.contents == 0 or at_end
        for slot, side in self.sides.items():
            maps = now_and_then or self.stack or (called and slot == op.who)
            mine = near if slot == op.who else ()
            everywhere = at_end or (number + 5 * slot) % self.every.pages == 0
            extent = Extent(None if everywhere else mine, maps, flags, contents)
            if found := differences(side, self.engines, self.files, extent):
                return found
        self.checked += 1
        return None


def _pages_of(op: Op) -> tuple[int, ...]:
    """Return the pages that ``op`` is about; of long ranges some, spread evenly."""
    if op.name in TOUCHES:
        return (op.args[0] >> c.PAGE_SHIFT,)
    if op.name in ("fork", "exit", "brk", "mlockall", "munlockall"):
        return ()
    addr, length, *_ = op.args
    ranges = [(addr, length)]
    if op.name == "mremap":
        ranges += [(addr, op.args[2]), (op.args[4], op.args[2])]
    pages: list[int] = []
    for start, size in ranges:
        covered = range(start >> c.PAGE_SHIFT, (start + size + 4095) >> c.PAGE_SHIFT)
        pages += covered[:: 1 + len(covered) // _SPREAD] if size < _ABSURD else ()
    return tuple(pages)
