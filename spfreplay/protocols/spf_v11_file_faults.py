"""The variant of the replies to v11 19/26: faults of files without mmap_sem, too.

Its source is v11's, with the two tests of vm_ops switched over.
"""

from __future__ import annotations

from typing import Final

from spfreplay.known_defects import V11
from spfreplay.protocols.definition import Definition

PROTOCOL: Final = Definition(
    "spf-v11-file-faults",
    "SPF v11, file faults speculative as well",
    file_faults=True,
    known=V11,
    answers="spf-v11",
)
