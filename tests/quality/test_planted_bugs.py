"""A bug planted in either engine is reported at the right event and page.

Each engine is broken in one function, in memory; the diff of a small program
must name the first event after which the engines are not equal, and a page, a
mapping, a counter or an answer that the bug damages.
"""

import sys
from array import array

import pytest

from spfreplay.diff import DIVERGED, MATCH, DiffOptions
from spfreplay.engines import Player
from spfreplay.mm.build import build
from spfreplay.pipeline import both_engines, diff_trace
from spfreplay.trace.container import open_trace, write_trace
from spfreplay.trace.events import Event, File, Process, Tables, Thread
from spfreplay_reference import contract as c
from spfreplay_reference.contract import FileFacts, InitialImage, Region

PAGE = 4096
FILE = 0x40_0000  # 32 pages of file 0
HEAP = 0x5555_0000_0000
AREA = 0x7F00_0000_0000  # 16 pages
MOVED = 0x7F10_0000_0000
STACK = 0x7FFD_0000_0000
EINVAL = -22

RW = c.VM_READ | c.VM_WRITE
MAY = c.VM_MAYREAD | c.VM_MAYWRITE | c.VM_MAYEXEC
WRITE = c.X86_PF_USER | c.X86_PF_WRITE
READ = c.X86_PF_USER
FIXED = c.MREMAP_MAYMOVE | c.MREMAP_FIXED
PRIVATE = c.MAP_PRIVATE | c.MAP_ANONYMOUS

IMAGE = InitialImage(
    (
        Region(FILE, FILE + 32 * PAGE, c.VM_READ | MAY, 0, 0, False),
        Region(STACK, STACK + 4 * PAGE, RW | MAY | c.VM_GROWSDOWN | c.VM_ACCOUNT, -1, 0, True),
    ),
    ((STACK // PAGE + 3, c.KIND_ANON | c.PG_WRITE | c.PG_DIRTY),),
    HEAP,
    HEAP,
)


def touch(base, page, code=WRITE, mm=1, tid=100):
    return (c.OP_ACCESS, mm, tid, (base + page * PAGE, code), c.RET_UNKNOWN)


def call(op, *arguments, ret=0, mm=1, tid=100):
    return (op, mm, tid, arguments, ret)


#: A ruler of the area:   0123456789abcdef
#:   written              ww.............. then read, written on
PROGRAM = [
    call(c.OP_EXEC, 1, 0, mm=c.MM_NONE),  # 0
    call(c.OP_FORK, 101, 1, c.CLONE_VM, ret=101),  # 1: a second thread
    call(c.OP_MMAP, AREA, 16 * PAGE, 3, PRIVATE, -1, 0, ret=AREA),  # 2
    touch(AREA, 0),  # 3: the first, under mmap_sem
    touch(AREA, 1),  # 4: speculative from here on
    touch(AREA, 2, READ),  # 5: zero page
    touch(AREA, 2),  # 6: copied
    touch(FILE, 5, READ),  # 7: fault-around
    call(c.OP_MPROTECT, AREA + PAGE, 5 * PAGE, 1),  # 8
    touch(AREA, 4, READ),  # 9
    touch(AREA, 1),  # 10: SIGSEGV
    call(c.OP_MPROTECT, AREA + PAGE, 5 * PAGE, 3),  # 11
    touch(AREA, 4),  # 12
    call(c.OP_MADVISE, AREA + PAGE, PAGE, c.MADV_DONTNEED),  # 13
    touch(AREA, 1, READ),  # 14
    call(c.OP_BRK, HEAP + 4 * PAGE, ret=HEAP + 4 * PAGE),  # 15
    touch(HEAP, 0),  # 16
    call(c.OP_FORK, 200, 2, 0, ret=200),  # 17
    touch(AREA, 0),  # 18: copied by the parent
    touch(AREA, 0, mm=2, tid=200),  # 19: reused by the child
    touch(FILE, 5, READ, mm=2, tid=200),  # 20
    call(c.OP_MUNMAP, AREA, PAGE, mm=2, tid=200),  # 21
    touch(AREA, 9),  # 22
    call(c.OP_MREMAP, AREA + 8 * PAGE, 8 * PAGE, 16 * PAGE, FIXED, MOVED, ret=MOVED),  # 23
    touch(STACK, -1),  # 24: the stack grows
    call(c.OP_MADVISE, AREA, PAGE, c.MADV_FREE),  # 25
    call(c.OP_MUNMAP, AREA + 5, PAGE, ret=EINVAL),  # 26
    call(c.OP_MLOCK, AREA + 2 * PAGE, 2 * PAGE, 0),  # 27
    call(c.OP_EXIT, 1, mm=2, tid=200),  # 28
    call(c.OP_EXIT, 0, tid=101),  # 29
    call(c.OP_EXIT, 1),  # 30
]


def make_trace(path):
    tables = Tables(
        processes=[Process(100, 1, 0, "root"), Process(200, 100, 170, "fork")],
        threads=[Thread(100, 100, 0), Thread(101, 100, 10), Thread(200, 200, 170)],
        files=[File(FileFacts(0, c.FILE_REG, 64 * PAGE), "/usr/bin/program")],
        images=[IMAGE],
    )
    events = [
        Event(
            10 * n, 10 * n, 10 * n + 5, 0, tid, mm, op, 0, *(*arguments, 0, 0, 0, 0, 0)[:6], ret
        )
        for n, (op, mm, tid, arguments, ret) in enumerate(PROGRAM)
    ]
    write_trace(path, tables, events)
    return open_trace(path)


@pytest.fixture
def trace(tmp_path):
    return make_trace(tmp_path / "program.bin")


def plant_mm(monkeypatch, name, make):
    """Replace a function of the speculative engine for all its callers."""
    functions = build("spf-v11", "straight").functions()
    monkeypatch.setitem(functions["access"].__globals__, name, make(functions[name]))


def plant_reference(monkeypatch, name, make):
    """Replace a function (or ``Class.method``) of the locked engine wherever it is used."""
    both_engines_imported()
    modules = [
        module
        for path, module in sys.modules.items()
        if path.startswith("spfreplay_reference.") and not path.endswith("contract")
    ]
    where, _, method = name.partition(".")
    if method:
        owner = next(vars(module)[where] for module in modules if where in vars(module))
        monkeypatch.setattr(owner, method, make(vars(owner)[method]))
        return
    found = [module for module in modules if where in vars(module)]
    assert found, f"the reference has no function {name}"
    for module in found:
        monkeypatch.setattr(module, where, make(vars(module)[where]))


def both_engines_imported():
    import spfreplay_reference.engine  # noqa: F401


def returns(value):
    return lambda original: lambda *arguments, **named: value


def test_without_a_bug_the_program_matches(trace):
    result = diff_trace(trace, DiffOptions(explore=False))
    assert (result.verdict, result.mismatch_count, result.exit_code) == (MATCH, 0, 0)
    assert (result.numbers.speculative_faults, result.numbers.needed_faults) == (9, 15)


def shared_copy(original):
    """fork without write protection: parent and child write one page."""

    def copy_pte_range(dst_mm, src_mm, dst_table, src_table, slot, last, is_cow):
        return original(dst_mm, src_mm, dst_table, src_table, slot, last, False)

    return copy_pte_range


def wrong_errno(original):
    def do_munmap(*arguments):
        value = original(*arguments)
        return -12 if value == EINVAL else value

    return do_munmap


def fewer_pages(original):
    def around_window(*arguments):
        first, last = original(*arguments)
        return first, last - 1

    return around_window


def no_content(original):
    def store(mm, vpn, bits, stamp):
        return original(mm, vpn, bits, 0)

    return store


def swapped_pages(original):
    """fork gives the child's pages of one area in the wrong order."""

    def copy(parent, child, start, end):
        original(parent, child, start, end)
        first = AREA // PAGE
        if start == AREA:
            frames = child.frames
            frames[first], frames[first + 2] = frames[first + 2], frames[first]

    return copy


def lost_count(original):
    def copy(parent, child, start, end):
        original(parent, child, start, end)
        child.rss[c.MM_ANONPAGES] -= start == AREA

    return copy


def no_account(original):
    def grow(mm, old, new):
        original(mm, old, new)
        area = mm.space.at(old)
        area.flags &= ~c.VM_ACCOUNT

    return grow


# planter, function, bug, event, and what must be named: (mm, page) or a word
BUGS = [
    (plant_mm, "copy_pte_range", shared_copy, 17, (1, AREA)),
    (plant_mm, "copy_page_range", returns(0), 17, (2, AREA)),
    (plant_mm, "zap_pte_range", returns(None), 13, (1, AREA + PAGE)),
    (plant_mm, "change_protection", returns(0), 8, (1, AREA + PAGE)),
    (plant_mm, "move_page_tables", returns(8 * PAGE), 23, (1, MOVED + PAGE)),
    (plant_mm, "expand_stack", returns(-12), 24, (1, STACK - PAGE)),
    (plant_mm, "do_fault_around", returns(0), 7, (1, FILE + 6 * PAGE)),
    (plant_mm, "add_file_rss", returns(None), 7, "rss"),
    (plant_mm, "madvise_free_page_range", returns(None), 25, (1, AREA)),
    (plant_mm, "vma_merge", returns(None), 11, "mapping"),
    (plant_mm, "do_munmap", wrong_errno, 26, "answer"),
    (plant_reference, "Mm.zap", returns(None), 13, (1, AREA + PAGE)),
    (plant_reference, "_copies_pages", returns(True), 17, (2, FILE)),
    (plant_reference, "_change_rights", returns(None), 8, (1, AREA + PAGE)),
    (plant_reference, "around_window", fewer_pages, 7, (1, FILE + 15 * PAGE)),
    (plant_reference, "_move_pages", returns(None), 23, (1, MOVED + PAGE)),
    (plant_reference, "_grown_stack", returns(None), 24, (1, STACK - PAGE)),
    (plant_reference, "_lazy_free", returns(None), 25, (1, AREA)),
    (plant_reference, "_store", no_content, 3, (1, AREA)),
    (plant_reference, "_joins", returns(False), 11, "mapping"),
    (plant_reference, "copy_pages", swapped_pages, 17, (2, AREA)),
    (plant_reference, "copy_pages", lost_count, 17, "rss"),
    (plant_reference, "_grow_heap", no_account, 15, "mapping"),
    (plant_reference, "munmap", returns(0), 21, (2, AREA)),
]


@pytest.mark.parametrize(
    ("plant", "function", "bug", "event", "named"),
    BUGS,
    ids=[f"{plant.__name__[6:]}-{name}-{event}" for plant, name, _, event, _ in BUGS],
)
def test_a_planted_bug_is_reported(trace, monkeypatch, plant, function, bug, event, named):
    plant(monkeypatch, function, bug)
    result = diff_trace(trace, DiffOptions(explore=False))
    assert (result.verdict, result.exit_code) == (DIVERGED, 1)
    found = result.divergence
    assert found.event.number == event
    differences = found.differences
    if isinstance(named, tuple):
        pages = [
            (page.mm, page.vpn * PAGE) for page in differences.pages if page.event == event
        ]
        assert named in pages
    else:
        kinds = {"mapping": differences.regions, "rss": differences.rss, "answer": found.result}
        assert kinds[named]


@pytest.mark.parametrize("at", [3, 12, 22])
@pytest.mark.parametrize("side", [0, 1])
def test_damage_by_a_foreign_hand_is_dated(trace, at, side):
    """A page goes wrong behind the engine's back, long before anyone looks."""

    def broken(trace, options):
        pair = both_engines(trace, options)
        player = pair[side]
        player.engine = Damaged(player.engine, at)
        return pair

    result = diff_trace(trace, make_pair=broken)
    assert result.divergence.event.number == at
    pages = [(page.mm, page.vpn * PAGE) for page in result.divergence.differences.pages]
    assert pages == [(1, STACK + 3 * PAGE)]


class Damaged:
    """An engine that tells one page wrongly from one event on."""

    def __init__(self, engine, at):
        self._engine, self._at, self._bad = engine, at, False

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def access(self, stamp, *arguments):
        self._bad |= stamp == self._at
        return self._engine.access(stamp, *arguments)

    def page(self, mm, vpn):
        word = self._engine.page(mm, vpn)
        return word ^ c.PG_DIRTY if self._hit(mm, vpn) else word

    def image(self, mm):
        image = self._engine.image(mm)
        words = [
            word ^ c.PG_DIRTY if self._hit(mm, vpn) else word
            for vpn, word in zip(image.vpns, image.words, strict=True)
        ]
        return image._replace(words=array(image.words.typecode, words))

    def _hit(self, mm, vpn):
        return self._bad and (mm, vpn) == (1, STACK // PAGE + 3)


def test_players_of_a_pair_do_not_share_an_engine(trace):
    pair = both_engines(trace, DiffOptions())
    assert isinstance(pair[0], Player)
    assert pair[0].engine is not pair[1].engine
