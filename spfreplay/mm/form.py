"""Which form of the protocol this is: a name that a build gives its value."""

from __future__ import annotations

from typing import Final

#: False in the straight form, whose build takes out what stands below
#: ``if WINDOW:``.  It is for what only another CPU can notice, and for what
#: only matters where orders are compared.
WINDOW: Final = True
