"""The old name of what is now spfreplay.oracle.programs."""

from spfreplay.oracle.programs import *  # noqa: F403
