"""Accesses: translate, fault, retry; each fault and each retry is one piece.

Behaviour judged by the running kernel, 6.18, unless tagged ``unjudged``.
"""

from __future__ import annotations

from spfreplay_reference.backing import Backing
from spfreplay_reference.contract import (
    CONTENT_SHIFT,
    FILE_SHMEM,
    KIND_ANON,
    KIND_FILE,
    KIND_MASK,
    KIND_SWAP,
    KIND_ZERO,
    MM_ANONPAGES,
    OUT_ACCESS,
    OUT_ANON,
    OUT_COPY,
    OUT_FILE,
    OUT_FILE_COW,
    OUT_FILE_SHARED,
    OUT_LIVELOCK,
    OUT_NONE,
    OUT_NUMA,
    OUT_REUSE,
    OUT_SEGV_ACCERR,
    OUT_SEGV_MAPERR,
    OUT_SIGBUS,
    OUT_SWAPIN,
    OUT_ZERO,
    PAGE_SHIFT,
    PAGE_SHIFT_IN_RESULT,
    PAGE_SIZE,
    PG_DIRTY,
    PG_EXEC,
    PG_HUGE,
    PG_NOACCESS,
    PG_WRITE,
    PTRS_PER_PTE,
    TASK_SIZE,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_SHARED,
    VM_UFFD_MISSING,
    VM_WRITE,
    X86_PF_INSTR,
    X86_PF_WRITE,
    KernelProfile,
)
from spfreplay_reference.huge import huge_fault, huge_write_protected
from spfreplay_reference.memory import (
    WAITS,
    Frame,
    Mm,
    file_counter,
    over_memlock,
    right_bits,
)
from spfreplay_reference.numa import lift_hint
from spfreplay_reference.reclaim import swap_in
from spfreplay_reference.space import VM_ACCESS, Area
from spfreplay_reference.uffd import for_monitor

STACK_GUARD_GAP = 256 * PAGE_SIZE
#: An access that faults so often without getting through never will.
RETRIES = 4


#: rights of an area -> bits of a page of our own in it
ANON_BITS = tuple(
    KIND_ANON | right_bits(rights) | (PG_WRITE | PG_DIRTY if rights & VM_WRITE else 0)
    for rights in range(VM_ACCESS + 1)
)

#: kind of access -> (page bits that decide it, what they must be)
_WRITE_ACCESS = (PG_WRITE | PG_NOACCESS | WAITS, PG_WRITE)
_FETCH_ACCESS = (PG_EXEC | PG_NOACCESS | WAITS, PG_EXEC)
_READ_ACCESS = (PG_NOACCESS | WAITS, 0)


def access(mm: Mm, profile: KernelProfile, addr: int, error_code: int, stamp: int) -> int:
    """Carry out one memory access of a CPU.

    :param error_code: X86_PF_WRITE and X86_PF_INSTR say what access it is.
    :return: outcome and page bits, packed as in the contract.
    """
    vpn = addr >> PAGE_SHIFT
    write = error_code & X86_PF_WRITE
    if write:
        deciding, right = _WRITE_ACCESS
    else:
        deciding, right = _FETCH_ACCESS if error_code & X86_PF_INSTR else _READ_ACCESS
    bits = mm.bits.get(vpn, 0)
    outcome = OUT_NONE
    faults = 0
    while not bits or bits & deciding != right:
        if faults == RETRIES:
            outcome = OUT_LIVELOCK
            break
        faults += 1
        outcome = fault(mm, profile, addr, write, bits)
        bits = mm.bits.get(vpn, 0)
        if OUT_SEGV_MAPERR <= outcome <= OUT_SIGBUS or not bits:
            # Without bits: a page that the page tables do not show ([vvar]), or one
            # that a monitor is to bring.
            bits &= ~WAITS
            break
    else:
        if write:
            bits = _store(mm, vpn, bits, stamp)
    return outcome | bits << PAGE_SHIFT_IN_RESULT


def _store(mm: Mm, vpn: int, bits: int, stamp: int) -> int:
    """The instruction writes: dirty bit and content.  Return the bits afterwards."""
    if bits & KIND_MASK == KIND_ANON:
        mm.frames[vpn].content = stamp + 1
    else:
        area = mm.space.at(vpn << PAGE_SHIFT)
        assert area is not None and area.backing is not None
        area.backing.contents[area.index(vpn)] = stamp + 1
    if not bits & PG_DIRTY:
        bits |= PG_DIRTY
        mm.bits[vpn] = bits
        if bits & PG_HUGE:  # one bit for all of it
            first = vpn & ~(PTRS_PER_PTE - 1)
            mm.bits.update(dict.fromkeys(range(first, first + PTRS_PER_PTE), bits))
    return bits


def fault(mm: Mm, profile: KernelProfile, addr: int, write: int, bits: int) -> int:
    """Handle one page fault: find the area, check the rights, populate.

    :param bits: the page bits that refused the access, 0 if there is no page.
    """
    area = mm.space.at(addr) or _grown_stack(mm, profile, addr)
    if area is None:
        return OUT_SEGV_MAPERR
    if write:
        if not area.flags & VM_WRITE:
            return OUT_SEGV_ACCERR
    elif not area.flags & VM_ACCESS or (bits and not bits & (PG_NOACCESS | WAITS)):
        # A read or fetch that a present page refused: no right will come.
        return OUT_SEGV_ACCERR
    return populate(mm, profile, area, addr >> PAGE_SHIFT, write)


def _grown_stack(mm: Mm, profile: KernelProfile, addr: int) -> Area | None:
    """Grow the stack down to ``addr`` if the area above is one and may grow."""
    area = mm.space.above(addr)
    if area is None or not area.flags & VM_GROWSDOWN or addr < 0x10000 or addr >= TASK_SIZE:
        return None
    start = addr & -PAGE_SIZE
    below = mm.space.below(area)
    guarded = below is not None and below.flags & VM_ACCESS and not below.flags & VM_GROWSDOWN
    if guarded and below is not None and start - below.end < STACK_GUARD_GAP:
        return None
    mm.space.prepare_anon(area)  # whether or not the limits let it grow
    if 0 <= profile.stack_limit < area.end - start:
        return None
    if area.start - start >> PAGE_SHIFT > area.pgoff:
        return None
    if area.flags & VM_LOCKED and over_memlock(mm, profile, area.start - start):
        return None
    mm.space.move_start(area, start)
    return area


def populate(mm: Mm, profile: KernelProfile, area: Area, vpn: int, write: int) -> int:
    """Make page ``vpn`` of ``area`` accessible; the rights have been checked."""
    bits = mm.bits.get(vpn, 0)
    if not bits:
        if vpn >> 9 not in mm.tables:
            outcome = huge_fault(mm, profile, area, vpn, write)
            if outcome:
                return outcome
        if area.backing is not None:
            return _file_fault(mm, profile, area, vpn, write)
        mm.tables.add(vpn >> 9)
        if area.flags & VM_UFFD_MISSING:
            return for_monitor(mm, area, write)
        if write:
            _map_anon(mm, area, vpn, 0)
            return OUT_ANON
        mm.bits[vpn] = KIND_ZERO | right_bits(area.flags)
        return OUT_ZERO
    if bits & WAITS:
        return _wake(mm, area, vpn, write, bits)
    if write and not bits & PG_WRITE:
        return _write_protected(mm, area, vpn, bits)
    return OUT_ACCESS


def _wake(mm: Mm, area: Area, vpn: int, write: int, bits: int) -> int:
    """An access to a page that is swapped out, or that a NUMA hint waits for."""
    if bits & KIND_MASK != KIND_SWAP:
        lift_hint(mm, area, vpn)
        return OUT_NUMA
    swap_in(mm, area, vpn, write)
    if write and not mm.bits[vpn] & PG_WRITE:  # in the same fault
        _write_protected(mm, area, vpn, mm.bits[vpn])
    return OUT_SWAPIN


def _map_anon(mm: Mm, area: Area, vpn: int, content: int) -> None:
    """Put a page of our own at ``vpn``: writable if the area is, and dirty."""
    if area.anon is None:
        mm.space.prepare_anon(area)
    mm.bits[vpn] = ANON_BITS[area.flags & VM_ACCESS]
    mm.frames[vpn] = Frame(content)
    mm.rss[MM_ANONPAGES] += 1


def _write_protected(mm: Mm, area: Area, vpn: int, bits: int) -> int:
    """A write to a present page that does not allow it."""
    outcome = huge_write_protected(mm, area, vpn, bits)
    if outcome:
        return outcome
    kind = bits & KIND_MASK
    if area.flags & VM_SHARED:
        mm.bits[vpn] = mm.bits[vpn] | PG_WRITE | PG_DIRTY
        return OUT_FILE_SHARED
    if kind == KIND_ANON:
        frame = mm.frames[vpn]
        if frame.exclusive or frame.alone:
            frame.exclusive = True
            mm.bits[vpn] = mm.bits[vpn] | PG_WRITE | PG_DIRTY
            return OUT_REUSE
    content = mm.word(vpn) >> CONTENT_SHIFT
    mm.unmap(area, vpn)
    _map_anon(mm, area, vpn, content)
    return OUT_COPY


# -- files ----------------------------------------------------------------


def _file_fault(mm: Mm, profile: KernelProfile, area: Area, vpn: int, write: int) -> int:
    backing = area.backing
    assert backing is not None
    index = area.index(vpn)
    if 0 <= backing.pages <= index:
        # What comes before the look at the file has happened by then.
        if not write:
            map_around(mm, profile, area, vpn)
        elif not area.flags & VM_SHARED:
            mm.space.prepare_anon(area)
        return OUT_SIGBUS
    if write and not area.flags & VM_SHARED:
        backing.bring_in(index)
        mm.tables.add(vpn >> 9)
        _map_anon(mm, area, vpn, backing.content(index))
        return OUT_FILE_COW
    if not backing.visible:
        mm.tables.add(vpn >> 9)
        return OUT_FILE
    if write:
        backing.bring_in(index)
        _map_folio(mm, profile, area, vpn, PG_WRITE | PG_DIRTY)
        return OUT_FILE_SHARED
    _read_around(mm, profile, area, vpn)
    return OUT_FILE


def _map_folio(mm: Mm, profile: KernelProfile, area: Area, vpn: int, extra: int) -> None:
    """Map a page of a file, with the large folio around it if none of that is there."""
    first = last = vpn
    if profile.map_large_folios:
        first, last = _whole_folios(area, vpn, vpn)
        if any(each in mm.bits for each in range(first, last + 1)):
            first = last = vpn
    mm.tables.add(vpn >> 9)
    bits = file_page_bits(area) | extra
    for each in range(first, last + 1):
        mm.bits[each] = bits
    mm.rss[file_counter(area)] += last + 1 - first


def file_page_bits(area: Area) -> int:
    """Return the bits of a page-cache page that was mapped by a read.

    Shared shmem needs no notice of the first write, so its pages start
    writable; pages of a disk file do not.
    """
    bits = KIND_FILE | right_bits(area.flags)
    shared_writable = area.flags & (VM_SHARED | VM_WRITE) == VM_SHARED | VM_WRITE
    if shared_writable and area.backing is not None and area.backing.kind == FILE_SHMEM:
        bits |= PG_WRITE
    return bits


def _read_around(mm: Mm, profile: KernelProfile, area: Area, vpn: int) -> None:
    """Map the page and what fault-around finds near it.

    These are two holds of the page table lock: two pieces, where others run.
    """
    map_around(mm, profile, area, vpn)
    if vpn not in mm.bits:
        map_itself(mm, profile, area, vpn)


def map_itself(mm: Mm, profile: KernelProfile, area: Area, vpn: int) -> None:
    """Map a page of a file that fault-around has not found in the cache."""
    assert area.backing is not None
    area.backing.bring_in(area.index(vpn))
    _map_folio(mm, profile, area, vpn, 0)


def map_around(mm: Mm, profile: KernelProfile, area: Area, vpn: int) -> None:
    """Map what is in the cache of the pages near ``vpn``, itself included.

    Where there is no page table yet and the first page found belongs to the folio
    at the end of a disk file, nothing is: 6.18 makes the table only on its way to
    large mappings, which must not cross the end.
    """
    backing = area.backing
    if backing is None or not backing.around or profile.fault_around_pages <= 1:
        return
    first, last = around_window(profile, area, vpn)
    shift = area.index(vpn) - vpn
    indexes = range(first + shift, last + 1 + shift)
    found = next((index for index in indexes if backing.resident(index)), None)
    if found is None or (vpn >> 9 not in mm.tables and _is_at_end(backing, found)):
        return
    mm.tables.add(vpn >> 9)
    if profile.map_large_folios:
        if not _is_at_end(backing, first + shift):
            first, _ = _whole_folios(area, first, first)
        if not _is_at_end(backing, last + shift):
            _, last = _whole_folios(area, last, last)
    _map_window(mm, area, first, last)


def _is_at_end(backing: Backing, index: int) -> bool:
    """Does the folio of ``index`` hold the last page of a file that is not shmem?"""
    head, count = backing.folios.get(index, (index, 1))
    return backing.kind != FILE_SHMEM and 0 <= backing.pages <= head + count


def around_window(profile: KernelProfile, area: Area, vpn: int) -> tuple[int, int]:
    """Return the first and last vpn of the fault-around window.

    Models: mm/memory.c:do_fault_around(), 6.18; the end is clipped to the file.
    """
    size = profile.fault_around_pages
    in_table = vpn & (PTRS_PER_PTE - 1)
    in_area = vpn - (area.start >> PAGE_SHIFT)
    area_pages = (area.end - area.start) >> PAGE_SHIFT
    first = max(in_table & -size, in_table - min(in_table, in_area))
    last = min(first + size, PTRS_PER_PTE, in_table + area_pages - in_area) - 1
    backing = area.backing
    if backing is not None and backing.pages >= 0:
        last = min(last, in_table + backing.pages - 1 - area.index(vpn))
    return vpn - in_table + first, vpn - in_table + last


def _whole_folios(area: Area, first: int, last: int) -> tuple[int, int]:
    """Widen a window to the whole large folios at its two ends, where they fit."""
    backing = area.backing
    assert backing is not None
    shift = (area.start >> PAGE_SHIFT) - area.pgoff  # vpn of index 0
    low, high = first, last
    for vpn in (first, last):
        head, count = backing.folios.get(vpn - shift, (vpn - shift, 1))
        start, end = head + shift, head + count + shift
        fits = (
            area.start <= start << PAGE_SHIFT
            and end << PAGE_SHIFT <= area.end
            and start >> 9 == end - 1 >> 9
            and not 0 <= backing.pages < head + count
        )
        if fits:
            low, high = min(low, start), max(high, end - 1)
    return low, high


def _map_window(mm: Mm, area: Area, first: int, last: int) -> None:
    """Map every page of the window that is in the cache and not yet mapped."""
    backing = area.backing
    assert backing is not None
    bits, table = file_page_bits(area), mm.bits
    shift = area.pgoff - (area.start >> PAGE_SHIFT)
    before = len(table)
    if not backing.owned and not backing.absent:
        for vpn in range(first, last + 1):
            if vpn not in table:
                table[vpn] = bits
    else:
        for vpn in range(first, last + 1):
            if vpn not in table and backing.resident(vpn + shift):
                table[vpn] = bits
    mm.rss[file_counter(area)] += len(table) - before
