"""What the recording kernel is like: its behaviour profile and other facts."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from spfreplay_reference.contract import KernelProfile

#: The oldest kernel whose behaviour the engines' rules are: judged on x86-64.
JUDGED_RELEASE: Final = (6, 18)

_CAP_IPC_LOCK: Final = 14
_THP: Final = Path("/sys/kernel/mm/transparent_hugepage")


def _chosen(path: Path, default: str) -> str:
    """Return the word in [brackets] of a sysfs choice."""
    with suppress(OSError):
        text = path.read_text()
        if "[" in text:
            return text.split("[", 1)[1].split("]", 1)[0]
        return text.strip()
    return default


def _number(path: str, default: int) -> int:
    with suppress(OSError, ValueError):
        return int(Path(path).read_text())
    return default


def _limit(which: int) -> int:
    soft, _ = resource.getrlimit(which)
    return -1 if soft == resource.RLIM_INFINITY else soft


def release() -> str:
    """Return the running kernel's release."""
    return os.uname().release


def version() -> tuple[int, int]:
    """Return the running kernel's version, as two numbers."""
    parts = release().split("-")[0].split(".")
    with suppress(ValueError, IndexError):
        return int(parts[0]), int(parts[1])
    return 6, 18


def kernel_profile() -> KernelProfile:
    """Discover the profile of the running kernel.

    ``fault_around_bytes`` sits in debugfs, which lockdown closes: then the
    kernel's default of 64 KiB is taken, which nobody can have changed either.
    """
    around = _number("/sys/kernel/debug/fault_around_bytes", 65536) >> 12
    return KernelProfile(
        release=release(),
        fault_around_pages=max(1, around),
        map_large_folios=version() >= JUDGED_RELEASE,
        thp_enabled=_thp_enabled(),
        thp_zero_page=_chosen(_THP / "use_zero_page", "0") == "1",
        overcommit_memory=_number("/proc/sys/vm/overcommit_memory", 0),
        max_map_count=_number("/proc/sys/vm/max_map_count", 65530),
        stack_limit=_limit(resource.RLIMIT_STACK),
        memlock_limit=-1 if _may_lock() else _limit(resource.RLIMIT_MEMLOCK),
    )


def unjudged(profile: KernelProfile) -> tuple[str, ...]:
    """Name the rules that ``profile`` asks for and that no kernel has judged.

    Judged, by random programs and by recordings, on 6.18 x86-64: fault-around of
    64 KiB, huge pages where madvise asks for them, heuristic overcommit.
    """
    found = []
    if profile.thp_enabled != "madvise":
        found.append(f"huge pages: {profile.thp_enabled}")
    if not profile.thp_zero_page:
        found.append("no huge zero page")
    if profile.fault_around_pages != 16:
        found.append(f"fault-around of {profile.fault_around_pages} pages")
    if profile.overcommit_memory:
        found.append(f"overcommit_memory={profile.overcommit_memory}")
    if not profile.map_large_folios:
        found.append("kernel older than 6.18")
    return tuple(found)


def _thp_enabled() -> str:
    """Return when memory gets 2 MiB pages: that size may have a setting of its own."""
    own = _chosen(_THP / "hugepages-2048kB" / "enabled", "inherit")
    return _chosen(_THP / "enabled", "never") if own == "inherit" else own


def _may_lock() -> bool:
    """Tell whether RLIMIT_MEMLOCK does not count (CAP_IPC_LOCK)."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False


def other_facts() -> dict[str, Any]:
    """Return what does not fit the profile but helps to read a trace."""
    sizes = {
        folder.name: _chosen(folder / "enabled", "never")
        for folder in sorted(_THP.glob("hugepages-*"))
    }
    with suppress(OSError):
        swap = len(Path("/proc/swaps").read_text().splitlines()) > 1
        return {
            "thp_sizes": sizes,
            "thp_defrag": _chosen(_THP / "defrag", ""),
            "shmem_thp": _chosen(_THP / "shmem_enabled", ""),
            "swap": swap,
            "ksm": _number("/sys/kernel/mm/ksm/run", 0),
            "numa_balancing": _number("/proc/sys/kernel/numa_balancing", 0),
        }
    return {"thp_sizes": sizes}


def file_systems() -> dict[tuple[int, int], str]:
    """Return (major, minor) -> type of every mounted file system."""
    found: dict[tuple[int, int], str] = {}
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            left, _, right = line.partition(" - ")
            major, _, minor = left.split()[2].partition(":")
            found[int(major), int(minor)] = right.split()[0]
    return found


def mount_point(device: tuple[int, int]) -> str | None:
    """Return where the file system of ``device`` is mounted, None if nowhere."""
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            parts = line.split()
            if parts[2] == f"{device[0]}:{device[1]}" and Path(parts[4]).is_dir():
                return parts[4]
    return None
