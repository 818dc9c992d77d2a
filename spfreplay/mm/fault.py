"""The CPU's side: an access translates, faults, and is retried.

A hardware walk is a step for each level.  An instruction is not interrupted,
from its walk to its store: a flush, or a grace period, that waits for this CPU
waits for its end, which is what IRQ_OFF and IRQ_ON say here.

In a window a CPU keeps what it walked to (``task.tlb``), rights and D bit as
they were then, and goes by that until a flush or a fault of its own drops it.
What is not present is never kept.  A huge page is kept by the pages touched.
"""

from __future__ import annotations

from typing import Any, Final

from spfreplay.mm.filemap import cache_content, cache_file, cache_page
from spfreplay.mm.form import WINDOW
from spfreplay.mm.handle_mm_fault import handle_mm_fault
from spfreplay.mm.mmap import expand_stack
from spfreplay.mm.pgtable import pfn_to_page
from spfreplay.mm.pte import (
    CLASS_ANON,
    CLASS_CACHE,
    CLASS_NOPAGE,
    HPAGE_PMD_NR,
    KIND_OF,
    PAGE_BITS,
    PTE_CLASS_SHIFT,
    PTE_FLAGS_MASK,
    pte_page_bits,
)
from spfreplay.mm.spf import handle_speculative_fault
from spfreplay.mm.spf_reasons import SPF_NO_VMA, SPF_PROTECTION_KEY
from spfreplay.mm.steps import (
    ENTRY,
    IRQ,
    IRQ_OFF,
    IRQ_ON,
    LOCK_READ,
    MMAP_SEM,
    PAGE_CONTENT,
    PTE,
    READ,
    RMW,
    UNLOCK,
    VM_FLAGS,
    VM_START,
    WRITE,
    Steps,
)
from spfreplay.mm.types import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_INSTRUCTION,
    FAULT_FLAG_KILLABLE,
    FAULT_FLAG_TRIED,
    FAULT_FLAG_USER,
    FAULT_FLAG_WRITE,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_EXEC,
    PAGE_PRESENT,
    PAGE_RW,
    PTE_PFN_SHIFT,
    VM_FAULT_ERROR,
    VM_FAULT_FINAL,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_FAULT_SIGSEGV,
    Kernel,
    MmStruct,
    PageTable,
    Task,
)
from spfreplay.mm.vma import find_vma
from spfreplay_reference.contract import (
    OUT_ACCESS,
    OUT_LIVELOCK,
    OUT_OOM,
    OUT_SEGV_ACCERR,
    OUT_SEGV_MAPERR,
    OUT_SIGBUS,
    PAGE_SHIFT_IN_RESULT,
    PG_HUGE,
    REASON_SHIFT,
    TASK_SIZE,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_READ,
    VM_WRITE,
    X86_PF_INSTR,
    X86_PF_PK,
    X86_PF_PROT,
    X86_PF_USER,
    X86_PF_WRITE,
)

#: faults without any new effect after which an instruction is given up
LIVELOCK_FAULTS: Final = 6


def fault_flags(error_code: int) -> int:
    """Return the flags that a fault with this x86 error code begins with."""
    flags = FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE
    if error_code & X86_PF_USER:
        flags |= FAULT_FLAG_USER
    if error_code & X86_PF_WRITE:
        flags |= FAULT_FLAG_WRITE
    if error_code & X86_PF_INSTR:
        flags |= FAULT_FLAG_INSTRUCTION
    return flags


FAULT_FLAGS: Final = tuple(fault_flags(error_code) for error_code in range(32))


def access(task: Task, mm: MmStruct, address: int, error_code: int) -> Steps[int]:
    """Execute one access of user code or of the kernel, faults and retries included.

    A store leaves ``task.stamp + 1`` in the page; in a window, a load or a
    fetch leaves what it saw in ``task.loaded``.

    :param error_code: X86_PF_WRITE, X86_PF_INSTR, X86_PF_USER, X86_PF_PK.
    :return: outcome of the last fault that had an effect, or OUT_NONE
        | reason << REASON_SHIFT | page bits << PAGE_SHIFT_IN_RESULT.
    """
    right = PAGE_PRESENT
    wanted = PAGE_PRESENT | PAGE_ACCESSED
    if error_code & X86_PF_WRITE:
        right = PAGE_PRESENT | PAGE_RW
        wanted = PAGE_PRESENT | PAGE_RW | PAGE_ACCESSED | PAGE_DIRTY
    elif error_code & X86_PF_INSTR:
        right = PAGE_PRESENT | PAGE_EXEC
        wanted = PAGE_PRESENT | PAGE_EXEC | PAGE_ACCESSED
    vmf = task.vmf
    outcome = reason = idle = 0
    if address >= TASK_SIZE:  # bad_area() without a look at any VMA
        return OUT_SEGV_MAPERR | SPF_NO_VMA << REASON_SHIFT
    pgd = mm.pgd.entries
    while True:
        pte = 0
        table: Any = None
        yield IRQ_OFF, task, IRQ
        task.irqs_off = True
        if WINDOW and task.tlb:
            pte = translate(task.tlb, address >> 12, right, wanted)
        if WINDOW and pte:
            pud = None
        else:
            yield READ, mm.pgd, ENTRY
            pud = pgd[address >> 39]
        if pud is not None:
            yield READ, pud, ENTRY
            pmd = pud.entries[address >> 30 & 511]
            if pmd is not None:
                yield READ, pmd, ENTRY
                table = pmd.entries[address >> 21 & 511]
                if table.__class__ is int:
                    pte = table
                    if pte & right == right:
                        bits = yield from access_huge(task, mm, pmd, address, pte, wanted)
                        yield IRQ_ON, task, IRQ
                        task.irqs_off = False
                        if bits < 0:
                            continue
                        return outcome | reason << REASON_SHIFT | bits << PAGE_SHIFT_IN_RESULT
                elif table is not None:
                    yield READ, table, PTE
                    pte = table.pte[address >> 12 & 511]
        low = pte & PTE_FLAGS_MASK
        if low & right == right:
            if low & wanted != wanted:
                yield RMW, table, PTE
                updated = table.cmpxchg(address >> 12 & 511, pte, pte | wanted)
                if not updated:
                    yield IRQ_ON, task, IRQ
                    task.irqs_off = False
                    continue
                low |= wanted
            pte_class = pte >> PTE_CLASS_SHIFT
            if WINDOW:
                if task.tlb is not None:
                    task.tlb[address >> 12] = pte | wanted
                if not error_code & X86_PF_WRITE:
                    yield from load(task, mm.kernel, pte)
            if error_code & X86_PF_WRITE:
                if pte_class == CLASS_ANON:
                    page = mm.kernel.mem_map.get(pte >> PTE_PFN_SHIFT)
                    if page is None:
                        page = pfn_to_page(mm.kernel, pte >> PTE_PFN_SHIFT)
                    yield WRITE, page, PAGE_CONTENT
                    page.content = task.stamp + 1
                else:
                    yield from store_to_cache(task, mm.kernel, pte >> PTE_PFN_SHIFT)
            yield IRQ_ON, task, IRQ
            task.irqs_off = False
            bits = PAGE_BITS[low] | KIND_OF[pte_class] if pte_class != CLASS_NOPAGE else 0
            return outcome | reason << REASON_SHIFT | bits << PAGE_SHIFT_IN_RESULT
        if WINDOW and task.tlb:
            task.tlb.pop(address >> 12, None)
        yield IRQ_ON, task, IRQ
        task.irqs_off = False
        if idle >= LIVELOCK_FAULTS:
            outcome = OUT_LIVELOCK
        else:
            hardware_code = error_code & ~X86_PF_PROT | (pte & PAGE_PRESENT)
            fault = yield from do_page_fault(task, mm, address, hardware_code)
            reason = vmf.reason
            effect = vmf.outcome
            if not fault & VM_FAULT_FINAL:
                # What was done already, and did not help, is as good as nothing.
                if not effect or effect in (OUT_ACCESS, outcome):
                    idle += 1
                if effect:
                    outcome = effect
                continue
            outcome = effect
        bits = pte_page_bits(pte) if pte else 0
        if table.__class__ is int:
            bits |= PG_HUGE
        return outcome | reason << REASON_SHIFT | bits << PAGE_SHIFT_IN_RESULT


def translate(tlb: dict[int, int], vpn: int, right: int, wanted: int) -> int:
    """Return the entry that a CPU has of a page, if it decides the access; 0 = walk.

    It does if it allows the access, and if it forbids it: then the CPU faults
    at once, whatever the page table says by now.  For a store through an entry
    without the D bit the CPU goes to the page table, to set it there.
    """
    pte = tlb.get(vpn, 0)
    if pte & right == right and pte & wanted != wanted:
        return 0
    return pte


def huge_translation(word: int, address: int) -> int:
    """Return what a huge PMD says of one page, as a PTE."""
    if word >> PTE_CLASS_SHIFT != CLASS_ANON:
        return word
    return word + ((address >> 12 & HPAGE_PMD_NR - 1) << PTE_PFN_SHIFT)


def load(task: Task, kernel: Kernel, pte: int) -> Steps[None]:
    """Read the page that ``pte`` maps into ``task.loaded``."""
    pte_class = pte >> PTE_CLASS_SHIFT
    if pte_class == CLASS_ANON:
        page = pfn_to_page(kernel, pte >> PTE_PFN_SHIFT)
        yield READ, page, PAGE_CONTENT
        task.loaded = page.content
    elif pte_class == CLASS_CACHE:
        file = cache_file(kernel, pte >> PTE_PFN_SHIFT)
        yield READ, file, PAGE_CONTENT
        task.loaded = cache_content(file, pte >> PTE_PFN_SHIFT)
    else:
        task.loaded = 0


def store_to_cache(task: Task, kernel: Kernel, pfn: int) -> Steps[None]:
    """Store to a page of the page cache: every mapping of it sees that."""
    file = cache_file(kernel, pfn)
    page = cache_page(file, pfn)
    yield WRITE, file, PAGE_CONTENT
    page.content = task.stamp + 1


def do_page_fault(task: Task, mm: MmStruct, address: int, error_code: int) -> Steps[int]:
    """Serve a page fault: speculatively if that works out, else under mmap_sem.

    What it came to is left in ``task.vmf.outcome`` and ``reason``.

    :return: VM_FAULT_*; with a bit of VM_FAULT_FINAL the access is over.

    Models: arch/x86/mm/fault.c:__do_page_fault(), SPF v11 24/26
    """
    vmf = task.vmf
    flags = FAULT_FLAGS[error_code & 31]
    if error_code & X86_PF_PK:
        vmf.reason = SPF_PROTECTION_KEY
    else:
        fault = yield from handle_speculative_fault(task, mm, address, flags)
        # Equality: VM_FAULT_MAJOR | VM_FAULT_RETRY counts as handled.
        if fault != VM_FAULT_RETRY:
            if fault & VM_FAULT_ERROR:
                vmf.outcome = mm_fault_error(fault)
            return fault
    reason = vmf.reason
    yield LOCK_READ, mm, MMAP_SEM
    mm.mmap_sem.read_lock(task)
    fault = yield from do_classic_fault(task, mm, address, error_code, flags)
    if fault & VM_FAULT_RETRY:  # mmap_sem was dropped on our behalf
        if not vmf.outcome:
            flags = flags & ~FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_TRIED
            yield LOCK_READ, mm, MMAP_SEM
            mm.mmap_sem.read_lock(task)
            fault = yield from do_classic_fault(task, mm, address, error_code, flags)
        if fault & VM_FAULT_RETRY:
            vmf.reason = reason
            return fault
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.read_unlock(task)
    vmf.reason = reason
    return fault


def do_classic_fault(
    task: Task, mm: MmStruct, address: int, error_code: int, flags: int
) -> Steps[int]:
    """Find the VMA, grow a stack, check the rights, serve the fault.

    Models: arch/x86/mm/fault.c:__do_page_fault(), access_error()
    Context: mmap_sem (read).
    """
    vmf = task.vmf
    vma = yield from find_vma(task, mm, address)
    if vma is None:
        vmf.outcome = OUT_SEGV_MAPERR
        return VM_FAULT_SIGSEGV
    yield READ, vma, VM_START
    start = vma.vm_start
    yield READ, vma, VM_FLAGS
    vm_flags = vma.vm_flags
    if address < start:
        grown = -1
        if vm_flags & VM_GROWSDOWN:
            grown = yield from expand_stack(task, vma, address)
        if grown:
            vmf.outcome = OUT_SEGV_MAPERR
            return VM_FAULT_SIGSEGV
    if error_code & X86_PF_WRITE:
        allowed = bool(vm_flags & VM_WRITE)
    else:
        # A read of a page that is there faults for its rights only.
        allowed = bool(vm_flags & (VM_READ | VM_EXEC | VM_WRITE))
        allowed = allowed and not error_code & X86_PF_PROT
    if not allowed:
        vmf.outcome = OUT_SEGV_ACCERR
        return VM_FAULT_SIGSEGV
    fault = yield from handle_mm_fault(task, vma, address, flags)
    if fault & VM_FAULT_ERROR:
        vmf.outcome = mm_fault_error(fault)
    return fault


def mm_fault_error(fault: int) -> int:
    """Return the signal that an error of a fault becomes, as an OUT_* number.

    A SIGSEGV of the speculative path is a right that was missing.  (v11 sends
    it with si_code SEGV_MAPERR all the same; the model does not tell si_codes
    apart here.)

    Models: arch/x86/mm/fault.c:mm_fault_error()
    """
    if fault & VM_FAULT_OOM:
        return OUT_OOM
    return OUT_SIGBUS if fault & VM_FAULT_SIGBUS else OUT_SEGV_ACCERR


def access_huge(
    task: Task, mm: MmStruct, pmd: PageTable, address: int, word: int, wanted: int
) -> Steps[int]:
    """Access memory under a huge PMD that allows it; return the page's bits.

    :return: -1 if the PMD is not ``word`` any more: the CPU walks again.
    """
    if word & wanted != wanted:
        yield RMW, pmd, ENTRY
        updated = pmd.cmpxchg_entry(address >> 21 & 511, word, word | wanted)
        if not updated:
            return -1
        word |= wanted
    if WINDOW and task.tlb is not None:
        task.tlb[address >> 12] = huge_translation(word, address)
    if wanted & PAGE_DIRTY:
        nr = address >> 12 & HPAGE_PMD_NR - 1
        page = pfn_to_page(mm.kernel, (word >> PTE_PFN_SHIFT) + nr)
        yield WRITE, page, PAGE_CONTENT
        page.content = task.stamp + 1
    elif WINDOW:
        yield from load(task, mm.kernel, huge_translation(word, address))
    return pte_page_bits(word) | PG_HUGE
