"""Reports, character by character.

A report that changed on purpose is accepted by the command that a failing
test prints; look at the difference before you run it.
"""

import os
from pathlib import Path

import pytest

from spfreplay.diff import (
    DIVERGED,
    MATCH,
    UNKNOWN,
    Differences,
    DiffOptions,
    DiffResult,
    Divergence,
    MappingRow,
    MismatchRow,
    NumberedEvent,
    Numbers,
    OutcomeRow,
    PageDifference,
    ReasonRow,
    RegionDifference,
    ResultDifference,
    RssDifference,
)  # fmt: skip
from spfreplay.report import as_json, text, text_verify
from spfreplay.trace.events import Event
from spfreplay.verify import CheckpointResult, PageMiss, RegionMiss, VerifyResult
from spfreplay.windows import WindowStats
from spfreplay_reference import contract as c
from spfreplay_reference.contract import Region

EXPECTED = Path(__file__).parent / "expected"
FILES = ("/usr/bin/stress", "/usr/lib/x86_64-linux-gnu/libc.so.6")
AREA = 0x7F12_3450_0000


def event(number, op, *arguments, mm=0, tid=4242, cpu=1, ret=0):
    slots = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    t = number * 1_000_003
    return NumberedEvent(number, Event(t, t, t + 9, cpu, tid, mm, op, 0, *slots, ret))


NUMBERS = Numbers(
    events=17611,
    recorded_faults=16004,
    needed_faults=15998,
    speculative_faults=14012,
    speculative_signals=12,
    calls=1607,
    outcomes=(
        OutcomeRow("no fault needed", 6, 6), OutcomeRow("zero page", 7000, 7000),
        OutcomeRow("anonymous page", 8998, 8998), OutcomeRow("call ok", 1600, 1600),
        OutcomeRow("call failed", 7, 7),
    ),
    reasons=(
        ReasonRow("spf_vma_notsup: anon_vma", 1500), ReasonRow("spf_vma_notsup: vm_ops", 480),
        ReasonRow("spf_vma_changed: step 16 recheck", 6),
    ),
    skipped=(OutcomeRow("fault without effect (signal or retry)", 3, 3),),
    mappings=(
        MappingRow("anonymous", 15000, 14000, "spf_vma_notsup: anon_vma", 1000),
        MappingRow(FILES[1], 480, 0, "spf_vma_notsup: vm_ops", 480),
        MappingRow("[heap]", 518, 12, "spf_vma_notsup: anon_vma", 500),
    ),
    images_compared=4,
    pages_compared=12000,
)  # fmt: skip
WINDOWS = WindowStats(
    17611, 17000, ((1, 16800), (2, 120), (3, 40), (4, 30), (9, 9), (130, 1)), 9021,
    tuple(range(5000, 5012)),
)  # fmt: skip
RESULT = DiffResult(
    path="stress.bin",
    sha256="0123456789abcdef" * 4,
    command=("./stress", "4", "400"),
    options=DiffOptions(),
    verdict=MATCH,
    scope="recorded",
    numbers=NUMBERS,
    windows=WINDOWS,
    health="B",
    findings=("15,000 ends of faults are estimates (99 % of the faults)",),
    files=FILES,
)


def page(mm, vpn, locked, speculative, since, touched=(), before=0):
    return PageDifference(mm, vpn, locked, speculative, since, touched, before)


def diverged():
    vpn = AREA >> 12
    mprotect = event(611, c.OP_MPROTECT, AREA, 0x4000, c.PROT_READ)
    fork = event(700, c.OP_FORK, 4300, 1, 0)
    felt = event(702, c.OP_ACCESS, AREA, c.X86_PF_WRITE | c.X86_PF_USER, tid=4243, cpu=0)
    store = event(
        600, c.OP_MMAP, 0, 0x8000, 3, c.MAP_PRIVATE | c.MAP_ANONYMOUS, c.FILE_ANON, 0, ret=AREA
    )
    word = c.KIND_ANON | c.PG_DIRTY | c.PG_SHARED | 602 << c.CONTENT_SHIFT
    text_page = c.KIND_FILE | c.PG_EXEC | (c.CONTENT_FILE | 1 << 31 | 17) << c.CONTENT_SHIFT
    region = Region(AREA, AREA + 0x8000, 0x100073, c.FILE_ANON, 0, True)
    return Divergence(
        fork,
        Differences(
            pages=(
                page(0, vpn, word, word | c.PG_WRITE, 700, (store, mprotect, fork), 3),
                page(1, vpn, word, word | c.PG_WRITE, 700, (fork,)),
                page(1, vpn + 9, text_page, 0, 701),
            ),
            regions=(
                RegionDifference(1, AREA, region, region._replace(flags=0x73), 700),
                RegionDifference(1, AREA + 0x8000, None, region, 700),
            ),
            rss=(RssDifference(1, "MM_ANONPAGES", 12, 11, 700),),
            page_count=30,
            region_count=2,
        ),
        ResultDifference(
            702,
            c.OUT_COPY | (c.KIND_ANON | c.PG_WRITE | c.PG_DIRTY) << 16,
            c.OUT_NONE | (c.KIND_ANON | c.PG_WRITE | c.PG_DIRTY) << 16,
        ),
        felt,
        differing_results=41,
    )


def with_mismatches():
    refused = event(90, c.OP_MADVISE, AREA, 0x2000, c.MADV_DONTNEED)
    moved = event(95, c.OP_MREMAP, AREA, 0x1000, 0x2000, 1, 0, ret=AREA + 0x9000)
    return DiffResult(
        path="odd.bin", sha256="f" * 64, command=(),
        options=DiffOptions(
            file_faults=True, speculate_single_threaded=True, pid=77, pages=(0x7F1, 0x7FF),
            first=50, require="complete",
        ),
        verdict=UNKNOWN, scope="complete", caps=("the trace is unhealthy: D",),
        numbers=Numbers(events=120, recorded_faults=100),
        windows=WindowStats(120, 120, ((1, 120),), 0, (), 500),
        mismatches=(MismatchRow(refused, -12), MismatchRow(moved, AREA + 0x8000)),
        mismatch_count=2, speculative_mismatch_count=3, health="D",
        findings=("7 events were lost on CPU 1",), expect="DIVERGED at page 7f12345",
        files=FILES,
    )  # fmt: skip


def verified():
    good = CheckpointResult("locked", 0, 3, 4242, 0, "exec", present=4, exact=4)
    bad = CheckpointResult(
        "spf-v11", 1, 17610, 4242, 0, "exit",
        present=732, exact=728, missing=2, extra=1, kind=1,
        unknown_populations=2, causes=(("unknown population (GUP)", 2), ("unexplained", 2)),
        pages=(
            PageMiss(0x7F12345, c.KIND_ANON, 0, "unknown population (GUP)"),
            PageMiss(0x7F12349, c.KIND_ANON | c.PG_SHARED, c.KIND_ZERO, "unexplained"),
        ),
        region_misses=1,
        regions=(
            RegionMiss(
                Region(AREA, AREA + 0x8000, 0x100073, c.FILE_ANON, 0, True),
                Region(AREA, AREA + 0x8000, 0x73, c.FILE_ANON, 0, True),
            ),
        ),
    )  # fmt: skip
    gone = CheckpointResult("spf-v11", 2, 17620, 4300, 1, "exit", known=False)
    return VerifyResult(
        "stress.bin", "0" * 64, ("./stress",), 17611, (good, bad, gone), (("locked", 2),),
        files=FILES,
    )  # fmt: skip


def replaced(**more):
    from dataclasses import replace

    return replace(RESULT, **more)


REPORTS = {
    "diff-match.txt": lambda: text.render(RESULT),
    "diff-diverged.txt": lambda: text.render(replaced(verdict=DIVERGED, divergence=diverged())),
    "diff-unknown.txt": lambda: text.render(with_mismatches()),
    "diff-diverged.json": lambda: as_json.diff(
        [replaced(verdict=DIVERGED, divergence=diverged())]
    ),
    "verify.txt": lambda: text_verify.render(verified()),
    "verify.json": lambda: as_json.verify([verified()]),
}


@pytest.mark.parametrize("name", REPORTS)
def test_report_is_as_accepted(name):
    found, path = REPORTS[name](), EXPECTED / name
    if os.environ.get("ACCEPT"):
        path.write_text(found)
    accept = f"ACCEPT=1 .venv/bin/pytest 'tests/golden/test_reports.py' -k '{name}'"
    assert path.exists(), f"no accepted report yet; accept it with: {accept}"
    assert found == path.read_text(), f"if the change is wanted: {accept}"


@pytest.mark.parametrize("name", [name for name in REPORTS if name.endswith(".txt")])
def test_text_fits_80_columns_in_ascii(name):
    lines = REPORTS[name]().splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.isascii() and line == line.rstrip() for line in lines)


def test_a_changed_report_is_noticed(monkeypatch):
    monkeypatch.delenv("ACCEPT", raising=False)
    monkeypatch.setattr(text, "RULE", "#" * 80)
    with pytest.raises(AssertionError):
        test_report_is_as_accepted("diff-diverged.txt")
