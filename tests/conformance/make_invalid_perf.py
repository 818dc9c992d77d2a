"""Make the files of traces/invalid/perf-data, as make_invalid.py makes traces."""

import struct
from pathlib import Path

import perf_files as f

FOLDER = Path(__file__).parents[2] / "traces" / "invalid" / "perf-data"
SMALL = f.perf_data([f.attr()], [f.fault(1, 2)])
LAST = 1 << 47


def at(place, data, whole=SMALL):
    """Return ``whole`` with other bytes at ``place``."""
    return whole[:place] + data + whole[place + len(data) :]


def long(value):
    return struct.pack("<Q", value)


def formats(data):
    """Return a file with other tracing data."""
    return f.perf_data([f.attr()], [f.fault(1, 2)], {1: data})


def chain_beyond():
    kind = f.USUAL | f.CALLCHAIN
    good = f.fault(50, 0x7000, sample_type=kind, chain=(1, 2))
    bad = good[:64] + long(1 << 61) + good[72:]
    return f.perf_data([f.attr(sample_type=kind)], [bad])


HEAD = b"\x17\x08\x44tracing"
START = HEAD + b"0.6\0\0\x08" + struct.pack("<I", 4096)
PAGES = START + b"header_page\0" + long(0) + b"header_event\0" + long(0)
NO_FAULTS = "no page faults were recorded: see spfreplay record --print-perf-command"

FAR_OFF = f.FORMATS[f.FAULT][1].replace("offset:8;", "offset:99999;")

CASES = {
    "empty": (b"", "offset 0: expected one of perf.data, perf-script*"),
    "pipe-mode": (
        b"PERFILE2" + long(16),
        "offset 8: perf.data in pipe mode: record to a file (perf record -o FILE),"
        " not through a pipe",
    ),
    "big-endian": (
        b"2ELIFREP" + bytes(200),
        "offset 0: perf.data of a big-endian machine: only x86-64 is modelled",
    ),
    "of-an-old-perf": (
        b"PERFFILE" + bytes(200),
        "offset 0: perf.data of perf older than 3.0: expected PERFILE2",
    ),
    "cut-in-the-header": (SMALL[:28], "offset 28: the file ends in the header of 104 bytes"),
    "no-records": (
        f.perf_data([f.attr()], []),
        "offset 40: no records: perf was killed before it closed the file; end it with ^C",
    ),
    "records-beyond-the-end": (
        at(48, long(LAST)),
        "offset 40: records at 256..140737488355584, the file has 3856 bytes: cut short?",
    ),
    "attributes-beyond-the-end": (
        at(32, long(LAST)),
        "offset 24: attributes at 112..140737488355440, the file has 3856 bytes: cut short?",
    ),
    "attributes-of-odd-size": (
        at(16, long(7)),
        "offset 16: attributes of 7 bytes, 144 in all: not an entry each",
    ),
    "ids-beyond-the-end": (
        at(112 + 128, long(LAST)),
        "offset 240: ids of an event at 140737488355328..140737488355336, the file has 3856"
        " bytes: cut short?",
    ),
    "no-events": (at(32, long(0)), "offset 112: no events were recorded"),
    "cut-in-its-list-of-sections": (
        SMALL[: 104 + 8 + 144 + 104 + 4],
        "offset 360: the file ends in the list of its sections: cut short?",
    ),
    "section-beyond-the-end": (
        at(len(SMALL) - len(f.tracing_data()) - 8, long(LAST)),
        "offset 360: section 1 at 376..140737488355704, the file has 3856 bytes: cut short?",
    ),
    "compressed": (
        f.perf_data([f.attr()], [f.fault(1, 2)], {27: bytes(16)}),
        "compressed perf.data: record without -z (perf inject does not decompress it)",
    ),
    "compressed-records": (
        f.perf_data([f.attr()], [f.record(81, bytes(8))]),
        "offset 256: compressed perf.data: record without -z (perf inject does not"
        " decompress it)",
    ),
    "string-beyond-its-section": (
        f.perf_data(
            [f.attr()], [f.fault(1, 2)], {1: f.tracing_data(), 4: struct.pack("<I", 9)}
        ),
        "offset 3872: string of 9 bytes, its section ends at 3876",
    ),
    "build-id-beyond-its-section": (
        f.perf_data([f.attr()], [f.fault(1, 2)], {1: f.tracing_data(), 2: bytes(40)}),
        "offset 3872: build-id record of 0 bytes, its section ends at 3912",
    ),
    "without-formats": (
        f.perf_data([f.attr()], [f.fault(1, 2)], {}),
        "no event formats (tracing data) in the file",
    ),
    "formats-of-another-kind": (
        formats(bytes(200)),
        "offset 376: expected tracing data (event formats)",
    ),
    "formats-of-another-byte-order": (
        formats(HEAD + b"0.6\0\1\x08" + bytes(99)),
        "offset 390: event formats of another byte order or word size",
    ),
    "formats-without-end-of-version": (
        formats(HEAD + b"0.6"),
        "offset 386: version of the tracing data: no end of the string",
    ),
    "formats-cut": (
        formats(START + b"header_page\0" + long(4)),
        "offset 416: header_page of 4 bytes, 0 are left in the section",
    ),
    "formats-too-long": (
        formats(START + b"header_page\0" + long(1 << 40)),
        "offset 408: header_page of 1099511627776 bytes, expected 1048576",
    ),
    "formats-without-header-page": (
        formats(START + b"footer_page\0"),
        "offset 408: expected header_page",
    ),
    "format-that-is-none": (
        formats(
            PAGES
            + struct.pack("<II", 0, 1)
            + b"sched\0"
            + struct.pack("<I", 1)
            + long(5)
            + b"hello"
        ),
        "offset 455: not the format of an event: 'hello'",
    ),
    "no-faults": (f.perf_data([f.attr(config=f.ENTER_BRK)], [f.fault(1, 2)]), NO_FAULTS),
    "no-times": (
        f.perf_data([f.attr(sample_type=f.IP | f.TID | f.RAW)], [f.fault(1, 2)]),
        "samples without time: record with -T",
    ),
    "no-threads": (
        f.perf_data([f.attr(sample_type=f.IP | f.TIME | f.RAW)], [f.fault(1, 2)]),
        "samples without pid and tid",
    ),
    "no-fields": (
        f.perf_data([f.attr(sample_type=f.USUAL & ~f.RAW)], [f.fault(1, 2)]),
        "samples of exceptions:page_fault_user without their fields: record with -R",
    ),
    "events-that-nobody-can-tell-apart": (
        f.perf_data(
            [
                f.attr(sample_type=f.IP | f.TID | f.TIME | f.RAW),
                f.attr(config=f.KFAULT, ident=2, sample_type=f.IP | f.TID | f.TIME | f.RAW),
            ],
            [f.fault(1, 2)],
        ),
        "samples do not say which event they are of",
    ),
    "layouts-that-nobody-can-tell-apart": (
        f.perf_data(
            [
                f.attr(sample_type=f.ID | f.IP | f.TID | f.TIME | f.RAW),
                f.attr(config=f.KFAULT, ident=2, sample_type=f.ID | f.TID | f.TIME | f.RAW),
            ],
            [f.fault(1, 2)],
        ),
        "samples of different layouts without an identifier in front",
    ),
    "record-of-four-bytes": (
        f.perf_data([f.attr()], [struct.pack("<IHH", 9, 0, 4) + bytes(96)]),
        "offset 256: record of 4 bytes, 104 are left",
    ),
    "records-end-in-the-middle": (
        f.perf_data([f.attr()], [f.fault(1, 2), b"\0" * 4]),
        "offset 360: 4 bytes, expected a record",
    ),
    "sample-too-short": (
        f.perf_data([f.attr()], [f.record(9, long(1) + bytes(56))]),
        "offset 256: sample of 72 bytes, expected 100",
    ),
    "side-record-too-short": (
        f.perf_data([f.attr()], [f.record(7, bytes(40))]),
        "offset 256: record 7 of 48 bytes, expected 32",
    ),
    "call-chain-beyond-its-sample": (
        chain_beyond(),
        "offset 256: call chain beyond its sample of 128 bytes",
    ),
    "trace-data-beyond-the-end": (
        f.perf_data([f.attr()], [f.fault(1, 2), f.record(71, long(1 << 40))]),
        "offset 360: trace data of 1099511627776 bytes, beyond the end",
    ),
    "no-record-of-a-known-kind": (
        f.perf_data([f.attr()], [f.record(99, bytes(8))]),
        "no records",
    ),
    "format-without-a-field": (
        formats(
            f.tracing_data(
                {f.FAULT: ("exceptions", f.form(f.FAULT, "page_fault_user", "address", "ip"))}
            )
        ),
        "event page_fault_user of this kernel has no field 'error_code'; spfreplay does not"
        " know this layout",
    ),
    "format-with-a-field-far-off": (
        formats(f.tracing_data({f.FAULT: ("exceptions", FAR_OFF)})),
        "field address of page_fault_user: size 8 at 99999",
    ),
    "nothing-of-use": (
        f.perf_data([f.attr()], [f.comm(10, "x")]),
        "nothing happened to the memory of any process that was chosen",
    ),
    "a-time-beyond": (
        f.perf_data([f.attr()], [f.fault(1 << 63, 2)]),
        "a time of 9223372036854775808 ns, expected less than 146 years",
    ),
    "a-cpu-beyond": (
        f.perf_data([f.attr()], [f.fault(5, 2, cpu=1 << 20)]),
        "a CPU number of 65536 or more",
    ),
}


def write():
    for name, (data, message) in CASES.items():
        (FOLDER / f"{name}.data").write_bytes(data)
        (FOLDER / f"{name}.data.expect").write_text(f"3 {message}\n")


if __name__ == "__main__":
    write()
