"""Protocols that live outside of spfreplay, for as long as a test takes."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from spfreplay import protocols
from spfreplay.mutations import protocol
from spfreplay.protocols import definitions

TOYS = Path(__file__).parent / "toy_protocols"


@contextmanager
def protocols_of(*folders):
    """Let ``SPFREPLAY_PROTOCOLS`` name ``folders``."""
    before = set(sys.modules)
    named = {protocols.PATH_VARIABLE: os.pathsep.join(map(str, folders))}
    with (
        mock.patch.object(protocols, "__path__", protocols.__path__[:]),
        mock.patch.dict(os.environ, named),
    ):
        _forget()
        yield
    for name in set(sys.modules) - before:
        if name.startswith(f"{protocols.__name__}."):
            del sys.modules[name]
    _forget()


def _forget():
    for cached in (definitions, protocol):
        cached.cache_clear()
