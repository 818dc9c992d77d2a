"""mmap, and the growth of a stack."""

from __future__ import annotations

from errno import EAGAIN, EBADF, EEXIST, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM
from typing import Final

from spfreplay.errors import ModelError
from spfreplay.mm.mlock import mm_populate
from spfreplay.mm.munmap import do_munmap
from spfreplay.mm.pte import vm_get_page_prot
from spfreplay.mm.rmap import anon_vma_prepare
from spfreplay.mm.steps import (
    ANON_VMA,
    ANON_VMA_LOCK,
    LOCK,
    LOCKED_VM,
    MMAP_SEM,
    PAGE_TABLE_LOCK,
    READ,
    TOTAL_VM,
    UNLOCK,
    VM_FLAGS,
    VM_PGOFF,
    VM_START,
    WRITE,
    Steps,
)
from spfreplay.mm.types import (
    GENERIC_FILE_VM_OPS,
    SHMEM_VM_OPS,
    File,
    Kernel,
    MmStruct,
    Task,
    VmArea,
)
from spfreplay.mm.vma import (
    find_vma_intersection,
    find_vma_prev,
    get_file,
    vm_area_alloc,
    vm_write_begin,
    vm_write_end,
    vma_link,
    vma_set_page_prot,
)
from spfreplay.mm.vma_merge import VM_SPECIAL, vma_merge
from spfreplay_reference.contract import (
    FILE_SHMEM,
    FILE_UNKNOWN,
    MAP_ANONYMOUS,
    MAP_FD_WRITABLE,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_STACK,
    MAP_TYPE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    RET_UNKNOWN,
    TASK_SIZE,
    VM_ACCOUNT,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    FileFacts,
)

#: arguments come as signed 64-bit patterns
U64: Final = (1 << 64) - 1
OVERCOMMIT_NEVER: Final = 2
#: what MAP_SHARED_VALIDATE lets pass: the flags that are older than itself
LEGACY_MAP_MASK: Final = 0x7C07_F933
STACK_GUARD_GAP: Final = 256 << 12
MMAP_MIN_ADDR: Final = 0x1_0000
#: where the search for room begins, downwards, when no record tells the place
MMAP_TOP: Final = 0x7FFF_F000_0000
#: number of the file that stands for every one a recording could not identify
UNKNOWN_FILE: Final = 0xFFFF
#: shared anonymous objects are numbered from here
FIRST_SHM: Final = 1 << 18


def page_align(length: int) -> int:
    """Round a 64-bit length up to whole pages; near the top it wraps to 0.

    Models: include/linux/mm.h:PAGE_ALIGN()
    """
    return length + 4095 & 0xFFFF_FFFF_FFFF_F000


def sys_mmap(
    task: Task,
    mm: MmStruct,
    addr: int,
    length: int,
    prot: int,
    flags: int,
    file_id: int,
    pgoff: int,
    ret: int,
) -> Steps[int]:
    """mmap(2); ``file_id`` stands for the file descriptor.

    :param ret: the recorded result: where the kernel put the mapping.
    :return: the address, or -errno.

    Models: mm/util.c:vm_mmap_pgoff()
    Context: takes mmap_sem for write, then to populate for read.
    """
    if flags & MAP_HUGETLB:
        raise ModelError("not modelled yet: mmap with MAP_HUGETLB")
    file: File | None = None
    if not flags & MAP_ANONYMOUS:
        if file_id == -1:
            return -EBADF
        if file_id == FILE_UNKNOWN:
            file = unknown_file(task, mm.kernel)
        else:
            file = mm.kernel.files.get(file_id)
        if file is None:
            raise ModelError(f"mmap of file {file_id}, which the trace does not list")
    yield LOCK, mm, MMAP_SEM
    mm.mmap_sem.write_lock(task)
    result = yield from do_mmap(task, mm, file, addr, length, prot, flags, pgoff, ret)
    vm_flags = calc_vm_flag_bits(flags) | mm.def_flags
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.write_unlock(task)
    populate = vm_flags & VM_LOCKED or flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE
    if result >= 0 and populate:
        yield from mm_populate(task, mm, result, page_align(length), True)
    return result


def calc_vm_prot_bits(prot: int) -> int:
    """Return the VM_* of PROT_*.

    Models: include/linux/mman.h:calc_vm_prot_bits()
    """
    vm_flags = 0
    if prot & PROT_READ:
        vm_flags |= VM_READ
    if prot & PROT_WRITE:
        vm_flags |= VM_WRITE
    if prot & PROT_EXEC:
        vm_flags |= VM_EXEC
    return vm_flags


def calc_vm_flag_bits(flags: int) -> int:
    """Return the VM_* of MAP_*: a MAP_STACK mapping wants no huge pages (6.7 on).

    Models: include/linux/mman.h:calc_vm_flag_bits() of 6.18
    """
    vm_flags = 0
    if flags & MAP_GROWSDOWN:
        vm_flags |= VM_GROWSDOWN
    if flags & MAP_LOCKED:
        vm_flags |= VM_LOCKED
    if flags & MAP_STACK:
        vm_flags |= VM_NOHUGEPAGE
    return vm_flags


def do_mmap(
    task: Task,
    mm: MmStruct,
    file: File | None,
    addr: int,
    length: int,
    prot: int,
    flags: int,
    pgoff: int,
    ret: int,
) -> Steps[int]:
    """Check the arguments, find a place, derive the flags, and map.

    Models: mm/mmap.c:do_mmap()
    Context: mmap_sem (write).
    """
    profile = mm.kernel.profile
    if not length:
        return -EINVAL
    if flags & MAP_FIXED_NOREPLACE:
        flags |= MAP_FIXED
    length = page_align(length)
    if not length:
        return -ENOMEM
    if pgoff + (length >> 12) >= 1 << 64:
        return -EOVERFLOW
    if mm.map_count > profile.max_map_count:
        return -ENOMEM
    addr = yield from get_unmapped_area(task, mm, addr, length, flags, ret)
    if addr < 0:
        return addr
    if flags & MAP_FIXED_NOREPLACE:
        clash = yield from find_vma_intersection(task, mm, addr, addr + length)
        if clash is not None:
            return -EEXIST
    vm_flags = calc_vm_prot_bits(prot) | calc_vm_flag_bits(flags) | mm.def_flags
    vm_flags |= VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
    if flags & MAP_LOCKED and not profile.memlock_limit:
        return -EPERM
    if not mlock_future_ok(mm, vm_flags, length):
        return -EAGAIN
    kind = flags & MAP_TYPE
    if (
        kind == MAP_SHARED_VALIDATE
        and file is not None
        and flags & ~(LEGACY_MAP_MASK | MAP_FD_WRITABLE)
    ):
        return -EOPNOTSUPP
    if kind == MAP_SHARED or (kind == MAP_SHARED_VALIDATE and file is not None):
        vm_flags |= VM_SHARED | VM_MAYSHARE
        if file is None:
            pgoff = 0
        elif not (prot & PROT_WRITE or flags & MAP_FD_WRITABLE):  # opened for reading only
            vm_flags &= ~(VM_SHARED | VM_MAYWRITE)
    elif kind != MAP_PRIVATE:
        return -EINVAL
    elif file is None:
        pgoff = addr >> 12  # so that anonymous neighbours fit each other
    if vm_flags & VM_GROWSDOWN and (file is not None or vm_flags & VM_SHARED):
        return -EINVAL
    if flags & MAP_NORESERVE and profile.overcommit_memory != OVERCOMMIT_NEVER:
        vm_flags |= VM_NORESERVE
    return (yield from mmap_region(task, mm, file, addr, length, vm_flags, pgoff))


def mlock_future_ok(mm: MmStruct, vm_flags: int, length: int) -> bool:
    """Tell whether RLIMIT_MEMLOCK allows that many more locked bytes.

    Models: mm/mmap.c:mlock_future_ok()
    Context: mmap_sem (write).
    """
    limit = mm.kernel.profile.memlock_limit
    if not vm_flags & VM_LOCKED or limit < 0:
        return True
    return mm.locked_vm + (length >> 12) <= limit >> 12


def get_unmapped_area(
    task: Task, mm: MmStruct, addr: int, length: int, flags: int, ret: int
) -> Steps[int]:
    """Return where a mapping goes: as asked, as recorded, or the highest room.

    :param ret: the recorded result, RET_UNKNOWN or -errno where there is none.
    :return: the address, or -errno.

    Models: mm/mmap.c:get_unmapped_area(); the search is not the kernel's, whose
        choice depends on layout randomisation
    Context: mmap_sem (write).
    """
    if length > TASK_SIZE:
        return -ENOMEM
    if flags & MAP_FIXED:
        if addr < 0 or addr > TASK_SIZE - length:
            return -ENOMEM
        if addr & 4095:
            return -EINVAL
        return addr
    if ret != RET_UNKNOWN and ret >= 0:
        return ret
    addr &= ~4095
    if addr:
        addr = max(addr, MMAP_MIN_ADDR)
        if addr <= TASK_SIZE - length:
            clash = yield from find_vma_intersection(task, mm, addr, addr + length)
            if clash is None:
                return addr
    return (yield from vm_unmapped_area(task, mm, length))


def vm_unmapped_area(task: Task, mm: MmStruct, length: int) -> Steps[int]:
    """Return the start of the highest room of ``length`` bytes below MMAP_TOP.

    Models: mm/mmap.c:unmapped_area_topdown(), without its randomised base
    Context: mmap_sem (write).
    """
    top = MMAP_TOP
    below, vma = yield from find_vma_prev(task, mm, top - 1)
    if vma is not None and vma.vm_start < top:
        top = vma.vm_start
    while below is not None and top - length < below.vm_end:
        top = below.vm_start
        below = mm.mm_rb.prev(below)
    return top - length if top - length >= MMAP_MIN_ADDR else -ENOMEM


def mmap_region(
    task: Task,
    mm: MmStruct,
    file: File | None,
    addr: int,
    length: int,
    vm_flags: int,
    pgoff: int,
) -> Steps[int]:
    """Replace whatever is in the range by a mapping with these attributes.

    A fresh VMA is visible before its write section opens, but without an
    anon_vma; for a merged one, which may have one, the section matters.

    Models: mm/mmap.c:mmap_region(), SPF v11 08/26, 10/26
    Context: mmap_sem (write).
    """
    end = addr + length
    vma = yield from find_vma_intersection(task, mm, addr, end)
    if vma is not None:
        error = yield from do_munmap(task, mm, addr, length)
        if error:
            return error
    if vm_flags & (VM_NORESERVE | VM_SHARED | VM_WRITE) == VM_WRITE:
        vm_flags |= VM_ACCOUNT
    prev, _ = yield from find_vma_prev(task, mm, addr)
    if file is None and vm_flags & VM_SHARED:
        file = shmem_zero_setup(task, mm, length)  # never merges: the object is new
    vma = yield from vma_merge(task, mm, prev, None, addr, end, vm_flags, None, file, pgoff)
    if vma is None:
        vma = vm_area_alloc(task, mm)
        vma.vm_start = addr  # private
        vma.vm_end = end  # private
        vma.vm_flags = vm_flags  # private
        vma.vm_page_prot = vm_get_page_prot(vm_flags)  # private
        vma.vm_pgoff = pgoff  # private
        if file is not None:
            vma.vm_file = file  # private
            vma.vm_ops = file.vm_ops  # private
            yield from get_file(file)
        yield from vma_link(task, mm, vma)
    yield from vm_write_begin(task, vma)
    yield WRITE, mm, TOTAL_VM
    mm.total_vm += length >> 12
    if vm_flags & VM_LOCKED:
        if vm_flags & VM_SPECIAL:
            vm_flags &= ~(VM_LOCKED | VM_LOCKONFAULT)
        else:
            yield WRITE, mm, LOCKED_VM
            mm.locked_vm += length >> 12
    # VM_SOFTDIRTY is set here as well: a bit that this kernel does not have.
    yield WRITE, vma, VM_FLAGS
    vma.vm_flags = vm_flags
    yield from vma_set_page_prot(vma)
    yield from vm_write_end(task, vma)
    return addr


def new_file_number(task: Task, kernel: Kernel) -> int:
    """Return a number for an object that no trace lists, the same in every order of calls."""
    task.allocs += 1
    numbers = kernel.shm_numbers
    return numbers.setdefault((task.stamp, task.allocs), FIRST_SHM + len(numbers))


def unknown_file(task: Task, kernel: Kernel) -> File:
    """Return a file for a mapping of which the recording does not know what it maps.

    It is taken for a regular one without end, and for another one each time.
    """
    number = new_file_number(task, kernel)
    file = File(number, FileFacts(UNKNOWN_FILE), GENERIC_FILE_VM_OPS)
    kernel.files[number] = file
    return file


def shmem_zero_setup(task: Task, mm: MmStruct, length: int) -> File:
    """Make the object behind a shared anonymous mapping.

    Its number depends on the call that makes it, not on the order of calls.

    Models: mm/shmem.c:shmem_zero_setup()
    """
    kernel = mm.kernel
    number = new_file_number(task, kernel)
    file = File(number, FileFacts(number, FILE_SHMEM, length), SHMEM_VM_OPS, anon_shared=True)
    kernel.files[number] = file
    return file


def expand_stack(task: Task, vma: VmArea, address: int) -> Steps[int]:
    """Grow a stack downwards to hold ``address``.

    v11 does so without a write section: it relies on speculative faults to
    refuse VMAs that grow.

    :return: 0, or -errno if the VMA cannot grow so far.

    Models: mm/mmap.c:expand_downwards()
    Context: mmap_sem (read); takes the anon_vma lock and page_table_lock.
    """
    mm = vma.vm_mm
    address &= ~4095
    if address < MMAP_MIN_ADDR:
        return -EPERM
    prev, _ = yield from find_vma_prev(task, mm, vma.vm_start)
    if (
        prev is not None
        and not prev.vm_flags & VM_GROWSDOWN
        and prev.vm_flags & (VM_READ | VM_WRITE | VM_EXEC)
        and address - prev.vm_end < STACK_GUARD_GAP
    ):
        return -ENOMEM
    error = yield from anon_vma_prepare(task, vma)
    if error:
        return error
    yield READ, vma, ANON_VMA
    root = vma.anon_vma.root  # type: ignore[union-attr]
    yield LOCK, root, ANON_VMA_LOCK
    root.lock.lock(task)
    yield READ, vma, VM_START
    vm_start = vma.vm_start
    if address < vm_start:  # nobody was faster
        error = yield from acct_stack_growth(task, vma, address, vm_start)
    yield UNLOCK, root, ANON_VMA_LOCK
    root.lock.unlock(task)
    return error


def acct_stack_growth(task: Task, vma: VmArea, address: int, vm_start: int) -> Steps[int]:
    """Check the limits and move vm_start down to ``address``.

    Models: mm/mmap.c:acct_stack_growth(), and what expand_downwards() does next
    Context: mmap_sem (read), the anon_vma lock.
    """
    mm = vma.vm_mm
    grow = vm_start - address >> 12
    limit = mm.kernel.profile.stack_limit
    if grow > vma.vm_pgoff or (limit >= 0 and vma.vm_end - address > limit):
        return -ENOMEM
    if not mlock_future_ok(mm, vma.vm_flags, grow << 12):
        return -ENOMEM
    yield LOCK, mm, PAGE_TABLE_LOCK
    mm.page_table_lock.lock(task)
    if vma.vm_flags & VM_LOCKED:
        yield WRITE, mm, LOCKED_VM
        mm.locked_vm += grow
    yield WRITE, mm, TOTAL_VM
    mm.total_vm += grow
    yield WRITE, vma, VM_START
    vma.vm_start = address
    yield WRITE, vma, VM_PGOFF
    vma.vm_pgoff -= grow
    yield UNLOCK, mm, PAGE_TABLE_LOCK
    mm.page_table_lock.unlock(task)
    return 0
