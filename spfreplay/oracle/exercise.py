"""Count what programs exercised: operations, their flags, their failures."""

from __future__ import annotations

import errno
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from spfreplay.oracle.programs import Op
from spfreplay.oracle.touch import SIGNALS
from spfreplay.trace import words as w
from spfreplay_reference.contract import PAGE_SIZE, RET_UNKNOWN

#: (operation, flag or other trait, or "" for the operation itself) -> how often
Exercised = Counter[tuple[str, str]]

_ABSURD: Final = 1 << 40  # bytes: nothing that long is mapped
#: operation -> (argument, how its flags are written)
_FLAGS: Final = {
    "mmap": ((2, w.PROT), (3, w.MAP)),
    "mprotect": ((2, w.PROT),),
    "mremap": ((3, w.MREMAP),),
    "madvise": ((2, w.ADVICE),),
    "mlock": ((2, w.MLOCK),),
    "mlockall": ((0, w.MCL),),
}


def exercised(ops: Sequence[Op], answers: array[int]) -> Exercised:
    """Count the operations that were done: each with its flags and its errno."""
    found: Exercised = Counter()
    for op, answer in zip(ops, answers, strict=False):
        if answer == RET_UNKNOWN:
            continue
        found[op.name, ""] += 1
        for trait in _traits(op):
            found[op.name, trait] += 1
        if answer < 0:
            found[op.name, SIGNALS.get(answer) or "-" + errno.errorcode[-answer]] += 1
    return found


def _traits(op: Op) -> Iterator[str]:
    args = op.args
    for at, kind in _FLAGS.get(op.name, ()):
        text = kind.write(args[at])
        yield from text.split("|") if kind is w.MAP else (text,)
    if op.name in ("store", "load", "run"):
        yield "user" if args[1] or op.name == "run" else "kernel"
        return
    if op.name in ("fork", "exit", "munlockall", "mlockall", "brk"):
        return
    if args[0] % PAGE_SIZE:
        yield "unaligned address"
    if args[1] > _ABSURD:
        yield "absurd length"
    elif args[1] == 0:
        yield "length 0"
    elif args[1] % PAGE_SIZE:
        yield "unaligned length"
