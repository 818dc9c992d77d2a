"""Random orders of faults, reclaim, migration, NUMA hints, and whoever takes memory away.

In every order: nothing deadlocks, nothing is touched that was freed (but where
v11 is known to), the counts are right at the end, and no store is lost.
"""

import random

import pytest
from mm_lanes import BadAccess, Lane
from test_mm_random_orders import (
    DONTNEED,
    FREE_ADVICE,
    GROW,
    MM,
    MUNMAP,
    PAGE,
    READ,
    READ_ONLY,
    WRITE,
    run,
    world,
)

from spfreplay.mm.validate import validate_mm
from spfreplay_reference.contract import (
    CONTENT_SHIFT,
    OP_MIGRATE,
    OP_MUNMAP,
    OP_NUMA_HINT,
    OP_SWAP_OUT,
    OUT_ACCESS,
    OUT_ANON,
    OUT_NONE,
    OUT_NUMA,
    OUT_REUSE,
    OUT_SEGV_ACCERR,
    OUT_SEGV_MAPERR,
    OUT_SWAPIN,
    OUT_ZERO,
    OUTCOME_MASK,
)

EBUSY = 16
STORE, LOAD, KERNEL_STORE = (0, WRITE), (0, READ), (0, WRITE & ~READ)
SWAP_OUT, MIGRATE = (OP_SWAP_OUT,), (OP_MIGRATE,)
HINT = (OP_NUMA_HINT, 4 * PAGE)
SEEDS = range(25)
#: what was there, and what was made of it
SERVED = {OUT_NONE, OUT_ACCESS, OUT_NUMA, OUT_REUSE, OUT_SWAPIN}
GONE = {MUNMAP: OUT_SEGV_MAPERR, READ_ONLY: OUT_SEGV_ACCERR}
#: where v11 trusts what nothing keeps in place
V11_DEFECTS = {
    "use after free: handle_pte_fault",
    "use after free: ksm_might_need_to_copy",
    "use after free: migration_entry_wait",
    "use after free: swap_ra_info",
    "wild table: migration_entry_wait",
    "wild table: pte_map_lock",
    "wild table: swap_ra_info",
}


def race(seed, operations, before=()):
    """Run ``before`` alone, then the operations in the order of ``seed``."""
    kernel, addr = world()
    for op, *arguments in before:
        kernel.call(8, op, MM, 1, addr, *arguments)
    lanes = []
    for tid, (what, *arguments) in enumerate(operations, 1):
        if what < OP_MUNMAP:
            page, code = what, *arguments
            begun = kernel.begin_access(10 + tid, MM, tid, addr + page * PAGE, code)
        else:
            begun = kernel.begin(10 + tid, what, MM, tid, (addr, *arguments))
        lanes.append(Lane(*begun))
    order = -1 if seed & 1 else 1  # who comes first
    results = run(lanes[::order], random.Random(seed), kernel)[::order]
    assert validate_mm(kernel.kernel) == []
    assert all(not lane.task.irqs_off for lane in lanes)
    return results, kernel.page(MM, addr >> 12)


def check(operations, results, word):
    """Compare what came out with what any order may do."""
    lost = [
        operation for operation in operations if operation in (MUNMAP, DONTNEED, FREE_ADVICE)
    ]
    for operation, result in zip(operations, results, strict=True):
        if operation[0] < OP_MUNMAP:
            allowed = SERVED | {GONE[each] for each in operations if each in GONE}
            if lost:
                allowed |= {OUT_ANON, OUT_ZERO}
            assert result & OUTCOME_MASK in allowed
        elif operation in (SWAP_OUT, MIGRATE):
            assert result in (0, -EBUSY)
    stores = [
        11 + number
        for number, (operation, result) in enumerate(zip(operations, results, strict=True), 1)
        if operation in (STORE, KERNEL_STORE) and result & OUTCOME_MASK in SERVED
    ]
    if stores and not lost:
        assert word >> CONTENT_SHIFT in stores


OPERATIONS = [
    (STORE, SWAP_OUT), (LOAD, SWAP_OUT), (KERNEL_STORE, SWAP_OUT), (STORE, STORE),
    (STORE, LOAD, SWAP_OUT), (STORE, KERNEL_STORE, SWAP_OUT), (STORE, SWAP_OUT, MUNMAP),
    (STORE, SWAP_OUT, DONTNEED), (STORE, SWAP_OUT, READ_ONLY), (STORE, SWAP_OUT, FREE_ADVICE),
    (STORE, SWAP_OUT, GROW), (SWAP_OUT, SWAP_OUT), (SWAP_OUT, MUNMAP), (SWAP_OUT, DONTNEED),
    (STORE, MIGRATE), (STORE, KERNEL_STORE, MIGRATE), (STORE, MIGRATE, MUNMAP),
    (STORE, MIGRATE, DONTNEED), (STORE, MIGRATE, READ_ONLY), (STORE, MIGRATE, SWAP_OUT),
    (MIGRATE, MIGRATE, STORE), (MIGRATE, GROW), (STORE, HINT), (STORE, HINT, SWAP_OUT),
    (STORE, HINT, MIGRATE), (LOAD, HINT, MUNMAP), (STORE, HINT, READ_ONLY),
]  # fmt: skip
BEFORE = {"mapped": (), "swapped": (SWAP_OUT,), "hinted": (HINT,)}


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("operations", OPERATIONS)
def test_every_order_is_sound_and_loses_no_store(operations, before):
    for seed in SEEDS:
        try:
            results, word = race(seed, operations, BEFORE[before])
        except BadAccess as defect:
            assert defect.args[0] in V11_DEFECTS, f"seed {seed}"
            continue
        check(operations, results, word)


def test_the_orders_reach_both_sides_of_the_races():
    """Without this, a scheduler that never interleaves would pass all the above."""
    outcomes = {race(seed, (STORE, SWAP_OUT))[0][0] & OUTCOME_MASK for seed in range(60)}
    assert outcomes >= {OUT_NONE, OUT_SWAPIN}
    results = {tuple(race(seed, (MIGRATE, SWAP_OUT))[0]) for seed in range(60)}
    assert len(results) > 2
