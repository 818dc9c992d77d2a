"""Names of protocols on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

DEFAULT: Final = "spf-v11"
LOCKED: Final = "locked"


class ProtocolName(click.ParamType):  # type: ignore[type-arg]
    """``locked``, or a base with patches: ``spf-fixed+M54+W03``."""

    name = "protocol"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if value in (DEFAULT, LOCKED):  # nothing is imported for these
            return str(value)
        from spfreplay.mutations import PatchError, protocol

        try:
            return protocol(value).name
        except PatchError as error:
            self.fail(str(error), param, ctx)


def protocol_of(name: str | None, mutate: Sequence[str]) -> str:
    """Return the protocol that ``--protocol`` and ``--mutate`` ask for together.

    :raises UsageError: there is none
    """
    if not mutate:
        return name or DEFAULT
    from spfreplay.mutations import PatchError, mutated, protocol

    try:
        return protocol(mutated(name, mutate)).name
    except PatchError as error:
        raise click.UsageError(str(error)) from error


def protocols_of(names: Sequence[str], mutate: Sequence[str]) -> list[str]:
    """Return each protocol that is asked for, once, all with the same bugs planted.

    :raises UsageError: there is none
    """
    asked = [protocol_of(name, mutate) for name in names] or [protocol_of(None, mutate)]
    return list(dict.fromkeys(asked))
