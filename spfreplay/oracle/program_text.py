"""A program as a trace in text form, with what the kernel did, and back.

What the trace needs beyond its events stands in one fact of its header::

    fact: oracle {"profile":"anon","seed":7,"base":"0x200012345000","unprivileged":false}

The private range, the files and the limits are those of the profile.  The trace is one
like any other: ``spfreplay diff`` and ``show`` take it, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from spfreplay.errors import TraceError
from spfreplay.oracle.compare import Difference
from spfreplay.oracle.judge import CALLS, TOUCHES
from spfreplay.oracle.kernel import U64, file_facts, this_kernel
from spfreplay.oracle.limits import MEMLOCK, limited
from spfreplay.oracle.programs import PROFILES, SLOTS, Op, heap_of
from spfreplay.trace.container import open_trace, read_events
from spfreplay.trace.events import Event, File, Header, Process, Tables, Thread
from spfreplay.trace.text import format_events, format_tables
from spfreplay.trace.verbs import STEP
from spfreplay_reference import contract as c

FACT: Final = "oracle"
_EVENT_OF_CALL: Final = {name: op for name, (_, op) in CALLS.items()}
_CALL_OF_EVENT: Final = {op: name for name, op in _EVENT_OF_CALL.items()}
_ROOT: Final = 1  # tid, pid and mm of the first process


class Program(NamedTuple):
    """What a trace says is to be run."""

    profile: str
    seed: int
    base: int
    ops: list[Op]
    unprivileged: bool = False  # not to be run as root


def write_program(
    program: Program, answers: Sequence[int], found: Difference | None = None
) -> str:
    """Return the text of ``program``; ``answers`` are the kernel's, as in ``Judged``.

    ``found`` is told in comments above the operation that it came with, the
    last one.  The kernel is right: both engines are expected to agree with it,
    and so with each other.
    """
    events, tables = _events(program, answers)
    head, *rest = format_tables(tables)
    lines = [head, *_comments(program, found), *rest]
    written = list(format_events(tables, events))
    lines += written[:-1]
    if found:
        lines += [f"# {line}" for line in _statement(found)]
    return "\n".join(lines + written[-1:]) + "\n"


def read_program(path: str) -> Program:
    """Read what :func:`write_program` wrote.

    :raises TraceError: no trace, or one that was not written by the oracle
    """
    trace = open_trace(path)
    fact = trace.tables.header.facts.get(FACT)
    try:
        assert isinstance(fact, dict)
        name, seed, base = str(fact["profile"]), int(fact["seed"]), int(fact["base"], 16)
        profile = PROFILES[name]
    except (AssertionError, KeyError, TypeError, ValueError):
        raise TraceError(
            path, "", f"expected a fact: {FACT} with profile, seed, base"
        ) from None
    end = base + profile.pages * c.PAGE_SIZE
    if base % c.PAGE_SIZE or not 1 << 32 <= base < end <= 1 << 46:
        raise TraceError(path, "", f"expected a private range, not {base:#x}-{end:#x}")
    ops = list(_operations(path, read_events(trace), base, end))
    return Program(name, seed, base, ops, bool(fact.get("unprivileged")))


# -- writing ----------------------------------------------------------------


def _comments(program: Program, found: Difference | None) -> Iterator[str]:
    if found:
        yield f"# The kernel and {found.engine} differ in {found.what} after the last line."
        yield "# The kernel is right.  spfreplay oracle --replay runs it again."
    yield f"# Private range: {PROFILES[program.profile].pages} pages at {program.base:#x}."


def _statement(found: Difference) -> Iterator[str]:
    yield "After the next line:"
    for line in found.details:
        yield "  " + line
    for side in found.sides:
        kernel = side.views[0]
        yield f"The kernel's maps of process {side.slot}:"
        for maps_line in kernel.maps:
            yield "  " + maps_line.text(side.base)


def _events(program: Program, answers: Sequence[int]) -> tuple[list[Event], Tables]:
    profile = PROFILES[program.profile]
    heap = heap_of(profile, program.base)
    kernel = this_kernel()
    if program.unprivileged:
        kernel = kernel._replace(memlock_limit=MEMLOCK)
    facts = file_facts(large=profile.large) if profile.files else ()
    tables = Tables(
        header=Header(
            recorder="oracle",
            profile=limited(kernel, profile),
            expect="MATCH",
            facts={
                FACT: {
                    "profile": program.profile,
                    "seed": program.seed,
                    "base": hex(program.base),
                    "unprivileged": program.unprivileged,
                }
            },
        ),
        processes=[Process(_ROOT, 0, 0, "root")],
        threads=[Thread(_ROOT, _ROOT, 0)],
        files=[File(each) for each in facts],
        images=[c.InitialImage((), (), heap, heap)],
    )
    events = [_event(0, _ROOT, c.MM_NONE, c.OP_EXEC, (_ROOT, 0), 0)]
    ids = {0: _ROOT}
    for op, answer in zip(program.ops, answers, strict=False):
        if answer == c.RET_UNKNOWN:
            continue
        me, number = ids[op.who], len(events)
        code, args, ret = _arguments(op, answer)
        if op.name == "fork":
            child = ids[op.args[0]] = len(tables.threads) + 1
            args = (child, child)
            tables.processes.append(Process(child, me, number * STEP, "fork"))
            tables.threads.append(Thread(child, child, number * STEP))
        events.append(_event(number, me, me, code, args, ret))
        if op.name == "exit":
            del ids[op.who]
            tables.threads[me - 1] = replace(tables.threads[me - 1], end=number * STEP)
    return events, tables


def _arguments(op: Op, answer: int) -> tuple[int, Sequence[int], int]:
    if op.name in TOUCHES:
        addr, direct = op.args
        code = TOUCHES[op.name][1] | (c.X86_PF_USER if direct or op.name == "run" else 0)
        return c.OP_ACCESS, (addr, code), c.RET_UNKNOWN
    if op.name == "fork":
        return c.OP_FORK, (), answer
    if op.name == "exit":
        return c.OP_EXIT, (1,), answer
    return _EVENT_OF_CALL[op.name], op.args, answer


def _event(number: int, tid: int, mm: int, op: int, args: Sequence[int], ret: int) -> Event:
    a0, a1, a2, a3, a4, a5, *_ = (*(_signed(a) for a in args), 0, 0, 0, 0, 0, 0)
    t = (number + 1) * STEP
    return Event(t, t, t, 0, tid, mm, op, 0, a0, a1, a2, a3, a4, a5, ret)


def _signed(value: int) -> int:
    value &= U64
    return value - (1 << 64) if value >> 63 else value


# -- reading ----------------------------------------------------------------


def _operations(path: str, events: Iterator[Event], base: int, end: int) -> Iterator[Op]:
    slots: dict[int, int] = {}
    for number, event in enumerate(events):
        if event.op == c.OP_EXEC and not slots:
            slots[event.tid] = 0
            continue
        if event.tid not in slots:
            raise TraceError(path, f"event {number}", "expected a forked process")
        op = _operation(event, slots)
        if op is None:
            raise TraceError(path, f"event {number}", "expected what the oracle can run")
        if event.op == c.OP_EXIT:
            del slots[event.tid]
        _refuse_outside(path, number, op, base, end)
        yield op


def _operation(event: Event, slots: dict[int, int]) -> Op | None:
    who, args = slots[event.tid], [event.a0, event.a1, event.a2, event.a3, event.a4, event.a5]
    if event.op == c.OP_ACCESS:
        for name, (_, code) in TOUCHES.items():
            if event.a1 & ~c.X86_PF_USER == code:
                return Op(who, name, (event.a0, bool(event.a1 & c.X86_PF_USER)))
        return None
    if event.op == c.OP_FORK:
        free = set(range(1, SLOTS)) - set(slots.values())
        if not free or event.a2:
            return None
        slots[event.a0] = min(free)
        return Op(who, "fork", (slots[event.a0],))
    if event.op == c.OP_EXIT:
        return Op(who, "exit", ())
    name = _CALL_OF_EVENT.get(event.op, "")
    if not name:
        return None
    signed = {"mmap": (4,), "mprotect": (3,)}.get(name, ())
    pattern = [a if i in signed else a & U64 for i, a in enumerate(args)]
    return Op(who, name, tuple(pattern[: _LENGTHS[name]]))


_LENGTHS: Final = {
    "mmap": 6, "munmap": 2, "mprotect": 4, "mremap": 5, "brk": 1, "madvise": 3, "mlock": 3,
    "munlock": 2, "mlockall": 1, "munlockall": 0,
}  # fmt: skip


def _refuse_outside(path: str, number: int, op: Op, base: int, end: int) -> None:
    """Nothing but the private range may be hit in the process that judges."""
    if op.name in ("fork", "exit", "mlockall", "munlockall", "brk"):
        return
    if not base - c.PAGE_SIZE < op.args[0] < end + c.PAGE_SIZE:
        raise TraceError(path, f"event {number}", f"expected an address in {base:#x}-{end:#x}")
