"""Bugs of the reference, planted in the text of one function each.

A plant replaces a piece of the source that occurs exactly once, and gives the
function the code of the result: whoever has imported it gets the bug.  That
happens in the process of one program and goes with it.
"""

import __future__

import importlib
import inspect
import os
import textwrap
from typing import NamedTuple

from spfreplay.oracle.campaign import factory


class Plant(NamedTuple):
    """``old`` becomes ``new`` in ``module.function`` (or ``module.Class.function``)."""

    claim: str
    profile: str  # of the programs that are to find it
    place: str
    old: str
    new: str
    privileged: bool = True  # of the program, if we are


PLANTS = [
    Plant("two anon_vmas merge", "anon", "space._joins", "is not None and old.anon", "is old"),
    Plant("a forked anon_vma spreads", "fork", "space._joins", "chain <= 1", "chain <= 9"),
    Plant("an anon_vma is never lent", "anon", "space._lends_anon", "chain == 1", "chain == 9"),
    Plant("rights do not keep apart", "anon", "space._joins", "~VM_SOFTDIRTY", "7"),
    Plant(
        "fault-around ends one page late", "file", "faults.around_window",
        "in_table + area_pages - in_area) - 1", "in_table + area_pages - in_area)",
    ),
    Plant(
        "fault-around begins one page late", "file", "faults.around_window",
        "return vpn - in_table + first", "return vpn - in_table + min(first + 1, in_table)",
    ),
    Plant(
        "a page table without a page", "folio", "faults._is_at_end",
        "0 <= backing", "0 > backing",
    ),
    Plant(
        "zero page on write", "anon", "faults.populate",
        "if write:\n            _map_anon", "if write == 99:\n            _map_anon",
    ),
    Plant(
        "COW of a page that is ours", "fork", "faults._write_protected",
        "frame.exclusive or frame.alone", "frame.exclusive",
    ),
    Plant(
        "a fetch needs no right", "mixed", "faults.access",
        "_FETCH_ACCESS if error_code & X86_PF_INSTR else _READ_ACCESS", "_READ_ACCESS",
    ),
    Plant(
        "SIGBUS a page too late", "file", "faults._file_fault",
        "0 <= backing.pages <= index", "0 <= backing.pages < index",
    ),
    Plant("no guard gap", "stack", "faults._grown_stack", "guarded and", "0 and"),
    Plant(
        "stack limit off by a page", "stack", "faults._grown_stack",
        "profile.stack_limit < area", "profile.stack_limit + 4096 < area",
    ),
    Plant(
        "fork copies file pages", "mixed", "fork._copies_pages",
        "area.anon is not None", "True",
    ),
    Plant("a locked child", "lock", "fork._copy_area", "~NOT_INHERITED", "-1"),
    Plant(
        "fork leaves the parent's pages exclusive", "fork", "fork.copy_pages",
        "maps += 1\n            frame.exclusive = False", "maps += 1",
    ),
    Plant(
        "brk rounds down", "brk", "calls.brk", "page_align(request),", "request & -PAGE_SIZE,",
    ),
    Plant("munmap stops at holes", "anon", "calls._clear", "end):\n", "end)[:1]:\n"),
    Plant(
        "a map too many", "crowd", "calls._mmap_refused",
        "> profile.max_map_count", "> profile.max_map_count + 1",
    ),
    Plant(
        "mprotect makes shared pages writable", "fork", "calls._change_rights",
        "mm.frames[vpn].exclusive", "True",
    ),
    Plant(
        "one dirty page of a large folio", "folio", "calls._share_dirtiness",
        "for vpn in run:", "for vpn in ():",
    ),
    Plant(
        "mlock limit 16 pages late", "lock", "memory.over_memlock",
        "> profile.memlock_limit", "> profile.memlock_limit + 65536", privileged=False,
    ),
    Plant(
        "overlap is EFAULT", "anon", "remap._bad_arguments",
        "target + length > old:\n            return -EINVAL",
        "target + length > old:\n            return -EFAULT",
    ),
    Plant("mremap leaves the source", "anon", "remap._move", "elif old_length:", "elif 0:"),
    Plant(
        "mremap takes no page along", "anon", "remap._move_pages",
        "mm.bits[vpn + shift] = mm.bits.pop(vpn)", "mm.bits.pop(vpn)",
    ),
    Plant(
        "DONTNEED of locked memory", "lock", "advise._advise",
        "VM_LOCKED if advice == MADV_DONTNEED else 0", "0",
    ),
    Plant(
        "DONTNEED keeps the page table", "thp", "advise._reclaim_tables",
        "mm.tables.discard(table)", "pass",
    ),
    Plant("REMOVE of private memory", "file", "advise._remove", "return -EACCES", "return 0"),
    Plant(
        "a huge page over a hole", "thp", "huge.huge_fault",
        "> area.end", "> area.end + (1 << 20)",
    ),
]  # fmt: skip


def planted(plant):
    """Return what makes a reference with the bug, but not in this process."""
    here = os.getpid()

    def make(profile, files):
        if os.getpid() != here:
            sow(plant)
        return factory("reference")(profile, files)

    return make


def sow(plant):
    """Give the function the code with the bug, in this process."""
    module, *path = plant.place.split(".")
    target = importlib.import_module("spfreplay_reference." + module)
    for name in path:
        target = getattr(target, name)
    if getattr(target, "has_plant", False):
        return
    source = textwrap.dedent(inspect.getsource(target))
    if source.count(plant.old) != 1:
        raise ValueError(f"{plant.place}: {source.count(plant.old)} times {plant.old!r}")
    flags = __future__.annotations.compiler_flag
    names = {}
    code = compile(source.replace(plant.old, plant.new), plant.place, "exec", flags)
    exec(code, target.__globals__, names)
    target.__code__ = names[path[-1]].__code__
    target.has_plant = True
