"""What the things of a trace are called once nobody shall know their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from spfreplay.oracles import OUTCOMES
from spfreplay.protocols import definitions
from spfreplay.trace.events import Event, Header, Tables
from spfreplay.trace.missing import missing_of
from spfreplay_reference.contract import OP_FORK, KernelProfile

#: Mappings that every program has.
_COMMON: Final = frozenset(
    {"", "[heap]", "[stack]", "[vdso]", "[vvar]", "[vvar_vclock]", "shared anonymous"}
)
_SOURCES: Final = frozenset(
    {
        "tracefs",
        "perf.data",
        "perf-script",
        "trace-cmd",
        "strace",
        "perf+strace",
        "perf+ptrace",
        "synthetic",
    }
)
_VERDICTS: Final = frozenset({"MATCH", "DIVERGED", "UNKNOWN"})
#: what may follow the name of a protocol: +M50
_PATCHES: Final = re.compile(r"(?:\+[A-Z]\d{1,3}[a-z]?\d?)+$")
_RECORDER: Final = re.compile(r"spfreplay [0-9.]+")
_RELEASE: Final = re.compile(r"[0-9]+\.[0-9]+")
_ARCH: Final = frozenset({"x86_64"})
_COUNTS: Final = ("cpu", "events", "overrun", "dropped", "lost")
#: Facts that a verdict or a grade may rest on: numbers, never words.
_FACTS: Final = frozenset({"missed_checkpoints", "interrupted", "exit_status", "not_pinned"})


class Names:
    """Numbers for paths and threads, in the order in which the old names sort.

    So whatever is told in the order of names stays in its order.
    """

    def __init__(self, paths: Iterable[str], tids: Iterable[int]) -> None:
        secret = sorted({path for path in paths if path not in _COMMON})
        width = len(str(len(secret)))
        self.paths = {path: f"/file{n:0{width}}" for n, path in enumerate(secret, 1)}
        numbers = sorted({tid for tid in tids if tid > 0})
        self.tids = {tid: n for n, tid in enumerate(numbers, 1)}

    def path(self, path: str) -> str:
        """Return the new name of a file."""
        return self.paths.get(path, path)

    def tid(self, tid: int) -> int:
        """Return the new id of a thread or process."""
        return self.tids.get(tid, tid)

    def mapping(self, name: str) -> str:
        """Return the last column of a line of maps: of a file, of what all have, or none."""
        return self.paths.get(name, name if name in _COMMON else "")


def tids_in(tables: Tables) -> set[int]:
    """Return every thread and process that the tables name."""
    found = {process.pid for process in tables.processes}
    found |= {process.ppid for process in tables.processes}
    found |= {tid for thread in tables.threads for tid in (thread.tid, thread.pid)}
    return found | {point.pid for point in tables.checkpoints}


def tids_of(event: Event) -> tuple[int, ...]:
    """Return the threads that an event names."""
    return (event.tid, event.a0, event.ret) if event.op == OP_FORK else (event.tid,)


def plain_header(header: Header) -> Header:
    """Return what a header says of the kernel's behaviour and of the recording's quality.

    No name, no time of day or of boot; of texts only words that this tool knows.
    """
    return Header(
        source=header.source if header.source in _SOURCES else "synthetic",
        recorder=header.recorder if _RECORDER.fullmatch(header.recorder) else "",
        arch=header.arch if header.arch in _ARCH else "",
        profile=_plain_profile(header.profile),
        ncpu=header.ncpu,
        pinned_page_cache=header.pinned_page_cache,
        pinned_cpus=header.pinned_cpus,
        cpus=tuple({key: one[key] for key in _COUNTS if key in one} for one in header.cpus),
        fault_cap=header.fault_cap,
        expect=_plain_expectation(header.expect),
        facts=_plain_facts(header.facts),
    )


def _plain_expectation(text: str) -> str:
    """Return what is stated, if it is in words of this tool; else its verdict, if it is one."""
    words = re.split(r"[\s,;]+", text.strip())
    known = _VERDICTS | definitions().keys() | OUTCOMES.keys() | {"under", "within", ""}
    known |= {one.slug for each in definitions().values() for one in each.known}
    if all(word.isdecimal() or _PATCHES.sub("", word) in known for word in words):
        return text
    return words[0] if words[0] in _VERDICTS else ""


def _plain_profile(profile: KernelProfile) -> KernelProfile:
    release = _RELEASE.match(profile.release)
    return profile._replace(release=release[0] if release else "")


def _plain_facts(facts: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in facts.items() if _is_plain(key, value)}
    if missing := missing_of(facts):
        found["missing"] = missing
    return found


def _is_plain(key: str, value: Any) -> bool:
    return key in _FACTS and isinstance(value, bool | int)
