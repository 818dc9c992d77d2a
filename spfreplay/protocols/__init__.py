"""The protocols there are, a module each: what they are made of and known for.

A module of this folder that defines ``PROTOCOL`` is a protocol, under the name
that it gives itself; so is one of a folder in ``SPFREPLAY_PROTOCOLS``, a list
like PATH.  Nothing else has to be told: ``diff``, its table, the litmus files
and CI find it here.
"""

from spfreplay.protocols.definition import Definition, UnknownProtocolError
from spfreplay.protocols.registry import PATH_VARIABLE, base_name, definition, definitions

__all__ = [
    "PATH_VARIABLE",
    "Definition",
    "UnknownProtocolError",
    "base_name",
    "definition",
    "definitions",
]
