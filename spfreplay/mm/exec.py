"""exec: an address space as the recording found it.

What happens inside execve is not modelled: a trace says what it left.  Nobody
else can see the new address space, so that nothing here is announced.
"""

from __future__ import annotations

from spfreplay.errors import ModelError
from spfreplay.mm.image import install_initial_pages
from spfreplay.mm.mm_rb import VmaIndex
from spfreplay.mm.mmap import new_file_number, unknown_file
from spfreplay.mm.pte import vm_get_page_prot, vma_wants_writenotify
from spfreplay.mm.rmap import anon_vma_alloc, anon_vma_compatible
from spfreplay.mm.types import (
    SHMEM_VM_OPS,
    File,
    Kernel,
    MmStruct,
    Task,
    UserfaultfdCtx,
    VmArea,
)
from spfreplay.mm.userfaultfd import userfaultfd_armed
from spfreplay.mm.vma import vm_area_alloc
from spfreplay.mm.window_image import chain_anon_vmas, make_tables, set_pages
from spfreplay_reference.contract import (
    FILE_ANON,
    FILE_SHMEM,
    FILE_UNKNOWN,
    VM_LOCKED,
    VM_SHARED,
    VM_SOFTDIRTY,
    FileFacts,
    InitialImage,
    Region,
)


def mm_from_image(kernel: Kernel, task: Task, mm_id: int, image: InitialImage) -> MmStruct:
    """Return a new address space that looks like ``image``, with one user.

    :raises ModelError: if regions overlap or name a file that is not there.

    Models: fs/exec.c:begin_new_exec(), fs/binfmt_elf.c:load_elf_binary(), their result
    """
    mm = MmStruct(kernel, mm_id, VmaIndex())
    mm.start_brk = image.start_brk
    mm.brk = image.brk
    mm.def_flags = image.def_flags
    below: VmArea | None = None
    pgoffs = image.pgoffs or (None,) * len(image.regions)
    for region, pgoff in sorted(zip(image.regions, pgoffs, strict=True)):
        vma = vma_from_region(kernel, task, mm, region, below, bool(image.anon))
        if below is not None and vma.vm_start < below.vm_end:
            raise ModelError(f"the initial image of mm {mm_id} overlaps itself at {vma}")
        if pgoff is not None:
            vma.vm_pgoff = pgoff
        if userfaultfd_armed(vma.vm_flags):
            mm.userfaultfd = vma.vm_userfaultfd_ctx = mm.userfaultfd or UserfaultfdCtx()
        mm.mm_rb.insert(vma)
        vma.vm_rb_linked = True
        mm.map_count += 1
        pages = vma.vm_end - vma.vm_start >> 12
        mm.total_vm += pages
        if vma.vm_flags & VM_LOCKED:
            mm.locked_vm += pages
        below = vma
    if image.anon:
        chain_anon_vmas(task, tuple(mm.mm_rb), image.anon)
    install_initial_pages(mm, image)
    make_tables(mm, image.tables)
    if image.pgoffs:
        set_pages(mm, image)
    return mm


def vma_from_region(
    kernel: Kernel,
    task: Task,
    mm: MmStruct,
    region: Region,
    below: VmArea | None,
    named: bool = False,
) -> VmArea:
    """Return the VMA that a line of maps stands for; its anon_vma too, if that has no name.

    Neighbours that could share an anon_vma do: they are parts of one VMA that
    was split.
    """
    vma = vm_area_alloc(task, mm)
    vma.vm_start = region.start
    vma.vm_end = region.end
    vma.vm_flags = region.flags & ~VM_SOFTDIRTY
    file = file_of_region(kernel, task, region, below)
    if file is not None:
        vma.vm_file = file
        vma.vm_ops = file.vm_ops
        file.refcount += 1
    anonymous = file is None
    vma.vm_pgoff = region.start >> 12 if anonymous else region.pgoff
    vma.vm_page_prot = vm_get_page_prot(
        vma.vm_flags & ~VM_SHARED if vma_wants_writenotify(vma) else vma.vm_flags
    )
    if region.anon_vma and not named:
        anon_vma = below.anon_vma if below is not None else None
        if anon_vma is None or below is None or not anon_vma_compatible(below, vma):
            anon_vma = anon_vma_alloc(task)
            anon_vma.num_children = 1
        anon_vma.num_active_vmas += 1
        anon_vma.rb_root[vma] = None
        vma.anon_vma = anon_vma
        vma.anon_vma_chain.append(anon_vma)
    return vma


def file_of_region(
    kernel: Kernel, task: Task, region: Region, below: VmArea | None
) -> File | None:
    """Return the file a region maps; None for private anonymous memory.

    Shared anonymous regions that continue one another map one object.
    """
    if region.file == FILE_UNKNOWN:
        return unknown_file(task, kernel)
    if region.file != FILE_ANON:
        file = kernel.files.get(region.file)
        if file is None:
            raise ModelError(f"a region maps file {region.file}, which the trace does not list")
        return file
    if not region.flags & VM_SHARED:
        return None
    if (
        below is not None
        and below.vm_file is not None
        and below.vm_file.anon_shared
        and below.vm_end == region.start
        and below.vm_pgoff + (below.vm_end - below.vm_start >> 12) == region.pgoff
    ):
        return below.vm_file
    number = new_file_number(task, kernel)
    file = File(number, FileFacts(number, FILE_SHMEM), SHMEM_VM_OPS, anon_shared=True)
    kernel.files[number] = file
    return file
