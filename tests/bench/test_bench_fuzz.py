"""What fuzzing costs: decoding, one order, every order; and what is met again.

Everything is printed, nothing asserted of time, which is that of the CPU: another
process beside it does not count.  But for two processes, which are timed by the clock:
on two cores that have nothing else to do.
"""

import random
import time
from multiprocessing import get_context

import pytest

from spfreplay.engines import EngineOptions
from spfreplay.fuzz import decode
from spfreplay.fuzz.batch import Job, run_batch
from spfreplay.fuzz.settle import completed
from spfreplay.fuzz.trial import Thorough, trace_of, try_once

pytestmark = pytest.mark.bench

FIXED = EngineOptions("spf-fixed")


def some_bytes(count, seed=1):
    rng = random.Random(seed)
    return [rng.randbytes(2 + 4 * rng.choice((2, 2, 3, 3, 4, 5))) for _ in range(count)]


def timed(work):
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def on_two_cores(work, parts=(11, 12, 13, 14, 15, 16)):
    """Return what ``work`` makes of each part, and seconds by the clock."""
    with get_context("fork").Pool(2) as pool:
        pool.map(work, (1, 2))  # what is built once is built now
        began = time.monotonic()
        results = pool.map(work, parts, chunksize=1)
        return results, time.monotonic() - began


def test_decoding():
    data = some_bytes(20_000)
    events, seconds = timed(lambda: sum(len(decode(each).events) for each in data))
    print(
        f"\n{len(data) / seconds:,.0f} traces/s decoded, {events / len(data):.1f} events each"
    )


def test_one_order_each():
    drafts = [decode(each) for each in some_bytes(3_000)]
    for draft in drafts[:200]:
        try_once(draft, 1, FIXED)
    found, seconds = timed(lambda: [try_once(draft, 7, FIXED) for draft in drafts])
    ran = sum(each is not None for each in found)
    print(
        f"\n{len(drafts) / seconds:,.0f} traces/s, {ran / seconds:,.0f} of them with a window"
    )


def test_every_order_each():
    explorer = Thorough(FIXED, 20_000)
    traces = [trace_of(completed(decode(each))) for each in some_bytes(700)]
    again = [trace_of(completed(decode(each))) for each in some_bytes(2_000, 2)]
    list(map(list, map(explorer.explore, traces[:50])))
    before = explorer.counts.copy()
    found, seconds = timed(lambda: [list(explorer.explore(each)) for each in traces[50:]])
    windows = [window for each in found for window in each]
    fresh = [window for window in windows if not window.cached]
    complete = sum(window.complete for window in fresh)
    print(
        f"\n{len(found) / seconds:,.0f} traces/s explored, {len(fresh) / seconds:,.0f} windows"
    )
    print(f"  of {len(fresh)} windows that were not known {complete} completely")
    hits = explorer.counts["hits"] - before["hits"]
    print(f"  {100 * hits / len(windows):.0f} % of the windows were known")
    found, _ = timed(lambda: [list(explorer.explore(each)) for each in again])
    hit = [window.cached for each in found for window in each]
    print(f"  {100 * sum(hit) / len(hit):.0f} % of {len(hit)} further ones")
    found, seconds = timed(lambda: [list(explorer.explore(each)) for each in again])
    print(f"  {len(again) / seconds:,.0f} traces/s where all is known")


def one_order_each(seed):
    ran = [try_once(decode(each), seed, FIXED) is not None for each in some_bytes(1_000, seed)]
    return len(ran), sum(ran)


def every_order_each(seed):
    """Return traces, those with windows that are new, and those explored completely."""
    explorer = Thorough(FIXED, 20_000)
    traces = fresh = whole = 0
    for each in some_bytes(200, seed):
        windows = list(explorer.explore(trace_of(completed(decode(each)))))
        new = [window for window in windows if not window.cached]
        traces += 1
        fresh += bool(new)
        whole += bool(new) and all(window.complete for window in new)
    return traces, fresh, whole


def test_two_cores():
    found, seconds = on_two_cores(one_order_each)
    traces, ran = map(sum, zip(*found, strict=True))
    print(f"\n{traces / seconds:,.0f} traces/s under one order each, {ran / seconds:,.0f} of")
    print("  them with a window, in two processes")
    found, seconds = on_two_cores(every_order_each)
    traces, fresh, whole = map(sum, zip(*found, strict=True))
    print(
        f"{traces / seconds:,.0f} traces/s in every order; {fresh / seconds:,.0f} with windows"
    )
    print(f"  that were not known, {whole / seconds:,.0f} of them explored completely")


def test_batches():
    job = Job(0, 5, 24, FIXED, 20_000, frozenset(), ())
    known, drafts = set(), []
    began = time.process_time()
    tried = explored = hits = misses = 0
    for number in range(40):
        job = job._replace(number=number, known=frozenset(known), parents=tuple(drafts[-48:]))
        done = run_batch(job)
        for kept in done.kept:
            known |= kept.features
            drafts.append(kept.draft)
        tried += done.tried
        explored += done.explored
        hits += done.counts["hits"]
        misses += done.counts["misses"]
    seconds = time.process_time() - began
    print(f"\n{tried / seconds:,.0f} traces/s and {explored / seconds:,.0f} windows/s together")
    print(f"  hits {hits}, misses {misses}, coverage {len(known)}, kept {len(drafts)}")
