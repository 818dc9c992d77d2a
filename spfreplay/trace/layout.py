"""Layout of the trace file; all numbers are little-endian.

::

    magic (8 bytes), u16 major, u16 minor, u32 0
    chunk*   fourcc, u16 flags, u16 0, u32 raw, u32 stored, u32 crc, payload
    END      u64 events, u32 chunks, sha256 of the magic and all chunk headers

``crc`` covers the other fields of the chunk's header and the payload, so the
digest in END covers every byte of the file.  Chunks, in any order, but the
rows and pages of an image or checkpoint follow it directly::

    HEAD  JSON object          PROC THRD FILE  JSON list of rows
    IMAG  JSON object, then    REGN  JSON list of its regions, PAGE, and perhaps
    WIND  JSON object: what the image above tells beyond what exec leaves
    CKPT  JSON object, then    REGN, PAGE  columns of its pages
    EVTS  u64 number of the first event, columns

``raw`` is the size of the payload after inflating (flag 1); columns are
inflated one by one (see :mod:`spfreplay.trace.columns`).  A reader skips
unknown chunks that have flag 2, and unknown keys of JSON objects: that is how
a minor version adds something.
"""

from __future__ import annotations

import struct
from typing import Final

from spfreplay.trace.events import COLUMN_TYPES

MAGIC: Final = b"\x89SPFT\r\n\x1a"
#: how the text form of a trace begins
FIRST_TEXT: Final = b"spfreplay text"
MAJOR: Final = 1
MINOR: Final = 2  # 1: the operation file_size; 2: WIND, images of windows
FILE_HEAD: Final = struct.Struct("<8sHHI")
CHUNK_HEAD: Final = struct.Struct("<4sHHIII")
CRC: Final = struct.Struct("<I")
END: Final = struct.Struct("<QI32s")
FIRST: Final = struct.Struct("<Q")
FIRST_AND_ROWS: Final = struct.Struct("<QI")
FLAG_DEFLATED: Final = 1
FLAG_SKIPPABLE: Final = 2
TABLE_CHUNKS: Final = (
    b"HEAD", b"PROC", b"THRD", b"FILE", b"IMAG", b"CKPT", b"REGN", b"PAGE",
    b"WIND",
)  # fmt: skip

#: number of each column in the file: never reuse one
COLUMN_IDS: Final = {name: number for number, name in enumerate(COLUMN_TYPES)}
COLUMNS_BY_ID: Final = {COLUMN_IDS[name]: (name, code) for name, code in COLUMN_TYPES.items()}
#: columns stored as differences where they fit; plain transposition packs the
#: others as small and unpacks twice as fast
DELTA_COLUMNS: Final = ("t", "enter", "exit")
PAGE_TYPES: Final = {
    "vpns": "Q", "bits": "H", "pagemap": "Q", "kpageflags": "Q", "kpagecount": "I",
}  # fmt: skip
PAGE_IDS: Final = {name: number for number, name in enumerate(PAGE_TYPES)}
PAGES_BY_ID: Final = {PAGE_IDS[name]: (name, code) for name, code in PAGE_TYPES.items()}
