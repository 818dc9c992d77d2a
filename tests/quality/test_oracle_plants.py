"""The bugs planted in the reference's text still fit it: one that does not finds nothing."""

import importlib
import inspect
import textwrap

import pytest
from oracle_plants import PLANTS


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.claim)
def test_a_plant_fits_its_function_exactly_once(plant):
    module, *path = plant.place.split(".")
    target = importlib.import_module("spfreplay_reference." + module)
    for name in path:
        target = getattr(target, name)
    source = textwrap.dedent(inspect.getsource(target))
    assert source.count(plant.old) == 1
    assert plant.new != plant.old
