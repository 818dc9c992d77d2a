"""What a protocol says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from spfreplay.errors import ModelError

if TYPE_CHECKING:
    from spfreplay.known_defects import KnownDefect
    from spfreplay.mutations.patch import Patch


class UnknownProtocolError(ModelError):
    """A protocol is named that does not exist, or one that is none."""


class Definition(NamedTuple):
    """A protocol: v11's source, patched, and how it is switched.

    :param name: as ``--protocol`` takes it.
    :param title: what it is, for a list of them.
    :param patches: what makes its source of that in ``spfreplay/mm/``, in this order.
        A patch may put a whole function, or new ones, in the place of v11's.
    :param file_faults: it serves faults of files without mmap_sem, too.
    :param known: defects that it is published, or known here, to have.
    :param answers: the protocol whose answers it has to litmus files that do not
        name it; "": nothing wrong is ever found.
    :param reference: it is the locked kernel itself, which has no steps.
    """

    name: str
    title: str
    patches: tuple[Patch, ...] = ()
    file_faults: bool = False
    known: tuple[KnownDefect, ...] = ()
    answers: str = ""
    reference: bool = False
