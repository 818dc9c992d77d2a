"""Bugs planted in the search for the legal set: its plain twin must notice."""

import plain_orders
import pytest
import test_legal_set as twin

from spfreplay_reference import apart, changes, keys, layers, legal, orders, pieces, snapshot

SEEDS = 70


def frames_without_content(branch, held=()):
    """States are taken for equal that differ in what pages hold."""
    key = KEY_OF(branch, held)
    return key[0], key[2] and len(key[2])


def no_copy_of_frames(self, base):
    """A branch writes to the start's frames."""
    return base


def areas_lent(self, base):
    """A branch writes to the start's areas."""
    return base


def forgets_what_it_owned(self, old, new):
    self.copies[old] = new


def shallow(self):
    """Two states share what they have changed."""
    return self


def pages_alone(self, other):
    """Operations meet only at a page: areas do not count."""
    return apart._overlap(self.pages, other.pages)


def nothing_meets(self, other):
    return False


def no_sharers(branch, base, own):
    """That a page is no longer shared shows only in the mm that has let go."""


def no_shared_pages(branch):
    """A store to a file shows only in the mm that has made it."""
    return {}


def any_time(self, at, world):
    """Real time does not count."""
    operations = self.operations
    self.operations = [each._replace(enter=0, exit=1) for each in operations]
    try:
        return MOVES(self, at, world)
    finally:
        self.operations = operations


def never_gone(self, key):
    """What a layer has dropped shows through from below."""
    self.changed.pop(key, None)


KEY_OF, MOVES = keys.key_of, orders.Orders._moves
PLANTS = {
    "keys without contents": (pieces, "key_of", frames_without_content),
    "frames are not copied": (snapshot.Branch, "frame", no_copy_of_frames),
    "areas are not copied": (snapshot.Branch, "area", areas_lent),
    "copies forget what was owned": (snapshot.Copier, "_kept", forgets_what_it_owned),
    "states share changes": (pieces.World, "copy", shallow),
    "areas do not count as meeting": (apart.Reach, "meets", pages_alone),
    "nothing meets": (apart.Reach, "meets", nothing_meets),
    "sharers keep the mark": (changes, "_look_at_sharers", no_sharers),
    "stores show in one mm": (changes, "_shared_pages", no_shared_pages),
    "real time does not count": (orders.Orders, "_moves", any_time),
    "what is dropped shows through": (layers.Layer, "__delitem__", never_gone),
}


@pytest.mark.parametrize("name", PLANTS)
def test_the_twin_notices(name, monkeypatch):
    monkeypatch.setattr(*PLANTS[name])
    assert any(differs(seed, *shape) for seed in range(SEEDS) for shape in twin.SHAPES.values())


def differs(seed, threads, forks, islands):
    window = twin.Window(seed, threads=threads, forks=forks, islands=islands)
    expected = plain_orders.outcomes(window.kernel, window.operations)
    before = plain_orders.images(window.kernel)
    try:
        found = twin.told(legal.legal_set(window.kernel, window.operations)).keys()
    except (AssertionError, KeyError, AttributeError, IndexError):
        return True
    return found != expected or plain_orders.images(window.kernel) != before
