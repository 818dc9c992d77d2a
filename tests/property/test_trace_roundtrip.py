"""For every trace: binary, text and binary again are the same bytes."""

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spfreplay.errors import TraceError
from spfreplay.trace.container import open_trace, read_events, write_trace
from spfreplay.trace.events import (
    Checkpoint,
    Event,
    File,
    Header,
    Process,
    Tables,
    Thread,
)
from spfreplay.trace.text import format_trace
from spfreplay_reference.contract import (
    MM_NONE,
    RET_UNKNOWN,
    FileFacts,
    InitialImage,
    KernelProfile,
    Region,
)

LONG = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(-300, 300),
    st.integers(0, 1 << 20).map(lambda n: n << 12),
    st.sampled_from([RET_UNKNOWN, -12, -11, -4000, (1 << 63) - 1]),
)
TIME = st.integers(-(1 << 40), 1 << 40)
COUNT = st.integers(0, (1 << 63) - 1)
TID = st.integers(0, 1 << 22)
MM = st.one_of(st.integers(0, 5), st.integers(0, (1 << 22) - 1), st.just(MM_NONE))
STRING = st.text(st.characters(codec=None, exclude_characters=""), max_size=12)
WORD = st.sampled_from(["", "x", "a b", '"', "#", "\\", "x#y", "é", "\udc80", "\n", "=", " x"])
TEXT = st.one_of(WORD, STRING)
INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
JSON = st.recursive(
    st.none() | st.booleans() | LONG | TEXT | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def runs(draw):
    at, found = 0, []
    for gap, pages in draw(
        st.lists(st.tuples(st.integers(0, 99), st.integers(1, 99)), max_size=3)
    ):
        found.append((at + gap, pages))
        at += gap + pages
    return tuple(found)


@st.composite
def regions(draw, files):
    at, found = 0, []
    for gap, pages in draw(
        st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 99)), max_size=4)
    ):
        start = at + gap * 4096
        at = start + pages * 4096
        flags = draw(st.one_of(st.integers(0, (1 << 63) - 1), st.integers(0, 0xFFF)))
        file = draw(st.integers(-2, files - 1))
        pgoff = draw(st.sampled_from([0, 1, 1 << 51]))
        found.append(Region(start, at, flags, file, pgoff, draw(st.booleans())))
    return tuple(found)


@st.composite
def vpns(draw):
    at, found = 0, []
    for gap in draw(st.lists(st.one_of(st.just(1), st.integers(1, 1 << 30)), max_size=8)):
        at += gap
        found.append(at)
    return found


ADDRESS = st.integers(0, 0x7FFF_FFFF_F000)
PROFILE = st.builds(
    KernelProfile, TEXT, st.integers(1, 512), st.booleans(),
    st.sampled_from(["always", "never"]), st.booleans(), st.integers(0, 2), COUNT, LONG, LONG,
)  # fmt: skip
HEADER = st.builds(
    Header,
    source=TEXT, recorder=TEXT, arch=TEXT, profile=PROFILE,
    command=st.lists(TEXT, max_size=3).map(tuple), t0=TIME, ncpu=st.integers(0, 99),
    pinned_page_cache=st.booleans(), pinned_cpus=st.booleans(),
    cpus=st.lists(
        st.dictionaries(st.sampled_from(["cpu", "events", "x_1"]), COUNT), max_size=2
    ).map(tuple),
    events_enabled=st.lists(TEXT, max_size=2).map(tuple), fault_cap=COUNT, expect=TEXT,
    facts=st.dictionaries(TEXT, JSON, max_size=3),
)  # fmt: skip


@st.composite
def checkpoints(draw, number, files):
    pages = draw(vpns())
    count = len(pages)
    bits = st.one_of(st.integers(0, 0xFFFF), st.just(9))

    def words(code, high, optional=True):
        there = not optional or draw(st.booleans())
        values = draw(st.lists(st.integers(0, high), min_size=count, max_size=count))
        return array(code, values if there else [])

    lines = draw(regions(files))
    names = tuple(draw(TEXT) for _ in lines)
    return Checkpoint(
        number, draw(TIME), draw(TID), draw(MM), draw(st.sampled_from(["exit", "user"])),
        draw(st.integers(0, 9)), lines, names, array("Q", pages),
        array("H", [draw(bits) for _ in pages]), words("Q", (1 << 64) - 1),
        words("Q", (1 << 64) - 1), words("I", (1 << 32) - 1),
        (draw(ADDRESS), draw(ADDRESS)), tuple(draw(LONG) for _ in range(4)),
    )  # fmt: skip


CONTENT = st.one_of(
    st.integers(0, (1 << 48) - 1),
    st.integers(0, 99),
    st.integers(0, 99).map(lambda name: 1 << 46 | name),
    st.tuples(st.integers(0, 3), st.integers(0, 99)).map(
        lambda place: 1 << 47 | place[0] << 31 | place[1]
    ),
)


@st.composite
def initial_images(draw, files):
    image = InitialImage(
        draw(regions(files)),
        tuple((vpn, draw(st.sampled_from([1, 9, 0xFFFF]))) for vpn in draw(vpns())),
        draw(ADDRESS),
        draw(ADDRESS),
    )
    return draw(window_images(image)) if draw(st.booleans()) else image


@st.composite
def window_images(draw, image):
    """Add to ``image`` what exec never leaves."""

    def some(values):
        chosen = [vpn for vpn, _ in image.pages if draw(st.booleans())]
        return tuple((vpn, draw(values)) for vpn in chosen)

    own = [draw(st.integers(-3, 3).filter(bool)) for _ in image.regions]
    anon = [number if r.anon_vma else 0 for number, r in zip(own, image.regions, strict=True)]
    pgoffs = [draw(st.integers(0, 1 << 51)) for _ in image.regions]
    table_numbers = draw(st.lists(st.integers(0, (1 << 26) - 2), unique=True, max_size=3))
    own_pages = [(vpn, 1 << 46 | vpn) for vpn, _ in image.pages]
    return image._replace(
        contents=draw(st.sampled_from([some(CONTENT), tuple(own_pages)])),
        frames=some(st.integers(1, (1 << 52) - 1)),
        tables=tuple(sorted(table_numbers)),
        anon=tuple(anon) if draw(st.booleans()) else (),
        pgoffs=tuple(pgoffs) if draw(st.booleans()) else (),
        def_flags=draw(st.sampled_from([0, 0x2000, 0x82000, 1 << 40])),
    )


@st.composite
def tables(draw):
    count = draw(st.integers(0, 3))
    files = [
        File(
            FileFacts(
                i, draw(st.integers(0, 4)), draw(st.integers(-1, 1 << 50)),
                draw(runs()), draw(runs()),
            ),
            draw(TEXT), draw(st.tuples(COUNT, COUNT)), draw(COUNT), draw(TEXT),
        )
        for i in range(count)
    ]  # fmt: skip
    how = st.sampled_from(["root", "fork", "vfork", "clone-vm"])
    processes = st.builds(Process, TID, st.integers(-1, 1 << 22), TIME, how, TEXT, TEXT)
    threads = st.builds(Thread, TID, TID, TIME, st.one_of(st.just(-1), TIME))
    images = [draw(initial_images(count)) for _ in range(draw(st.integers(0, 2)))]
    return Tables(
        draw(HEADER),
        draw(st.lists(processes, max_size=3)),
        draw(st.lists(threads, max_size=3)),
        files,
        images,
        [draw(checkpoints(i, count)) for i in range(draw(st.integers(0, 2)))],
    )


@st.composite
def events(draw, head):
    clock = 0
    found = []
    for _ in range(draw(st.integers(0, 12))):
        enter = clock + draw(st.one_of(st.just(1000), TIME))
        exit = enter + draw(st.sampled_from([0, 0, 1, 5000]))
        t = draw(st.sampled_from([enter, exit, enter - 7, exit + 7]))
        op = draw(st.integers(1, 26))
        args = [draw(LONG) for _ in range(6)]
        flags = draw(st.one_of(st.just(0), st.integers(0, 0xFFFF)))
        counts = {15: len(head.checkpoints), 18: len(head.files), 19: len(head.files), 17: 4}
        if op in counts:
            if not counts[op]:
                continue
            args[0] = draw(st.integers(0, counts[op] - 1))
        elif op == 2:
            args[4] = draw(st.integers(-2, len(head.files) - 1))
        elif op == 12:
            args[0], args[1] = draw(TID), draw(MM)
        elif op == 13:
            args[0], args[1] = draw(MM), draw(st.integers(-1, len(head.images) - 1))
        elif op == 1 and draw(st.booleans()):
            args[1] = draw(st.integers(0, 63))
        if flags & 0x100:
            args[3] = draw(st.integers(-2, len(head.files) - 1))
            if op in (12, 13):
                flags &= ~0x100
        found.append(
            Event(
                t, enter, exit, draw(st.sampled_from([0, 1, 65535])), draw(TID), draw(MM), op,
                flags, *args, draw(LONG), draw(INT32), draw(INT32), draw(INT32),
            )
        )  # fmt: skip
        clock = exit
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("traces")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_binary_to_text_to_binary_is_the_identity(folder, data):
    head = data.draw(tables())
    rows = data.draw(events(head))
    write_trace(folder / "one.bin", head, rows)
    one = open_trace(folder / "one.bin")
    text = "".join(f"{line}\n" for line in format_trace(one))
    (folder / "one.txt").write_text(text, encoding="utf-8")
    two = open_trace(folder / "one.txt")
    assert (two.tables, list(read_events(two))) == (head, rows)
    write_trace(folder / "two.bin", two.tables, read_events(two))
    assert (folder / "two.bin").read_bytes() == (folder / "one.bin").read_bytes()
    assert [*format_trace(two)] == text.splitlines()


GOOD = """spfreplay text 1
source: synthetic
thread 1 pid=1
file 0 reg size=8192 path="/bin/x y"
image 0 brk=0x9000
  vma 0x1000-0x3000 r-xp file=0 pgoff=1 anon_vma -mayread
  page 0x1000-0x3000 file|exec
image 1 def_flags=locked
  vma 0x1000-0x3000 rw-p anon anon_vma=-2 vm_pgoff=7
  page 0x1000 anon|write content=initial frame=0x9
  page 0x2000 anon content=file:0:3
  table 0x200000
checkpoint 0 mm=mm0 rss=1,2,3,4
  page 0x1000 file pagemap=0x1
exec mm0 image=0 = 0  # a comment
@10us+3.5us!+1us mm0 mmap 0x20000000 16K rw- private|anon = -ENOMEM
T1 kwrite 0x20000000 err=prot around=0:1..2 d_anon=1
at_checkpoint 0
"""


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_text_is_read_or_refused_with_its_place(folder, data):
    text = GOOD
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        end = at + data.draw(st.integers(0, 5))
        text = (
            text[:at] + data.draw(st.one_of(TEXT, st.sampled_from("0x9-=|+@!~:"))) + text[end:]
        )
    path = folder / "bad.txt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        list(read_events(open_trace(path)))
    except TraceError as error:
        assert "\n" not in str(error)


def test_the_text_that_is_damaged_above_is_a_trace(folder):
    (folder / "good.txt").write_text(GOOD)
    trace = open_trace(folder / "good.txt")
    assert (trace.events, len(list(read_events(trace)))) == (4, 4)
