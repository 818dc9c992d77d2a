"""All the orders in which threads may take their steps; knows nothing about memory."""

from spfreplay.explore.budget import Budget
from spfreplay.explore.execution import run
from spfreplay.explore.exploration import Exploration, explore
from spfreplay.explore.schedule import Schedule, ScheduleError
from spfreplay.explore.tally import Witness

__all__ = [
    "Budget",
    "Exploration",
    "Schedule",
    "ScheduleError",
    "Witness",
    "explore",
    "run",
]
