"""Initial maps rebuilt from the program's ELF file, only where it may be opened."""

import struct

import pytest

from spfreplay.imports.elf import ElfFiles
from spfreplay.imports.loading import ImportOptions, load
from spfreplay.trace import missing
from spfreplay.trace.symbols import program

CODE, DATA, LOADER = 0x1000, 0x3000, 0x7F0000000000
BASE, STACK = 0x555555554000, 0x7FFD00020000


def elf(interpreter=b"", entry=CODE + 0x40, kind=3):
    """A file with code, and data whose last page reaches beyond the file."""
    parts = [
        (1, 5, 0x0, 0x0, 0x2000, 0x2000),
        (1, 6, 0x2E00, DATA + 0xE00, 0x300, 0x2400),
    ]
    if interpreter:
        parts.append((3, 4, 0x100, 0x100, len(interpreter), len(interpreter)))
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", kind, 62, 1, entry, 64, 0, 0, 64, 56, len(parts), 64, 0, 0
    )
    table = b"".join(
        struct.pack("<IIQQQQQQ", what, flags, offset, vaddr, vaddr, size, memory, 0x1000)
        for what, flags, offset, vaddr, size, memory in parts
    )
    data = (head + table).ljust(0x100, b"\0") + interpreter
    return data.ljust(0x3100, b"\0")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").mkdir()
    (tmp_path / "bin" / "prog").write_bytes(elf(b"/lib/ld.so\0"))
    (tmp_path / "lib" / "ld-2.so").write_bytes(elf(entry=CODE + 0x80))
    (tmp_path / "lib" / "ld.so").symlink_to("/lib/ld-2.so")
    return tmp_path


def line(ns, event):
    return f"prog-9 [000] 5.{ns:09}: {event}\n"


def fault(ns, addr, code, kind="user", ip=0x1000):
    return line(ns, f"page_fault_{kind}: address={addr:#x} ip={ip:#x} error_code={code:#x}")


def text(filename="/bin/prog"):
    """An execve as trace-cmd prints it: it clears the end of .data, twice, and writes auxv."""
    return (
        line(1, "sys_enter_execve: filename: 0x1, argv: 0x2, envp: 0x3")
        + fault(2, BASE + DATA + 0xE00 + 0x300, 2, "kernel")
        + fault(3, LOADER + DATA + 0xE00 + 0x300, 2, "kernel")
        + fault(4, STACK + 0xF00, 2, "kernel")
        + line(5, f"sched_process_exec: filename={filename} pid=9 old_pid=9")
        + line(6, "sys_exit_execve: 0x0")
        + fault(7, LOADER + CODE + 0x80, 0x14)
        + fault(8, BASE + CODE + 0x40, 0x14)
    ).encode()


def regions(imported):
    return [
        (one.start, one.end, one.flags & 7)
        for image in imported.tables.images
        for one in image.regions
    ]


def parts(base):
    return [
        (base, base + 0x2000, 5),
        (base + DATA, base + DATA + 0x2000, 3),
        (base + DATA + 0x2000, base + DATA + 0x4000, 3),
    ]


def test_program_interpreter_and_stack_are_mapped_where_the_faults_were(root):
    imported = load(text(), ImportOptions(elf=(str(root),)))
    stack = (STACK + 0x2000 - 0x21000, STACK + 0x2000, 3)
    assert regions(imported) == [*parts(BASE), *parts(LOADER), stack]


def test_rebuilt_maps_are_counted(root):
    imported = load(text(), ImportOptions(elf=(str(root),)))
    assert imported.missing[missing.MAPS_FROM_ELF] == 1


def test_nothing_is_opened_unless_asked_for(root, monkeypatch):
    monkeypatch.setattr(
        "spfreplay.imports.elf.program", lambda path: pytest.fail(f"opened {path}")
    )
    assert regions(load(text())) == []


def test_a_program_that_is_not_there_leaves_the_maps_unknown(root):
    imported = load(text("/bin/other"), ImportOptions(elf=(str(root),)))
    assert (regions(imported), missing.MAPS_FROM_ELF in imported.missing) == ([], False)


def test_a_path_cannot_leave_its_folder(root):
    (root.parent / "outside").write_bytes(elf())
    (root / "bin" / "away").symlink_to("/../../outside")
    files = ElfFiles((str(root),), {})
    assert [files.program(path) for path in ("/../outside", "/bin/away")] == [None, None]


def test_another_build_is_not_the_program(root, monkeypatch):
    files = ElfFiles((str(root),), {"/bin/prog": "ab" * 20})
    real = program(root / "bin" / "prog")
    monkeypatch.setattr(
        "spfreplay.imports.elf.program",
        lambda path: type(real)(
            real.fixed, real.entry, real.interpreter, real.segments, "cd" * 20, 1
        ),
    )
    assert files.program("/bin/prog") is None


def test_the_folders_are_looked_at_in_order(root, tmp_path_factory):
    second = tmp_path_factory.mktemp("second")
    (second / "only").write_bytes(elf())
    files = ElfFiles((str(root), str(second)), {})
    assert (files.program("/bin/prog") is None, files.program("/only") is None) == (
        False,
        False,
    )


@pytest.mark.parametrize("data", [b"", b"\x7fELF", elf()[:80], b"\x7fELF\x01" + bytes(200)])
def test_a_damaged_file_is_no_program(tmp_path, data):
    (tmp_path / "bad").write_bytes(data)
    assert program(tmp_path / "bad") is None


def test_a_loop_of_links_ends(tmp_path):
    (tmp_path / "one").symlink_to("/two")
    (tmp_path / "two").symlink_to("/one")
    assert ElfFiles((str(tmp_path),), {}).program("/one") is None
