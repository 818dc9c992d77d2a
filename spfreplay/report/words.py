"""Say one thing in words: a page, a mapping, an event, a moment.

Mappings print as lines of /proc/PID/maps, errors by their names in errno.h,
event numbers with a ``#``, times as seconds since the trace began.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from spfreplay.diff import NumberedEvent, ResultDifference
from spfreplay.trace.events import Event
from spfreplay_reference import contract as c
from spfreplay_reference.contract import Region

WIDTH: Final = 80

_PROT: Final = ((c.PROT_READ, "READ"), (c.PROT_WRITE, "WRITE"), (c.PROT_EXEC, "EXEC"))
_LETTERS: Final = ((c.PG_WRITE, "W"), (c.PG_DIRTY, "D"), (c.PG_EXEC, "X"))
_BITS: Final = (
    (c.PG_NOACCESS, "noaccess"),
    (c.PG_SHARED, "shared"),
    (c.PG_HUGE, "huge"),
    (c.PG_UFFD_WP, "uffd-wp"),
)
_ADVICE: Final = {
    value: name.removeprefix("MADV_")
    for name, value in vars(c).items()
    if name.startswith("MADV_")
}
_MAP_FLAGS: Final = {
    value: name.removeprefix("MAP_")
    for name, value in vars(c).items()
    if name.startswith("MAP_") and name not in ("MAP_TYPE", "MAP_SHARED_VALIDATE")
}
_VM_FLAGS: Final = {
    value: name.removeprefix("VM_").lower()
    for name, value in vars(c).items()
    if name.startswith("VM_")
}
_NAMES: Final = {
    value: name.removeprefix("OP_").lower()
    for name, value in vars(c).items()
    if name.startswith("OP_")
}


def page(word: int, files: Sequence[str] = ()) -> str:
    """Say what a canonical page word means: kind, bits, and whose content it is.

    ``anon WD shared #12`` is an anonymous page, writable and dirty, mapped
    more than once, last written by event 12.
    """
    if not word & c.KIND_MASK:
        return "none"
    parts = [page_bits(word)]
    content = word >> c.CONTENT_SHIFT
    if word & c.KIND_MASK != c.KIND_ZERO:
        parts.append(content_of(content, files))
    return " ".join(parts)


def page_bits(word: int) -> str:
    """Say the kind and the bits of a page word, without its content."""
    if not word & c.KIND_MASK:
        return "none"
    parts = [c.KIND_NAMES[word & c.KIND_MASK]]
    if letters := "".join(letter for bit, letter in _LETTERS if word & bit):
        parts.append(letters)
    return " ".join(parts + [name for bit, name in _BITS if word & bit])


def content_of(content: int, files: Sequence[str] = ()) -> str:
    """Say whose content a page holds: the event that stored it, a file's, or zeroes."""
    if content & c.CONTENT_FILE:
        file = content >> 31 & 0xFFFF
        name = files[file].rpartition("/")[2] if file < len(files) else f"file {file}"
        return f"{shorten(name, 12)}[{content & 0x7FFF_FFFF}]"
    if content & c.CONTENT_INITIAL:
        return "initial"
    return f"#{content - 1}" if content else "zeroes"


def region(one: Region | None, files: Sequence[str] = ()) -> str:
    """Print a mapping as /proc/PID/maps does, with what smaps would add."""
    if one is None:
        return "(none)"
    rights = "".join(
        letter if one.flags & flag else "-"
        for flag, letter in ((c.VM_READ, "r"), (c.VM_WRITE, "w"), (c.VM_EXEC, "x"))
    )
    rights += "s" if one.flags & (c.VM_SHARED | c.VM_MAYSHARE) else "p"
    line = f"{one.start:08x}-{one.end:08x} {rights} {one.pgoff << c.PAGE_SHIFT:08x}"
    if 0 <= one.file < len(files):
        line += " " + shorten(files[one.file], WIDTH - 12 - len(line))
    return line


def region_flags(one: Region | None, other: Region | None) -> str:
    """Name the attributes of ``one`` that ``other`` lacks."""
    if one is None:
        return ""
    lacking = one.flags & ~(other.flags if other else 0)
    names = [name for value, name in _VM_FLAGS.items() if value & lacking]
    if one.anon_vma and not (other and other.anon_vma):
        names.append("anon_vma")
    return " ".join(names)


def result(op: int, answer: int, value: int | None) -> str:
    """Say what an engine answered to an event."""
    outcome = answer & c.OUTCOME_MASK
    if op != c.OP_ACCESS:
        code = answer >> c.REASON_SHIFT & c.REASON_MASK
        if outcome == c.OUT_CALL_ERROR:
            return f"-{error_name(code)}"
        told = hexadecimal(value) if value is not None else "ok"
        return f"{told}, state {answer >> c.PAGE_SHIFT_IN_RESULT:#06x}"
    bits = page_bits(answer >> c.PAGE_SHIFT_IN_RESULT)
    return f"{c.OUTCOME_NAMES.get(outcome, f'outcome {outcome}')}; page {bits}"


def returned(value: int) -> str:
    """Print a return value: an address, a small number, or an errno."""
    if value == c.RET_UNKNOWN:
        return "?"
    if -4096 < value < 0:
        return f"-{error_name(-value)}"
    return hexadecimal(value) if value >= c.PAGE_SIZE else str(value)


def error_name(number: int) -> str:
    """Name an errno as errno.h does."""
    return errno.errorcode.get(number, f"errno {number}")


def hexadecimal(value: int) -> str:
    """Print an address or length as an unsigned 64-bit number."""
    return hex(value & 0xFFFF_FFFF_FFFF_FFFF)


def call(event: Event) -> str:
    """Print an operation like strace does."""
    a = [event.a0, event.a1, event.a2, event.a3, event.a4, event.a5]
    x = [hexadecimal(value) for value in a]
    match event.op:
        case c.OP_ACCESS:
            return _access(event)
        case c.OP_MMAP:
            where = "anon" if a[4] == c.FILE_ANON else f"file {a[4]}"
            text = f"mmap({x[0]}, {x[1]}, {_prot(a[2])}, {_map_flags(a[3])}, {where}, {a[5]})"
        case c.OP_MPROTECT:
            text = f"mprotect({x[0]}, {x[1]}, {_prot(a[2])})"
        case c.OP_MREMAP:
            text = f"mremap({x[0]}, {x[1]}, {x[2]}, {a[3]}, {x[4]})"
        case c.OP_MADVISE:
            text = f"madvise({x[0]}, {x[1]}, {_ADVICE.get(a[2], a[2])})"
        case c.OP_BRK:
            text = f"brk({x[0]})"
        case c.OP_FORK:
            shared = ", CLONE_VM" if a[2] & c.CLONE_VM or a[1] == event.mm else ""
            return f"fork() = thread {a[0]}, mm {a[1]}{shared}"
        case c.OP_EXEC:
            return f"exec() = mm {a[0]}"
        case c.OP_EXIT:
            return "exit()"
        case c.OP_CHECKPOINT:
            return f"checkpoint {a[0]}"
        case _:
            text = f"{_NAMES.get(event.op, f'op {event.op}')}({x[0]}, {x[1]})"
    return f"{text} = {returned(event.ret)}"


def _access(event: Event) -> str:
    code = event.a1
    verb = "write to" if code & c.X86_PF_WRITE else "read of"
    if code & c.X86_PF_INSTR:
        verb = "fetch from"
    mode = "" if code & c.X86_PF_USER else " (kernel mode)"
    return f"{verb} {hexadecimal(event.a0)}{mode}"


def _prot(prot: int) -> str:
    return "|".join(name for bit, name in _PROT if prot & bit) or "NONE"


def _map_flags(flags: int) -> str:
    names = ["SHARED" if flags & c.MAP_SHARED else "PRIVATE"]
    names += [
        name
        for bit, name in sorted(_MAP_FLAGS.items())
        if bit & ~c.MAP_TYPE and bit & flags and bit.bit_count() == 1
    ]
    return "|".join(names).replace("ANONYMOUS", "ANON")


def moment(t: int) -> str:
    """Print a time of the trace in seconds."""
    sign = "-" if t < 0 else "+"
    return f"{sign}{abs(t) // 10**9}.{abs(t) % 10**9:09d}s"


def event_line(one: NumberedEvent) -> str:
    """Print an event on one line."""
    event = one.event
    return (
        f"#{one.number} {moment(event.t)} cpu {event.cpu} thread {event.tid} "
        f"mm {space(event.mm)}: {call(event)}"
    )


def space(mm: int) -> str:
    """Print the number of an address space."""
    return "none" if mm == c.MM_NONE else str(mm)


def differing_result(difference: ResultDifference, op: int) -> tuple[str, str]:
    """Say the two answers to one event."""
    return (
        result(op, difference.locked, difference.locked_value),
        result(op, difference.speculative, difference.speculative_value),
    )


def shorten(text: str, width: int) -> str:
    """Cut a path in front, so that its last part stays."""
    return text if len(text) <= width else "..." + text[3 - width :]


def count(number: int, noun: str) -> str:
    """Print ``3 pages``, ``1 page``."""
    plural = noun if number == 1 else noun + "s"
    return f"{number:,} {plural}"


def switches(number: int) -> str:
    """Print ``3 switches of CPU``."""
    return f"{number:,} {'switch' if number == 1 else 'switches'} of CPU"


def percent(part: int, whole: int) -> str:
    """Print a share; never 100.0 % unless it is all, nor 0.0 % unless none."""
    if not whole:
        return "-"
    share = 100.0 * part / whole
    text = f"{share:.1f} %"
    if text == "100.0 %" and part < whole:
        return "99.9 %"
    return "0.1 %" if text == "0.0 %" and part else text
