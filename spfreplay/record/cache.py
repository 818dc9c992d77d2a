"""What the page cache held of the mapped files, from pins, probes and events."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Iterable

from spfreplay.record.cachelog import Change, Skip
from spfreplay.record.calls import SHM_DEVICE
from spfreplay.record.convert import Converter
from spfreplay.record.faults import Touched
from spfreplay.record.files import CachePicture, FileEntry, Key, Runs, born, find_folios
from spfreplay.record.marks import Window, mappable
from spfreplay.record.memoryfiles import MOST_PAGES, Look, pages_written
from spfreplay.record.pin import PinnedFiles, look_at
from spfreplay.record.procfs import Snapshot
from spfreplay.record.sizes import write_sizes
from spfreplay_reference import contract as c


def mapped_files(converter: Converter) -> list[tuple[Key, str]]:
    """Return (key, path) of the regular files that a run mapped."""
    return [(one.key, one.path) for one in converter.files.entries if one.kind == c.FILE_REG]


def fill_cache_facts(converter: Converter, pins: PinnedFiles) -> None:
    """Fill in size, folios and absent pages of the files, and the cache events."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    began = time.time() - (now - converter.run.t0) / 1e9
    files = [e for e in converter.files.entries if e.kind in (c.FILE_REG, c.FILE_SHMEM)]
    for entry in files:
        changes = converter.cache.changes.get(entry.key, [])
        entry.pages = max((change.page + change.pages for change in changes), default=0)
    write_sizes(converter)
    touched, windows = _touched(converter), _full_windows(converter)
    for entry in files:
        changes = converter.cache.changes.get(entry.key, [])
        pinned = pins.pictures.get(entry.key)
        if pinned is not None:
            entry.folios, entry.absent = pinned.folios, pinned.absent + pinned.marked
            if entry.pages > pinned.pages:  # it grew
                entry.absent += ((pinned.pages, entry.pages - pinned.pages),)
        elif entry.kind == c.FILE_REG:
            changes = _from_probe(
                entry,
                changes,
                converter.cache.skips.get(entry.key, []),
                windows.get(entry.key, []),
            )
        else:
            changes = _of_memory(converter, entry, touched.get(entry.key, []), began)
        if not entry.folios and pinned is None:
            entry.folios = _checkpoint_folios(converter, entry)
        for t, cpu, tid, index, pages, added in changes:
            op = c.OP_CACHE_ADD if added else c.OP_CACHE_DEL
            converter.rows.emit(
                t, t, t, cpu, tid, c.MM_NONE, op, 0, entry.index, index, pages, 0, 0, 0,
                c.RET_UNKNOWN, 0, 0, 0,
            )  # fmt: skip


def _from_probe(
    entry: FileEntry, changes: list[Change], skips: list[Skip], windows: list[Window]
) -> list[Change]:
    """Roll the present state of the cache back to the start of the recording.

    :return: how it changed since.
    """
    picture: CachePicture | None = look_at(entry.key, entry.path)
    folios: dict[int, int] = {}
    absent: set[int] = set()
    if picture is not None:
        folios = dict(picture.folios)
        absent = _pages(picture.absent + picture.marked)
        absent.update(range(picture.pages, entry.pages))
        changes = mappable(changes, skips, windows, picture)
    for _, _, _, index, pages, added in reversed(changes):
        span = range(index, index + pages)
        if added:
            absent.update(span)
            folios.pop(index, None)
        else:
            absent.difference_update(span)
    entry.folios = tuple(sorted(folios.items()))
    entry.absent = runs_of(absent)
    return changes


def _full_windows(converter: Converter) -> dict[Key, list[Window]]:
    """Return by file the fault-arounds that left nothing out."""
    found: dict[Key, list[Window]] = {}
    columns = converter.rows.columns
    for row, key in converter.faults.around.items():
        first, last = columns.a4[row], columns.a5[row]
        if columns.d_file[row] > last - first:
            found.setdefault(key, []).append(Window(columns.t[row], first, last))
    return found


def _touched(converter: Converter) -> dict[Key, list[Touched]]:
    """Return the noted faults by file, ascending in time."""
    found: dict[Key, list[Touched]] = {}
    for one in sorted(converter.faults.touched, key=lambda one: one.t):
        key = one.mapping.key or one.mapping.token.key
        if key is not None:
            found.setdefault(key, []).append(one)
    return found


def _of_memory(
    converter: Converter, entry: FileEntry, touched: list[Touched], began: float
) -> list[Change]:
    """Say what a file in memory held at the start; return how that changed.

    The engines see by themselves which pages came by faults.
    """
    changes = converter.cache.changes.get(entry.key, [])
    pages = -(-converter.files.size_of(entry) // c.PAGE_SIZE)
    if not 0 < pages <= MOST_PAGES:
        return changes
    lives: list[set[int]] = []
    # A segment of System V has no descriptor: no write() gets there.
    if entry.key[:2] != SHM_DEVICE or entry.path.startswith("/memfd:"):
        look, old = _last_look(converter, entry), _is_older(entry, began)
        lives = pages_written(changes, touched, look, old=old)
    entry.absent = runs_of(set(range(pages)) - (lives[0] if lives else set()))
    return _with_written(changes, lives)


def _is_older(entry: FileEntry, began: float) -> bool:
    """Tell whether a file was made before the recording began (s since 1970)."""
    try:
        return born(entry.path, entry.key) <= began
    except OSError:
        return False  # memfd, System V segment, deleted


def _last_look(converter: Converter, entry: FileEntry) -> Look:
    """Return the pages that a file in memory had when it was last looked at."""
    for snapshot in reversed(converter.run.snapshots):
        held = snapshot.memory.get(entry.key)
        if held is not None:
            return Look(snapshot.t, {index for index, byte in enumerate(held) if byte & 1})
    found = look_at(entry.key, entry.path)
    pages = set(range(found.pages)) - _pages(found.absent) if found is not None else set()
    return Look(1 << 63, pages)


def _with_written(changes: list[Change], lives: list[set[int]]) -> list[Change]:
    """Return the changes, with the pages that were written anew after they had left."""
    found: list[Change] = []
    lived: Counter[int] = Counter()
    for change in changes:
        found.append(change)
        for index in range(change.page, change.page + change.pages):
            if change.added:
                continue
            lived[index] += 1
            if lived[index] < len(lives) and index in lives[lived[index]]:
                found.append(change._replace(page=index, pages=1, added=True))
    return found


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
