"""The old name of what is now spfreplay.oracle.campaign and .shrink."""

from spfreplay.oracle.campaign import *  # noqa: F403
from spfreplay.oracle.campaign import factory as engine_class  # noqa: F401
from spfreplay.oracle.shrink import *  # noqa: F403
