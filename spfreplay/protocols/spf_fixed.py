"""v11 with the published fixes, and those that nobody has published."""

from __future__ import annotations

from typing import Final

from spfreplay.mutations.catalogue import FIXES
from spfreplay.protocols.definition import Definition

PROTOCOL: Final = Definition("spf-fixed", "SPF v11 and the published fixes", FIXES)
