"""A small address space to try one function of the speculative engine on.

VMAs are put in by hand, so that a test of the fault side does not depend on
mmap.  Both forms of the protocol run the same tests.
"""

from spfreplay.mm.build import build
from spfreplay.mm.image import file_from_facts, mm_image, page_word
from spfreplay.mm.mm_rb import VmaIndex
from spfreplay.mm.pte import vm_get_page_prot, wants_writenotify
from spfreplay.mm.types import AnonVma, Kernel, MmStruct, Task, VmArea
from spfreplay_reference.contract import (
    CONTENT_SHIFT,
    VM_EXEC,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    X86_PF_INSTR,
    X86_PF_USER,
    X86_PF_WRITE,
    KernelProfile,
)

READ = X86_PF_USER
WRITE = X86_PF_USER | X86_PF_WRITE
FETCH = X86_PF_USER | X86_PF_INSTR
R, W, X, S = VM_READ, VM_WRITE, VM_EXEC, VM_SHARED
RW = R | W
PAGE = 4096
BASE = 0x7F00_0000_0000


def drive(result):
    """Run a generator to its end, alone; pass through what is none."""
    if not hasattr(result, "send"):
        return result
    try:
        while True:
            next(result)
    except StopIteration as stop:
        return stop.value


class World:
    """One kernel, one form; methods call the protocol and return its results."""

    def __init__(self, form="straight", files=(), threads=2, file_faults=False, **profile):
        self.functions = build("spf-v11", form)
        self.kernel = Kernel(KernelProfile(**profile), file_faults=file_faults)
        for facts in files:
            self.kernel.files[facts.id] = file_from_facts(facts)
        self.stamp = 0
        self.mm = self.new_mm(1, threads)
        self.task = Task(1, self.mm)
        if form == "window":  # flushes have somebody to ask
            self.kernel.cpus = [self.task, Task(2, self.mm)]

    def new_mm(self, number, users=1):
        mm = MmStruct(self.kernel, number, VmaIndex())
        mm.mm_users = users
        self.kernel.mms[number] = mm
        return mm

    def vma(self, page, pages, flags, file=None, pgoff=None, mm=None, anon=False):
        """Link a VMA of ``pages`` pages, ``page`` pages above BASE."""
        mm = mm or self.mm
        self.stamp += 1
        vma = VmArea(mm, (self.stamp, 0))
        vma.vm_start = BASE + page * PAGE
        vma.vm_end = vma.vm_start + pages * PAGE
        vma.vm_flags = flags | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
        vma.vm_pgoff = vma.vm_start >> 12
        if file is not None:
            vma.vm_file = self.kernel.files[file]
            vma.vm_ops = vma.vm_file.vm_ops
            vma.vm_pgoff = pgoff or 0
        self.set_prot(vma)
        if anon:
            vma.anon_vma = AnonVma((self.stamp, 1))
            vma.anon_vma.num_active_vmas = 1
            vma.anon_vma.rb_root[vma] = None
            vma.anon_vma_chain.append(vma.anon_vma)
        mm.mm_rb.insert(vma)
        vma.vm_rb_linked = True
        mm.map_count += 1
        mm.total_vm += pages
        return vma

    def set_prot(self, vma):
        prot = vm_get_page_prot(vma.vm_flags)
        if wants_writenotify(vma.vm_flags, vma.vm_ops):
            prot = vm_get_page_prot(vma.vm_flags & ~VM_SHARED)
        vma.vm_page_prot = prot

    def call(self, name, *args):
        """Run protocol function ``name`` as the next event."""
        self.stamp += 1
        self.task.stamp = self.stamp
        self.task.allocs = 0
        return drive(getattr(self.functions, name)(*args))

    def access(self, page, code, mm=None):
        """Access page ``page``; return (outcome, reason, page bits)."""
        result = self.call("access", self.task, mm or self.mm, BASE + page * PAGE, code)
        return result & 31, result >> 5 & 0x7FF, result >> 16

    def outcome(self, page, code, mm=None):
        return self.access(page, code, mm)[0]

    def word(self, page, mm=None):
        """Return (bits, content) of a page."""
        word = page_word(mm or self.mm, (BASE >> 12) + page)
        return word & 0xFFFF, word >> CONTENT_SHIFT

    def mapped(self, mm=None):
        """Return the mapped pages, counted from BASE."""
        return [vpn - (BASE >> 12) for vpn in mm_image(mm or self.mm).vpns]

    def rss(self, mm=None):
        mm = mm or self.mm
        return mm.rss_file, mm.rss_anon, mm.rss_swap, mm.rss_shmem
