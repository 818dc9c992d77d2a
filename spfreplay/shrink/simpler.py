"""What an event or an image could be instead: one thing less each time.

Every function yields candidates from the boldest to the most timid.  Whether
one still shows what it should is somebody else's question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from spfreplay.shrink.draft import Draft, blocks, laid_out, overlapping, squeezed
from spfreplay.trace.events import Event, File, Header, Process, Tables, Thread
from spfreplay_reference.contract import (
    CONTENT_FILE,
    CONTENT_INITIAL,
    FILE_ANON,
    MAP_FIXED,
    MREMAP_FIXED,
    OP_ACCESS,
    OP_CACHE_ADD,
    OP_CACHE_DEL,
    OP_CHECKPOINT,
    OP_EXEC,
    OP_FILE_SIZE,
    OP_FORK,
    OP_MADVISE,
    OP_MBIND,
    OP_MLOCK,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNLOCK,
    OP_MUNMAP,
    OP_NUMA_HINT,
    OP_UFFD_REGISTER,
    OP_UFFD_UNREGISTER,
    PAGE_SIZE,
    X86_PF_INSTR,
    X86_PF_USER,
    X86_PF_WRITE,
)

_RANGED: Final = frozenset(
    {
        OP_MMAP, OP_MUNMAP, OP_MPROTECT, OP_MADVISE, OP_MLOCK, OP_MUNLOCK, OP_MBIND,
        OP_UFFD_REGISTER, OP_UFFD_UNREGISTER, OP_NUMA_HINT,
    }
)  # fmt: skip
#: operation -> arguments that are sets of bits
_BITS: Final = {
    OP_MMAP: ("a3",),
    OP_MREMAP: ("a3",),
    OP_MLOCK: ("a2",),
    OP_MLOCKALL: ("a0",),
}
_SAYS_WHERE: Final = {OP_MMAP: MAP_FIXED, OP_MREMAP: MREMAP_FIXED}
_OF_FILES: Final = frozenset({OP_CACHE_ADD, OP_CACHE_DEL, OP_FILE_SIZE})
_ACCESS_BITS: Final = X86_PF_USER | X86_PF_WRITE | X86_PF_INSTR


def _with(draft: Draft, n: int, event: Event) -> Draft:
    return Draft(draft.tables, (*draft.events[:n], event, *draft.events[n + 1 :]))


# -- threads and time ---------------------------------------------------------


def fewer_threads(draft: Draft) -> Iterator[Draft]:
    """Let one thread do what another did, too."""
    tids = list(dict.fromkeys(event.tid for event in draft.events))
    spaces = {tid: {e.mm for e in draft.events if e.tid == tid} for tid in tids}
    for gone in reversed(tids[1:]):
        births = [n for n, e in enumerate(draft.events) if e.op == OP_FORK and e.a0 == gone]
        for heir in tids:
            if heir == gone or not births or not spaces[gone] <= spaces[heir]:
                continue
            events = [
                event._replace(tid=heir) if event.tid == gone else event
                for n, event in enumerate(draft.events)
                if n not in births
            ]
            yield Draft(draft.tables, laid_out(events, _blocks_of_some(events)))


def _blocks_of_some(events: Sequence[Event]) -> list[list[int]]:
    return [block for block in blocks(events) if len({events[n].tid for n in block}) > 1]


def one_by_one(draft: Draft) -> Iterator[Draft]:
    """Take one event out of what overlaps: it comes before, or afterwards."""
    for block in reversed(_blocks_of_some(draft.events)):
        for n in block:
            mine = [each for each in block if draft.events[each].tid == draft.events[n].tid]
            rest = [each for each in block if each != n]
            if n == mine[0]:
                yield _reordered(draft, block, [n, *rest], 0)
            if n == mine[-1]:
                yield _reordered(draft, block, [*rest, n], len(block) - 1)


def _reordered(draft: Draft, block: Sequence[int], order: Sequence[int], alone: int) -> Draft:
    """Return the draft with a block in another order, one of its events apart."""
    events = list(draft.events)
    events[block[0] : block[-1] + 1] = [draft.events[n] for n in order]
    others = [each for each in _blocks_of_some(draft.events) if each != list(block)]
    mine = [each for at, each in enumerate(block) if at != alone]
    return Draft(draft.tables, laid_out(events, [*others, mine]))


def plainer_times(draft: Draft) -> Iterator[Draft]:
    """Let all that overlaps do so as a whole; or keep what overlaps, at round times."""
    together = _blocks_of_some(draft.events)
    yield Draft(draft.tables, laid_out(draft.events, together))
    yield Draft(draft.tables, squeezed(draft.events))


def in_turn(events: Sequence[Event]) -> tuple[Event, ...]:
    """Return events at round times, those that overlap as they do."""
    return squeezed(sorted(events, key=lambda event: event.t))


# -- events -------------------------------------------------------------------


def plainer_events(draft: Draft) -> Iterator[Draft]:
    """Let one event do less, or tell less."""
    for n in reversed(range(len(draft.events))):
        event = draft.events[n]
        bare = event._replace(flags=0, d_file=0, d_anon=0, d_shmem=0)
        if event.op == OP_ACCESS:
            bare = bare._replace(a1=event.a1 & _ACCESS_BITS, a2=0, a3=0, a4=0, a5=0)
        for candidate in (bare, event._replace(flags=0, d_file=0, d_anon=0, d_shmem=0)):
            if candidate != event:
                yield _with(draft, n, candidate)
        for candidate in (*_shorter(event), *_fewer_bits(event)):
            yield _with(draft, n, candidate)


def plainer_cpus(draft: Draft) -> Iterator[Draft]:
    """Give the threads that overlap CPUs of their own, all others the first."""
    there = {draft.events[n].tid for n in overlapping(draft.events)}
    cpus = {tid: n for n, tid in enumerate(dict.fromkeys(e.tid for e in draft.events))}
    chosen = {tid: cpu if tid in there else 0 for tid, cpu in cpus.items()}
    yield Draft(draft.tables, tuple(e._replace(cpu=chosen[e.tid]) for e in draft.events))


def _shorter(event: Event) -> Iterator[Event]:
    """Yield the event on fewer pages: the first ones, or the last ones."""
    if event.op == OP_MREMAP:
        for length in _lengths(event.a1):
            new = length if event.a2 == event.a1 else event.a2
            yield event._replace(a1=length, a2=new)
        for length in _lengths(event.a2):
            yield event._replace(a2=length)
        return
    if event.op not in _RANGED:
        return
    for length in _lengths(event.a1):
        yield event._replace(a1=length)
        later = event.a1 - length & -PAGE_SIZE
        moved = event._replace(a0=event.a0 + later, a1=event.a1 - later)
        if event.op == OP_MMAP:
            if event.ret < 0 or not event.a0:
                continue
            moved = moved._replace(ret=event.ret + later)
            if event.a4 != FILE_ANON:
                moved = moved._replace(a5=event.a5 + later // PAGE_SIZE)
        yield moved


def _lengths(length: int) -> list[int]:
    """Return shorter lengths, the shortest first: whole pages, and half of what is there."""
    pages = -(-length // PAGE_SIZE)
    halves = []
    while pages > 1:
        pages //= 2
        halves.append(pages * PAGE_SIZE)
    less = length - PAGE_SIZE
    found = dict.fromkeys([*reversed(halves), *([less] if less > 0 else [])])
    return [each for each in found if 0 < each < length]


def _fewer_bits(event: Event) -> Iterator[Event]:
    for name in _BITS.get(event.op, ()):
        value = getattr(event, name)
        bits = [1 << n for n in range(value.bit_length()) if value >> n & 1]
        for bit in reversed(bits):
            if bit == _SAYS_WHERE.get(event.op) and name == "a3":
                continue
            yield event._replace(**{name: value & ~bit})
    if event.op == OP_MREMAP and not event.a3 & MREMAP_FIXED and event.a4:
        yield event._replace(a4=0)


# -- tables -------------------------------------------------------------------


def tidier(draft: Draft) -> Iterator[Draft]:
    """Leave out what no event needs: of the header, of the tables."""
    tables = draft.tables
    if tables.checkpoints or any(event.op == OP_CHECKPOINT for event in draft.events):
        events = tuple(event for event in draft.events if event.op != OP_CHECKPOINT)
        yield Draft(replace(tables, checkpoints=[]), events)
        return
    header = Header(
        source="synthetic", profile=tables.header.profile, facts=tables.header.facts
    )
    plain = Header(source="synthetic", facts=tables.header.facts)
    for candidate in (plain, header):
        yield Draft(replace(tables, header=candidate), draft.events)
    used = only_used(draft)
    yield renumbered(used)
    yield used


def renumbered(draft: Draft) -> Draft:
    """Return the draft with threads 1, 2, ... of processes 1, 2, ... ."""
    tables = draft.tables
    met = (t for e in draft.events for t in ((e.tid, e.a0) if e.op == OP_FORK else (e.tid,)))
    tids = {tid: n for n, tid in enumerate(dict.fromkeys(met), 1)}
    pids = {process.pid: n for n, process in enumerate(tables.processes, 1)}
    return Draft(
        replace(
            tables,
            threads=sorted(
                (Thread(tids[each.tid], pids[each.pid], 0) for each in tables.threads),
                key=lambda thread: thread.tid,
            ),
            processes=[Process(pids[each.pid], 0, 0, "root") for each in tables.processes],
        ),
        tuple(
            event._replace(
                tid=tids[event.tid], a0=tids[event.a0] if event.op == OP_FORK else event.a0
            )
            for event in draft.events
        ),
    )


def only_used(draft: Draft) -> Draft:
    """Return the draft with the threads, images and files alone that its events name."""
    events, tables = draft.events, draft.tables
    pids = {thread.tid: thread.pid for thread in tables.threads}
    used = list(dict.fromkeys(
        tid for event in events
        for tid in ((event.tid, event.a0) if event.op == OP_FORK else (event.tid,))
    ))  # fmt: skip
    threads = [Thread(tid, pids.get(tid, tid), 0) for tid in sorted(used)]
    numbers = sorted({event.a1 for event in events if event.op == OP_EXEC and event.a1 >= 0})
    images = {old: new for new, old in enumerate(numbers)}
    kept = [tables.images[old] for old in numbers]
    files = {old: new for new, old in enumerate(_files_in(draft, numbers))}
    return Draft(
        Tables(
            header=tables.header,
            processes=[
                Process(pid, 0, 0, "root") for pid in dict.fromkeys(t.pid for t in threads)
            ],
            threads=threads,
            files=[_with_number(tables.files[old], new) for old, new in files.items()],
            images=[
                image._replace(
                    regions=tuple(
                        region._replace(file=files.get(region.file, region.file))
                        for region in image.regions
                    ),
                    contents=tuple(
                        (vpn, _content(word, files)) for vpn, word in image.contents
                    ),
                )
                for image in kept
            ],
        ),
        tuple(_renamed(event, images, files) for event in events),
    )


def _with_number(file: File, number: int) -> File:
    return File(file.facts._replace(id=number), file.path)


def _files_in(draft: Draft, images: Sequence[int]) -> list[int]:
    found = {event.a4 for event in draft.events if event.op == OP_MMAP}
    found |= {event.a0 for event in draft.events if event.op in _OF_FILES}
    for number in images:
        image = draft.tables.images[number]
        found |= {region.file for region in image.regions}
        found |= {word >> 31 & 0xFFFF for _, word in image.contents if _of_file(word)}
    return sorted(each for each in found if 0 <= each < len(draft.tables.files))


def _of_file(content: int) -> bool:
    return content & (CONTENT_FILE | CONTENT_INITIAL) == CONTENT_FILE


def _content(content: int, files: dict[int, int]) -> int:
    if not _of_file(content):
        return content
    number = files[content >> 31 & 0xFFFF]
    return CONTENT_FILE | number << 31 | content & (1 << 31) - 1


def _renamed(event: Event, images: dict[int, int], files: dict[int, int]) -> Event:
    if event.op == OP_EXEC:
        return event._replace(a1=images.get(event.a1, event.a1))
    if event.op == OP_MMAP:
        return event._replace(a4=files.get(event.a4, event.a4))
    if event.op in _OF_FILES:
        return event._replace(a0=files[event.a0])
    return event
