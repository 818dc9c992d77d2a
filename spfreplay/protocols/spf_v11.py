"""Speculative page faults, version 11, as posted: the source in ``spfreplay/mm/``."""

from __future__ import annotations

from typing import Final

from spfreplay.known_defects import V11
from spfreplay.protocols.definition import Definition

PROTOCOL: Final = Definition("spf-v11", "SPF v11 as posted, defects included", known=V11)
