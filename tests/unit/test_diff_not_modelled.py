"""Calls that no engine knows: neither is asked, and a match is no answer."""

import pytest

from spfreplay.pipeline import diff_trace
from spfreplay.trace.container import open_trace
from spfreplay.verify import verify_trace

START = """spfreplay text 1
thread 1
thread 2 pid=1
image 0 brk=0x5000
exec mm0 image=0
T1 fork T2 mm0 vm|thread
T1 mmap 0x20000000 4M rw- private|anon|fixed = 0x20000000
"""
CALLS = {
    "madvise(MADV_COLLAPSE)": "T1 madvise 0x20000000 2M 25 = 0",
    "madvise(MADV_GUARD_INSTALL)": "T1 madvise 0x20000000 4K 102",
    "mmap(MAP_HUGETLB)": "T1 mmap 0x30000000 2M rw- private|anon|hugetlb = 0x30000000",
}


def diffed(tmp_path, *lines):
    path = tmp_path / "t.txt"
    path.write_text(START + "\n".join(lines) + "\n")
    return diff_trace(open_trace(path)), verify_trace(open_trace(path))


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_not_modelled_caps_the_match(tmp_path, name):
    result, verified = diffed(tmp_path, CALLS[name], "T1 write 0x20001000")
    assert (result.verdict, result.caps[-1]) == ("UNKNOWN", "1 operation is not modelled")
    assert verified.unmodelled == ((name, 1),)


def test_a_window_with_such_a_call_is_not_explored(tmp_path):
    result, _ = diffed(
        tmp_path,
        "@1ms..2ms T1 madvise 0x20000000 4K 102 = 0",
        "@1ms..2ms T2 write 0x20000000",
    )
    assert result.verdict == "UNKNOWN"
    assert result.orders.not_explored == (("a call that is not modelled", 1),)
