"""Wherever addresses move, what an engine can see of them stays."""

import random
from itertools import pairwise

import pytest

from spfreplay.share.addresses import AddressMap, CannotMove, Uses
from spfreplay_reference.contract import TASK_SIZE

TABLE, MIDDLE, GLOBAL = 21, 30, 39
SEEDS = range(60)


def ranges(rng):
    """Return mappings of all sizes, some of them at the borders of directories."""
    found = []
    for _ in range(rng.randint(1, 40)):
        start = rng.randrange(1 << 16, 1 << 47) & -4096
        if rng.random() < 0.5:
            start = (rng.randrange(1, 40) << rng.choice((TABLE, MIDDLE, GLOBAL))) - 8192
        length = rng.choice((4096, 16384, 3 << 20, 5 << 30, rng.randrange(1, 1 << 36) & -4096))
        start = max(start, 1 << 16)
        if start + length <= TASK_SIZE:
            found.append((start, max(length, 4096)))
    return found


def moved(some):
    uses = Uses()
    for start, length in some:
        uses.extent(start, length)
    return AddressMap(uses)


def points(rng, some):
    found = {start for start, _ in some} | {start + length - 1 for start, length in some}
    found |= {start + rng.randrange(length) for start, length in some}
    return sorted(found)


@pytest.mark.parametrize("seed", SEEDS)
def test_order_and_place_in_a_table_stay(seed):
    rng = random.Random(seed)
    some = ranges(rng)
    to = moved(some)
    old = points(rng, some)
    new = [to.address(value) for value in old]
    assert new == sorted(set(new))
    assert [v & (1 << TABLE) - 1 for v in new] == [v & (1 << TABLE) - 1 for v in old]
    assert all(0 <= value < TASK_SIZE for value in new)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_shared_a_directory_still_does_and_nothing_else(seed):
    rng = random.Random(seed)
    some = ranges(rng)
    to = moved(some)
    old = points(rng, some)
    for shift in (TABLE, MIDDLE, GLOBAL):
        for one, two in pairwise(old):
            before = (two >> shift) - (one >> shift)
            after = (to.address(two) >> shift) - (to.address(one) >> shift)
            assert min(before, 2) == min(after, 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mapping_keeps_its_length(seed):
    some = ranges(random.Random(seed))
    to = moved(some)
    last = [to.address(start + length - 1) - to.address(start) + 1 for start, length in some]
    assert last == [length for _, length in some]
    assert [to.length(*each) for each in some] == [length for _, length in some]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_address_is_one_that_was_there(seed):
    rng = random.Random(seed)
    some = [
        (start & (1 << 44) - 1 | 1 << 43, min(length, 1 << 30)) for start, length in ranges(rng)
    ]
    old = points(rng, some)
    to = moved(some)
    assert {to.address(value) >> GLOBAL for value in old}.isdisjoint(v >> GLOBAL for v in old)


def test_null_and_errors_and_small_addresses_stay():
    to = moved([(0x40_0000, 4096)])
    values = [0, 8, 0xFFFF, -1, -4096, TASK_SIZE, 1 << 47]
    assert [to.address(value) for value in values] == values


def test_an_address_of_the_kernel_keeps_its_place_in_a_page_only():
    to = moved([(0x40_0000, 4096)])
    assert to.address(0xFFFF_FFFF_8123_4567 - (1 << 64)) == 0xFFFF_8000_0000_0567 - (1 << 64)


def test_mappings_that_begin_below_64_kib_move_with_the_others():
    to = moved([(0x5000, 4096), (0x20_0000, 4096)])
    assert [to.address(v) for v in (0x4FFF, 0x5000, 0x20_0000)] == [
        0x4FFF,
        0x80_0000_5000,
        0x80_0020_0000,
    ]


def test_a_range_over_a_hole_ends_where_its_end_went():
    uses = Uses()
    uses.extent(1 << 40, 4096)
    uses.extent(1 << 45, 4096)
    uses.length(1 << 40, (1 << 45) - (1 << 40) + 4096)
    to = AddressMap(uses)
    length = to.length(1 << 40, (1 << 45) - (1 << 40) + 4096)
    assert to.address(1 << 40) + length == to.address(1 << 45) + 4096
    assert length < 1 << 41


def test_a_range_beyond_the_address_space_stays_beyond_it():
    to = moved([(1 << 40, 4096)])
    length = to.length(1 << 40, 1 << 47)
    assert to.address(1 << 40) + length == (1 << 40) + (1 << 47)


def test_an_address_space_that_is_full_cannot_be_moved():
    uses = Uses()
    uses.extent(0x10_0000, (1 << 46) - 1)
    uses.extent(1 << 46, (1 << 46) - (1 << 22))
    with pytest.raises(CannotMove):
        AddressMap(uses)
