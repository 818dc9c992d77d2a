"""One operation of a trace as a C expression, and the flags of the kernel by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from spfreplay.engines.window import Operation
from spfreplay.errors import CannotError
from spfreplay.trace.verbs import OP_NAMES
from spfreplay_reference import contract as c


class CannotReproduce(CannotError):
    """The trace cannot be made a program; the message says what of it."""


_PROT: Final = {c.PROT_READ: "PROT_READ", c.PROT_WRITE: "PROT_WRITE", c.PROT_EXEC: "PROT_EXEC"}
MAP: Final = {
    getattr(c, name): name
    for name in (
        "MAP_PRIVATE", "MAP_SHARED", "MAP_FIXED", "MAP_ANONYMOUS", "MAP_GROWSDOWN",
        "MAP_LOCKED", "MAP_NORESERVE", "MAP_POPULATE", "MAP_NONBLOCK", "MAP_STACK",
        "MAP_FIXED_NOREPLACE",
    )
}  # fmt: skip
_MREMAP: Final = {
    c.MREMAP_MAYMOVE: "MREMAP_MAYMOVE",
    c.MREMAP_FIXED: "MREMAP_FIXED",
    c.MREMAP_DONTUNMAP: "4 /* MREMAP_DONTUNMAP */",
}
_IGNORED: Final = c.MAP_FD_WRITABLE | c.MAP_DENYWRITE
#: whose result depends on what no trace tells
UNJUDGED: Final = frozenset({c.OP_COLLAPSE, c.OP_SWAP_OUT, c.OP_MBIND, c.OP_FORK, c.OP_MADVISE})


def flags(value: int, names: Mapping[int, str], none: str = "0") -> str:
    """Return ``A | B``, numbers where a flag has no name."""
    known = [name for bit, name in names.items() if value & bit]
    rest = value & ~sum(bit for bit in names if value & bit)
    return " | ".join([*known, *([f"{rest:#x}"] if rest else [])]) or none


def prot(value: int) -> str:
    """Return PROT_* by their names."""
    return flags(value, _PROT, "PROT_NONE")


def call(each: Operation, value: int) -> str:
    """Return the expression that performs an operation, its result as a long.

    :param value: what a store stores.
    :raises CannotReproduce: no program can do it
    """
    a0, a1, a2, a3, a4, _ = each.args
    match each.op:
        case c.OP_ACCESS:
            return _access(each, value)
        case c.OP_MMAP:
            return _mmap(each)
        case c.OP_MUNMAP:
            return f"called(munmap(pointer({a0:#x}), {a1:#x}))"
        case c.OP_MPROTECT if a3 in (0, -1):
            return f"called(mprotect(pointer({a0:#x}), {a1:#x}, {prot(a2)}))"
        case c.OP_MREMAP:
            to = a4 if a3 & c.MREMAP_FIXED else each.ret if each.ret > 0 else a0
            fixed = a3 | (c.MREMAP_FIXED | c.MREMAP_MAYMOVE if to != a0 else 0)
            how = flags(fixed, _MREMAP)
            return (
                f"placed(mremap(pointer({a0:#x}), {a1:#x}, {a2:#x}, {how}, pointer({to:#x})))"
            )
        case c.OP_MADVISE:
            return f"called(madvise(pointer({a0:#x}), {a1:#x}, {a2}))"
        case c.OP_MLOCK:
            return f"called(syscall(SYS_mlock2, pointer({a0:#x}), {a1:#x}ul, {a2}))"
        case c.OP_MUNLOCK:
            return f"called(munlock(pointer({a0:#x}), {a1:#x}))"
        case c.OP_MBIND:
            nodes = "(unsigned long[]){ 1 }, 2ul" if a2 else "(void *)0, 0ul"
            return f"called(syscall(SYS_mbind, pointer({a0:#x}), {a1:#x}ul, {a2}, {nodes}, 0))"
        case c.OP_COLLAPSE:
            return (
                f"called(madvise(pointer({a0 & -(1 << 21):#x}), 0x200000, {c.MADV_COLLAPSE}))"
            )
        case c.OP_SWAP_OUT:
            return f"called(madvise(pointer({a0 & -4096:#x}), 4096, {c.MADV_PAGEOUT}))"
        case c.OP_FORK if not a2 & c.CLONE_VM:
            return "fork_and_wait()"
    raise CannotReproduce(
        f"no program can {OP_NAMES.get(each.op, str(each.op))} as the trace does"
    )


def _access(each: Operation, value: int) -> str:
    addr, code = each.args[0] & -4096, each.args[1]
    if code & c.X86_PF_INSTR:
        raise CannotReproduce("it executes memory that holds no code")
    if not code & c.X86_PF_USER:
        raise CannotReproduce("an access by the kernel itself")
    return f"store({addr:#x}, {value:#x})" if code & c.X86_PF_WRITE else f"load({addr:#x})"


def _mmap(each: Operation) -> str:
    a0, a1, a2, a3, a4, a5 = each.args
    where = each.ret if each.ret > 0 else a0
    if a3 & c.MAP_HUGETLB or (a4 < 0 and not a3 & c.MAP_ANONYMOUS) or not where:
        raise CannotReproduce("a mapping of what a program cannot have, or nobody knows where")
    how = a3 & ~_IGNORED | (0 if a3 & c.MAP_FIXED_NOREPLACE else c.MAP_FIXED)
    file = f"file_{a4}, {a5 << c.PAGE_SHIFT:#x}" if a4 >= 0 else "-1, 0"
    return f"placed(mmap(pointer({where:#x}), {a1:#x}, {prot(a2)}, {flags(how, MAP)}, {file}))"
