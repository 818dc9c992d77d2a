"""The old name of what is now spfreplay.oracle.judge, .compare and .runner."""

from spfreplay.oracle.compare import *  # noqa: F403
from spfreplay.oracle.judge import *  # noqa: F403
from spfreplay.oracle.runner import *  # noqa: F403
