"""What the head of a perf script text tells, and which events occur in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from spfreplay.imports.input import Input
from spfreplay.imports.wanted import WANTED

#: Bytes of the text in which perf's own head (--header) must end.
_HEAD_BYTES: Final = 1 << 20
_EVENT: Final = re.compile(
    r"^# event : name = ([\w:-]+),.*?\{ sample_period, sample_freq \} = (\d+)(.*)$", re.M
)
_LINE: Final = re.compile(r"^# (os release|arch|nrcpus online|cmdline) : (.*)$", re.M)
_SOFT: Final = ("minor-faults", "major-faults", "page-faults", "faults")


@dataclass(slots=True)
class Head:
    """``events`` are those recorded if the text says so, else those that occur."""

    events: tuple[str, ...] = ()
    told: bool = False
    sampled: tuple[str, ...] = ()
    user_only: frozenset[str] = frozenset()  # recorded in one mode only
    release: str = ""
    arch: str = ""
    ncpu: int = 0
    command: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def read_head(source: Input) -> Head:
    """Read the head that ``perf script --header`` prints, if it is there."""
    head = Head()
    if source.data[:2] == b"# ":
        text = source.data[:_HEAD_BYTES].decode("utf-8", "replace")
        _told(head, text)
    if not head.events:
        head.events = _occurring(source)
        head.facts["events_told"] = False
    return head


def _told(head: Head, text: str) -> None:
    """Take what the lines of the head say."""
    names: list[str] = []
    sampled: list[str] = []
    monotonic = True
    user_only: set[str] = set()
    for name, period, rest in _EVENT.findall(text):
        names.append(name)
        if "freq = 1" in rest.replace("sample_freq", "") or int(period[:12]) > 1:
            sampled.append(name)
        if "exclude_kernel = 1" in rest or "exclude_user = 1" in rest:
            user_only.add(name)
        monotonic = monotonic and "clockid = 1" in rest.replace("use_clockid = 1", "")
    head.events, head.sampled = tuple(names), tuple(sampled)
    head.user_only, head.told = frozenset(user_only), bool(names)
    if names:
        head.facts["clock"] = "monotonic" if monotonic else "perf"
    told = dict(_LINE.findall(text))
    head.release = told.get("os release", "").strip()
    head.arch = told.get("arch", "").strip()
    online = told.get("nrcpus online", "0").strip()
    head.ncpu = int(online) if online.isdecimal() and len(online) < 6 else 0
    head.command = tuple(told.get("cmdline", "").split())


def _occurring(source: Input) -> tuple[str, ...]:
    """Return the events that occur: all that a text without a head tells."""
    found = [
        name for name in (*WANTED, *_SOFT) if source.data.find(b" %s:" % name.encode()) >= 0
    ]
    return tuple(found)
