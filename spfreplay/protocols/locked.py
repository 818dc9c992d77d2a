"""The judge itself: mmap_sem for everything."""

from __future__ import annotations

from typing import Final

from spfreplay.protocols.definition import Definition

PROTOCOL: Final = Definition("locked", "mmap_sem for everything: the reference", reference=True)
