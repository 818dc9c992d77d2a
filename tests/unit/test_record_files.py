"""What is inferred of files: sizes, pages that write() made, readahead marks."""

import pytest

from spfreplay.record.cachelog import Change, Cut, Skip
from spfreplay.record.convert import Converter
from spfreplay.record.faults import FOUND, MADE, UNCERTAIN, Beyond, Touched
from spfreplay.record.files import CachePicture, FileEntry, FileTable
from spfreplay.record.marks import Window, mappable
from spfreplay.record.memoryfiles import Look, pages_written
from spfreplay.record.session import Run
from spfreplay.record.sizes import write_sizes
from spfreplay.record.tasks import Mapping, Token
from spfreplay.trace.events import EV_NO_EFFECT
from spfreplay_reference import contract as c

KEY = (0, 7, 11)


def left(t, *pages):
    return [Change(t, 0, 1, page, 1, False) for page in pages]


def fault(t, page, found, mapping=None):
    return Touched(t, 1, mapping, page, found)


@pytest.mark.parametrize(
    ("changes", "touched", "held", "written"),
    [
        # Never touched, and there at the end: written.  Never there: not.
        ([], [], {0, 1, 2}, [{0, 1, 2}]),
        ([], [], set(), [set()]),
        # A read that found the page with its neighbours, one that made it alone.
        ([], [fault(5, 1, FOUND), fault(6, 3, MADE)], {1, 3}, [{1}]),
        # A page was there even if nobody looked at the end.
        ([], [fault(5, 1, FOUND)], set(), [{1}]),
        # A write does not tell; between written pages it was written, too.
        ([], [fault(5, 1, UNCERTAIN)], {0, 1, 2}, [{0, 1, 2}]),
        ([], [fault(5, 3, UNCERTAIN)], {0, 1, 2, 3}, [{0, 1, 2}]),
        ([], [fault(5, 1, MADE)], {0, 1, 2}, [{0, 2}]),
        # Only the first fault of a life counts.
        ([], [fault(5, 1, MADE), fault(6, 1, FOUND)], {1}, [set()]),
        # What was cut off was there before; what came again was written again.
        (left(10, 1, 2), [], {0, 1}, [{0, 1, 2}, {1}]),
        (left(10, 1), [fault(5, 1, MADE)], {1}, [set(), {1}]),
        (left(10, 1), [fault(15, 1, MADE)], {1}, [{1}, set()]),
        (left(10, 1) + left(20, 1), [], set(), [{1}, {1}]),
        # It left only after the look.
        (left(200, 1), [], {1}, [{1}]),
    ],
)
def test_pages_that_write_made_are_told_from_those_of_faults(changes, touched, held, written):
    assert pages_written(changes, touched, Look(100, held)) == written


def test_an_old_file_had_its_pages_before_whoever_touched_them():
    touched = [fault(5, 0, UNCERTAIN), fault(5, 1, MADE)]
    assert pages_written([], touched, Look(100, {0, 1}), old=True) == [{0}]


def sizes(cuts=(), seen=(), beyond=(), full=0x10000):
    """Return (t, bytes) of the sizes written for a file of ``full`` bytes at most."""
    converter = Converter(Run(), FileTable())
    converter.files.entries.append(FileEntry(0, KEY, kind=c.FILE_SHMEM, size=full))
    converter.files._by_key[KEY] = converter.files.entries[0]
    mapping = Mapping(0, 0x1000, Token())
    mapping.learn(KEY)
    for t, size in cuts:
        converter.cache.cuts.append(Cut(t, 0, 1, size, None, mapping.token))
    for t, page in seen:
        converter.faults.touched.append(fault(t, page, FOUND, mapping))
    for t, page in beyond:
        row = converter.rows.emit(t, t, t, 0, 1, 0, c.OP_ACCESS, EV_NO_EFFECT, *[0] * 10)
        converter.faults.beyond.append(Beyond(row, mapping, page))
    write_sizes(converter)
    columns = converter.rows.columns
    flags = {columns.flags[row] for row, _, _ in converter.faults.beyond}
    rows = [row for row in converter.rows.order() if columns.op[row] == c.OP_FILE_SIZE]
    assert flags <= {0}
    return [(columns.t[row], columns.a1[row]) for row in rows]


@pytest.mark.parametrize(
    ("signs", "written"),
    [
        # One size throughout, whatever happened before it was mapped.
        ({"cuts": [(5, 0x10000)]}, []),
        ({"seen": [(5, 3)]}, []),
        # Cut; grown by ftruncate; grown unseen, told by a page.
        ({"cuts": [(5, 0x4000)]}, [(5, 0x4000)]),
        ({"cuts": [(5, 0x4000), (9, 0x8000)]}, [(5, 0x4000), (9, 0x8000)]),
        ({"cuts": [(5, 0x4000)], "seen": [(9, 3)]}, [(5, 0x4000)]),
        ({"cuts": [(5, 0x4000)], "seen": [(9, 4)]}, [(5, 0x4000), (8, 0x10000)]),
        ({"cuts": [(5, 0x3001)], "seen": [(9, 3)]}, [(5, 0x3001)]),
        # An access met the end, where none was known.
        ({"beyond": [(7, 6)]}, [(6, 0x6000)]),
        ({"cuts": [(5, 0x4000)], "beyond": [(7, 6)]}, [(5, 0x4000)]),
        ({"beyond": [(7, 6)], "seen": [(9, 6)]}, [(6, 0x6000), (8, 0x10000)]),
        ({"beyond": [(7, 0x20)]}, []),
    ],
)
def test_sizes_follow_from_calls_and_from_accesses(signs, written):
    assert sizes(**signs) == written


def picture(absent=(), folios=(), marked=(), pages=32):
    return CachePicture(absent, folios, marked, pages)


def came(t, page, pages=1):
    return Change(t, 0, 1, page, pages, True)


def skip(t, page):
    return Skip(t, 0, 1, page)


@pytest.mark.parametrize(
    ("changes", "skips", "windows", "end", "mappable_then"),
    [
        # Read in by the very fault: no mark.
        ([came(9, 3)], [skip(8, 3)], [], picture(), [came(9, 3)]),
        # There since 5, and not mapped around until its own fault at 8.
        ([came(5, 3)], [skip(8, 3)], [], picture(), [came(8, 3)]),
        # There all the time: for fault-around only from 8.
        ([], [skip(8, 3)], [], picture(), [came(8, 3)]),
        ([], [skip(8, 3)], [], picture(folios=((2, 2),)), [came(8, 2, 2)]),
        # Not there at all, as the end tells, and whoever read it in was not seen.
        ([], [skip(8, 3)], [], picture(absent=((3, 1),)), []),
        # The second fault finds it without a mark, but locked for a moment.
        ([came(5, 3)], [skip(8, 3), skip(12, 3)], [], picture(), [came(8, 3)]),
        # A window mapped all its pages before: no mark either.
        ([came(5, 3)], [skip(8, 3)], [Window(6, 0, 15)], picture(), [came(5, 3)]),
        ([came(5, 3)], [skip(8, 3)], [Window(4, 0, 15)], picture(), [came(8, 3)]),
        # It left and came again, with a mark.
        ([*left(6, 3), came(7, 3)], [skip(8, 3)], [], picture(), [*left(6, 3), came(8, 3)]),
        ([*left(9, 3)], [skip(8, 3)], [], picture(absent=((3, 1),)), [came(8, 3), *left(9, 3)]),
        # Still marked at the end: it never was to be mapped.
        ([came(5, 2, 2), came(5, 4)], [], [], picture(marked=((2, 2),)), [came(5, 4)]),
        (left(5, 3), [], [], picture(marked=((3, 1),)), left(5, 3)),
    ],
)
def test_a_page_with_the_readahead_mark_comes_when_it_loses_it(
    changes, skips, windows, end, mappable_then
):
    assert mappable(changes, skips, windows, end) == mappable_then
