"""The old name of what is now spfreplay.oracle.kernel, .subject and .tables."""

from spfreplay.oracle.kernel import *  # noqa: F403
from spfreplay.oracle.subject import *  # noqa: F403
from spfreplay.oracle.tables import *  # noqa: F403
