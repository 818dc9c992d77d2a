"""Faults on file mappings: read, first private write, shared write.

In v11 only the classic path comes here.  With the option ``file_faults`` the
speculative one does too; see :mod:`spfreplay.mm.spf`.
"""

from __future__ import annotations

from spfreplay.mm.filemap import (
    cache_content,
    cache_pfn,
    do_fault_around,
    filemap_fault,
    finish_fault,
)
from spfreplay.mm.memory import __page_add_new_anon_rmap, alloc_page_vma
from spfreplay.mm.pgtable import pte_alloc
from spfreplay.mm.rmap import anon_vma_prepare
from spfreplay.mm.spf_lock import pte_map_lock
from spfreplay.mm.steps import (
    ANON_VMA,
    ENTRY,
    INVALIDATE_LOCK,
    LOCK_READ,
    PAGE_CONTENT,
    PTE,
    PTL,
    READ,
    UNLOCK,
    VM_FILE,
    WRITE,
    Steps,
)
from spfreplay.mm.tlb import put_page
from spfreplay.mm.types import (
    FAULT_FLAG_WRITE,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_RW,
    PTE_PFN_SHIFT,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    File,
    Page,
    Task,
    VmFault,
)
from spfreplay_reference.contract import FILE_SHMEM, OUT_FILE_COW, VM_SHARED, VM_WRITE


def do_fault(task: Task, vmf: VmFault) -> Steps[int]:
    """Serve a fault on a file mapping where nothing is mapped yet.

    Models: mm/memory.c:do_fault()
    """
    yield READ, vmf.vma, VM_FILE
    file = vmf.vma.vm_file
    if file is None:  # a special mapping without pages
        return VM_FAULT_SIGBUS
    if not vmf.flags & FAULT_FLAG_WRITE:
        return (yield from do_read_fault(task, vmf, file))
    if not vmf.vma_flags & VM_SHARED:
        return (yield from do_cow_fault(task, vmf, file))
    return (yield from do_shared_fault(task, vmf, file))


def do_read_fault(task: Task, vmf: VmFault, file: File) -> Steps[int]:
    """Map the page, around it first what is at hand.

    Models: mm/memory.c:do_read_fault()
    """
    held = may_be_punched(file)
    if held:
        yield LOCK_READ, file, INVALIDATE_LOCK
        file.invalidate_lock.read_lock(task)
    ret = yield from map_for_reading(task, vmf, file)
    if held:
        yield UNLOCK, file, INVALIDATE_LOCK
        file.invalidate_lock.read_unlock(task)
    return ret


def map_for_reading(task: Task, vmf: VmFault, file: File) -> Steps[int]:
    """Map the page, around it first what is at hand, under the lock if it takes one."""
    if file.vm_ops.map_pages and vmf.vma.vm_mm.kernel.profile.fault_around_pages > 1:
        ret = yield from do_fault_around(task, vmf, file)
        if ret:
            return ret
    ret = yield from filemap_fault(vmf, file)
    if ret:
        return ret
    return (yield from finish_fault(task, vmf, file))


def do_shared_fault(task: Task, vmf: VmFault, file: File) -> Steps[int]:
    """Map the page of a shared mapping for writing.

    Models: mm/memory.c:do_shared_fault()
    """
    held = may_be_punched(file)
    if held:
        yield LOCK_READ, file, INVALIDATE_LOCK
        file.invalidate_lock.read_lock(task)
    ret = yield from filemap_fault(vmf, file)
    if not ret:
        ret = yield from finish_fault(task, vmf, file)
    if held:
        yield UNLOCK, file, INVALIDATE_LOCK
        file.invalidate_lock.read_unlock(task)
    return ret


def may_be_punched(file: File) -> bool:
    """Tell whether MADV_REMOVE takes pages of ``file``: it has its pages in memory only.

    Faults on it lock the page that they are about to map.  Of other files no
    such call is modelled, and faults are spared the steps.
    """
    return file.anon_shared or file.facts.kind == FILE_SHMEM


def do_cow_fault(task: Task, vmf: VmFault, file: File) -> Steps[int]:
    """Copy the file's page for a first write to a private mapping.

    Models: mm/memory.c:do_cow_fault()
    """
    vma = vmf.vma
    mm = vma.vm_mm
    yield READ, vma, ANON_VMA
    anon_vma = vma.anon_vma
    if anon_vma is None:
        error = yield from anon_vma_prepare(task, vma)
        if error:
            return VM_FAULT_OOM
    page = yield from alloc_page_vma(task, vma, 0)
    ret = yield from filemap_fault(vmf, file)
    if ret:
        yield from put_page(mm.kernel, page)
        return ret
    yield READ, file, PAGE_CONTENT
    page.content = cache_content(file, cache_pfn(file, vmf.pgoff))
    yield READ, vmf.pmd, ENTRY
    table = vmf.pmd.entries[vmf.pmd_index]
    if table is None:
        yield from pte_alloc(task, vmf.pmd, vmf.pmd_index)
    locked = yield from pte_map_lock(task, vmf)
    if not locked:
        yield from put_page(mm.kernel, page)
        return VM_FAULT_RETRY
    installed = yield from install_cow_page(vmf, page)
    table = vmf.pte
    yield UNLOCK, vmf.ptl, PTL
    vmf.ptl.ptl.unlock(task)
    if not installed:
        yield from put_page(mm.kernel, page)
    return 0


def install_cow_page(vmf: VmFault, page: Page) -> Steps[bool]:
    """Set the PTE of the fault to ``page`` if it is still none.

    Models: mm/memory.c:alloc_set_pte()
    Context: PTL.
    """
    vma = vmf.vma
    table = vmf.pte
    slot = vmf.pte_index
    yield READ, table, PTE
    pte = table.pte[slot]
    if pte:
        return False
    entry = page.pfn << PTE_PFN_SHIFT | vmf.vma_page_prot | PAGE_ACCESSED | PAGE_DIRTY
    if vmf.vma_flags & VM_WRITE:
        entry |= PAGE_RW
    vma.vm_mm.rss_anon += 1
    yield from __page_add_new_anon_rmap(page, vma, vmf.address)
    yield WRITE, table, PTE
    table.pte[slot] = entry
    table.used += 1
    vmf.outcome = OUT_FILE_COW
    return True
