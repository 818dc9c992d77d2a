"""One window as a trace of its own, small enough for a mail.

An exec for each address space puts the image in place from which the window
starts, forks bring up those who use it, then the operations overlap as they were
recorded.  Stores are named by the number of their event, so the numbers of old
ones, which no event of the new trace has left, become names of initial contents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Final

from spfreplay.engines.case import Case
from spfreplay.engines.window import Operation
from spfreplay.trace.events import Event, Header, Process, Tables, Thread
from spfreplay_reference.contract import (
    CONTENT_FILE,
    CONTENT_INITIAL,
    OP_EXEC,
    OP_FORK,
    OP_MMAP,
    InitialImage,
)

#: what is between the prelude and the window, ns
_PAUSE: Final = 1000
#: above every page number, so that no content of exec is meant
_EARLIER: Final = 1 << 40


def extracted(case: Case, source: dict[str, Any]) -> tuple[Tables, list[Event]]:
    """Return ``case`` as the tables and events of a trace.

    :param source: where it comes from: a fact of the header.
    """
    names = _Names(case)
    prelude = [names.event(case.prelude.event(i)) for i in range(len(case.prelude))]
    start = max((event.exit for event in prelude), default=0) + _PAUSE
    window = names.window(case.window.operations, start)
    header = Header(
        source="synthetic",
        profile=case.tables.header.profile,
        facts={"extracted": source},
    )
    tables = Tables(
        header=header,
        processes=[Process(pid, 0, 0, "root") for pid in dict.fromkeys(names.pids.values())],
        threads=[Thread(tid, pid, 0) for tid, pid in sorted(names.pids.items())],
        files=[
            replace(file, facts=file.facts._replace(id=n))
            for n, file in enumerate(case.tables.files)
        ],
        images=[renamed_image(image, names.files) for image in case.tables.images],
    )
    return tables, prelude + window


class _Names:
    """The names that things have in the new trace, where they cannot keep their own."""

    def __init__(self, case: Case) -> None:
        self.files = {file.facts.id: n for n, file in enumerate(case.tables.files)}
        operations = case.window.operations
        children = [each.args[0] for each in operations if each.op == OP_FORK]
        #: tid -> tid; those of bystanders are made up, and large
        self.tids = {tid: tid for tid in (*case.window.tids, *children)}
        #: new tid -> pid
        self.pids: dict[int, int] = {}
        first: dict[int, int] = {}
        free = (number for number in count(1) if number not in self.tids)
        for event in (case.prelude.event(i) for i in range(len(case.prelude))):
            if event.op not in (OP_EXEC, OP_FORK):
                continue
            mm, tid = (event.a0, event.tid) if event.op == OP_EXEC else (event.a1, event.a0)
            if tid not in self.tids:
                self.tids[tid] = next(free)
            self.pids[self.tids[tid]] = first.setdefault(mm, self.tids[tid])

    def event(self, event: Event) -> Event:
        """Return an event of the prelude."""
        if event.op == OP_FORK:
            event = event._replace(a0=self.tids[event.a0])
        return event._replace(tid=self.tids[event.tid])

    def window(self, operations: Sequence[Operation], start: int) -> list[Event]:
        """Return the operations as events from ``start`` on, in the order of their effects."""
        shift = start - min(each.enter for each in operations)
        cpus: dict[int, int] = {}
        found: list[Event] = []
        t = start
        for each in operations:
            enter, exit_ = each.enter + shift, each.exit + shift
            t = min(max(enter, t + 1), exit_) if found else enter
            a0, a1, a2, a3, a4, a5 = each.args
            if each.op == OP_MMAP:
                a4 = self.files.get(a4, a4)
            cpu = cpus.setdefault(each.tid, len(cpus))
            found.append(
                Event(
                    t,
                    enter,
                    exit_,
                    cpu,
                    each.tid,
                    each.mm,
                    each.op,
                    0,
                    a0,
                    a1,
                    a2,
                    a3,
                    a4,
                    a5,
                    each.ret,
                )
            )
        return found


def renamed_image(image: InitialImage, files: Mapping[int, int]) -> InitialImage:
    """Return the image with the numbers of files and stores that mean the same there.

    :param files: number of a file -> its number in the new trace.
    """
    regions = tuple(
        region._replace(file=files.get(region.file, region.file)) for region in image.regions
    )
    contents = tuple((vpn, _renamed(content, files)) for vpn, content in image.contents)
    return image._replace(regions=regions, contents=contents)


def _renamed(content: int, files: Mapping[int, int]) -> int:
    kind = content & (CONTENT_FILE | CONTENT_INITIAL)
    if kind == CONTENT_FILE:
        file = files.get(content >> 31 & 0xFFFF)
        if file is not None:
            return CONTENT_FILE | file << 31 | content & 0x7FFF_FFFF
    if content and not kind:
        return CONTENT_INITIAL | _EARLIER | content
    return content
