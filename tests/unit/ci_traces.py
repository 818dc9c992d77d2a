"""Small traces for a run over many: each with what it states, true or not."""

from pathlib import Path

LITMUS = Path(__file__).resolve().parents[2] / "traces" / "litmus"

#: a race that v11 is known for; one with a second that has no name; one of more orders
RACE = (LITMUS / "munmap-head-index.txt").read_text()
TWO = (LITMUS / "mremap-dontunmap-fault.txt").read_text()
LONG = (LITMUS / "munmap-fault-last-in-table.txt").read_text()
#: and one in which nothing happens
QUIET = """spfreplay text 1
expect: MATCH
thread 1
image 0 brk=0x5000
exec mm0 image=0
T1 mmap 0x20000000 16K rw- private|anon|fixed = 0x20000000
T1 write 0x20000000
"""
#: a thread that jumps where it may not: v11 never gets it off
STRICT = (LITMUS / "nx-fetch.txt").read_text()


def stating(text, expected):
    """Return a trace with another expectation; None: it states nothing."""
    lines = [line for line in text.splitlines() if not line.startswith("expect:")]
    if expected is not None:
        lines.insert(1, f"expect: {expected}")
    return "\n".join(lines) + "\n"


def folder_of(folder, files):
    """Write files of a folder, by their names."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder
