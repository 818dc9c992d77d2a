"""Protocols by name: a base and the patches to it.

``spf-v11``, ``spf-fixed``, ``spf-v11+M54``, ``spf-fixed+M54+W03``,
``spf-v11+fix-fork-sections``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import unified_diff as differences
from functools import cache

from spfreplay.mm import build as builder
from spfreplay.mm.build import SPF_V11, Form, Namespace
from spfreplay.mm.opening import BuildError
from spfreplay.mm.patching import Protocol
from spfreplay.mutations.catalogue import ALIASES, PATCHES, absent
from spfreplay.mutations.patch import Patch, PatchError
from spfreplay.protocols import definitions


@cache
def protocol(name: str) -> Protocol:
    """Return the protocol called ``name``.

    :raises PatchError: no such base or patch, or a patch that does not fit this base
        or the other patches.
    """
    base, ids = split(name)
    patches = [find(each) for each in ids]
    if len(set(patches)) < len(patches):
        twice = next(each.id for each in patches if patches.count(each) > 1)
        raise PatchError(f"{name}: {twice} is there twice")
    left_out = {each for patch in patches for each in patch.without}
    fixes = [fix for fix in bases()[base] if fix.id not in left_out]
    missing = left_out - {fix.id for fix in bases()[base]}
    if missing and bases()[base]:
        raise PatchError(f"{name}: {min(missing)} is no fix of {base}")
    if name == SPF_V11.name:
        return SPF_V11
    edits = [edit for patch in (*fixes, *patches) for edit in patch.edits]
    made = Protocol(name, tuple(edits))
    try:
        builder.sources_of(made)
    except BuildError as error:
        raise PatchError(f"{name}: a patch does not fit: {error}") from error
    return made


def bases() -> dict[str, tuple[Patch, ...]]:
    """Return each protocol that patches can be made to, with what makes it of spf-v11."""
    return {one.name: one.patches for one in definitions().values() if not one.reference}


def split(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the base of a protocol's name, and the ids of its patches.

    :raises PatchError: no such base.
    """
    base, *ids = name.split("+")
    if base not in bases():
        locked = f"{base} is the reference and has no source of its own"
        reason = locked if base in definitions() else f"no protocol called {base!r}"
        raise PatchError(f"{reason}; there are {', '.join(bases())}")
    return base, tuple(one for each in ids for one in ALIASES.get(each, each).split("+"))


def find(patch_id: str) -> Patch:
    """Return the patch with this id, or alias.

    :raises PatchError: there is none; the message says why, where the reason is known.
    """
    found = PATCHES.get(ALIASES.get(patch_id, patch_id))
    if found is None:
        raise PatchError(absent(patch_id) or variants(patch_id) or f"no patch {patch_id!r}")
    return found


def variants(row: str) -> str:
    """Return which patches a row of the catalogue of races has become; "" if none."""
    known = sorted(PATCHES.keys() | ALIASES.keys())
    found = [each for each in known if re.fullmatch(rf"{re.escape(row)}[a-z]\d?", each)]
    return f"{row} has variants: {', '.join(found)}" if found else ""


def mutated(base: str | None, ids: Sequence[str]) -> str:
    """Return the name of the protocol that is ``base`` with some patches.

    :param base: None: the one that the first patch is meant for.
    :raises PatchError: no such patch.
    """
    base = base or (find(ids[0]).base if ids else SPF_V11.name)
    for each in ids:
        find(each)
    return "+".join((base, *ids))


def build(name: str, form: Form) -> Namespace:
    """Build the protocol called ``name`` in ``form``; the same object on every call."""
    return builder.build(protocol(name), form)


def protocol_digest(name: str) -> str:
    """Return a sha256 over the source of the protocol called ``name``.

    How it is switched is no part of it: see ``EngineOptions``.
    """
    return builder.protocol_digest(protocol(name))


def unified_diff(name: str, than: str | None = None) -> str:
    """Return how the source of protocol ``name`` differs from that of another, as a diff.

    :param than: None: its base; of a base, spf-v11.
    """
    base, ids = split(name)
    if than is None:
        than = base if ids else SPF_V11.name
    old = builder.sources_of(protocol(than))
    new = builder.sources_of(protocol(name))
    return "".join(_diffs((module, old[module], new[module]) for module in new))


def _diffs(modules: Iterable[tuple[str, str, str]]) -> Iterable[str]:
    for module, old, new in modules:
        path = f"spfreplay/mm/{module}.py"
        yield from differences(
            old.splitlines(keepends=True),
            new.splitlines(keepends=True),
            f"a/{path}",
            f"b/{path}",
        )
