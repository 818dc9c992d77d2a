"""Make the binary files of traces/invalid/trace: one damage each, all checksums right.

Run it to write them anew when the format gets a new version; what each must be
refused with stands here and in the file beside it.
"""

import hashlib
import json
import struct
import zlib
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "traces" / "invalid" / "trace"
MAGIC = b"\x89SPFT\r\n\x1a" + struct.pack("<HHI", 1, 2, 0)
BIG = 1 << 47


def chunk(fourcc, payload, flags=0, raw=None, zero=0, crc=None):
    raw = len(payload) if raw is None else raw
    head = struct.pack("<4sHHII", fourcc, flags, zero, raw, len(payload))
    crc = zlib.crc32(payload, zlib.crc32(head)) if crc is None else crc
    return head + struct.pack("<I", crc) + payload


def packed(fourcc, value):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return chunk(fourcc, zlib.compress(text), 1, len(text))


def end(chunks, events=0, count=None, digest=None):
    heads = b"".join(one[:20] for one in chunks)
    digest = hashlib.sha256(MAGIC + heads).digest() if digest is None else digest
    count = len(chunks) if count is None else count
    return chunk(b"END ", struct.pack("<QI32s", events, count, digest))


def whole(*chunks, events=0):
    """Return a file of these chunks, with a header, closed as it should be."""
    chunks = (packed(b"HEAD", {}), *chunks)
    return MAGIC + b"".join(chunks) + end(chunks, events)


def begun(*chunks):
    """Return a file that begins with these chunks."""
    return MAGIC + b"".join(chunks)


def column(number, values, code, encoding=1, mask=None, blob=None):
    """Return (entry, blob) of one column, plain: all planes."""
    size = struct.calcsize(f"<{code}")
    raw = struct.pack(f"<{len(values)}{code}", *values)
    planes = b"".join(raw[i::size] for i in range(size))
    blob = zlib.compress(planes) if blob is None else blob
    mask = (1 << size) - 1 if mask is None else mask
    return struct.pack("<BBBxI", number, encoding, mask, len(blob)), blob


def columns(rows, *some, count=None):
    count = len(some) if count is None else count
    heads = b"".join(one[0] for one in some)
    return struct.pack("<IB3x", rows, count) + heads + b"".join(one[1] for one in some)


#: column numbers of events
T, ENTER, EXIT, CPU, TID, MM, OP, FLAGS, A0, A1 = range(10)
A3, A4 = 11, 12


def events(*some, rows=1, first=0):
    given = {int.from_bytes(one[0][:1], "little") for one in some}
    if OP not in given:
        some = (*some, column(OP, [1] * rows, "B"))
    return chunk(b"EVTS", struct.pack("<Q", first) + columns(rows, *some))


def one_event(op, **args):
    places = {"a0": A0, "a1": A1, "a3": A3, "a4": A4}
    return events(
        column(OP, [op], "B"), *(column(places[name], [v], "q") for name, v in args.items())
    )


IMAGE = {"start_brk": 0, "brk": 0, "regions": 0, "pages": 0}
POINT = {
    "id": 0, "t": 0, "pid": 1, "mm": 0, "reason": "exit", "threads": 1, "brk": [0, 0],
    "rss": [0, 0, 0, 0], "regions": 0, "pages": 0,
}  # fmt: skip
REGION = [0x1000, 0x3000, 0x73, -1, 0, False]


def image(regions=(), window=None, pages=(), **changes):
    row = IMAGE | {"regions": len(regions), "pages": len(pages)} | changes
    found = [packed(b"IMAG", row)]
    if regions:
        found.append(packed(b"REGN", list(regions)))
    if pages:
        vpns = column(0, list(pages), "Q"), column(1, [1] * len(pages), "H")
        found.append(chunk(b"PAGE", columns(len(pages), *vpns)))
    if window:
        found.append(packed(b"WIND", window))
    return found


def region(**changes):
    names = ("start", "end", "flags", "file", "pgoff", "anon_vma")
    return list((dict(zip(names, REGION, strict=True)) | changes).values())


#: name -> (content, what it is refused with)
CASES = {
    "reserved-word": (
        MAGIC[:12] + b"\1\0\0\0",
        "offset 12: expected zero",
    ),
    "cut-in-the-magic": (
        MAGIC[:10],
        "offset 10: the file ends within its header (truncated?)",
    ),
    "cut-before-the-end": (
        begun(packed(b"HEAD", {})),
        "offset 46: the file ends, expected another chunk (truncated?)",
    ),
    "chunk-of-another-name": (
        begun(chunk(b"\xff\xff\xff\xff", b"")),
        "offset 16: expected the header of a chunk",
    ),
    "chunk-with-unknown-flags": (
        begun(chunk(b"HEAD", b"", flags=4)),
        "offset 16: expected the header of a chunk",
    ),
    "chunk-of-two-sizes": (
        begun(chunk(b"HEAD", b"{}", raw=3)),
        "offset 16: chunk of 2 bytes, expected 3",
    ),
    "chunk-that-nobody-knows": (
        begun(chunk(b"NEWS", b"")),
        "offset 16: unknown chunk b'NEWS', expected one of format 1",
    ),
    "packed-to-another-size": (
        begun(chunk(b"HEAD", zlib.compress(b"{}"), 1, 3)),
        "offset 16: packed data of another length, expected 3 bytes unpacked",
    ),
    "packed-by-nobody": (
        begun(chunk(b"HEAD", b"{}{}{}{}", 1, 2)),
        "offset 16: packed data: Error -3 while decompressing data: incorrect header check",
    ),
    "two-headers": (
        whole(packed(b"HEAD", {})),
        "offset 46: a second header",
    ),
    "json-cut": (
        begun(packed(b"HEAD", b'{"a')),
        "offset 16: JSON: Unterminated string starting at: line 1 column 2 (char 1)",
    ),
    "json-beyond-its-limit": (
        begun(packed(b"HEAD", b" " * (4 << 20) + b"{}")),
        "offset 16: 4194306 bytes of JSON, expected at most 4194304",
    ),
    "json-not-a-number": (
        begun(packed(b"HEAD", b'{"facts":{"x":NaN}}')),
        "offset 16: JSON: NaN is not JSON",
    ),
    "header-is-a-list": (
        begun(packed(b"HEAD", [])),
        "offset 16: header: a list of 0, expected an object",
    ),
    "header-string-is-a-number": (
        begun(packed(b"HEAD", {"source": 5})),
        "offset 16: header: source: 5, expected a string",
    ),
    "header-flag-is-a-number": (
        begun(packed(b"HEAD", {"pinned_cpus": 1})),
        "offset 16: header: pinned_cpus: 1, expected true or false",
    ),
    "header-count-beyond": (
        begun(packed(b"HEAD", {"ncpu": 1 << 20})),
        "offset 16: header: ncpu: 1048576, expected an integer 0..65536",
    ),
    "header-thp-setting": (
        begun(packed(b"HEAD", {"profile": {"thp_enabled": "often"}})),
        "offset 16: header: profile: thp_enabled: 'often', expected one of always, madvise,"
        " never",
    ),
    "header-command-is-a-string": (
        begun(packed(b"HEAD", {"command": "x"})),
        "offset 16: header: command: 'x', expected a list of 0..65536",
    ),
    "header-cpu-count-named-badly": (
        begun(packed(b"HEAD", {"cpus": [{"a b": 1}]})),
        "offset 16: header: cpus: key 'a b', expected a plain name",
    ),
    "process-without-pid": (
        begun(packed(b"PROC", [{}])),
        "offset 16: process: no pid",
    ),
    "rows-are-an-object": (
        begun(packed(b"THRD", {})),
        "offset 16: an object of 0, expected a list of rows",
    ),
    "folios-are-a-number": (
        begun(packed(b"FILE", [{"id": 0, "folios": 7}])),
        "offset 16: file: folios: 7, expected a list of pairs",
    ),
    "file-in-another-place": (
        whole(packed(b"FILE", [{"id": 3}])),
        "file 0: id 3, expected its place in the table",
    ),
    "file-of-negative-size": (
        whole(packed(b"FILE", [{"id": 0, "size": -7}])),
        "file 0: size -7, expected bytes or -1",
    ),
    "folios-that-overlap": (
        whole(packed(b"FILE", [{"id": 0, "folios": [[0, 4], [2, 4]]}])),
        "file 0: folio 2+4, expected ascending runs",
    ),
    "region-of-four": (
        begun(*image([[1, 2, 3, 4]])),
        "offset 83: region: a list of 4, expected a list of 6",
    ),
    "region-unaligned": (
        whole(*image([region(start=0x1001)])),
        "image 0: region 0x1001-0x3000, expected page-aligned borders",
    ),
    "region-backwards": (
        whole(*image([region(end=0x1000)])),
        "image 0: region 0x1000-0x1000, expected start < end <= 0x7ffffffff000",
    ),
    "regions-overlap": (
        whole(*image([region(), region(start=0x2000)])),
        "image 0: region 0x2000-0x3000, expected it above 0x3000",
    ),
    "region-of-a-file-that-is-not-there": (
        whole(*image([region(file=2)])),
        "image 0: region 0x1000-0x3000: file 2, expected one of 0 in the table",
    ),
    "region-with-an-offset-beyond": (
        whole(*image([region(pgoff=1 << 52)])),
        "image 0: region 0x1000-0x3000: pgoff 4503599627370496, expected 52 bits",
    ),
    "regions-without-image": (
        begun(packed(b"REGN", [REGION])),
        "offset 16: REGN chunk, expected an IMAG or CKPT before it",
    ),
    "regions-more-than-told": (
        begun(packed(b"IMAG", IMAGE | {"regions": 1}), packed(b"REGN", [REGION, REGION])),
        "offset 83: more regions than 1",
    ),
    "image-cut-off-by-another": (
        begun(packed(b"IMAG", IMAGE | {"regions": 1}), packed(b"HEAD", {})),
        "offset 83: HEAD chunk, expected 1 more regions and 0 more pages",
    ),
    "image-that-is-never-finished": (
        whole(packed(b"IMAG", IMAGE | {"regions": 1})),
        "offset 113: end, expected 1 more regions and 0 more pages",
    ),
    "image-break-beyond": (
        whole(*image(brk=BIG)),
        "image 0: brk 0x0..0x800000000000, expected below 0x7ffffffff000",
    ),
    "image-pages-descend": (
        whole(*image([REGION], pages=(2, 1))),
        "image 0: pages, expected in ascending order",
    ),
    "image-page-beyond": (
        whole(*image(pages=(1 << 40,))),
        "image 0: page 0x10000000000, expected below 0x7ffffffff",
    ),
    "window-without-image": (
        begun(packed(b"WIND", {"def_flags": 1})),
        "offset 16: WIND chunk, expected an image before it that has none",
    ),
    "window-anon-of-other-regions": (
        whole(*image([REGION], {"anon": [0, 0]})),
        "image 0: anon of 2 regions, expected 1",
    ),
    "window-anon-without-anon-vma": (
        whole(*image([REGION], {"anon": [1]})),
        "image 0: region 0x1000: anon_vma 1, expected one exactly where the region says so",
    ),
    "window-pgoff-beyond": (
        whole(*image([REGION], {"pgoffs": [1 << 52]})),
        "image 0: pgoff 4503599627370496, expected 52 bits",
    ),
    "window-content-without-page": (
        whole(*image([REGION], {"contents": [[1, 0]]})),
        "image 0: content of 0x1000, which has no page",
    ),
    "window-content-beyond": (
        whole(*image([REGION], {"contents": [[1, 1 << 48]]}, (1,))),
        "image 0: content 0x1000000000000, expected 0..0xffffffffffff",
    ),
    "checkpoint-of-no-mm": (
        begun(packed(b"CKPT", POINT | {"mm": -1})),
        "offset 16: checkpoint: mm: -1, expected an mm id",
    ),
    "checkpoint-in-another-place": (
        whole(packed(b"CKPT", POINT | {"id": 4})),
        "checkpoint 0: id 4, expected its place in the table",
    ),
    "events-without-number": (
        begun(chunk(b"EVTS", b"\0" * 4)),
        "offset 16: chunk of events without their number",
    ),
    "events-that-begin-elsewhere": (
        begun(events(first=7)),
        "offset 16: events 7+1, expected 0+1..65536",
    ),
    "end-of-another-size": (
        begun(packed(b"HEAD", {}), chunk(b"END ", b"\0")),
        "offset 46: end of 1 bytes, expected 44",
    ),
    "end-of-packed-noise": (
        begun(packed(b"HEAD", {}), chunk(b"END ", b"noise", 1, 44)),
        "offset 46: packed data: Error -3 while decompressing data: incorrect header check",
    ),
    "end-counts-other-chunks": (
        begun(packed(b"HEAD", {}), end([packed(b"HEAD", {})], count=5)),
        "offset 46: expected other chunks before the end than (0, 1)",
    ),
    "columns-cut": (
        whole(chunk(b"EVTS", struct.pack("<QI", 0, 1)), events=1),
        "offset 46: 4 bytes of columns, expected 8 or more",
    ),
    "columns-more-than-there": (
        whole(chunk(b"EVTS", struct.pack("<Q", 0) + columns(1, count=9)), events=1),
        "offset 46: 9 columns in 8 bytes",
    ),
    "column-longer-than-the-chunk": (
        whole(chunk(b"EVTS", struct.pack("<QIB3xBBBxI", 0, 1, 1, 6, 0, 0, 99)), events=1),
        "offset 46: column 6 of 99 bytes, 0 are left",
    ),
    "column-shorter-than-the-chunk": (
        whole(
            chunk(b"EVTS", struct.pack("<Q", 0) + columns(1, column(OP, [1], "B")) + b"xy"),
            events=1,
        ),
        "offset 46: 2 bytes after the last column",
    ),
    "column-twice": (
        whole(events(column(OP, [1], "B"), column(OP, [1], "B")), events=1),
        "offset 46: column op twice",
    ),
    "column-in-an-unknown-encoding": (
        whole(events(column(TID, [1], "i", encoding=7)), events=1),
        "offset 46: column tid in encoding 7, planes 0xf",
    ),
    "column-constant-of-another-size": (
        whole(events(column(TID, [1], "i", encoding=0, blob=b"\1")), events=1),
        "offset 46: constant column tid of 1 bytes, expected 4",
    ),
    "column-sums-beyond": (
        whole(events(column(T, [1 << 62, 1 << 62], "q", encoding=2), rows=2), events=2),
        "offset 46: column t: differences add up beyond 8 bytes",
    ),
    "pages-more-than-told": (
        begun(
            packed(b"IMAG", IMAGE | {"pages": 1}),
            chunk(b"PAGE", columns(2, column(0, [1, 2], "Q"), column(1, [1, 1], "H"))),
        ),
        "offset 80: 2 rows, expected at most 1",
    ),
    "event-of-no-operation": (
        whole(one_event(99), events=1),
        "offset 46, event 0: operation 99, expected 1..27",
    ),
    "event-of-no-thread": (
        whole(events(column(TID, [-1], "i")), events=1),
        "offset 46, event 0: tid -1, expected 0..4194304",
    ),
    "event-of-no-address-space": (
        whole(events(column(MM, [1 << 30], "I")), events=1),
        "offset 46, event 0: mm 1073741824, expected 0..4194303 or none",
    ),
    "event-that-ends-before-it-begins": (
        whole(events(column(ENTER, [5], "q")), events=1),
        "offset 46, event 0: enter 5 after exit 0",
    ),
    "fork-to-no-address-space": (
        whole(one_event(12, a1=-5), events=1),
        "offset 46, event 0: mm -5, expected 0..4194303",
    ),
    "exec-of-no-image": (
        whole(one_event(13, a1=3), events=1),
        "offset 46, event 0: image 3, expected one of 0 in the table",
    ),
    "mmap-of-no-file": (
        whole(one_event(2, a4=3), events=1),
        "offset 46, event 0: file 3, expected one of 0 in the table",
    ),
    "population-of-no-member": (
        whole(one_event(17, a0=9), events=1),
        "offset 46, event 0: rss member 9, expected one of 4 in the table",
    ),
}


def write():
    for name, (data, message) in CASES.items():
        (FOLDER / f"{name}.bin").write_bytes(data)
        (FOLDER / f"{name}.bin.expect").write_text(f"3 {message}\n")


if __name__ == "__main__":
    write()
