"""The TLB oracle: who holds the lock of a page table may still be about to flush."""

from spfreplay.engines import EngineOptions
from spfreplay.engines.cases import cases
from spfreplay.engines.judge import perform
from spfreplay.explore.schedule import read_runs
from spfreplay.oracles import translations
from spfreplay.trace.container import open_trace
from spfreplay.windows import cut

#: T4 has a translation of the zero page that T1 takes away; in between T3's call returns
TRACE = """spfreplay text 1
thread 1
thread 2 pid=1
thread 3 pid=1
thread 4 pid=1
image 0 brk=0x5000
exec mm0 image=0
T1 fork T2 mm0 vm|thread
T1 fork T3 mm0 vm|thread
T1 fork T4 mm0 vm|thread
T1 mmap 0x20100000 16K rw- private|fixed|growsdown|anon = 0x20100000
T1 mmap 0x20000000 16K rw- private|fixed|anon = 0x20000000
@1010000+199 T2 write 0x20000000
@1010000+99 T1 write 0x20003000 cpu=1
@1010000+199 T3 madvise 0x20003000 8K dontfork = -ENOMEM cpu=2
@1010000+99 T4 read 0x20003000 cpu=3
@1010100+99 T1 munmap 0x20000000 16K = 0 cpu=1
"""
ORDER = "d55.c6.a14.b14.c20.a48.b37.c1.b107"


def findings(tmp_path):
    path = tmp_path / "trace.txt"
    path.write_text(TRACE)
    trace = open_trace(path)
    options = EngineOptions("spf-fixed")
    (part,) = cases(trace, cut(trace)[1], options)
    return {each.outcome for each in perform(part.case, read_runs(ORDER), options).findings}


def test_what_is_taken_away_under_the_lock_is_flushed_later(tmp_path):
    assert findings(tmp_path) == set()


def test_without_the_lock_it_would_be_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(translations, "is_locked", lambda mm, vpn: False)
    assert findings(tmp_path) == {"STALE_TLB"}
