"""Tell what is in a trace and how sound it is, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from spfreplay import __version__
from spfreplay.report.text import table
from spfreplay.report.words import WIDTH, count, percent, shorten
from spfreplay.trace.events import File, Tables
from spfreplay.trace.health import Health
from spfreplay.trace.inventory import Inventory, Site
from spfreplay_reference.contract import MM_NONE

SCHEMA_VERSION: Final = 1
_COLOURS: Final = {"A": "32", "B": "32", "C": "33", "D": "31", "F": "31"}
_LISTED_FILES: Final = 12
_LISTED_PROCESSES: Final = 20


@dataclass(frozen=True, slots=True)
class Described:
    """One trace, for ``info``."""

    path: str
    sha256: str
    tables: Tables
    inventory: Inventory


@dataclass(frozen=True, slots=True)
class Checked:
    """One trace, for ``check``."""

    path: str
    sha256: str
    events: int
    health: Health


# -- check ------------------------------------------------------------------


def check_text(found: Sequence[Checked], colour: bool = False) -> str:
    """Return one block per trace: grade and findings."""
    lines: list[str] = []
    for one in found:
        grade = one.health.grade
        word = f"\x1b[1;{_COLOURS[grade]}m{grade}\x1b[0m" if colour else grade
        cap = "; a match on it proves nothing" if one.health.caps_match else ""
        lines.append(f"grade {word}: {one.path}, {count(one.events, 'event')}{cap}")
        rows = [(f.grade, f.name, shorten(str(f), 200)) for f in one.health.findings]
        lines += table(rows, ("grade", "finding", "what"), ("left", "left", "left"))
    return "\n".join(lines) + "\n"


def check_json(found: Sequence[Checked]) -> str:
    """Return the document of ``spfreplay check --format json``."""
    results = [
        {
            "path": one.path,
            "sha256": one.sha256,
            "events": one.events,
            "grade": one.health.grade,
            "caps_match": one.health.caps_match,
            "findings": [asdict(finding) for finding in one.health.findings],
        }
        for one in found
    ]
    return _document("check", results)


# -- info -------------------------------------------------------------------


def info_text(found: Sequence[Described]) -> str:
    """Return one description per trace."""
    return "\n".join("\n".join(_describe(one)) + "\n" for one in found)


def _describe(one: Described) -> Iterator[str]:
    header, numbers = one.tables.header, one.inventory
    yield f"{one.path}: {count(numbers.events, 'event')} in {_duration(numbers.duration)}"
    if header.command:
        yield "  program   " + shorten(" ".join(header.command), WIDTH - 12)
    yield f"  source    {header.source or 'unknown'} {header.recorder}".rstrip()
    yield f"  kernel    {header.profile.release}, {header.arch}, {header.ncpu} CPUs"
    pinned = [n for n, on in _pins(one.tables) if on]
    if pinned:
        yield f"  pinned    {', '.join(pinned)}"
    if header.expect:
        yield f"  expects   {header.expect}"
    yield f"  sha256    {one.sha256}"
    for section in (_operations, _faults, _processes, _files, _sites, _checkpoints):
        lines = list(section(one))
        if lines:
            yield ""
            yield from lines


def _pins(tables: Tables) -> tuple[tuple[str, bool], ...]:
    header = tables.header
    return (("page cache", header.pinned_page_cache), ("CPUs", header.pinned_cpus))


def _operations(one: Described) -> Iterator[str]:
    rows = [(name, f"{number:,}") for name, number in one.inventory.operations.items()]
    yield from table(rows, ("operation", "events"), ("left", "right"))


def _faults(one: Described) -> Iterator[str]:
    numbers = one.inventory
    total = sum(numbers.faults.values())
    rows = [
        (kind, f"{number:,}", percent(number, total)) for kind, number in numbers.faults.items()
    ]
    yield from table(rows, ("faults", "events", "share"), ("left", "right", "right"))
    if total:
        yield f"  {numbers.protection_faults:,} of them on a page that was there (protection)"
        if numbers.major_faults:
            yield f"  {numbers.major_faults:,} of them major"


def _processes(one: Described) -> Iterator[str]:
    numbers = one.inventory
    processes = one.tables.processes
    rows = [
        (
            process.pid,
            process.how,
            shorten(process.comm or process.exe, 24),
            numbers.threads_of.get(process.pid, 0),
            f"{numbers.events_of.get(process.pid, 0):,}",
        )
        for process in processes[:_LISTED_PROCESSES]
    ]
    headers = ("process", "from", "name", "threads", "events")
    yield from table(rows, headers, ("right", "left", "left", "right", "right"))
    if len(processes) > _LISTED_PROCESSES:
        yield f"  ... and {len(processes) - _LISTED_PROCESSES} more processes"


def _files(one: Described) -> Iterator[str]:
    numbers, files = one.inventory, one.tables.files
    order = sorted(
        numbers.mapped, key=lambda file: (-numbers.faults_in.get(file, 0), files[file].path)
    )
    rows = [
        (
            shorten(_path(files, file), 44),
            numbers.mapped[file],
            f"{numbers.faults_in.get(file, 0):,}",
        )
        for file in order[:_LISTED_FILES]
    ]
    headers = ("file", "mapped", "faults of its code")
    yield from table(rows, headers, ("left", "right", "right"))
    if len(order) > _LISTED_FILES:
        yield f"  ... and {len(order) - _LISTED_FILES} more files"


def _sites(one: Described) -> Iterator[str]:
    total = sum(one.inventory.faults.values())
    files = one.tables.files
    rows = [
        (f"{site.count:,}", percent(site.count, total), _site(files, site))
        for site in one.inventory.sites
    ]
    yield from table(rows, ("faults", "share", "by the code at"), ("right", "right", "left"))


def _checkpoints(one: Described) -> Iterator[str]:
    rows = [
        (
            point.id,
            _duration(point.t),
            point.pid,
            "-" if point.mm == MM_NONE else f"mm{point.mm}",
            point.reason,
            len(point.regions),
            f"{len(point.vpns):,}",
        )
        for point in one.tables.checkpoints[:_LISTED_PROCESSES]
    ]
    headers = ("checkpoint", "at", "process", "mm", "reason", "mappings", "pages")
    right = "right"
    yield from table(rows, headers, (right, right, right, "left", "left", right, right))
    more = len(one.tables.checkpoints) - _LISTED_PROCESSES
    if more > 0:
        yield f"  ... and {more} more checkpoints"


def _site(files: Sequence[File], site: Site) -> str:
    if site.file < 0:
        kernel = "kernel" if site.offset < 0 else "no file"
        return f"{site.offset & (1 << 64) - 1:#x} ({kernel})"
    place = f"{shorten(_path(files, site.file).rpartition('/')[2], 24)}+{site.offset:#x}"
    return f"{place} {_head(site.symbol, 32)}".rstrip()


def _head(text: str, width: int) -> str:
    """Cut a symbol at its end; ``shorten`` keeps the end, as paths want."""
    return text if len(text) <= width else text[: width - 3] + "..."


def _path(files: Sequence[File], file: int) -> str:
    return files[file].path or f"file {file}"


def _duration(ns: int) -> str:
    return f"{ns / 1e9:.6f} s"


def info_json(found: Sequence[Described]) -> str:
    """Return the document of ``spfreplay info --format json``."""
    return _document("info", [_plain(one) for one in found])


def _plain(one: Described) -> dict[str, Any]:
    header, numbers = one.tables.header, one.inventory
    whole = asdict(numbers)
    paths = [file.path for file in one.tables.files]
    whole["sites"] = [
        asdict(site) | {"path": paths[site.file] if site.file >= 0 else None}
        for site in numbers.sites
    ]
    whole["processes"] = [asdict(process) for process in one.tables.processes]
    whole["files"] = [
        {
            "id": file.facts.id,
            "path": file.path,
            "build_id": file.build_id,
            "size": file.facts.size,
            "mapped": numbers.mapped.get(file.facts.id, 0),
            "faults": numbers.faults_in.get(file.facts.id, 0),
        }
        for file in one.tables.files
    ]
    del whole["mapped"], whole["faults_in"]
    whole["checkpoints"] = [
        {"id": p.id, "t": p.t, "pid": p.pid, "mm": p.mm, "reason": p.reason,
         "mappings": len(p.regions), "pages": len(p.vpns)}
        for p in one.tables.checkpoints
    ]  # fmt: skip
    whole["header"] = {
        "source": header.source,
        "recorder": header.recorder,
        "arch": header.arch,
        "command": list(header.command),
        "kernel": header.profile._asdict(),
        "ncpu": header.ncpu,
        "t0": header.t0,
        "expect": header.expect,
        "facts": header.facts,
    }
    return whole | {"path": one.path, "sha256": one.sha256}


def _document(command: str, results: list[dict[str, Any]]) -> str:
    whole = {
        "schema_version": SCHEMA_VERSION,
        "tool": "spfreplay",
        "tool_version": __version__,
        "command": command,
        "results": results,
    }
    return json.dumps(whole, indent=2, sort_keys=True) + "\n"
