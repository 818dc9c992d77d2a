"""Read the text of ``strace -f -ttt -T -y``: system calls, forks, execs and ends.

A line is ``tid seconds call(arguments) = result <seconds>``.  A call that others
interrupt comes in two lines.  Faults are not in it: those are perf's
(:mod:`spfreplay.imports.together`).  Stamps are wall-clock time in microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from spfreplay.imports.gathered import MAX_PENDING, MAX_TASKS, RAW_MAPPED, Gathered
from spfreplay.imports.input import Input
from spfreplay.imports.perfside import BY_NAME
from spfreplay.imports.stracewords import arguments, path_of, signed, split_arguments
from spfreplay.record import catalog as k
from spfreplay.record.procfs import MapLine
from spfreplay.record.ring import RawRecord
from spfreplay.trace.bounds import MAX_TID
from spfreplay_reference import contract as c

_LONGEST: Final = 1 << 16  # bytes of a line
LINE: Final = re.compile(
    r"(?:\[pid\s+(?P<pid>\d{1,10})\] |(?P<tid>\d{1,10})\s+)?"
    r"(?P<s>\d{1,12})\.(?P<us>\d{6})\s(?P<rest>.*)"
)
_CALL: Final = re.compile(r"(?P<name>[a-z_0-9]+)\((?P<args>.*)", re.DOTALL)
_RESUMED: Final = re.compile(r"<\.\.\. (?P<name>[a-z_0-9]+) resumed>\s?(?P<args>.*)", re.DOTALL)
_RESULT: Final = re.compile(
    r"(?P<args>.*)\)\s+= (?P<ret>0x[0-9a-f]{1,16}|-?\d{1,20}|\?)(?P<note>[^)]*?(?:\([^)]*\))?)"
    r"(?:\s<(?P<took>\d{1,9}\.\d{6})>)?",
    re.DOTALL,
)
_ERRNO: Final = re.compile(r"\s([A-Z][A-Z0-9]+)\b")
_ENDED: Final = re.compile(r"\+\+\+ (?:exited with|killed by) ")
_NOTHING: Final = re.compile(r"--- |\+\+\+ superseded|strace: ")
_UNFINISHED: Final = "<unfinished ...>"
_CALLS: Final = {name: call for call, name in enumerate(k.CALL_NAMES)}
#: what the lines show, as the events that would have shown it
SEEN: Final = (
    "sched:sched_process_fork",
    "sched:sched_process_exec",
    "sched:sched_process_exit",
)


@dataclass(slots=True)
class _Begun:
    """A call that was interrupted in the text: from when, and its arguments so far."""

    ns: int
    name: str
    args: str


def is_strace(head: bytes) -> bool:
    """Tell whether a text may be strace's: its first lines say."""
    lines = [one for one in head[:_LONGEST].split(b"\n")[:20] if one.strip()]
    for one in lines:
        found = LINE.fullmatch(one.decode("utf-8", "replace"))
        if found is not None and (
            _CALL.match(found["rest"])
            or _ENDED.match(found["rest"])
            or "resumed>" in one.decode()
        ):
            return True
    return False


def read_strace(source: Input) -> Gathered:
    """Read all lines.

    :raises TraceError: a line that strace does not print; with line and column
    """
    walk = _Walk(source)
    gathered = Gathered(
        "strace",
        lambda: iter([walk.records] if walk.records else []),
        walk.tgids,
        (*SEEN, *walk.events()),
        facts={"clock": "wall", "coarse": True, "no_cpu": True, "events_told": False},
    )
    gathered.facts["threads"] = len(walk.tgids)
    return gathered


class _Walk:
    """Goes through the lines of one text, once."""

    def __init__(self, source: Input) -> None:
        self._source = source
        self.tgids: dict[int, int] = {}
        self.records: list[RawRecord] = []
        self._begun: dict[int, _Begun] = {}
        self._seen: set[int] = set()
        self._number = 0
        for line in self._lines():
            self._number += 1
            try:
                self._line(line)
            except (ValueError, IndexError) as error:
                self._refuse(str(error) or "expected a line of strace")
        self.records.sort(key=lambda one: one[0])

    def events(self) -> tuple[str, ...]:
        """Return the calls that occur, as the tracepoints that would have shown them."""
        names = [k.CALL_NAMES[call] for call in sorted(self._seen)]
        vital = {"mmap", "munmap", "mprotect", "mremap", "brk", "madvise"}
        return tuple(
            f"syscalls:sys_{way}_{name}"
            for name in sorted({*names, *vital})
            for way in ("enter", "exit")
        )

    def _lines(self) -> Iterator[str]:
        at, size = 0, self._source.size
        while at < size:
            end = self._source.data.find(b"\n", at, at + _LONGEST)
            if end < 0:
                if size - at >= _LONGEST:
                    self._source.refuse_text(at, f"a line of more than {_LONGEST} bytes")
                end = size
            yield self._source.data[at:end].decode("utf-8", "surrogateescape")
            at = end + 1

    def _refuse(self, message: str) -> None:
        at = 0
        for _ in range(self._number - 1):
            at = self._source.data.find(b"\n", at) + 1
        self._source.refuse_text(at, message)

    def _line(self, line: str) -> None:
        if not line.strip():
            return
        found = LINE.fullmatch(line)
        if found is None:
            if line.startswith("strace: "):
                return
            raise ValueError("expected a line of strace -f -ttt")
        task = found["pid"] or found["tid"]
        if task is None:
            raise ValueError("expected a thread id in front: run strace with -f")
        tid = int(task)
        if not 0 < tid <= MAX_TID:
            raise ValueError(f"expected a thread 1..{MAX_TID}")
        ns = (int(found["s"]) * 1_000_000 + int(found["us"])) * 1000
        if ns >> 62:
            raise ValueError("expected a time of less than 146 years")
        self.tgids.setdefault(tid, tid)
        if len(self.tgids) > MAX_TASKS or len(self.records) > MAX_PENDING:
            raise ValueError("expected a smaller file: cut it in pieces")
        self._told(tid, ns, found["rest"])

    def _told(self, tid: int, ns: int, text: str) -> None:
        """Take what stands behind the stamp."""
        if _ENDED.match(text):
            self._begun.pop(tid, None)
            self.records.append((ns, 0, k.RAW_TASK_EXIT, (tid, tid, 0)))
            return
        if _NOTHING.match(text):
            return
        resumed = _RESUMED.match(text)
        if resumed is not None:
            begun = self._begun.pop(tid, None)
            if begun is None or begun.name != resumed["name"]:
                return  # it began before strace was there
            self._whole(tid, begun.ns, ns, begun.name, begun.args + resumed["args"])
            return
        called = _CALL.match(text)
        if called is None:
            raise ValueError("expected a call, a signal or an end")
        args = called["args"]
        if args.endswith(_UNFINISHED):
            args = args[: -len(_UNFINISHED)].rstrip()
            self._begun[tid] = _Begun(ns, called["name"], args)
            return
        self._whole(tid, ns, ns, called["name"], args)

    def _whole(self, tid: int, start: int, stamp: int, name: str, text: str) -> None:
        """Take a call with its result.

        :param stamp: of the line that has the result.
        """
        call = _CALLS.get(name, -1)
        if call < 0:
            return
        found = _RESULT.fullmatch(text)
        if found is None:
            raise ValueError("expected a result: = NUMBER")
        took = int(found["took"].replace(".", "")) * 1000 if found["took"] else 0
        end = start + took if took else max(stamp, start)
        if found["ret"] == "?":
            return  # it never came back
        ret = signed(int(found["ret"], 0) if "x" in found["ret"] else int(found["ret"]))
        if ret == -1 and (error := _ERRNO.match(found["note"])) is not None:
            ret = -_errno(error[1])
        self._seen.add(call)
        self._call(tid, start, end, call, found["args"], ret)

    def _call(self, tid: int, start: int, end: int, call: int, text: str, ret: int) -> None:
        values = arguments(call, text)
        if call == k.CALL_CLONE3:
            call = k.CALL_CLONE  # strace shows the flags
        self.records.append((start, 0, k.RAW_ENTER, (tid, call, *values)))
        if ret > 0 and k.LAST_VM_CALL < call <= k.LAST_CLONE_CALL:
            self._born(tid, start, call, values[0], ret)
        elif k.LAST_CLONE_CALL < call <= k.LAST_EXEC_CALL and ret == 0:
            self.tgids[tid] = tid
            self.records.append((end, 0, k.RAW_EXEC, (tid, tid, tid)))
        elif call == k.CALL_MMAP and ret > 0:
            self._mapped(tid, end, text, values, ret)
        self.records.append((end, 0, k.RAW_EXIT, (tid, call, ret)))

    def _born(self, tid: int, start: int, call: int, flags: int, child: int) -> None:
        if child > MAX_TID:
            raise ValueError(f"expected a child 1..{MAX_TID}")
        thread = call == k.CALL_CLONE and bool(flags & c.CLONE_THREAD)
        self.tgids[child] = self.tgids[tid] if thread else child
        self.records.append((start + 1, 0, k.RAW_FORK, (tid, child)))

    def _mapped(self, tid: int, end: int, text: str, values: tuple[int, ...], ret: int) -> None:
        """Tell what file a mapping maps: -y prints its path."""
        path = path_of(split_arguments(text)[4])
        if not path.startswith("/"):
            return
        length, prot, flags, offset = values[1], values[2], values[3], values[5]
        if not 0 < length < c.TASK_SIZE or not offset >= 0:
            return
        perms = "".join(
            letter if prot >> bit & 1 else "-" for bit, letter in enumerate("rwx")
        ) + ("s" if flags & c.MAP_SHARED else "p")
        ino = crc32(path.encode("utf-8", "surrogateescape")) or 1
        line = MapLine(ret, ret + length, perms, offset >> c.PAGE_SHIFT, BY_NAME, ino, path)
        self.records.append((end, 0, RAW_MAPPED, (tid, self.tgids[tid], line)))


def _errno(name: str) -> int:
    import errno

    value = getattr(errno, name, None)
    return value if isinstance(value, int) else errno.EINVAL
