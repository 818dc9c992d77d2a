"""The tables of a trace as JSON values, and back with every type checked.

Unknown keys are ignored, so that a later minor version may add some; a known
key of another type, or one out of bounds, is refused.  Keys that hold their
default are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from spfreplay.trace.bounds import (
    MAX_CPUS,
    MAX_JSON,
    MAX_MMS,
    MAX_PAGES,
    MAX_REGIONS,
    MAX_ROWS,
    MAX_STRING,
    MAX_TID,
    Malformed,
)
from spfreplay.trace.events import File, Header, Process, Thread
from spfreplay_reference.contract import (
    FILE_PFNMAP,
    FILE_UNKNOWN,
    MM_NONE,
    FileFacts,
    InitialImage,
    KernelProfile,
    Region,
)

T = TypeVar("T")
Check = Callable[[str, Any], Any]  # (where, value) -> value, or Malformed

HOWS: Final = ("root", "fork", "vfork", "clone-vm", "exec")
THP_SETTINGS: Final = ("always", "madvise", "never")
REASONS: Final = ("exec", "exit", "stop", "user")
_LONG: Final = 1 << 63


# -- checks of one value ----------------------------------------------------


def integer(low: int, high: int) -> Check:
    """Return a check for an int in ``[low, high]``."""

    def check(where: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise Malformed(f"{where}: {_short(value)}, expected an integer {low}..{high}")
        return value

    return check


def choice(*known: str) -> Check:
    """Return a check for one of ``known``."""

    def check(where: str, value: Any) -> str:
        if type(value) is not str or value not in known:
            raise Malformed(f"{where}: {_short(value)}, expected one of {', '.join(known)}")
        return value

    return check


def string(where: str, value: Any) -> str:
    """Check for a string of bearable length."""
    if type(value) is not str:
        raise Malformed(f"{where}: {_short(value)}, expected a string")
    if len(value) > MAX_STRING:
        raise Malformed(f"{where}: {len(value)} characters, expected at most {MAX_STRING}")
    return value


def boolean(where: str, value: Any) -> bool:
    """Check for a bool."""
    if type(value) is not bool:
        raise Malformed(f"{where}: {_short(value)}, expected true or false")
    return value


def sequence(item: Check, low: int, high: int) -> Check:
    """Return a check for a list of ``low`` to ``high`` items; gives a tuple."""

    def check(where: str, value: Any) -> tuple[Any, ...]:
        if type(value) is not list or not low <= len(value) <= high:
            raise Malformed(f"{where}: {_short(value)}, expected a list of {low}..{high}")
        return tuple(item(where, each) for each in value)

    return check


def pairs(where: str, value: Any) -> tuple[tuple[int, int], ...]:
    """Check for ``[[start, pages], ...]``."""
    if type(value) is not list or len(value) > MAX_ROWS:
        raise Malformed(f"{where}: {_short(value)}, expected a list of pairs")
    return tuple(_PAIR(where, each) for each in value)


def json_object(where: str, value: Any) -> dict[str, Any]:
    """Check for a JSON object of any content."""
    if type(value) is not dict:
        raise Malformed(f"{where}: {_short(value)}, expected an object")
    return value


def cpu_counts(where: str, value: Any) -> dict[str, int]:
    """Check for the ring-buffer counts of one CPU."""
    counts = json_object(where, value)
    for key, count in counts.items():
        if not key.isidentifier() or not key.isascii():
            raise Malformed(f"{where}: key {_short(key)}, expected a plain name")
        COUNT(where, count)
    return counts


INT64: Final = integer(-_LONG, _LONG - 1)
COUNT: Final = integer(0, _LONG - 1)
_PAIR: Final = sequence(COUNT, 2, 2)
_TID: Final = integer(0, MAX_TID)


def mm_id(where: str, value: Any) -> int:
    """Check for the id of an address space."""
    if type(value) is not int or not (0 <= value < MAX_MMS or value == MM_NONE):
        raise Malformed(f"{where}: {_short(value)}, expected an mm id")
    return value


#: key of the row -> check; the keys are also the fields of the types
PROCESS: Final[Mapping[str, Check]] = {
    "pid": _TID, "ppid": integer(-1, MAX_TID), "start": INT64, "how": choice(*HOWS),
    "comm": string, "exe": string,
}  # fmt: skip
THREAD: Final[Mapping[str, Check]] = {
    "tid": _TID, "pid": _TID, "start": INT64, "end": INT64,
}  # fmt: skip
FILE: Final[Mapping[str, Check]] = {
    "path": string, "dev": _PAIR, "ino": COUNT, "build_id": string,
}  # fmt: skip
FACTS: Final[Mapping[str, Check]] = {
    "id": integer(0, MAX_ROWS), "kind": integer(0, FILE_PFNMAP), "size": INT64,
    "folios": pairs, "absent": pairs,
}  # fmt: skip
PROFILE: Final[Mapping[str, Check]] = {
    "release": string, "fault_around_pages": integer(1, 1 << 20),
    "map_large_folios": boolean, "thp_enabled": choice(*THP_SETTINGS),
    "thp_zero_page": boolean, "overcommit_memory": integer(0, 2),
    "max_map_count": COUNT, "stack_limit": INT64, "memlock_limit": INT64,
}  # fmt: skip
HEADER: Final[Mapping[str, Check]] = {
    "source": string, "recorder": string, "arch": string,
    "command": sequence(string, 0, MAX_STRING), "t0": INT64,
    "ncpu": integer(0, MAX_CPUS), "pinned_page_cache": boolean, "pinned_cpus": boolean,
    "cpus": sequence(cpu_counts, 0, MAX_CPUS),
    "events_enabled": sequence(string, 0, MAX_STRING), "fault_cap": COUNT,
    "expect": string, "facts": json_object,
}  # fmt: skip
_ADDRESS: Final = integer(0, 1 << 47)
REGION: Final = (
    _ADDRESS, _ADDRESS, integer(0, _LONG - 1), integer(FILE_UNKNOWN, MAX_ROWS),
    integer(0, 1 << 52), boolean,
)  # fmt: skip
IMAGE: Final[Mapping[str, Check]] = {
    "start_brk": _ADDRESS, "brk": _ADDRESS, "regions": integer(0, MAX_REGIONS),
    "pages": integer(0, MAX_PAGES),
}  # fmt: skip
#: beyond what exec leaves: lists as in InitialImage
WINDOW: Final[Mapping[str, Check]] = {
    "contents": pairs, "frames": pairs, "tables": sequence(COUNT, 0, MAX_ROWS),
    "anon": sequence(INT64, 0, MAX_REGIONS), "pgoffs": sequence(COUNT, 0, MAX_REGIONS),
    "def_flags": COUNT,
}  # fmt: skip
CHECKPOINT: Final[Mapping[str, Check]] = {
    "id": integer(0, MAX_ROWS), "t": INT64, "pid": _TID, "mm": mm_id,
    "reason": choice(*REASONS), "threads": integer(0, MAX_TID),
    "brk": sequence(_ADDRESS, 2, 2), "rss": sequence(INT64, 4, 4),
    "regions": integer(0, MAX_REGIONS), "pages": integer(0, MAX_PAGES),
    "arrays": sequence(choice("pagemap", "kpageflags", "kpagecount"), 0, 3),
}  # fmt: skip
_REQUIRED: Final = {
    "pid", "ppid", "tid", "start", "how", "id", "t", "mm", "reason", "threads", "pages",
    "regions", "start_brk", "brk", "rss",
}  # fmt: skip


def fields(where: str, row: Any, checks: Mapping[str, Check]) -> dict[str, Any]:
    """Return the known fields of ``row``, each checked."""
    row = json_object(where, row)
    for key in checks:
        if key not in row and key in _REQUIRED:
            raise Malformed(f"{where}: no {key}")
    return {
        key: check(f"{where}: {key}", row[key]) for key, check in checks.items() if key in row
    }


def _plain(row: Any, checks: Mapping[str, Check], default: Any = None) -> dict[str, Any]:
    """Return ``row``'s fields named in ``checks``, without those at their default."""
    return {
        key: getattr(row, key)
        for key in checks
        if key in _REQUIRED or getattr(row, key) != getattr(default, key, None)
    }


# -- rows -------------------------------------------------------------------


def header_to_json(header: Header) -> dict[str, Any]:
    """Return ``header`` as a JSON value."""
    row = _plain(header, HEADER, Header())
    row["profile"] = _plain(header.profile, PROFILE, KernelProfile())
    return row


def header_from_json(value: Any) -> Header:
    """Return the header that ``value`` describes."""
    row = json_object("header", value)
    profile = fields("header: profile", row.get("profile", {}), PROFILE)
    return Header(profile=KernelProfile(**profile), **fields("header", row, HEADER))


def process_to_json(process: Process) -> dict[str, Any]:
    """Return ``process`` as a JSON value."""
    return _plain(process, PROCESS, Process(-1, -1, -1, ""))


def process_from_json(value: Any) -> Process:
    """Return the process that ``value`` describes."""
    return Process(**fields("process", value, PROCESS))


def thread_to_json(thread: Thread) -> dict[str, Any]:
    """Return ``thread`` as a JSON value."""
    return _plain(thread, THREAD, Thread(-1, -1, -1))


def thread_from_json(value: Any) -> Thread:
    """Return the thread that ``value`` describes."""
    return Thread(**fields("thread", value, THREAD))


def file_to_json(file: File) -> dict[str, Any]:
    """Return ``file`` as a JSON value."""
    facts = _plain(file.facts, FACTS, FileFacts(-1))
    return facts | _plain(file, FILE, File(file.facts))


def file_from_json(value: Any) -> File:
    """Return the file that ``value`` describes."""
    return File(FileFacts(**fields("file", value, FACTS)), **fields("file", value, FILE))


def window_to_json(image: InitialImage) -> dict[str, Any]:
    """Return what ``image`` tells beyond what exec leaves; {} if it does not."""
    return {key: value for key in WINDOW if (value := getattr(image, key))}


def window_from_json(value: Any) -> dict[str, Any]:
    """Return the fields of an InitialImage that ``value`` describes."""
    return fields("image", value, WINDOW)


def region_to_json(region: Region, name: str = "") -> list[Any]:
    """Return ``region`` and the last column of its line as a JSON value."""
    return [*region, name] if name else list(region)


def region_from_json(value: Any) -> tuple[Region, str]:
    """Return the region that ``value`` describes, and its name."""
    if type(value) is not list or len(value) < len(REGION):
        raise Malformed(f"region: {_short(value)}, expected a list of {len(REGION)}")
    names = Region._fields
    checked = [
        check(f"region: {name}", each)
        for name, check, each in zip(names, REGION, value, strict=False)
    ]
    name = string("region: name", value[len(REGION)]) if len(value) > len(REGION) else ""
    return Region(*checked), name


# -- text of a chunk --------------------------------------------------------


def dump(value: Any) -> bytes:
    """Return ``value`` as JSON in ASCII."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise Malformed(f"not a JSON value: {error}") from None


def load(data: bytes) -> Any:
    """Return the JSON value in ``data``.

    :raises Malformed: if it is none, or longer than ``MAX_JSON``.
    """
    if len(data) > MAX_JSON:
        raise Malformed(f"{len(data)} bytes of JSON, expected at most {MAX_JSON}")
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"JSON: {error}") from None


def load_rows(data: bytes, convert: Callable[[Any], T]) -> list[T]:
    """Return the rows of the JSON list in ``data``."""
    value = load(data)
    if type(value) is not list:
        raise Malformed(f"{_short(value)}, expected a list of rows")
    return [convert(each) for each in value]


def batches(rows: Iterable[Any], limit: int) -> Iterable[bytes]:
    """Yield JSON lists of ``rows`` of about ``limit`` bytes, one at least."""
    texts: list[bytes] = []
    size = 0
    for row in rows:
        text = dump(row)
        if len(text) > MAX_JSON - 2:
            raise Malformed(f"a row of {len(text)} bytes, expected at most {MAX_JSON - 2}")
        if texts and size + len(text) > limit:
            yield b"[" + b",".join(texts) + b"]"
            texts, size = [], 0
        texts.append(text)
        size += len(text) + 1
    if texts:
        yield b"[" + b",".join(texts) + b"]"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _short(value: Any) -> str:
    """Return ``value`` for a message, without building its whole text."""
    if isinstance(value, dict | list):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 80:
        return "a huge number"
    text = repr(value[:40] if isinstance(value, str) else value)
    return text if len(text) < 60 else text[:57] + "..."
