"""Whether this machine can record: tests that cannot say why."""

import atexit
import functools

from spfreplay.errors import CannotError
from spfreplay.record.tracefs import TracefsMount


@functools.cache
def cannot_record():
    """Return what is missing, "" if nothing is; tracefs stays mounted for the tests."""
    try:
        mount = TracefsMount()
    except CannotError as error:
        return str(error)
    atexit.register(mount.close)
    return ""
