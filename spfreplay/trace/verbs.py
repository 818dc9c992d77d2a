"""Event lines of the text form: one verb per operation.

``[@TIME] [T1] [mm0] VERB ARGUMENTS [= RESULT] [KEY=VALUE ...]``

What is left out has a default that reader and writer agree on
(:class:`Context`), so that hand-written lines stay short and recorded ones
lose nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Final, NamedTuple

from spfreplay.trace import words as w
from spfreplay.trace.bounds import MAX_TID
from spfreplay.trace.events import EV_AROUND, Event
from spfreplay.trace.lines import BadLine, Line
from spfreplay_reference import contract as c


class Slot(NamedTuple):
    """One argument: which of a0..a5, and how it is written.

    With a ``name`` it is written ``name=value``, else by its position.  An
    argument at its ``default`` may be left out; None = never.
    """

    arg: int
    kind: w.Kind
    default: int | None = None
    name: str = ""


class Verb(NamedTuple):
    """How the events of one operation are written."""

    op: int
    slots: tuple[Slot, ...] = ()
    returns_address: bool = False
    #: added to a1 for accesses: the error code that the verb means
    error_code: int = 0


_RANGE: Final = (Slot(0, w.ADDRESS), Slot(1, w.SIZE))
_IP: Final = (Slot(0, w.ADDRESS), Slot(2, w.ADDRESS, 0, "ip"))
_FOLIO: Final = (Slot(0, w.COUNT), Slot(1, w.COUNT), Slot(2, w.COUNT))

VERBS: Final[dict[str, Verb]] = {
    "read": Verb(c.OP_ACCESS, _IP, error_code=c.X86_PF_USER),
    "write": Verb(c.OP_ACCESS, _IP, error_code=c.X86_PF_USER | c.X86_PF_WRITE),
    "fetch": Verb(c.OP_ACCESS, _IP, error_code=c.X86_PF_USER | c.X86_PF_INSTR),
    "kread": Verb(c.OP_ACCESS, _IP, error_code=0),
    "kwrite": Verb(c.OP_ACCESS, _IP, error_code=c.X86_PF_WRITE),
    "kfetch": Verb(c.OP_ACCESS, _IP, error_code=c.X86_PF_INSTR),
    "mmap": Verb(
        c.OP_MMAP,
        (*_RANGE, Slot(2, w.PROT), Slot(3, w.MAP), Slot(4, w.FILE, c.FILE_ANON, "file"),
         Slot(5, w.ADDRESS, 0, "pgoff")),
        returns_address=True,
    ),
    "munmap": Verb(c.OP_MUNMAP, _RANGE),
    "mprotect": Verb(c.OP_MPROTECT, (*_RANGE, Slot(2, w.PROT), Slot(3, w.COUNT, -1, "pkey"))),
    "mremap": Verb(
        c.OP_MREMAP,
        (*_RANGE, Slot(2, w.SIZE), Slot(3, w.MREMAP, 0), Slot(4, w.ADDRESS, 0)),
        returns_address=True,
    ),
    "brk": Verb(c.OP_BRK, (Slot(0, w.ADDRESS),), returns_address=True),
    "madvise": Verb(c.OP_MADVISE, (*_RANGE, Slot(2, w.ADVICE))),
    "mlock": Verb(c.OP_MLOCK, (*_RANGE, Slot(2, w.MLOCK, 0))),
    "munlock": Verb(c.OP_MUNLOCK, _RANGE),
    "mlockall": Verb(c.OP_MLOCKALL, (Slot(0, w.MCL),)),
    "munlockall": Verb(c.OP_MUNLOCKALL),
    "fork": Verb(c.OP_FORK, (Slot(0, w.TID), Slot(1, w.MM), Slot(2, w.CLONE, 0))),
    "exec": Verb(c.OP_EXEC, (Slot(0, w.MM), Slot(1, w.COUNT, -1, "image"))),
    "exit": Verb(c.OP_EXIT, (Slot(0, w.EXIT, 0),)),
    "at_checkpoint": Verb(c.OP_CHECKPOINT, (Slot(0, w.COUNT),)),
    "gap": Verb(c.OP_GAP, (Slot(0, w.COUNT), Slot(1, w.COUNT))),
    "unknown_population": Verb(
        c.OP_UNKNOWN_POPULATION, (Slot(0, w.MEMBER), Slot(1, w.COUNT))
    ),
    "cache_add": Verb(c.OP_CACHE_ADD, _FOLIO),
    "cache_del": Verb(c.OP_CACHE_DEL, _FOLIO),
    "file_size": Verb(c.OP_FILE_SIZE, (Slot(0, w.COUNT), Slot(1, w.COUNT))),
    "mbind": Verb(c.OP_MBIND, (*_RANGE, Slot(2, w.POLICY))),
    "uffd_register": Verb(c.OP_UFFD_REGISTER, (*_RANGE, Slot(2, w.UFFD))),
    "uffd_unregister": Verb(c.OP_UFFD_UNREGISTER, _RANGE),
    "collapse": Verb(c.OP_COLLAPSE, (Slot(0, w.ADDRESS),)),
    "swap_out": Verb(c.OP_SWAP_OUT, (Slot(0, w.ADDRESS),)),
    "numa_hint": Verb(c.OP_NUMA_HINT, _RANGE),
    "migrate": Verb(c.OP_MIGRATE, (Slot(0, w.ADDRESS),)),
}  # fmt: skip
#: operation -> its name in tables and messages
OP_NAMES: Final = {verb.op: name for name, verb in VERBS.items()} | {c.OP_ACCESS: "access"}
_ACCESS_VERBS: Final = {
    verb.error_code: name for name, verb in VERBS.items() if verb.op == c.OP_ACCESS
}
_VERB_BITS: Final = c.X86_PF_USER | c.X86_PF_WRITE | c.X86_PF_INSTR
#: ns between events without a time
STEP: Final = 1000


class Context:
    """What a line may leave out: the state that goes from line to line.

    Without a time an event starts and ends ``STEP`` after the latest end so
    far.  Its place of effect is as early as its interval and the line above
    allow.  The thread is that of the line above; the address space is the one
    the thread was last seen in, was forked with, or executed; else mm0, and
    none for an exec.
    """

    __slots__ = ("_mms", "_t", "last", "tid")

    def __init__(self, tid: int) -> None:
        self.last = 0
        self.tid = tid
        self._t = 0
        self._mms: dict[int, int] = {}

    def mm(self, tid: int, op: int) -> int:
        """Return the address space to expect ``tid`` in, about to do ``op``."""
        return self._mms.get(tid, c.MM_NONE if op == c.OP_EXEC else 0)

    def effect(self, enter: int, exit: int) -> int:
        """Return the time of effect to expect."""
        return min(max(self._t, enter), exit)

    def note(self, event: Event) -> None:
        """Go on to the line after ``event``."""
        self.last = max(self.last, event.exit)
        self._t = event.t
        self.tid = event.tid
        self._mms[event.tid] = event.mm
        if event.op == c.OP_FORK:
            self._mms[event.a0] = event.a1
        elif event.op == c.OP_EXEC:
            self._mms[event.tid] = event.a0


def write_event(event: Event, context: Context, with_tid: bool) -> str:
    """Return the line of ``event``."""
    parts = _write_time(event, context)
    if with_tid or event.tid != context.tid:
        parts.append(f"T{event.tid}")
    if event.mm != context.mm(event.tid, event.op):
        parts.append(w.MM.write(event.mm))
    named: list[str] = []
    args = [event.a0, event.a1, event.a2, event.a3, event.a4, event.a5]
    flags = event.flags
    if event.op == c.OP_ACCESS:
        code = args[1]
        parts.append(_ACCESS_VERBS.get(code & _VERB_BITS) or "kfetch")
        args[1] = code ^ VERBS[parts[-1]].error_code
        verb = VERBS[parts[-1]]
        if args[1]:
            named.append(f"err={w.PF_REST.write(args[1])}")
        args[1] = 0
        if flags & EV_AROUND:
            flags ^= EV_AROUND
            named.append(f"around={w.FILE.write(args[3])}:{args[4]}..{args[5]}")
            args[3:] = (0, 0, 0)
    else:
        parts.append(OP_NAMES[event.op])
        verb = VERBS[parts[-1]]
    _write_args(verb, args, parts, named)
    if event.ret != c.RET_UNKNOWN:
        parts.append(f"= {w.write_result(event.ret, verb.returns_address)}")
    parts += named
    if event.cpu:
        parts.append(f"cpu={event.cpu}")
    if flags:
        parts.append(f"flags={w.EVENT_FLAGS.write(flags)}")
    for name in ("d_file", "d_anon", "d_shmem"):
        if getattr(event, name):
            parts.append(f"{name}={getattr(event, name)}")
    return " ".join(parts)


def _write_time(event: Event, context: Context) -> list[str]:
    enter, exit = event.enter, event.exit
    default = context.last + STEP
    if event.t == enter == exit == default:
        return []
    text = f"@{enter}"
    if exit != enter:
        text += f"+{exit - enter}"
    if event.t != context.effect(enter, exit):
        text += f"!{event.t - enter:+d}"
    return [text]


def _write_args(verb: Verb, args: list[int], parts: list[str], named: list[str]) -> None:
    """Append the arguments by position to ``parts``, the others to ``named``."""
    positional = [slot for slot in verb.slots if not slot.name]
    while positional and positional[-1].default == args[positional[-1].arg]:
        positional.pop()
    parts += [slot.kind.write(args[slot.arg]) for slot in positional]
    covered = {slot.arg for slot in verb.slots}
    for slot in verb.slots:
        if slot.name and args[slot.arg] != slot.default:
            named.append(f"{slot.name}={slot.kind.write(args[slot.arg])}")
    for index, value in enumerate(args):
        if value and index not in covered:
            text = str(value) if -4096 < value < 0 else w.write_hex(value)
            named.append(f"a{index}={text}")


# -- reading ----------------------------------------------------------------

_TIME: Final = r"[0-9][0-9_]*(?:\.[0-9]+)?(?:ns|us|ms|s)?"
_WHEN: Final = re.compile(rf"@(-?{_TIME})(?:\+({_TIME})|\.\.(-?{_TIME}))?(?:!([+-])({_TIME}))?")
_AROUND_TEXT: Final = re.compile(r"([^:]+):(-?[0-9]+)\.\.(-?[0-9]+)")
_INT32: Final = range(-(1 << 31), 1 << 31)


def _limited(what: str, read: Callable[[str], int], allowed: range) -> Callable[[str], int]:
    """Return ``read`` with its result kept within ``allowed``."""

    def limited(text: str) -> int:
        value = read(text)
        if value not in allowed:
            raise ValueError(f"expected {what} {allowed.start}..{allowed.stop - 1}")
        return value

    return limited


_read_tid: Final = _limited("a thread", w.TID.read, range(MAX_TID + 1))
_read_mm: Final = _limited("an address space", w.MM.read, range(c.MM_NONE + 1))
_FACTS: Final[dict[str, Callable[[str], int]]] = {
    "cpu": _limited("a CPU", w.read_number, range(1 << 16)),
    "flags": _limited("flags", w.EVENT_FLAGS.read, range(1 << 16)),
    "d_file": _limited("pages", w.read_number, _INT32),
    "d_anon": _limited("pages", w.read_number, _INT32),
    "d_shmem": _limited("pages", w.read_number, _INT32),
}


def read_event(line: Line, context: Context) -> Event:
    """Return the event that ``line`` describes.

    :raises BadLine: at the token that cannot stand where it does.
    """
    enter, exit, t = _read_when(line, context)
    tid = context.tid
    if line.peek()[:1] == "T":
        tid = line.take(_read_tid, "a thread")
    mm = -1
    if line.peek()[:2] == "mm" and line.peek() != "mmap":
        mm = line.take(_read_mm, "an address space")
    name = line.take(str, "an operation")
    verb = VERBS.get(name)
    if verb is None:
        near = "".join(f"; {word}?" for word in get_close_matches(name, VERBS, 1))
        raise BadLine(line.at - 1, f"expected an operation or a line of a table{near}")
    if mm < 0:
        mm = context.mm(tid, verb.op)
    args = [0] * 6
    _read_positional(line, verb, args)
    facts = _read_named(line, verb, args)
    if verb.op == c.OP_ACCESS:
        args[1] ^= verb.error_code
    deltas = facts["d_file"], facts["d_anon"], facts["d_shmem"]
    where = facts["cpu"], tid, mm, verb.op, facts["flags"]
    return Event._make((t, enter, exit, *where, *args, facts["="], *deltas))


def _read_when(line: Line, context: Context) -> tuple[int, int, int]:
    """Return enter, exit and time of effect."""
    if line.peek()[:1] != "@":
        default = w.to_signed(context.last + STEP)
        return default, default, default
    line.at += 1
    match = _WHEN.fullmatch(line.tokens[line.at - 1])
    if match is None:
        raise BadLine(line.at - 1, "expected a time like @1000, @1us+250ns or @1000..1250")
    start, duration, end, sign, distance = match.groups()
    enter = line.apply(w.read_time, start)
    exit = enter
    if duration:
        exit = line.apply(lambda text: w.to_signed(w.read_time(text) + enter), duration)
    elif end:
        exit = line.apply(w.read_time, end)
    if exit < enter:
        raise BadLine(line.at - 1, "expected an end that is not before the start")
    t = context.effect(enter, exit)
    if sign:
        t = line.apply(
            lambda text: w.to_signed(w.read_time(text) + enter), sign.strip("+") + distance
        )
    return enter, exit, t


def _read_positional(line: Line, verb: Verb, args: list[int]) -> None:
    """Fill ``args`` with the arguments that have no name."""
    for slot in verb.slots:
        args[slot.arg] = slot.default or 0
    for slot in verb.slots:
        if slot.name:
            continue
        token = line.peek()
        if slot.default is not None and (token in ("", "=") or _is_named(token)):
            break
        args[slot.arg] = line.take(slot.kind.read, f"{len(verb.slots)} arguments or defaults")


def _is_named(token: str) -> bool:
    return token.partition("=")[0].isidentifier() and "=" in token


def _read_named(line: Line, verb: Verb, args: list[int]) -> dict[str, int]:
    """Fill ``args`` with the named arguments; return the result and the facts."""
    slots = {slot.name: slot for slot in verb.slots if slot.name}
    covered = {slot.arg for slot in verb.slots}
    raw = {f"a{arg}": arg for arg in range(6) if arg not in covered}
    facts = dict.fromkeys(_FACTS, 0) | {"=": c.RET_UNKNOWN}
    access = verb.op == c.OP_ACCESS
    seen: set[str] = set()
    for token in line.rest():
        key, equals, text = token.partition("=")
        if key in seen:
            line.refuse(f"expected {key}= once" if key else "expected one result")
        seen.add(key)
        if token == "=":
            facts["="] = line.take(w.read_result, "the result")
        elif equals and key in slots:
            args[slots[key].arg] = line.apply(slots[key].kind.read, text)
        elif equals and key in _FACTS:
            facts[key] |= line.apply(_FACTS[key], text)
        elif equals and access and key == "err":
            args[1] = line.apply(w.PF_REST.read, text)
        elif equals and access and key == "around":
            args[3:] = line.apply(_read_around, text)
            facts["flags"] |= EV_AROUND
        elif equals and key in raw:
            args[raw[key]] = line.apply(w.read_number, text)
        else:
            known = [*slots, *(("err", "around") if access else ()), *_FACTS]
            line.refuse(f"expected = RESULT, {'=, '.join(known)}=")
    return facts


def _read_around(text: str) -> list[int]:
    match = _AROUND_TEXT.fullmatch(text)
    if match is None:
        raise ValueError("expected FILE:FIRST..LAST")
    numbers = (w.to_signed(int(number)) for number in match.groups()[1:])
    return [w.FILE.read(match[1]), *numbers]
