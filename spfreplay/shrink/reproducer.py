"""A C program that tries to make the running kernel show what a shrunk trace shows.

It builds the memory that the window begins with, lets threads meet, delays them at
the two operations whose steps decide, and looks at results and pages: round after
round.  What it sees is held against all outcomes of the locked kernel.  It cannot
see what user space cannot see (a freed object that was used, a counter), and says
so; on a kernel without the defect it sees nothing illegal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any, Final

from spfreplay.engines.case import CannotCut, Case
from spfreplay.engines.cut_at import case_at
from spfreplay.engines.judge import ALL_RELAXATIONS, legal_of
from spfreplay.engines.narrate import named
from spfreplay.engines.tell import Teller
from spfreplay.engines.window import Operation, Window
from spfreplay.explore.schedule import read_runs
from spfreplay.one_window import WindowOptions, find
from spfreplay.shrink.c_calls import UNJUDGED, CannotReproduce, call
from spfreplay.shrink.c_memory import Memory, Values
from spfreplay.shrink.regression import Claim
from spfreplay.trace.container import Trace
from spfreplay_reference import contract as c

#: pages that are looked at; legal outcomes that a program can hold
_MOST_PAGES: Final = 32
_MOST_LEGAL: Final = 4096
#: bytes below one entry of the uppermost page table
_TOP: Final = 1 << 39
#: pages of a file that get contents
_MOST_FILE: Final = 4096
#: outcomes that user space may notice; of the others only the kernel's log tells
_VISIBLE: Final = frozenset(
    {"STATE", "MISSED_COW", "LIVELOCK", "DEADLOCK", "FALSE_SIGSEGV", "FALSE_SIGBUS", "RECORDED"}
)
_REFUSED: Final = {
    -c.OUT_SEGV_MAPERR: "MAPERR",
    -c.OUT_SEGV_ACCERR: "ACCERR",
    -c.OUT_SIGBUS: "BUSERR",
}


def reproducer(trace: Trace, made: Claim) -> str:
    """Return the program.

    :raises CannotReproduce: the trace does what no program can do
    """
    return _Program(_case(trace, made), made).text()


def _case(trace: Trace, made: Claim) -> Case:
    """Return the window of the claim; the last event where it has none."""
    if made.window:
        return find(trace, made.window, WindowOptions(made.engine))[1]
    try:
        return case_at(trace, trace.events - 1, made.engine)
    except CannotCut as reason:
        raise CannotReproduce(str(reason)) from None


class _Program:
    """Writes the parts of the program."""

    def __init__(self, case: Case, made: Claim) -> None:
        prelude = [case.prelude.event(n) for n in range(len(case.prelude))]
        made_spaces = {event.a0 for event in prelude if event.op == c.OP_EXEC}
        made_spaces |= {event.a1 for event in prelude if event.op == c.OP_FORK}
        if len(made_spaces) != 1:
            raise CannotReproduce("more than one address space")
        self.case = _any_result(case)
        self.made = made
        self.operations = case.window.operations
        self.mm = self.operations[0].mm
        self.files = [file.facts for file in case.tables.files]
        if any(file.kind not in (c.FILE_REG, c.FILE_SHMEM) for file in self.files):
            raise CannotReproduce("a file that is no ordinary one")
        self.prelude = prelude
        self.values = Values({*range(len(prelude)), *(each.stamp for each in self.operations)})
        self.memory = Memory(case.tables.images[0], self.values)
        self.teller = Teller(self.case, made.engine)
        legal = legal_of(self.case.window, self.case.kernels(made.engine)[1], ALL_RELAXATIONS)
        if not legal.complete:
            raise CannotReproduce("not all that is legal is known")
        self.legal: list[Any] = list(legal.outcomes)
        if not 0 < len(self.legal) <= _MOST_LEGAL:
            raise CannotReproduce(f"{len(self.legal)} legal outcomes")
        self.pages = self._pages()

    def text(self) -> str:
        """Return the program."""
        parts = [
            self._comment(),
            _same("includes"),
            self._numbers(),
            _same("tools"),
            self._prepared(),
            *self._threads(),
            _same("main"),
        ]
        return "\n".join(part.rstrip("\n") + "\n" for part in parts)

    # -- what it is -----------------------------------------------------------

    def _comment(self) -> str:
        made = self.made
        signature = made.signature
        lines = [f"{signature.outcome}: {signature.kind}"]
        lines += [("before " if n else "") + step for n, step in enumerate(signature.steps)]
        lines += [
            f"under {made.engine.protocol}, {made.switches} switches of CPU.",
            "",
            "Build with gcc -O2 -pthread, run as ./a.out [rounds [seconds]].  Exits 1 if an",
            "outcome was seen that no kernel with mmap_sem held could have left, else 0; a",
            "kernel without the defect shows nothing, and a short run proves nothing.",
        ]
        if signature.outcome not in _VISIBLE:
            lines += [
                "",
                "User space may not notice this one: look at the kernel's log, with KASAN",
                "and CONFIG_DEBUG_VM if you can.",
            ]
        if self.memory.missing:
            lines += ["", "Not as in the trace:", *(f"  {m}" for m in self.memory.missing)]
        return "\n".join(["/*", *(f" * {line}".rstrip() for line in lines), " */"])

    # -- tables ---------------------------------------------------------------

    def _numbers(self) -> str:
        first, end = self._span()
        names = ", ".join(f'"T{each.tid} {named(each)}"' for each in self.operations)
        critical = self._critical()
        huge = int(any(each.op == c.OP_COLLAPSE for each in self.operations))
        lines = [
            "enum {",
            f"\tTHREADS = {len(self.case.window.tids)},",
            f"\tOPERATIONS = {len(self.operations)},",
            f"\tPAGES = {max(1, len(self.pages))},",
            f"\tLEGAL = {len(self.legal)},",
            f"\tHUGE_PAGES = {huge},",
            "};",
            "",
            f"#define FIRST {first:#x}ul",
            f"#define SPAN {end - first:#x}ul",
            "",
            f"static const char *const names[OPERATIONS] = {{ {names} }};",
            "/* The operations whose steps decide are delayed. */",
            f"static const bool critical[OPERATIONS] = {{ {critical} }};",
            "/* Where we look afterwards. */",
            f"static const uintptr_t pages[PAGES] = {{ {self._addresses()} }};",
        ]
        return "\n".join(lines)

    def _span(self) -> tuple[int, int]:
        """Return all addresses from the last border of an uppermost entry on.

        :raises CannotReproduce: they lie too far apart
        """
        image = self.case.tables.images[0]
        found = [addr for region in image.regions for addr in (region.start, region.end)]
        for each in self.operations:
            a0, a1, a2, _, a4, _ = each.args
            if each.op == c.OP_ACCESS:
                found += [a0, a0 + c.PAGE_SIZE]
            elif each.op == c.OP_COLLAPSE:
                found += [a0 & -(1 << 21), (a0 & -(1 << 21)) + (1 << 21)]
            elif each.op == c.OP_SWAP_OUT:
                found += [a0, a0 + c.PAGE_SIZE]
            elif each.op == c.OP_MREMAP:
                found += [a0, a0 + a1]
                for there in (a4, each.ret):
                    found += [there, there + a2] if there > 0 else []
            elif each.op == c.OP_MMAP:
                where = each.ret if each.ret > 0 else a0
                found += [where, where + a1]
            elif a1:
                found += [a0, a0 + a1]
        first, end = min(found) & -_TOP, -(-max(found) // c.PAGE_SIZE) * c.PAGE_SIZE
        if end - first > _TOP:
            raise CannotReproduce("addresses too far apart")
        return first, end

    def _critical(self) -> str:
        chosen = set(range(len(self.operations)))
        if self.made.window:
            steps = self.teller.tell(read_runs(self.made.order), everything=True)[0]
            begun: dict[int, int] = {}
            where: dict[int, int] = {}
            for step in steps.steps:
                if step.kind == "begin":
                    begun[step.thread] = begun.get(step.thread, -1) + 1
                if step.thread < len(self.case.window.threads):
                    mine = self.case.window.threads[step.thread]
                    where[step.number] = mine[begun.get(step.thread, 0)]
            pair = {where[n] for n in steps.decisive or () if n in where}
            chosen = pair or chosen
        return ", ".join(str(n in chosen).lower() for n in range(len(self.operations)))

    def _pages(self) -> list[int]:
        """Return the pages that are looked at; not those of files: they come by themselves."""
        words: dict[int, set[int]] = {}
        for outcome in self.legal:
            for vpn, word in self._image(outcome).items():
                words.setdefault(vpn, set()).add(word & c.KIND_MASK)
        for each in self.operations:
            if each.op == c.OP_ACCESS:
                words.setdefault(each.args[0] >> c.PAGE_SHIFT, set())
        anonymous = (vpn for vpn, kinds in words.items() if c.KIND_FILE not in kinds)
        return sorted(anonymous)[:_MOST_PAGES]

    def _image(self, outcome: Any) -> dict[int, int]:
        _, images = outcome
        return next((dict(image.pages) for image in images if image.mm == self.mm), {})

    def _addresses(self) -> str:
        return ", ".join(f"{vpn << c.PAGE_SHIFT:#x}" for vpn in self.pages) or "0"

    # -- what is legal, what is there -------------------------------------------

    def _prepared(self) -> str:
        rows = [self._legal_row(outcome) for outcome in self.legal]
        lines = [
            "/* What the locked kernel can come to: results, then pages. */",
            "static const long legal_results[LEGAL][OPERATIONS] = {",
            *(f"\t{{ {', '.join(results)} }}," for results, _ in rows),
            "};",
            "static const long legal_pages[LEGAL][PAGES] = {",
            *(f"\t{{ {', '.join(pages) or '0'} }}," for _, pages in rows),
            "};",
            "",
            *self._files(),
            "",
            "/* The memory that it begins with. */",
            "static void set_up(void)",
            "{",
            *(f"\t{line}" for line in self.memory.lines),
            *(f'\tmust({call(each, each.stamp + 1)}, "set up");' for each in self._spoken()),
            "}",
        ]
        return "\n".join(lines)

    def _legal_row(self, outcome: Any) -> tuple[list[str], list[str]]:
        results, _ = outcome
        told = [
            self._result(each, value)
            for each, value in zip(self.operations, results, strict=True)
        ]
        image = self._image(outcome)
        return told, [self._page(image.get(vpn, 0)) for vpn in self.pages]

    def _result(self, each: Operation, value: int | None) -> str:
        if value is None or each.op in UNJUDGED:
            return "ANYTHING"
        if each.op != c.OP_ACCESS:
            return str(value) if value < 4096 else f"{value:#x}"
        if value < 0:
            return _REFUSED.get(value, "ANYTHING")
        return "0" if each.args[1] & c.X86_PF_WRITE else f"{self.values.of(value):#x}"

    def _page(self, word: int) -> str:
        kind = word & c.KIND_MASK
        if kind == c.KIND_NONE:
            return "ABSENT"
        if kind == c.KIND_SWAP:
            return "ANYTHING"
        return "0" if kind == c.KIND_ZERO else f"{self.values.of(word >> c.CONTENT_SHIFT):#x}"

    def _spoken(self) -> Iterator[Operation]:
        """Yield the calls that complete the memory."""
        for n, event in enumerate(self.prelude):
            if event.op not in (c.OP_EXEC, c.OP_FORK):
                arguments = (event.a0, event.a1, event.a2, event.a3, event.a4, event.a5)
                yield Operation(event.tid, 0, 0, event.op, event.mm, arguments, n, event.ret)

    def _files(self) -> Iterator[str]:
        for file in self.files:
            yield f"static int file_{file.id};"
        yield "static void open_files(void)"
        yield "{"
        for file in self.files:
            indexes = sorted(self._indexes(file.id))
            size = self._size(file, indexes)
            yield f'\tfile_{file.id} = memfd_create("file {file.id}", 0);'
            yield f'\tmust(file_{file.id} < 0 ? -errno : 0, "memfd_create");'
            yield f'\tmust(called(ftruncate(file_{file.id}, {size})), "ftruncate");'
            for index in indexes[:_MOST_FILE]:
                if index << c.PAGE_SHIFT < size:
                    value = self.values.in_file(file.id, index)
                    yield (
                        f"\tmust(called(pwrite(file_{file.id}, &(int){{ {value:#x} }},"
                        f' sizeof(int), {index << c.PAGE_SHIFT:#x})), "pwrite");'
                    )
        yield "}"

    @staticmethod
    def _size(file: c.FileFacts, indexes: Sequence[int]) -> int:
        """Return the bytes of a file; where they are not known, all that is mapped."""
        if file.size >= 0:
            return file.size
        return indexes[-1] + 1 << c.PAGE_SHIFT if indexes else 0

    def _indexes(self, file: int) -> set[int]:
        """Return the pages of a file that are mapped."""
        found: set[int] = set()
        for region in self.case.tables.images[0].regions:
            if region.file == file:
                pages = region.end - region.start >> c.PAGE_SHIFT
                found.update(range(region.pgoff, region.pgoff + min(pages, _MOST_FILE)))
        for each in self.operations:
            if each.op == c.OP_MMAP and each.args[4] == file:
                pages = -(-each.args[1] // c.PAGE_SIZE)
                found.update(range(each.args[5], each.args[5] + min(pages, _MOST_FILE)))
        return found

    # -- threads --------------------------------------------------------------

    def _threads(self) -> Iterator[str]:
        window = self.case.window
        for tid, mine in zip(window.tids, window.threads, strict=True):
            yield "\n".join(self._thread(tid, mine))
        bodies = ", ".join(f"thread_{tid}" for tid in window.tids)
        yield f"static void *(*const bodies[THREADS])(void *) = {{ {bodies} }};"

    def _thread(self, tid: int, mine: Sequence[int]) -> Iterator[str]:
        yield f"static void *thread_{tid}(void *unused)"
        yield "{"
        yield "\t(void)unused;"
        yield "\tfor (;;) {"
        yield "\t\tmeet();"
        yield "\t\tif (atomic_load(&over))"
        yield "\t\t\treturn NULL;"
        for n in mine:
            for earlier in self.case.window.before[n]:
                yield f"\t\twait_for({earlier});"
            each = self.operations[n]
            yield f"\t\tpause_before({n});"
            yield f"\t\tfinish({n}, {call(each, each.stamp + 1)});"
        yield "\t\tmeet();"
        yield "\t}"
        yield "}"


def _same(part: str) -> str:
    """Return a part of the program that is the same in all."""
    return (resources.files("spfreplay.shrink") / f"reproducer_{part}.c").read_text()


def _any_result(case: Case) -> Case:
    """Return the case without the results of calls, which on another kernel may be others."""
    keeps = (c.OP_MMAP, c.OP_MREMAP, c.OP_BRK)
    operations = [
        each if each.op in keeps else each._replace(ret=c.RET_UNKNOWN)
        for each in case.window.operations
    ]
    return Case(case.tables, case.prelude, Window(operations), case.approximations)
