"""The memory that a window begins with, as C statements that make it.

What user space cannot make just so (an anon_vma shared with another mapping, a
frame shared with another process) is made as nearly as it can, and told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from spfreplay.shrink.c_calls import MAP, CannotReproduce, flags, prot
from spfreplay_reference import contract as c
from spfreplay_reference.contract import InitialImage, Region

_RW: Final = c.PROT_READ | c.PROT_WRITE
_UNKNOWN: Final = c.VM_UFFD_MISSING | c.VM_UFFD_WP | c.VM_PFNMAP | c.VM_IO | c.VM_HUGETLB
#: flag of a region -> the madvise() that gives it
_ADVICE: Final = {
    c.VM_HUGEPAGE: c.MADV_HUGEPAGE,
    c.VM_NOHUGEPAGE: c.MADV_NOHUGEPAGE,
    c.VM_DONTCOPY: c.MADV_DONTFORK,
    c.VM_DONTDUMP: c.MADV_DONTDUMP,
    c.VM_WIPEONFORK: c.MADV_WIPEONFORK,
    c.VM_SEQ_READ: c.MADV_SEQUENTIAL,
    c.VM_RAND_READ: c.MADV_RANDOM,
}


class Memory:
    """The statements that build an image, and what of it they cannot build.

    :param values: content of a page -> the int that stands for it.
    :raises CannotReproduce: nothing like it can be built
    """

    def __init__(self, image: InitialImage, values: Values) -> None:
        self.image = image
        self.values = values
        self.contents = dict(image.contents)
        self.pages = dict(image.pages)
        self.missing: list[str] = []
        self.lines = list(self._lines())

    def _lines(self) -> Iterator[str]:
        for region in self.image.regions:
            yield from self._region(region)
        copied = [vpn for vpn, bits in self.image.pages if self._copied(vpn, bits)]
        if copied:
            yield "fork_and_wait();\t/* what was written becomes copy on write */"
            for vpn, bits in self.image.pages:
                if bits & c.KIND_MASK == c.KIND_ANON and bits & c.PG_WRITE:
                    yield self._stored(vpn)
        for region in self.image.regions:
            yield from self._finished(region)
        self._note_missing()

    def _region(self, region: Region) -> Iterator[str]:
        if region.flags & _UNKNOWN or region.file == c.FILE_UNKNOWN:
            raise CannotReproduce(f"a mapping at {region.start:#x} that a program cannot have")
        length = region.end - region.start
        how = c.MAP_FIXED_NOREPLACE
        how |= c.MAP_SHARED if region.flags & c.VM_SHARED else c.MAP_PRIVATE
        how |= c.MAP_ANONYMOUS if region.file < 0 else 0
        how |= c.MAP_GROWSDOWN if region.flags & c.VM_GROWSDOWN else 0
        how |= c.MAP_NORESERVE if region.flags & c.VM_NORESERVE else 0
        rights = self._first_rights(region)
        file = f"file_{region.file}, {region.pgoff << c.PAGE_SHIFT:#x}"
        file = file if region.file >= 0 else "-1, 0"
        yield (
            f"must(placed(mmap(pointer({region.start:#x}), {length:#x}, {prot(rights)},"
            f' {flags(how, MAP)}, {file})), "mmap");'
        )
        inside = [vpn for vpn in self.pages if region.start <= vpn << c.PAGE_SHIFT < region.end]
        if region.anon_vma and not any(self._kind(vpn) == c.KIND_ANON for vpn in inside):
            yield f'must(store({region.start:#x}, 1), "store");\t/* for its anon_vma */'
            yield _dropped(region.start)
        elif not inside and self._has_table(region):
            yield f'must(load({region.start:#x}), "load");\t/* for its page table */'
            yield _dropped(region.start)
        for vpn in inside:
            yield from self._page(vpn)

    def _page(self, vpn: int) -> Iterator[str]:
        kind = self._kind(vpn)
        if self.pages[vpn] & c.PG_HUGE:
            raise CannotReproduce("huge pages to begin with")
        if kind in (c.KIND_ANON, c.KIND_SWAP):
            yield self._stored(vpn)
        else:
            yield f'must(load({vpn << c.PAGE_SHIFT:#x}), "load");'
        if kind == c.KIND_SWAP:
            yield f"madvise(pointer({vpn << c.PAGE_SHIFT:#x}), 4096, {c.MADV_PAGEOUT});"

    def _finished(self, region: Region) -> Iterator[str]:
        where, length = f"pointer({region.start:#x})", f"{region.end - region.start:#x}"
        if self._first_rights(region) != _rights(region):
            rights = prot(_rights(region))
            yield f'must(called(mprotect({where}, {length}, {rights})), "mprotect");'
        for flag, advice in _ADVICE.items():
            if region.flags & flag:
                yield f'must(called(madvise({where}, {length}, {advice})), "madvise");'
        if region.flags & c.VM_LOCKED:
            on_fault = int(bool(region.flags & c.VM_LOCKONFAULT))
            call = f"syscall(SYS_mlock2, {where}, {length}ul, {on_fault})"
            yield f'must(called({call}), "mlock2");'

    def _stored(self, vpn: int) -> str:
        content = self.contents.get(vpn, c.CONTENT_INITIAL | vpn)
        return f'must(store({vpn << c.PAGE_SHIFT:#x}, {self.values.of(content):#x}), "store");'

    def _kind(self, vpn: int) -> int:
        return self.pages[vpn] & c.KIND_MASK

    def _first_rights(self, region: Region) -> int:
        """Return the rights that a region is mapped with, until its pages are there."""
        inside = any(
            region.start <= vpn << c.PAGE_SHIFT < region.end for vpn, _ in self.image.pages
        )
        if inside or region.anon_vma or self._has_table(region):
            return _rights(region) | _RW
        return _rights(region)

    def _has_table(self, region: Region) -> bool:
        first, last = region.start >> 21, (region.end - 1) >> 21
        return any(first <= number <= last for number in self.image.tables)

    def _copied(self, vpn: int, bits: int) -> bool:
        """Tell whether a page of a writable mapping is not writable."""
        return (
            bits & c.KIND_MASK == c.KIND_ANON
            and not bits & c.PG_WRITE
            and any(
                region.flags & c.VM_WRITE and region.start <= vpn << c.PAGE_SHIFT < region.end
                for region in self.image.regions
            )
        )

    def _note_missing(self) -> None:
        image = self.image
        if any(bits & c.PG_SHARED for _, bits in image.pages):
            self.missing.append("pages that another process shares are this one's alone")
        moved = (
            region.file < 0 and pgoff != region.start >> c.PAGE_SHIFT
            for region, pgoff in zip(image.regions, image.pgoffs, strict=False)
        )
        if any(moved):
            self.missing.append("mappings that have been moved lie where they were made")
        mapped = [(region.start >> 21, (region.end - 1) >> 21) for region in image.regions]
        if any(not any(a <= n <= b for a, b in mapped) for n in image.tables):
            self.missing.append("page tables without a mapping are not there")


class Values:
    """The ints that stand for the contents of pages.

    A store's is the number of its event plus one, as in the trace.
    """

    def __init__(self, stamps: set[int]) -> None:
        self.stamps = stamps
        self._initial: dict[int, int] = {}

    def of(self, content: int) -> int:
        """Return what stands for a content."""
        if not content or content - 1 in self.stamps:
            return content
        if content & (c.CONTENT_FILE | c.CONTENT_INITIAL) == c.CONTENT_FILE:
            return self.in_file(content >> 31 & 0xFFFF, content & (1 << 31) - 1)
        return self._initial.setdefault(content, 0x4000_0000 + len(self._initial))

    @staticmethod
    def in_file(file: int, index: int) -> int:
        """Return what stands for a page of a file."""
        return 0x6000_0000 | (file & 0xFF) << 20 | index & 0xF_FFFF


def _rights(region: Region) -> int:
    return (
        (c.PROT_READ if region.flags & c.VM_READ else 0)
        | (c.PROT_WRITE if region.flags & c.VM_WRITE else 0)
        | (c.PROT_EXEC if region.flags & c.VM_EXEC else 0)
    )


def _dropped(address: int) -> str:
    return f'must(called(madvise(pointer({address:#x}), 4096, {c.MADV_DONTNEED})), "madvise");'
