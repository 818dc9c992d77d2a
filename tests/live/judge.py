"""Run one program on the kernel and on an engine side by side; compare.

After every operation: its result, the lines of maps, presence and kind of
every page, huge mappings, the exclusive bit of anonymous pages, whether a
touch faulted; now and then VmFlags and the content of every page.  All of it
happens in a forked child, so that nothing a program does can hurt the caller.
"""

import contextlib
import gc
import mmap
import os
import pickle
import select
import signal
import socket
import traceback
from typing import NamedTuple

import live_kernel as live
from random_programs import SLOTS

from spfreplay_reference import contract as c

#: VmFlags of smaps that are compared
MNEMONICS = {
    "rd": c.VM_READ, "wr": c.VM_WRITE, "ex": c.VM_EXEC, "sh": c.VM_SHARED,
    "mr": c.VM_MAYREAD, "mw": c.VM_MAYWRITE, "me": c.VM_MAYEXEC, "ms": c.VM_MAYSHARE,
    "gd": c.VM_GROWSDOWN, "lo": c.VM_LOCKED, "sr": c.VM_SEQ_READ, "rr": c.VM_RAND_READ,
    "dc": c.VM_DONTCOPY, "lf": c.VM_LOCKONFAULT, "ac": c.VM_ACCOUNT, "nr": c.VM_NORESERVE,
    "wf": c.VM_WIPEONFORK, "dd": c.VM_DONTDUMP, "hg": c.VM_HUGEPAGE,
    "nh": c.VM_NOHUGEPAGE, "mg": c.VM_MERGEABLE,
}  # fmt: skip
FLAGS_EVERY, CONTENTS_EVERY = 25, 40
SEEN_BITS = c.KIND_MASK | c.PG_HUGE | c.PG_SHARED
BAD = (c.OUT_SEGV_MAPERR, c.OUT_SEGV_ACCERR, c.OUT_SIGBUS)
SILENT = (c.OUT_NONE, *BAD)
#: Whether a touch of a present page must (True) or must not (False) get it a new frame.
#: Not OUT_REUSE: the kernel copies where a per-CPU batch still holds a reference.
NEW_FRAME = {
    c.OUT_NONE: False,
    c.OUT_ACCESS: False,
    c.OUT_COPY: True,
    c.OUT_THP_COPY: True,
}
CALLS = {
    "mmap": (live.SYS_MMAP, c.OP_MMAP),
    "munmap": (live.SYS_MUNMAP, c.OP_MUNMAP),
    "mprotect": (live.SYS_MPROTECT, c.OP_MPROTECT),
    "mremap": (live.SYS_MREMAP, c.OP_MREMAP),
    "madvise": (live.SYS_MADVISE, c.OP_MADVISE),
    "mlock": (live.SYS_MLOCK, c.OP_MLOCK),
    "munlock": (live.SYS_MUNLOCK, c.OP_MUNLOCK),
    "mlockall": (live.SYS_MLOCKALL, c.OP_MLOCKALL),
    "munlockall": (live.SYS_MUNLOCKALL, c.OP_MUNLOCKALL),
}
TOUCHES = {"store": (2, c.X86_PF_WRITE), "load": (0, 0), "run": (1, c.X86_PF_INSTR)}


class Mismatch(NamedTuple):
    """Where the engine and the kernel disagree: ``step`` counts from 0."""

    step: int
    what: str  # result, faulted, frame, maps, pages, flags, content, died, engine
    details: tuple[str, ...]


def signed(value):
    """Return the 64-bit pattern as the columns of a trace hold it."""
    value &= live.U64
    return value - (1 << 64) if value >> 63 else value


def errno_text(ret):
    return f"{ret:#x}" if ret >= 0 else f"-{os.strerror(-ret)} ({ret})"


class Side:
    """One process of the program and the engine's mm for it."""

    def __init__(self, subject, mm, span):
        self.subject, self.mm = subject, mm
        self.tables = live.Tables(subject.pid, *span)
        self.words = self.image = None


class Session:
    """A program being judged, inside its own process."""

    def __init__(self, make_engine, profile, base, count, strict):
        self.every = (1, 1) if strict else (FLAGS_EVERY, CONTENTS_EVERY)
        self.stack = profile.stack  # touches change mappings
        self.span = (base, base + profile.pages * 4096)
        self.values = live.Values(count + 2)
        self.files = live.Files() if profile.files else None
        fds = self.files.fds if self.files else ()
        facts = self.files.facts if self.files else ()
        self.engine = make_engine(live.this_kernel(), facts)
        self.engine.exec(0, c.MM_NONE, 100, 1, c.InitialImage((), (), 0, 0))
        self.links = [
            socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(SLOTS)
        ]
        self.sides = {0: Side(live.Local(self.values, fds), 1, self.span)}
        self.next_mm = 2
        self.checked = 0

    # -- operations ---------------------------------------------------------
    def step(self, number, op):
        """Do one operation on both; return the first disagreement or None."""
        side = self.sides.get(op.who)
        if side is None:
            return None
        if op.name in TOUCHES:
            found = self.touch(number, side, op)
        elif op.name == "fork":
            found = self.fork(number, side, op)
        elif op.name == "exit":
            found = None
            if op.who:
                self.exit(number, op)
        else:
            found = self.call(number, side, op)
        return found or self.compare(number, op)

    def call(self, number, side, op):
        if (
            op.name == "madvise"
            and op.args[2] == c.MADV_REMOVE
            and self.on_disk(side.mm, *op.args)
        ):
            return None  # what readahead brings back into the page cache is not modelled
        syscall, code = CALLS[op.name]
        args = list(op.args)
        model = [signed(a) for a in args]
        if op.name == "mmap":
            args[4] = self.files.descriptor(args[4], *args[2:4]) if args[4] >= 0 else -1
            args[5] <<= 12
        elif op.name == "mprotect":
            args.pop()
        elif op.name == "mlock" and args[2]:
            syscall = live.SYS_MLOCK2
        ret = side.subject.call(syscall, *args)
        start, end = self.span
        chosen = op.name in ("mmap", "mremap") and ret >= 0 and not start <= ret < end
        if chosen and op.name == "mmap":
            # A hint that could not be followed; where else is not judged.
            side.subject.call(live.SYS_MUNMAP, ret, args[1])
            return None
        model += [0] * (6 - len(model))
        answer = self.engine.call(number, code, side.mm, 100 + op.who, *model, ret)
        if answer != ret:
            return "result", (f"kernel {errno_text(ret)}", f"engine {errno_text(answer)}")
        if chosen:
            length = op.args[2]
            side.subject.call(live.SYS_MUNMAP, ret, length)
            gone = (ret, signed(length), 0, 0, 0, 0, 0)
            self.engine.call(number, c.OP_MUNMAP, side.mm, 100 + op.who, *gone)
        return None

    def on_disk(self, mm, addr, length, _):
        """Whether the range maps the file of a disk file system."""
        end = addr + length + c.PAGE_SIZE
        return any(
            r.file == 0 and addr < r.end and end > r.start for r in self.engine.regions(mm)
        )

    def legal(self, mm, addr, how):
        """Whether a direct touch of ``addr`` cannot raise a signal."""
        region = self.engine.region(mm, addr)
        if region is None:
            return False
        right = c.VM_WRITE if how & 2 else c.VM_EXEC if how & 1 else c.VM_READ
        if how & 1 and region.file < 0:
            return False  # no code there
        if region.file >= 0:
            index = region.pgoff + ((addr - region.start) >> 12)
            if index * 4096 >= self.files.facts[region.file].size:
                return False
            if how & 1 and (index == 40 or self.files.in_hole(region.file, index)):
                return False
        elif region.flags & c.VM_SHARED and not self.engine.page(mm, addr >> 12):
            return False  # perhaps beyond the end of the object
        return bool(region.flags & right)

    def touch(self, number, side, op):
        addr, direct = op.args
        how, error_code = TOUCHES[op.name]
        if direct or how & 1:
            if self.legal(side.mm, addr, how):
                how, error_code = how | 4, error_code | c.X86_PF_USER
            elif how & 1:
                return None
        before = side.tables.frame(addr)
        ret, word, faults = side.subject.touch(how, addr, number + 1)
        answer = self.engine.access(number, side.mm, 100 + op.who, addr, error_code)
        outcome = answer & c.OUTCOME_MASK
        name = c.OUTCOME_NAMES[outcome]
        if (outcome in BAD) != (ret < 0):
            return "result", (f"kernel {errno_text(ret)}", f"engine {name}")
        if ret == 0 and (faults == 0) != (outcome in SILENT):
            return "faulted", (f"kernel took {faults} faults", f"engine: {name}")
        moved = before != side.tables.frame(addr)
        if before and ret == 0 and NEW_FRAME.get(outcome, moved) != moved:
            return "frame", (f"kernel: {'new' if moved else 'same'} frame", f"engine: {name}")
        if ret == 0 and how & 3 == 0:
            expected = self.content(self.engine.page(side.mm, addr >> 12))
            if word != expected:
                return "content", (f"kernel loaded {word:#x}", f"engine has {expected:#x}")
        return None

    def content(self, page):
        """Return the word in memory that the engine's content stands for."""
        word = page >> c.CONTENT_SHIFT
        if word & c.CONTENT_FILE and self.files:
            file, index = word >> 31 & 0xFFFF, word & 0x7FFF_FFFF
            if self.files.in_hole(file, index) or index * 4096 >= self.files.facts[file].size:
                return 0
        return word

    def fork(self, number, side, op):
        (slot,) = op.args
        if slot in self.sides or slot == 0:
            return None
        mine, theirs = self.links[slot]
        child = live.Remote(mine)
        child.pid = side.subject.fork(theirs)
        mm, self.next_mm = self.next_mm, self.next_mm + 1
        args = (100 + slot, mm, 0, 0, 0, 0, child.pid)
        answer = self.engine.call(number, c.OP_FORK, side.mm, 100 + op.who, *args)
        self.sides[slot] = Side(child, mm, self.span)
        if answer < 0:
            return "result", (f"kernel forked {child.pid}", f"engine {errno_text(answer)}")
        return None

    def exit(self, number, op):
        side = self.sides.pop(op.who)
        side.subject.exit()
        side.tables.close()
        self.engine.call(number, c.OP_EXIT, side.mm, 100 + op.who, 1, 0, 0, 0, 0, 0, 0)

    # -- comparison ---------------------------------------------------------
    def compare(self, number, op):
        touched = op.name in TOUCHES
        for slot, side in self.sides.items():
            who = f"process {slot}: "
            if (not touched or self.stack or number % 16 == 0) and (found := self.maps(side)):
                return "maps", tuple(who + line for line in found)
            if found := self.pages(side):
                return "pages", tuple(who + line for line in found)
            if number % self.every[0] == 0 and (found := self.flags(side)):
                return "flags", tuple(who + line for line in found)
            if number % self.every[1] == 0 and (found := self.contents(side)):
                return "content", tuple(who + line for line in found)
        self.checked += 1
        return None

    def inside(self, mm):
        start, end = self.span
        return [r for r in self.engine.regions(mm) if r.start < end and r.end > start]

    def maps(self, side):
        def line(start, end, rights, pgoff):
            return f"+{start - self.span[0]:x}-{end - self.span[0]:x} {rights} pgoff {pgoff:x}"

        kernel = [line(*r) for r in side.tables.regions()]
        engine = [
            line(
                r.start,
                r.end,
                "".join(
                    letter if r.flags & flag else "-"
                    for letter, flag in (("r", c.VM_READ), ("w", c.VM_WRITE), ("x", c.VM_EXEC))
                )
                + ("s" if r.flags & c.VM_MAYSHARE else "p"),
                r.pgoff if r.file >= 0 or r.flags & c.VM_SHARED else 0,
            )
            for r in self.inside(side.mm)
        ]
        return differing(kernel, engine) if kernel != engine else ()

    def pages(self, side):
        words = side.tables.page_words()
        image = self.engine.image(side.mm)
        if side.words == words and side.image == (image.vpns, image.words):
            return ()
        kernel = side.tables.pages(words)
        first, last = self.span[0] >> 12, self.span[1] >> 12
        engine = {
            vpn: word & SEEN_BITS
            for vpn, word in zip(image.vpns, image.words, strict=True)
            if first <= vpn < last and word & c.KIND_MASK
        }
        for vpn, word in engine.items():
            if word & c.PG_HUGE:
                # pagemap tells of the first page, whichever of the 512 is asked for
                first_page = engine.get(vpn & ~(c.PTRS_PER_PTE - 1), word)
                engine[vpn] = word & ~c.PG_SHARED | first_page & c.PG_SHARED
        if kernel == engine:
            side.words, side.image = words, (image.vpns, image.words)
            return ()
        return tuple(
            f"+{(vpn - first) * 4096:#x}: kernel {page_text(kernel.get(vpn, 0))}, "
            f"engine {page_text(engine.get(vpn, 0))}"
            for vpn in sorted(kernel.keys() | engine.keys())
            if kernel.get(vpn, 0) != engine.get(vpn, 0)
        )

    def flags(self, side):
        kernel = side.tables.flags()
        wrong = []
        for region in self.inside(side.mm):
            names = {name for name, flag in MNEMONICS.items() if region.flags & flag}
            seen = kernel.get(region.start, frozenset()) & MNEMONICS.keys()
            if names != seen:
                wrong.append(
                    f"+{region.start - self.span[0]:x}: kernel has {sorted(seen - names)}, "
                    f"engine has {sorted(names - seen)}"
                )
        return tuple(wrong)

    def contents(self, side):
        wrong = []
        image = self.engine.image(side.mm)
        for vpn, word in zip(image.vpns, image.words, strict=True):
            if self.span[0] >> 12 <= vpn < self.span[1] >> 12 and word & c.KIND_MASK:
                seen, expected = side.tables.content(vpn), self.content(word)
                if seen != expected:
                    at = (vpn << 12) - self.span[0]
                    wrong.append(f"+{at:#x}: kernel {seen:#x}, engine {expected:#x}")
        return tuple(wrong)


def differing(kernel, engine):
    common = set(kernel) & set(engine)
    return tuple(
        [f"kernel {line}" for line in kernel if line not in common]
        + [f"engine {line}" for line in engine if line not in common]
    )


def page_text(bits):
    parts = [c.KIND_NAMES[bits & c.KIND_MASK]]
    parts += [
        name for name, bit in (("huge", c.PG_HUGE), ("shared", c.PG_SHARED)) if bits & bit
    ]
    return " ".join(parts)


def _run(make_engine, profile, base, ops, strict, progress):
    """Do the program in this process; return what :func:`run` returns."""
    session = None
    try:
        gc.disable()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        session = Session(make_engine, profile, base, len(ops), strict)
        for step, op in enumerate(ops):
            progress[:4] = step.to_bytes(4, "little")
            found = session.step(step, op)
            if found:
                return Mismatch(step, *found), session.checked
        return None, session.checked
    except Exception:
        lines = tuple(traceback.format_exc().splitlines()[-6:])
        step = int.from_bytes(progress[:4], "little")
        return Mismatch(step, "engine", lines), session.checked if session else 0


def run(make_engine, profile, base, ops, strict=False, timeout=120):
    """Judge one program; return (Mismatch or None, operations checked).

    ``strict`` compares flags and contents after every operation too.
    """
    progress = mmap.mmap(-1, 4096)
    result = os.memfd_create("result")
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            answer = _run(make_engine, profile, base, ops, strict, progress)
            os.write(result, pickle.dumps(answer))
        finally:
            os._exit(0)
    handle = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    ended = poll.poll(timeout * 1000)
    # The processes that the program forked are in its group.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(handle)
    data = os.pread(result, 1 << 24, 0)
    os.close(result)
    if data:
        return pickle.loads(data)
    step = int.from_bytes(progress[:4], "little")
    how = f"wait status {status:#x}" if ended else f"no end after {timeout} s"
    return Mismatch(step, "died", (how,)), step
