"""Hand-made perf.data files, byte by byte from the layout of perf_event.h."""

import struct

IP, TID, TIME, ADDR, READ, CALLCHAIN, ID = (1 << n for n in range(7))
CPU, PERIOD, STREAM_ID, RAW = 1 << 7, 1 << 8, 1 << 9, 1 << 10
IDENTIFIER = 1 << 16
USUAL = IDENTIFIER | IP | TID | TIME | ADDR | CPU | PERIOD | RAW
SAMPLE_ID_ALL, USE_CLOCKID, FREQ = 1 << 18, 1 << 25, 1 << 10

COMMON = (
    "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
    "\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n"
    "\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;\n"
    "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n"
)


def form(number, name, *fields):
    """The format text of an event whose fields are all 8 bytes, or (name, size, signed)."""
    text, at = f"name: {name}\nID: {number}\nformat:\n{COMMON}", 8
    for one in fields:
        field, size, signed = one if isinstance(one, tuple) else (one, 8, 0)
        text += f"\tfield:long {field};\toffset:{at};\tsize:{size};\tsigned:{signed};\n"
        at += size
    return text + '\nprint fmt: ""\n'


FAULT, KFAULT, EXEC, ENTER_MMAP, EXIT_MMAP, ENTER_BRK, EXIT_BRK = range(101, 108)
FORMATS = {
    FAULT: ("exceptions", form(FAULT, "page_fault_user", "address", "ip", "error_code")),
    KFAULT: ("exceptions", form(KFAULT, "page_fault_kernel", "address", "ip", "error_code")),
    EXEC: ("sched", form(EXEC, "sched_process_exec", ("pid", 4, 1), ("old_pid", 4, 1))),
    ENTER_MMAP: ("syscalls", form(ENTER_MMAP, "sys_enter_mmap", ("__syscall_nr", 4, 1),
                 ("pad", 4, 0), "addr", "len", "prot", "flags", "fd", "off")),
    EXIT_MMAP: ("syscalls", form(EXIT_MMAP, "sys_exit_mmap", ("__syscall_nr", 4, 1),
                ("pad", 4, 0), ("ret", 8, 1))),
    ENTER_BRK: ("syscalls", form(ENTER_BRK, "sys_enter_brk", ("__syscall_nr", 4, 1),
                ("pad", 4, 0), "brk")),
    EXIT_BRK: ("syscalls", form(EXIT_BRK, "sys_exit_brk", ("__syscall_nr", 4, 1),
               ("pad", 4, 0), ("ret", 8, 1))),
}  # fmt: skip


def attr(kind=2, config=FAULT, ident=1, sample_type=USUAL, flags=SAMPLE_ID_ALL, period=1):
    """(perf_event_attr of 128 bytes, id)."""
    flags |= USE_CLOCKID
    data = struct.pack("<IIQQQQQ", kind, 128, config, period, sample_type, 0, flags)
    return data.ljust(92, b"\0") + struct.pack("<i", 1) + bytes(32), ident


def trailer(time, ident=1, cpu=0, tid=7, pid=7, sample_type=USUAL):
    parts = (
        (TID, struct.pack("<II", pid, tid)),
        (TIME, struct.pack("<Q", time)),
        (ID, struct.pack("<Q", ident)),
        (STREAM_ID, bytes(8)),
        (CPU, struct.pack("<II", cpu, 0)),
        (IDENTIFIER, struct.pack("<Q", ident)),
    )
    return b"".join(data for bit, data in parts if sample_type & bit)


def record(kind, body, misc=0):
    body += b"\0" * (-len(body) % 8)
    return struct.pack("<IHH", kind, misc, 8 + len(body)) + body


def sample(
    time, ident, raw=b"", cpu=0, tid=7, pid=7, sample_type=USUAL, addr=0, ip=0, chain=()
):
    parts = (
        (IDENTIFIER, struct.pack("<Q", ident)),
        (IP, struct.pack("<Q", ip)),
        (TID, struct.pack("<II", pid, tid)),
        (TIME, struct.pack("<Q", time)),
        (ADDR, struct.pack("<Q", addr)),
        (ID, struct.pack("<Q", ident)),
        (STREAM_ID, bytes(8)),
        (CPU, struct.pack("<II", cpu, 0)),
        (PERIOD, struct.pack("<Q", 1)),
        (CALLCHAIN, struct.pack(f"<Q{len(chain)}Q", len(chain), *chain)),
        (RAW, struct.pack("<I", len(raw)) + raw),
    )
    return record(9, b"".join(data for bit, data in parts if sample_type & bit))


def fields(event, *values, tid=7):
    """The payload of a tracepoint with 8-byte fields."""
    head = struct.pack("<HBBi", event, 0, 0, tid)
    return head + b"".join(struct.pack("<Q", value % (1 << 64)) for value in values)


def fault(time, addr, err=6, ip=0x1000, ident=1, **more):
    raw = fields(FAULT, addr, ip, err, tid=more.get("tid", 7))
    return sample(time, ident, raw, **more)


def mmap2(time, start, length, prot, path, pgoff=0, ino=0, misc=0, flags=2, pid=7):
    body = struct.pack("<IIQQQ", pid, pid, start, length, pgoff)
    body += struct.pack("<IIQQII", 8, 1, ino, 0, prot, flags)
    name = path.encode() + b"\0"
    body += name + b"\0" * (-len(name) % 8)
    return record(10, body + trailer(time, tid=pid, pid=pid), misc)


def comm(time, name, by_exec=True, pid=7):
    text = name.encode() + b"\0"
    text += b"\0" * (-len(text) % 8)
    body = struct.pack("<II", pid, pid) + text
    return record(3, body + trailer(time, tid=pid, pid=pid), 1 << 13 if by_exec else 0)


def fork(time, parent, pid, tid, kind=7):
    return record(kind, struct.pack("<IIIIQ", pid, parent, tid, parent, time) + trailer(time))


ROUND = record(68, b"")


def tracing_data(formats=FORMATS):
    def block(data):
        return struct.pack("<Q", len(data)) + data

    out = b"\x17\x08\x44tracing0.6\0" + b"\0\x08" + struct.pack("<I", 4096)
    out += b"header_page\0" + block(b"") + b"header_event\0" + block(b"")
    out += struct.pack("<I", 0)
    systems = {}
    for system, text in formats.values():
        systems.setdefault(system, []).append(text)
    out += struct.pack("<I", len(systems))
    for system, texts in systems.items():
        out += system.encode() + b"\0" + struct.pack("<I", len(texts))
        out += b"".join(block(text.encode()) for text in texts)
    return out


def perf_data(attrs, records, features=None):
    """A whole file; ``features``: bit -> bytes."""
    features = {1: tracing_data()} if features is None else features
    at = 104
    ids = b"".join(struct.pack("<Q", ident) for _, ident in attrs)
    attrs_at = at + len(ids)
    table = b"".join(
        data + struct.pack("<QQ", at + 8 * n, 8) for n, (data, _) in enumerate(attrs)
    )
    data_at = attrs_at + len(table)
    data = b"".join(records)
    bits = sum(1 << bit for bit in features)
    sections_at = data_at + len(data) + 16 * len(features)
    index, bodies = b"", b""
    for bit in sorted(features):
        index += struct.pack("<QQ", sections_at + len(bodies), len(features[bit]))
        bodies += features[bit]
    head = struct.pack(
        "<8sQQQQQQQQ", b"PERFILE2", 104, 144, attrs_at, len(table), data_at, len(data), 0, 0
    )
    return head + bits.to_bytes(32, "little") + ids + table + data + index + bodies


#: what a program does in the files below, all events in one attribute each
EVENTS = (FAULT, KFAULT, EXEC, ENTER_MMAP, EXIT_MMAP, ENTER_BRK, EXIT_BRK)
ATTRS = [attr(config=config, ident=n + 1) for n, config in enumerate(EVENTS)]
IDS = {config: n + 1 for n, config in enumerate(EVENTS)}

TEXT, HEAP, STACK = 0x400000, 0x1000000, 0x7FFD00000000


def exec_records(t=1000):
    """perf's records of an execve, mappings and all."""
    event = struct.pack("<HBBi", EXEC, 0, 0, 7) + struct.pack("<ii", 7, 7)
    return [
        comm(t, "small prog"),
        mmap2(t + 1, STACK, 0x21000, 3, "[stack]", pgoff=0x7FFFFFFDE000),
        mmap2(t + 2, TEXT, 0x3000, 5, "/usr/bin/small", ino=5),
        mmap2(t + 3, TEXT + 0x2000, 0x1000, 3, "/usr/bin/small", pgoff=0x2000, ino=5),
        sample(t + 4, IDS[KFAULT], fields(KFAULT, TEXT + 0x2100, 0, 2)),
        sample(t + 9, IDS[EXEC], event),
    ]
