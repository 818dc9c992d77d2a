"""Layers over a dict say what is there, however they are looked at."""

from spfreplay_reference.layers import Layer, Lent


def test_what_is_lent_is_listed_once_though_looked_at_on_the_way():
    lent = Lent({1: "a", 2: "b", 3: "c"}, str.upper)
    lent[4] = "D"
    assert list(lent.items()) == [(1, "A"), (2, "B"), (3, "C"), (4, "D")]
    assert len(lent) == 4


def test_a_layer_lists_what_is_there():
    layer = Layer({1: "a", 2: "b"})
    del layer[1]
    layer[3] = "c"
    assert list(layer) == [2, 3]
