"""Pages that leave a file under its mappings: what stays mapped, in both engines.

A row of letters is a mapping's pages: f of the file, a a private copy, . none.
"""

import pytest

from spfreplay.engines import PLAYED_COLUMNS, Player, make_engine
from spfreplay.mm.validate import validate_mm
from spfreplay.trace.container import open_trace
from spfreplay_reference import contract as c

SHARED, PRIVATE = 0x2000_0000, 0x3000_0000
LETTERS = {0: ".", c.KIND_FILE: "f", c.KIND_ANON: "a"}
HEAD = """\
spfreplay text 1
file 0 {kind} size=64K {facts}
image 0 brk=0x5000
exec mm0 image=0
mmap 0x20000000 96K rw- shared|fixed|fd_writable file=0 = 0x20000000
mmap 0x30000000 96K rw- private|fixed file=0 = 0x30000000
"""
FILL = """\
read 0x20000000
read 0x30000000
write 0x30001000
write 0x3000a000
"""


def row(engine, start):
    return "".join(
        LETTERS[engine.page(0, (start >> 12) + page) & c.KIND_MASK] for page in range(24)
    ).rstrip(".")


@pytest.fixture(params=["locked", "spf-v11"])
def after(request, tmp_path):
    """Play a text; return the shared and the private mapping's row, and the last outcome."""

    def play(events, kind="reg", facts=""):
        path = tmp_path / "t.txt"
        path.write_text(HEAD.format(kind=kind, facts=facts) + events)
        trace = open_trace(path)
        engine = make_engine(request.param, trace.tables)
        player = Player(engine, trace.tables)
        for columns in trace.chunks(PLAYED_COLUMNS):
            player.play(columns, 0, len(columns))
        if request.param == "spf-v11":
            assert validate_mm(engine.kernel) == []
        last = player.take()[0][-1] & c.OUTCOME_MASK
        return row(engine, SHARED), row(engine, PRIVATE), last

    return play


@pytest.mark.parametrize("kind", ["reg", "shmem"])
@pytest.mark.parametrize(
    ("events", "shared", "private"),
    [
        ("", "f" * 16, "fa" + "f" * 8 + "afffff"),
        ("cache_del 0 8 4\n", "f" * 8 + "....ffff", "fa" + "f" * 6 + "..a.ffff"),
        ("file_size 0 32K\n", "f" * 8, "fa" + "f" * 6),
        ("file_size 0 32769\n", "f" * 9, "fa" + "f" * 7),
        ("file_size 0 80K\n", "f" * 16, "fa" + "f" * 8 + "afffff"),
        ("file_size 0 0\n", "", ""),
    ],
    ids=["nothing", "reclaimed", "cut", "cut within a page", "grown", "emptied"],
)
def test_what_leaves_is_unmapped_and_copies_only_by_truncation(
    after, kind, events, shared, private
):
    assert after(FILL + events, kind)[:2] == (shared, private)


@pytest.mark.parametrize(
    ("events", "shared"),
    [
        ("cache_del 0 8 4\nread 0x20000000\n", "f" * 8 + "....ffff"),
        ("cache_del 0 8 4\nread 0x20009000\n", "f" * 8 + ".f..ffff"),
        ("cache_del 0 8 4\ncache_add 0 10 2\nread 0x20008000\n", "f" * 9 + ".ffffff"),
    ],
    ids=["nothing to fault", "read in again", "neighbours that came back"],
)
def test_what_left_comes_back_only_by_its_own_fault_or_with_the_cache(after, events, shared):
    assert after(FILL + events)[0] == shared


@pytest.mark.parametrize(
    ("access", "shared", "outcome"),
    [
        ("read 0x20003000", "fffff", c.OUT_FILE),
        ("read 0x20005000", "fffff", c.OUT_SIGBUS),
        ("write 0x20005000", "", c.OUT_SIGBUS),
    ],
)
def test_behind_the_end_is_sigbus_and_a_read_maps_what_lies_before(
    after, access, shared, outcome
):
    found = after(f"file_size 0 20K\n{access}\n")
    assert (found[0], found[2]) == (shared, outcome)


def test_a_file_that_grew_is_accessible(after):
    assert after("file_size 0 96K\nwrite 0x20014000\n")[0] == "." * 20 + "f"


@pytest.mark.parametrize(
    ("events", "shared"),
    [
        # 16 pages in one folio: a write maps all of it, and so does the same after ...
        ("write 0x20000000\n", "f" * 16),
        # ... its end was cut off: the folio may have stayed, but lies beyond the end.
        ("write 0x20000000\nfile_size 0 40K\n", ""),
        ("write 0x20000000\nfile_size 0 40K\nwrite 0x20000000\n", "f"),
        ("write 0x20000000\nfile_size 0 40K\nread 0x20001000\n", "f" * 10),
        ("write 0x20000000\nfile_size 0 40K\nfile_size 0 64K\nwrite 0x20000000\n", "f" * 16),
        # If it was split, its end leaves: 0-7 are a folio again, 8-9 another.
        ("write 0x20000000\ncache_del 0 10 6\nwrite 0x20000000\n", "f" * 8),
        ("write 0x20000000\ncache_del 0 10 6\nwrite 0x20008000\n", "." * 8 + "ff"),
        ("write 0x20000000\ncache_del 0 11 5\nwrite 0x2000a000\n", "." * 10 + "f"),
        # Cut within its first page; its first quarter gone.
        ("write 0x20000000\nfile_size 0 1\n", ""),
        ("write 0x20000000\ncache_del 0 0 4\n", ""),
        # Cut between two folios, nothing is split.
        ("write 0x20000000\ncache_del 0 0 16\nwrite 0x20003000\n", "...f"),
        # A hole: what is left of the folio at either side is unmapped as well.
        ("write 0x20000000\ncache_del 0 4 4\n", ""),
        ("write 0x20000000\ncache_del 0 4 4\nwrite 0x20000000\n", "ffff"),
        ("write 0x20000000\ncache_del 0 4 4\nwrite 0x20008000\n", "." * 8 + "f" * 8),
    ],
)
def test_a_large_folio_that_is_cut_is_unmapped_and_falls_into_its_buddies(
    after, events, shared
):
    assert after(events, facts="folios=0+16")[0] == shared
