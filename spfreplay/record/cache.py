"""What the page cache held of the mapped files, from pins, probes and events."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from spfreplay.record.convert import Converter
from spfreplay.record.files import CachePicture, FileEntry, Key, Runs, find_folios
from spfreplay.record.pin import PinnedFiles, look_at
from spfreplay.record.procfs import Snapshot
from spfreplay_reference import contract as c

_Change = tuple[int, int, int, int, int, bool]  # t, cpu, tid, index, pages, added


def mapped_files(converter: Converter) -> list[tuple[Key, str]]:
    """Return (key, path) of the regular files that a run mapped."""
    return [(one.key, one.path) for one in converter.files.entries if one.kind == c.FILE_REG]


def fill_cache_facts(converter: Converter, pins: PinnedFiles) -> None:
    """Fill in size, folios and absent pages of the files, and the cache events."""
    for entry in converter.files.entries:
        if entry.kind not in (c.FILE_REG, c.FILE_SHMEM):
            continue
        changes = converter.cache.get(entry.key, [])
        pinned = pins.pictures.get(entry.key)
        if pinned is not None:
            entry.folios, entry.absent = pinned.folios, pinned.absent
            continue
        if entry.kind == c.FILE_REG:
            _from_probe(entry, changes)
        if not entry.folios:
            entry.folios = _checkpoint_folios(converter, entry)
        for t, cpu, tid, index, pages, added in changes:
            op = c.OP_CACHE_ADD if added else c.OP_CACHE_DEL
            converter.rows.emit(
                t, t, t, cpu, tid, c.MM_NONE, op, 0, entry.index, index, pages, 0, 0, 0,
                c.RET_UNKNOWN, 0, 0, 0,
            )  # fmt: skip


def _from_probe(entry: FileEntry, changes: list[_Change]) -> None:
    """Roll the present state of the cache back to the start of the recording."""
    picture: CachePicture | None = look_at(entry.key, entry.path)
    folios = {index: pages for _, _, _, index, pages, added in changes if added and pages > 1}
    if picture is not None:
        folios.update(dict(picture.folios))
        absent = _pages(picture.absent)
    else:
        absent = set()
    for _, _, _, index, pages, added in reversed(changes):
        span = range(index, index + pages)
        if added:
            absent.update(span)
        else:
            absent.difference_update(span)
    entry.folios = tuple(sorted(folios.items()))
    entry.absent = runs_of(absent)


def _pages(runs: Runs) -> set[int]:
    return {index for first, pages in runs for index in range(first, first + pages)}


def runs_of(pages: Iterable[int]) -> Runs:
    """Return ascending (first, count) runs of a set of indexes."""
    runs: list[tuple[int, int]] = []
    for index in sorted(pages):
        if runs and sum(runs[-1]) == index:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return tuple(runs)


def _checkpoint_folios(converter: Converter, entry: FileEntry) -> Runs:
    """Derive large folios from page tables: those that are mapped completely."""
    found: dict[int, int] = {}
    for snapshot in converter.run.snapshots:
        for index, pages in _snapshot_folios(snapshot, entry.key):
            found[index] = max(pages, found.get(index, 0))
    return tuple(sorted(found.items()))


def _snapshot_folios(snapshot: Snapshot, key: Key) -> list[tuple[int, int]]:
    if not snapshot.kpageflags:
        return []
    found: list[tuple[int, int]] = []
    place = {vpn: index for index, vpn in enumerate(snapshot.vpns)}
    for line in snapshot.lines:
        if (*line.dev, line.ino) != key:
            continue
        slots = [place.get(vpn, -1) for vpn in range(line.start >> 12, line.end >> 12)]
        # Frame numbers are not kept; neighbours of a mapping suffice here.
        frames = [index + 1 if slot >= 0 else 0 for index, slot in enumerate(slots)]
        flags = array("Q", [snapshot.kpageflags[slot] if slot >= 0 else 0 for slot in slots])
        runs, _ = find_folios(frames, flags)
        found.extend((line.pgoff + first, pages) for first, pages in runs if pages > 1)
    return found
