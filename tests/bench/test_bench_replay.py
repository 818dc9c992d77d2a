"""What replaying costs, on a recording of half a million events made here.

Prints rates; asserts none.  Straight and generator form run in the same
process, one after the other, so their ratio means something.
"""

import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spfreplay.diff import DiffOptions
from spfreplay.engines import EngineOptions, make_engine, replay
from spfreplay.pipeline import diff_trace
from spfreplay.trace.container import open_trace
from spfreplay.windows import cut

PROGRAMS = Path(__file__).parents[1] / "programs"
SMALL = Path(__file__).parents[2] / "traces" / "recorded" / "cstress.bin"

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A recording of faultheavy; where tracing is refused, a shipped one."""
    folder = tmp_path_factory.mktemp("bench")
    program, target = folder / "faultheavy", folder / "faultheavy.bin"
    if shutil.which("gcc"):
        source = PROGRAMS / "faultheavy.c"
        subprocess.run(["gcc", "-O1", "-pthread", "-o", program, source], check=True)
        script = "import sys; from spfreplay.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", script, "record", "-q", "-o", target, "--pin-cpus"]
        subprocess.run([*command, "--", program, "2", "130"], check=False)
    return open_trace(target if target.exists() else SMALL)


def timed(name, events, run):
    begin = time.process_time()
    value = run()
    spent = time.process_time() - begin
    print(f"  {name:28} {events / spent / 1000:8.0f} k events/s {spent:8.2f} s")
    return value, spent


def decode(trace):
    for _ in trace.chunks():
        pass


def test_replay(trace):
    events, tables = trace.events, trace.tables
    print(f"\n{events:,} events")
    _, decoding = timed("decode", events, lambda: decode(trace))
    timed("windows", events, lambda: cut(trace))
    timed("locked", events, lambda: replay(make_engine("locked", tables), trace))
    spent = {}
    for form in ("straight", "window"):
        engine = make_engine("spf-v11", tables, EngineOptions(form=form))
        _, spent[form] = timed(
            f"spf-v11, {form} form", events, lambda e=engine: replay(e, trace)
        )
    result, whole = timed("diff", events, lambda: diff_trace(trace, DiffOptions(explore=False)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  straight form {spent['window'] / spent['straight']:.2f}x the generator form")
    print(f"  decoding is {100 * decoding / whole:.1f} % of diff; peak {peak:.0f} MiB")
    print(f"  verdict {result.verdict} ({result.scope})")
