"""What a missing part of an import cost: the cause of a page that is wrong."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from spfreplay.trace import missing
from spfreplay.trace.events import Header
from spfreplay_reference import contract as c
from spfreplay_reference.contract import Region

#: missing part -> how a report names it as a cause
CAUSES: Final = {
    missing.NO_MAPS: "initial maps not known",
    missing.CALLS: "calls not recorded",
    missing.MAPS_FROM_RECORDS: "initial maps put together",
    missing.MAPS_FROM_ELF: "initial maps rebuilt from ELF files",
    missing.BEGAN_RUNNING: "pages from before the recording",
    missing.ARGUMENTS: "pages of arguments guessed",
    missing.KERNEL_FAULTS: "kernel-mode faults not recorded",
    missing.USER_FAULTS: "user-mode faults not recorded",
    missing.ERROR_CODES: "read or write guessed",
    missing.FORK_FLAGS: "memory shared by a fork guessed",
    missing.PAGE_CACHE: "page cache not known",
}


class Missed:
    """Names the missing part that a wrong page may come from, for one trace."""

    def __init__(self, header: Header) -> None:
        self._parts = missing.missing_of(header.facts)

    def first(self, *parts: str) -> str:
        """Return the cause of the first of these parts that is missing, "" if none is."""
        return next((CAUSES[one] for one in parts if one in self._parts), "")

    def of_maps(self) -> str:
        """Return why a mapping may be wrong."""
        return self.first(
            missing.CALLS,
            missing.MAPS_FROM_ELF,
            missing.BEGAN_RUNNING,
            missing.MAPS_FROM_RECORDS,
        )

    def of_page(
        self, region: Region | None, vpn: int, kernel: int, engine: int, touched: Container[int]
    ) -> str:
        """Return why a page may be wrong.

        :param kernel: its bits, 0 = not present; ``engine`` likewise.
        :param touched: the pages of the address space that some fault names.
        """
        kind = (kernel or engine) & c.KIND_MASK
        if kernel and not engine and vpn not in touched:
            return self._of_unseen(region, kind)
        if kind == c.KIND_FILE and not (kernel and engine):
            return self.first(missing.PAGE_CACHE, missing.ERROR_CODES, missing.KERNEL_FAULTS)
        return self.first(missing.ERROR_CODES, missing.FORK_FLAGS, missing.KERNEL_FAULTS)

    def _of_unseen(self, region: Region | None, kind: int) -> str:
        """Return why a page may be there on which no recorded fault was."""
        found = self.first(missing.BEGAN_RUNNING)
        if not found and region is not None and region.flags & c.VM_GROWSDOWN:
            found = self.first(missing.ARGUMENTS, missing.MAPS_FROM_ELF)
        found = found or self.first(missing.KERNEL_FAULTS, missing.USER_FAULTS)
        if not found and kind == c.KIND_FILE:
            # By fault-around, of a fault taken for a write, or from the page cache.
            found = self.first(missing.ERROR_CODES, missing.PAGE_CACHE)
        return found
