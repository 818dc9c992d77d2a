"""Locks know their owner: what is taken or dropped wrongly is told, at once and by whom."""

import pytest

from spfreplay.mm.locking import LockError, RwLock, RwSpinLock, Semaphore, SpinLock


class Cpu:
    """Just what a lock looks at."""

    def __init__(self, name):
        self.name, self.preempt_count = name, 0

    def __repr__(self):
        return self.name


@pytest.fixture
def cpus():
    return Cpu("A"), Cpu("B")


MUTEXES = (SpinLock, Semaphore)
RW_LOCKS = (RwLock, RwSpinLock)


def refuses(action, task, told):
    with pytest.raises(LockError) as error:
        action(task)
    assert str(error.value) == told


@pytest.mark.parametrize("kind", MUTEXES)
def test_a_lock_has_one_owner_who_alone_may_drop_it(kind, cpus):
    one, other = cpus
    lock = kind()
    assert lock.owner is None
    refuses(lock.unlock, one, "A drops a lock that None holds")
    lock.lock(one)
    assert lock.owner is one
    refuses(lock.lock, other, "B takes a lock that A holds")
    refuses(lock.lock, one, "A takes a lock that A holds")
    refuses(lock.unlock, other, "B drops a lock that A holds")
    assert lock.trylock(other) is False
    assert lock.owner is one
    lock.unlock(one)
    assert lock.owner is None
    assert lock.trylock(other) is True
    assert lock.owner is other


@pytest.mark.parametrize("kind", RW_LOCKS)
def test_a_writer_is_alone(kind, cpus):
    one, other = cpus
    lock = kind()
    assert (lock.writer, lock.readers) == (None, 0)
    refuses(lock.write_unlock, one, "A drops a write lock that None holds")
    lock.write_lock(one)
    assert (lock.writer, lock.readers) == (one, 0)
    refuses(lock.write_lock, other, "B takes a lock for write that is held")
    refuses(lock.read_lock, other, "B takes a lock for read that A writes")
    refuses(lock.write_unlock, other, "B drops a write lock that A holds")
    lock.write_unlock(one)
    assert (lock.writer, lock.readers) == (None, 0)


@pytest.mark.parametrize("kind", RW_LOCKS)
def test_readers_share_and_keep_writers_out(kind, cpus):
    one, other = cpus
    lock = kind()
    refuses(lock.read_unlock, one, "A drops a read lock that nobody holds")
    lock.read_lock(one)
    lock.read_lock(other)
    assert (lock.writer, lock.readers) == (None, 2)
    refuses(lock.write_lock, other, "B takes a lock for write that is held")
    lock.read_unlock(one)
    refuses(lock.write_lock, other, "B takes a lock for write that is held")
    lock.read_unlock(other)
    refuses(lock.read_unlock, other, "B drops a read lock that nobody holds")
    assert lock.readers == 0
    lock.write_lock(other)


def test_a_downgraded_writer_is_one_reader(cpus):
    one, other = cpus
    lock = RwLock()
    refuses(lock.downgrade, one, "A downgrades a write lock that None holds")
    lock.write_lock(one)
    refuses(lock.downgrade, other, "B downgrades a write lock that A holds")
    lock.downgrade(one)
    assert (lock.writer, lock.readers) == (None, 1)
    lock.read_lock(other)
    assert lock.readers == 2


PAIRS = {
    (SpinLock, "lock", "unlock"): 1,
    (SpinLock, "trylock", "unlock"): 1,
    (RwSpinLock, "read_lock", "read_unlock"): 1,
    (RwSpinLock, "write_lock", "write_unlock"): 1,
    (Semaphore, "lock", "unlock"): 0,
    (RwLock, "read_lock", "read_unlock"): 0,
    (RwLock, "write_lock", "write_unlock"): 0,
}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].__name__}-{pair[1]}")
def test_who_holds_a_lock_that_spins_is_not_preempted(pair, cpus):
    """As deep as locks are held: a grace period waits for zero."""
    kind, take, drop = pair
    one, _ = cpus
    one.preempt_count = 3
    lock = kind()
    getattr(lock, take)(one)
    held = one.preempt_count
    getattr(lock, drop)(one)
    assert (held, one.preempt_count) == (3 + PAIRS[pair], 3)


@pytest.mark.parametrize("kind", MUTEXES)
def test_a_lock_that_cannot_be_had_counts_for_nothing(kind, cpus):
    one, other = cpus
    lock = kind()
    lock.lock(one)
    assert not lock.trylock(other)
    with pytest.raises(LockError):
        lock.lock(other)
    assert other.preempt_count == 0
