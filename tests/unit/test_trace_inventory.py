"""What info counts, and which file an instruction is said to lie in."""

import json

import pytest

from spfreplay.cli import main
from spfreplay.trace.container import open_trace
from spfreplay.trace.inventory import Site, name_sites, take_inventory
from spfreplay_reference.contract import FILE_ANON

TEXT = """spfreplay text 1
command: ./a.out x
process 7 comm=a.out
thread 7 pid=7
thread 8 pid=7
file 0 reg path=/bin/a
file 1 reg path=/lib/b
image 0
  vma 0x10000-0x14000 r-xp file=0 pgoff=2
  vma 0x20000-0x21000 rw-p anon
exec mm0 image=0
read 0x20000 ip=0x10004
write 0x20000 err=prot ip=0x10004 flags=major
kwrite 0x20000 ip=0xffffffff81000000
T8 read 0x20000 ip=0x13008
T8 mmap 0x12000 8K r-x private|fixed = 0x12000 file=1 pgoff=1
T8 read 0x20000 ip=0x13008
T8 read 0x20000 ip=0x11008
T8 munmap 0x10000 4K = 0
T8 read 0x20000 ip=0x10004
T8 mmap 0 4K r-x private = -ENOMEM file=1
fetch 0x30000 ip=0x30000
"""


@pytest.fixture
def trace(tmp_path):
    (tmp_path / "t").write_text(TEXT)
    return open_trace(tmp_path / "t")


def test_operations_and_faults_are_counted(trace):
    found = take_inventory(trace)
    assert found.operations == {"access": 8, "mmap": 2, "exec": 1, "munmap": 1}
    assert found.faults == {
        "user read": 5, "kernel write": 1, "user exec": 1, "user write": 1,
    }  # fmt: skip
    assert (found.events, found.protection_faults, found.major_faults) == (12, 1, 1)
    assert (found.events_of, found.threads_of) == ({7: 12}, {7: 2})
    assert found.mapped == {0: 1, 1: 1}


def test_an_instruction_lies_in_the_file_mapped_there_at_the_time(trace):
    assert sorted(take_inventory(trace).sites, key=lambda s: (s.file, s.offset)) == [
        Site(FILE_ANON, 0xFFFFFFFF81000000 - (1 << 64), 1),
        Site(FILE_ANON, 0x10004, 1),
        Site(FILE_ANON, 0x30000, 1),
        Site(0, 0x2004, 2),
        Site(0, 0x3008, 1),
        Site(0, 0x5008, 1),
        Site(1, 0x2008, 1),
    ]


def test_a_child_has_the_files_of_its_parent_until_it_maps_others(tmp_path):
    (tmp_path / "t").write_text(
        TEXT[: TEXT.index("read 0x20000")]
        + "fork T9 mm1\nT9 munmap 0x10000 16K = 0\nT9 read 1 ip=0x10004\nT7 read 1 ip=0x10004\n"
    )
    found = take_inventory(open_trace(tmp_path / "t"))
    assert found.sites == [Site(FILE_ANON, 0x10004, 1), Site(0, 0x2004, 1)]


def test_a_moved_mapping_keeps_its_file(tmp_path):
    (tmp_path / "t").write_text(
        TEXT[: TEXT.index("read 0x20000")]
        + "mremap 0x12000 4K 8K maymove = 0x50000\nread 1 ip=0x51004\nread 1 ip=0x12004\n"
    )
    found = take_inventory(open_trace(tmp_path / "t"))
    assert found.sites == [Site(FILE_ANON, 0x12004, 1), Site(0, 0x5004, 1)]


def test_the_hottest_sites_come_first_and_only_so_many(trace):
    assert take_inventory(trace, 1).sites == [Site(0, 0x2004, 2)]


def test_symbols_are_looked_up_by_path_and_offset(trace):
    found = take_inventory(trace, 1)
    name_sites(found, trace.tables.files, lambda *where: where)
    assert found.sites == [Site(0, 0x2004, 2, "('/bin/a', 8196, '')")]


def test_info_opens_no_file_of_the_trace_unless_asked(tmp_path, monkeypatch):
    import spfreplay.trace.symbols

    (tmp_path / "t").write_text(TEXT)
    opened = []
    monkeypatch.setattr(spfreplay.trace.symbols, "_load", opened.append)
    assert main(["info", str(tmp_path / "t")]) == 0
    assert opened == []
    assert main(["info", "--symbols", str(tmp_path / "t")]) == 0
    assert set(opened) == {"/bin/a", "/lib/b"}


def test_info_as_json_has_the_same_numbers(tmp_path, capsys):
    (tmp_path / "t").write_text(TEXT)
    assert main(["info", "--format", "json", str(tmp_path / "t")]) == 0
    document = json.loads(capsys.readouterr().out)
    (result,) = document["results"]
    assert (document["schema_version"], result["operations"]["access"]) == (1, 8)
    assert result["sites"][0] == {
        "file": 0, "offset": 0x2004, "count": 2, "symbol": "", "path": "/bin/a",
    }  # fmt: skip


def test_show_and_assemble_give_the_same_file_again(tmp_path, capsys):
    text, binary, again = (str(tmp_path / name) for name in ("t", "b", "b2"))
    (tmp_path / "t").write_text(TEXT)
    assert main(["assemble", text, "-o", binary]) == 0
    assert main(["show", binary]) == 0
    (tmp_path / "t2").write_text(capsys.readouterr().out)
    assert main(["assemble", str(tmp_path / "t2"), "-o", again]) == 0
    assert (tmp_path / "b").read_bytes() == (tmp_path / "b2").read_bytes()


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--events", "2"], [0, 1]),
        (["--from", "10"], [10, 11]),
        (["--from", "3", "--to", "4"], [3, 4]),
        (["--from", "3", "--events", "1"], [3]),
        (["--mm", "mm0", "--to", "1"], [1]),
        (["--pid", "7", "--events", "1"], [0]),
        (["--mm", "5"], []),
    ],
)
def test_show_can_leave_events_out(tmp_path, capsys, options, numbers):
    (tmp_path / "t").write_text(TEXT)
    assert main(["show", "--numbers", *options, str(tmp_path / "t")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.rpartition("  # ")[2]) for line in lines if "  # " in line] == numbers


def test_show_of_a_process_that_is_not_there_is_a_usage_error(tmp_path, capsys):
    (tmp_path / "t").write_text(TEXT)
    assert main(["show", "--pid", "99", str(tmp_path / "t")]) == 2
