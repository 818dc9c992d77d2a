"""What /proc shows becomes regions, page kinds and initial images."""

from array import array

import pytest

from spfreplay.record.cache import runs_of
from spfreplay.record.checkpoint import make_checkpoint, make_image, page_bits, vm_flags
from spfreplay.record.files import FileTable, find_folios
from spfreplay.record.procfs import (
    KPF_ANON,
    KPF_COMPOUND_HEAD,
    KPF_COMPOUND_TAIL,
    KPF_RECLAIM,
    KPF_ZERO_PAGE,
    PM_EXCLUSIVE,
    PM_FILE,
    PM_PRESENT,
    PM_SWAP,
    MapLine,
    Snapshot,
    parse_maps,
)
from spfreplay_reference import contract as c

SMAPS = """\
00400000-00402000 r-xp 00001000 fe:00 77                         /opt/a b (deleted)
Size:                  8 kB
VmFlags: rd ex mr mw me sd
7ffd0000-7ffd3000 rw-p 00000000 00:00 0                          [stack]
VmFlags: rd wr mr mw me gd ac
7fff0000-7fff1000 r--p 00000000 00:00 0                          [vvar]
VmFlags: rd mr pf io de dd
7fff1000-7fff2000 r-xp 00000000 00:00 0                          [vdso]
VmFlags: rd ex mr mw me de
80000000-80001000 rw-s 00000000 00:01 12                         /dev/zero (deleted)
VmFlags: rd wr sh mr mw me ms
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0          [vsyscall]
VmFlags: ex
"""


def test_smaps_lines_keep_paths_with_blanks_and_leave_out_vsyscall():
    lines = parse_maps(SMAPS)
    assert lines[0] == MapLine(
        0x400000, 0x402000, "r-xp", 1, (0xFE, 0), 77, "/opt/a b (deleted)",
        ("rd", "ex", "mr", "mw", "me", "sd"),
    )  # fmt: skip
    assert [one.path for one in lines[1:]] == [
        "[stack]", "[vvar]", "[vdso]", "/dev/zero (deleted)",
    ]  # fmt: skip


def test_vm_flags_come_from_vmflags_and_else_from_the_rights():
    lines = parse_maps(SMAPS)
    assert vm_flags(lines[1]) == (
        c.VM_READ | c.VM_WRITE | c.VM_MAYREAD | c.VM_MAYWRITE | c.VM_MAYEXEC
        | c.VM_GROWSDOWN | c.VM_ACCOUNT
    )  # fmt: skip
    bare = lines[4]._replace(vmflags=())
    assert vm_flags(bare) & (c.VM_READ | c.VM_WRITE | c.VM_EXEC | c.VM_SHARED) == (
        c.VM_READ | c.VM_WRITE | c.VM_SHARED
    )


@pytest.mark.parametrize(
    ("word", "kpf", "zero", "bits"),
    [
        (PM_PRESENT | PM_EXCLUSIVE, KPF_ANON, False, c.KIND_ANON),
        (PM_PRESENT, KPF_ANON, False, c.KIND_ANON | c.PG_SHARED),
        (PM_PRESENT, KPF_ZERO_PAGE, False, c.KIND_ZERO),
        (PM_PRESENT | PM_FILE, 0, False, c.KIND_FILE),
        (PM_SWAP, 0, False, c.KIND_SWAP),
        (PM_PRESENT | PM_EXCLUSIVE, None, False, c.KIND_ANON),
        (PM_PRESENT, None, True, c.KIND_ZERO),
        (PM_PRESENT | PM_FILE, None, False, c.KIND_FILE),
    ],
)
def test_page_kinds_with_and_without_kpageflags(word, kpf, zero, bits):
    assert page_bits(word, kpf, zero) == bits


def snapshot():
    one = Snapshot(5, 42, "exec", lines=parse_maps(SMAPS), brk=0x500000)
    one.vpns = array("Q", [0x7FFD0, 0x7FFD2, 0x80000])
    one.pagemap = array("Q", [PM_PRESENT | PM_EXCLUSIVE] * 2 + [PM_PRESENT | PM_FILE])
    one.kpageflags = array("Q", [KPF_ANON, KPF_ANON, 0])
    one.huge = [(0x7FFD2, 0x7FFD3)]
    return one


def test_a_checkpoint_names_files_kinds_and_huge_pages():
    files = FileTable()
    found = make_checkpoint(snapshot(), 0, 5, 1, files)
    assert [(one.file, one.anon_vma) for one in found.regions] == [
        (0, False), (c.FILE_ANON, True), (1, False), (2, False), (c.FILE_ANON, False),
    ]  # fmt: skip
    assert [one.facts.kind for one in files.finish()] == [
        c.FILE_REG, c.FILE_PFNMAP, c.FILE_SPECIAL,
    ]  # fmt: skip
    assert list(found.bits) == [c.KIND_ANON, c.KIND_ANON | c.PG_HUGE, c.KIND_FILE]
    assert found.brk == (0x500000, 0x500000)


def test_pages_that_exec_wrote_are_writable_and_dirty_in_the_image():
    image = make_image(make_checkpoint(snapshot(), 0, 5, 1, FileTable()))
    written = c.KIND_ANON | c.PG_WRITE | c.PG_DIRTY
    assert image.pages == (
        (0x7FFD0, written), (0x7FFD2, written | c.PG_HUGE), (0x80000, c.KIND_FILE),
    )  # fmt: skip


def test_a_large_folio_is_a_head_and_the_tails_in_the_frames_after_it():
    frames = [100, 101, 102, 0, 200, 201, 300, 301]
    head, tail = KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL
    flags = array("Q", [head, tail, tail, 0, head, tail, 0, KPF_RECLAIM])
    assert find_folios(frames, flags) == (((0, 3), (4, 2)), ((7, 1),))


def test_tails_in_other_frames_belong_to_another_folio():
    head, tail = KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL
    folios, marked = find_folios([100, 101, 500], array("Q", [head, tail, tail]))
    assert (folios, marked) == (((0, 2),), ())


def test_runs_join_neighbours_only():
    assert runs_of({7, 1, 2, 3, 9}) == ((1, 3), (7, 1), (9, 1))
